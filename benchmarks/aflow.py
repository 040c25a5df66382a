"""How fast AFLOW's entries become a table: fetched, checked and written, against reading them one by one.

The server is a process of its own on the same two cores that has its answers ready, so that hardly any of the time is
its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.standin import parameters, standin
from benchmarks.timing import Result
from lib.core.run import Run
from lib.core.web import client
from lib.datasets.sources.aflow.aflux import Aflux
from lib.datasets.sources.aflow.entries import Scale, read_entry
from lib.datasets.sources.aflow.pages import kept_entries
from lib.datasets.sources.aflow.queries import queries
from lib.datasets.sources.aflow.rows import quick_row
from lib.datasets.sources.aflow.shards import read_parts, standard_parts

ENTRIES, TINY = 200_000, 300
SPEED = Result("aflow.ingest_entries_per_s", "{:,} entries fetched, kept, checked and written", "entries/s")
STANDARD = Result("aflow.standardised_per_s", "the same put into standard cells", "entries/s")
RATIO = Result("aflow.reading_ratio", "entries checked, to one by one; one process each", "x")


def measure(run: Run) -> Iterator[Result]:
    """Each repetition begins with nothing; one before them makes the server's answers ready."""
    n = TINY if run.params.tiny else ENTRIES
    speeds: dict[str, list[float]] = {"ingest": [], "standard": [], "ratio": []}
    with standin(n) as url:
        params = parameters(url, n_workers=run.params.n_workers, aflow_shard_size=max(1, n // 8))
        for repetition in range(run.params.repetitions + 1):
            with tempfile.TemporaryDirectory() as folder:
                found = _once(params, Path(folder), n)
            if repetition:
                for name, value in zip(speeds, found, strict=True):
                    speeds[name].append(value)
    yield Result(SPEED.id, SPEED.what.format(n), SPEED.unit).of(speeds["ingest"])
    yield STANDARD.of(speeds["standard"])
    yield RATIO.of(speeds["ratio"])


def _once(params, folder: Path, n: int) -> tuple[float, float, float]:
    """Entries a second of the ingest and of standardising, and how many times faster many entries are checked."""
    started = time.perf_counter()
    with client() as http:
        aflux = Aflux(params, folder / "aflow_pages", http)
        surveyed = aflux.survey(queries(params))
        aflux.fetch(surveyed)
    parts = read_parts(
        surveyed, folder, scale=Scale("PAW_PBE", 0), size=params.aflow_shard_size, n_workers=params.n_workers
    )
    read = time.perf_counter()
    standard_parts(parts, folder, n_workers=params.n_workers)
    standardised = time.perf_counter()
    entries = kept_entries(surveyed[0].paths[1])
    quick = _seconds(quick_row, entries)
    return n / (read - started), n / (standardised - read), _seconds(read_entry, entries) / quick


def _seconds(read, entries: list) -> float:
    started = time.perf_counter()
    for entry in entries:
        read(entry)
    return time.perf_counter() - started
