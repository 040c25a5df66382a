"""The data set at AFLOW's size: filters, groups and split, and the start of a training, each in a process of its own.

    python -m benchmarks.scale groups FOLDER        what one measurement does: FOLDER/table is the data set
    python -m benchmarks.scale open FOLDER

Crystals are the embedded set's, decorated with other elements again and again: real cells, numbers of atoms, space
groups and sizes of groups, with as many chemical systems as AFLOW has. They are made here, and the same each time.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.timing import Result
from lib.core import published
from lib.core.files import ROOT
from lib.core.run import Run
from lib.core.workers import progress
from lib.crystals.mapped import opened
from lib.crystals.table import CrystalTable
from lib.datasets.polymorphs import funnel, summary
from lib.datasets.sources.aflow import TRIALS
from lib.datasets.sources.embedded import EMBEDDED
from lib.datasets.splits import three_way_split
from lib.figures.data import growth

SIZES = {False: (35_000, 350_000, 3_500_000), True: (3000, 6000)}  # by tiny
OPENED = {False: (35_000, 350_000, 2_100_000), True: (500,)}
ELEMENTS = np.setdiff1d(np.arange(1, 84), [2, 10, 18, 36, 43, 54, 61])
SECONDS = Result("aflow.groups_3p5m_seconds", "read, filter, group, split and write {:,} crystals", "s")
PEAK = Result("aflow.groups_3p5m_peak_gib", "memory of the same", "GiB")
OPEN = Result("aflow.open_2p1m_seconds", "from nothing to the first step on {:,} crystals", "s")


def synthetic(base: CrystalTable, n: int, folder: Path) -> Path:
    """A folder of parquet files with n crystals: those of the base with other elements, part by part."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in progress(range(-(-n // len(base))), desc=f"{n:,} crystals", unit="part"):
        rng = np.random.default_rng(part)
        other = np.zeros(256, dtype=np.uint8)
        other[np.unique(base.species)] = rng.choice(ELEMENTS, len(np.unique(base.species)), replace=False)
        decorated = replace(
            base,
            id=np.char.add(f"aflow:{part:05d}-", np.arange(len(base)).astype(str)),
            species=other[base.species],
            formation_energy=base.formation_energy + rng.normal(0, 0.05, len(base)),
        )
        if "asymmetric_units" in vars(base):
            units = base.asymmetric_units
            vars(decorated)["asymmetric_units"] = replace(units, species=other[units.species], _made={})
        decorated = decorated.take(rng.permutation(min(len(base), n - part * len(base))))
        decorated.to_parquet(folder / f"{part:05d}.parquet")
    return folder


def groups(folder: Path) -> None:
    """Section 2 of the paper, from the crystals as ingested to the three sets."""
    left, _ = funnel(CrystalTable.from_parquet(folder / "table"), **published.FUNNEL)
    left.to_parquet(folder / "training.parquet")
    summary({"training": left})
    sets = three_way_split(left, 0.1, 0.1, np.random.default_rng(0))
    for name, rows in zip(("train", "validation", "test"), sets, strict=True):
        left.take(rows).to_parquet(folder / f"{name}.parquet")


def start(folder: Path) -> None:
    """The first step of the paper's profile: a transformer that sees no templates."""
    import torch

    from lib.models.transformer import TransformerSizes
    from lib.training.spec import TrainSettings, make_spec
    from lib.training.trainer import Trainer

    table = opened(folder / "table", folder / "arrays")
    spec = make_spec("generation", "transformer", "cfm_uniform", table, TransformerSizes(16, 1, 2, templates=False))
    settings, place = TrainSettings(steps=1, batch_size=64, precision="fp32"), folder / "model.safetensors"
    place.unlink(missing_ok=True)
    Trainer(spec, table, table.take(range(8)), settings, place, torch.device("cpu")).run()


JOBS = {"groups": groups, "open": start}


def measured(what: str, folder: Path) -> dict[str, float]:
    """Seconds and GiB of one process that does it, from its start to its end."""
    command = [sys.executable, "-m", "benchmarks.scale", what, str(folder)]
    began = time.perf_counter()
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return {"seconds": time.perf_counter() - began, "GiB": float(told.splitlines()[-1])}


def measure(run: Run) -> Iterator[Result]:
    """Each size once, as the largest takes minutes; a table and a picture show how time and memory grow."""
    tiny, place = run.params.tiny, run.folder / "scale"
    base = CrystalTable.from_parquet(EMBEDDED)
    base = base.take(np.argsort(base.formulas[0], kind="stable"))  # the first rows are whole groups
    rows = np.flatnonzero(base.space_group == 123) if tiny else np.random.default_rng(0).permutation(len(base))
    known = base.take(np.sort(rows[: 50 if tiny else 2000]))
    len(known.asymmetric_units)  # found here, they are kept by the table
    lines = []
    for what, sizes, source in (("groups", SIZES[tiny], base), ("open", OPENED[tiny], known)):
        for n in sizes:
            synthetic(source, n, place / "table")
            if what == "open":
                opened(place / "table", place / "arrays")  # writes the arrays, which is done once
            lines.append({"what": what, "crystals": n} | measured(what, place))
            shutil.rmtree(place)
    table = pd.DataFrame(lines)
    run.table(table, "scale", "Time and memory of a process by the size of the data set")
    if not tiny:
        table.to_csv(TRIALS / "aflow_scale.csv", index=False)
    run.figure(growth(table), "scale", "How time and memory grow with the data set")
    last = {what: table[table.what == what].iloc[-1] for what in JOBS}
    for line, what, column in ((SECONDS, "groups", "seconds"), (PEAK, "groups", "GiB"), (OPEN, "open", "seconds")):
        row = last[what]
        yield replace(line, what=line.what.format(row.crystals), value=float(row[column]), n=1)


if __name__ == "__main__":
    JOBS[sys.argv[1]](Path(sys.argv[2]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20))
