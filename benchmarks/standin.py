"""The stand-in for AFLOW of the tests, in a process of its own, and an ingest from it as a user's run does it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from lib.core.files import ROOT
from lib.core.run import Run
from lib.crystals.table import CrystalTable
from lib.datasets import sources
from lib.studies.params import IngestParams

SERVER = ROOT / "tests" / "aflux_server.py"


@contextmanager
def standin(entries: int, shape: str = "array") -> Iterator[str]:
    """The address of a server of so many entries, which ends with the block."""
    words = [sys.executable, str(SERVER), "--entries", str(entries), "--shape", shape]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def asked(url: str) -> list[str]:
    """The summonses that the server has got."""
    return httpx.get(url.partition("/API")[0] + "/log").json()


def parameters(url: str, **changes) -> IngestParams:
    """Of an ingest of everything that the stand-in has, without pauses."""
    values = {"source": "aflow", "aflow_url": url, "aflow_species": ["B", "Ta", "W"], "aflow_pause": 0.0}
    return IngestParams(**values | {"run": "standin"} | changes)


def ingest(params: IngestParams, root: Path) -> CrystalTable:
    """The table, also written to `crystals.parquet` in the run's folder, as notebook 01 does."""
    run = Run(params, root)
    table = sources.load(params, run)
    table.to_parquet(run.path("data/crystals.parquet"))
    return table


def main(arguments: Sequence[str]) -> None:
    """python -m benchmarks.standin ROOT PARAMETERS-AS-JSON: an ingest by itself, so that it can be killed."""
    root, values = arguments
    print("started", flush=True)
    ingest(IngestParams(**json.loads(values)), Path(root))


if __name__ == "__main__":
    main(sys.argv[1:])
