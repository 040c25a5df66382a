"""AFLOW's ingest against a server that misbehaves, and killed at random moments; notebook 01 shows the tables.

python -m benchmarks.aflow_trials faults                    each fault, in both shapes of answers: two minutes
python -m benchmarks.aflow_trials kills                     20 kills of an ingest of 100,000 entries
python -m benchmarks.aflow_trials kills --kills 3 --entries 2000
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import ModuleType
from unittest import mock
from urllib.parse import unquote

import httpx
import pandas as pd
import pyarrow.parquet as pq

from benchmarks.scores import merge
from benchmarks.standin import SERVER, asked, ingest, parameters, standin
from lib.core import web
from lib.core.commands import command
from lib.core.files import ROOT, replacing
from lib.core.machine import measured_by
from lib.datasets.sources.aflow import TRIALS
from lib.datasets.sources.aflow.pages import kept_head
from lib.studies.params import IngestParams

N_ENTRIES, PAGE = 60, 7  # of a try of a fault
SHAPES = ("array", "k of n")
PATIENCE = {"FIRST_WAIT": 0.01, "TIMEOUT": httpx.Timeout(5, read=1), "LONGEST_ANSWER": 1.5}  # seconds
PARTS = ("aflow_parts", "aflow_standard")
KILL_COLUMNS = ("ingest", "killed after s", "pages there", "parts", "standard parts", "pages asked for again")


def server_module() -> ModuleType:
    """The stand-in as a module."""
    spec = importlib.util.spec_from_file_location(SERVER.stem, SERVER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -------------------------------------------------------------------------------------------------------- faults


@dataclass(frozen=True)
class Fault:
    """What a server does wrong: to some answers (the words of the stand-in), or to the entries themselves."""

    answers: list = field(default_factory=list)
    entries: Callable[[list], list] = list
    grows: int = 0  # entries that are added while it is read
    of: tuple[str, ...] = SHAPES  # shapes of answers in which it can happen


def _malformed(entries: list) -> list:
    """Beside the right ones, for each of some a wrong copy under another auid."""
    wrong = [{"geometry": None}, {"composition": "1,x"}, {"species": ["Xx"]}, {"spacegroup_relax": 0}]
    return [*entries, *({**e, "auid": f"wrong:{e['auid']}"} | wrong[i % 4] for i, e in enumerate(entries[:20])), 17]


def _as_text(entries: list) -> list:
    as_text = server_module().as_text
    numbers = ("composition", "geometry", "positions_fractional", "spacegroup_relax", "enthalpy_formation_atom")
    return [e | {name: as_text(e[name]) for name in numbers} if i % 2 else e for i, e in enumerate(entries)]


def _now_and_then(fault: object) -> list:
    return [None, fault, None, None, fault, fault, None, None, None, fault]


FAULTS = {
    "status 500": Fault(_now_and_then((500, "internal"))),
    "status 503, busy": Fault(_now_and_then((503, "busy"))),
    "status 429, too many requests": Fault(_now_and_then((429, "slow down"))),
    "database down": Fault(_now_and_then((200, "DB Fail!null"))),
    "time-out": Fault([None, "time-out"]),
    "connection reset": Fault(_now_and_then("reset")),
    "answer breaks off": Fault(_now_and_then("hang up")),
    "slow drip": Fault([None, "drip"]),
    "truncated gzip": Fault(_now_and_then("truncated gzip")),
    "truncated text": Fault(_now_and_then("truncated text")),
    "wrong content type": Fault(_now_and_then("wrong content type")),
    "html instead of json": Fault(_now_and_then("html instead of json")),
    "a page that repeats": Fault([*[None] * 7, "another page again", None, "another page again"]),
    "half a page": Fault(_now_and_then("half a page"), of=("k of n",)),
    "a wrong count": Fault([None, "wrong count", None, "wrong count"], of=("k of n",)),
    "a count that grows": Fault(grows=9),
    "malformed entries": Fault(entries=_malformed),
    "duplicate auids": Fault(entries=lambda entries: [*entries, *map(dict, entries[:20])]),
    "numbers as text": Fault(entries=_as_text),
}


def try_fault(name: str, shape: str, root: Path) -> dict[str, object]:
    """One ingest from a server with the fault: a row of the table of faults."""
    fault, standing_in = FAULTS[name], server_module()
    right = list(islice(standing_in.entries(), N_ENTRIES + fault.grows))
    server = standing_in.Aflux(fault.entries(right[:N_ENTRIES]), shape)
    server.faults = list(fault.answers)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    server.added = (3, right[N_ENTRIES:])
    params = parameters(server.url, aflow_page_size=PAGE, n_workers=1)
    try:
        with mock.patch.multiple(web, **PATIENCE):
            table = ingest(params, root / name / shape)
    finally:
        server.shutdown()
        server.server_close()
    expected, found = {e["auid"] for e in right[:N_ENTRIES]}, table.id.tolist()
    return {
        "fault": name,
        "answers": shape,
        "requests": len(server.summonses),
        "faulty": len(fault.answers) - fault.answers.count(None) - sum(f is not None for f in server.faults),
        "entries lost": len(expected - set(found)),
        "duplicates": len(found) - len(set(found)),
        "entries set aside": sum(table.about["set_aside"].values()),
    }


def faults(root: Path) -> pd.DataFrame:
    """The table of faults: each in every shape of answers in which it can happen."""
    return pd.DataFrame([try_fault(name, shape, root) for name, f in FAULTS.items() for shape in f.of])


# --------------------------------------------------------------------------------------------------------- kills


def kills(entries: int, n_kills: int, root: Path, *, seed: int = 0, **changes) -> tuple[pd.DataFrame, int]:
    """Ingests that are killed at random moments of the time that one takes, and resumed, `n_kills` times in all, beside
    one that is not. An ingest that ends before its moment is compared, and another one begun.

    Returns one row a kill, and how often something was wrong: a table unlike the undisturbed one, or a page asked for
    again that was there.
    """
    rng, rows, wrong, n = random.Random(seed), [], 0, 0
    with standin(entries) as url:
        params = parameters(url, **changes)
        _, whole = _life(params, root / "undisturbed", None)
        while len(rows) < n_kills:
            n, folder, there, ended = n + 1, root / f"ingest_{n + 1}", set(), False
            while not ended:
                before = len(asked(url))
                moment = rng.uniform(0, whole) if len(rows) < n_kills else None
                ended, seconds = _life(params, folder, moment)
                again = there & set(asked(url)[before:])
                wrong += len(again)
                there = _kept(folder)
                parts = [len(list(folder.glob(f"*/data/{name}/part_*[0-9a-f].parquet"))) for name in PARTS]
                line = folder.name, seconds, len(there), *parts, len(again)
                rows += [] if ended else [line]
            wrong += not _same(folder, root / "undisturbed")
    return pd.DataFrame(rows, columns=KILL_COLUMNS), wrong


def _life(params: IngestParams, folder: Path, moment: float | None) -> tuple[bool, float]:
    """An ingest in a process of its own, killed so many seconds after its start; whether it has ended before, and how
    long it took."""
    words = [sys.executable, "-m", "benchmarks.standin", str(folder), params.model_dump_json()]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        child.stdout.readline()
        started, said = time.monotonic(), ""
        try:
            _, said = child.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        if child.wait() not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the ingest in {folder} ended with status {child.returncode}: {said[-2000:]}")
        return child.returncode == 0, round(time.monotonic() - started, 2)


def _kept(folder: Path) -> set[str]:
    """The summonses whose pages are there."""
    pages = folder.glob("*/data/aflow_pages/[!.]*.json.gz")
    return {unquote(kept_head(page).url.partition("?")[2]) for page in pages}


def _same(folder: Path, other: Path) -> bool:
    """Whether two ingests ended with the same crystals and the same rejects."""
    files = [[next(f.glob(f"*/data/{name}.parquet")) for f in (folder, other)] for name in ("crystals", "rejects")]
    return all(pq.read_table(one).equals(pq.read_table(two)) for one, two in files)


# -------------------------------------------------------------------------------------------------- command line


def _publish(table: pd.DataFrame, scores: dict[str, tuple[float, str, int]], what: str) -> None:
    with replacing(TRIALS / f"aflow_{what}.csv") as temporary:
        table.to_csv(temporary, index=False)
    about = measured_by(f"python -m benchmarks.aflow_trials {what}") | {"ci_low": None, "ci_high": None}
    lines = [{"id": id, "value": value, "unit": unit, "n": n} | about for id, (value, unit, n) in scores.items()]
    print(table.to_string(index=False), merge(ROOT / "outputs" / "benchmarks", lines), sep="\n")


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's first lines."""
    about = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aflow_trials", **about)
    parser.add_argument("what", choices=["faults", "kills"])
    parser.add_argument("--entries", type=int, default=100_000, help="of an ingest that is killed")
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "faults":
            table = faults(Path(folder))
            lost = int(table["entries lost"].sum() + table["duplicates"].sum())
            scores = {"aflow.faults_tried": (len(table), "faults"), "aflow.entries_lost": (lost, "entries")}
        else:
            shard = max(1, given.entries // given.kills)  # so that some are made between two kills
            table, wrong = kills(given.entries, given.kills, Path(folder), aflow_shard_size=shard)
            scores = {"aflow.kill_moments": (len(table), "kills"), "aflow.kill_mismatches": (wrong, "mismatches")}
    scores = {id: (float(value), unit, len(table)) for id, (value, unit) in scores.items()}
    _publish(table, scores, given.what)


if __name__ == "__main__":
    main()
