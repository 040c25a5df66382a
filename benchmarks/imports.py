"""Seconds until a module of lib, or a notebook's first code cell with imports, is there, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.timing import Result, in_turns, seconds_of
from lib.core.files import ROOT
from lib.core.run import Run
from lib.core.workers import progress

LINE = Result("speed.import_seconds", "the slowest of lib's modules and the notebooks' imports", "s")
N_SLOWEST = 3  # measured more than once


def import_cells() -> dict[str, str]:
    """Notebook -> the source of its first code cell that imports."""
    cells = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        sources = ("".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code")
        cells[path.stem] = next(s for s in sources if s.startswith(("import ", "from ")))
    return cells


def modules() -> dict[str, str]:
    """Module of lib -> the line that imports it."""
    paths = (path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "lib").rglob("*.py")))
    names = (".".join(path.parts).removesuffix(".__init__") for path in paths)
    return {name: f"import {name}" for name in names if not name.endswith("build_embedded")}  # it needs an extra


def in_a_process(source: str) -> None:
    """Run a piece of Python from nothing."""
    subprocess.run([sys.executable, "-c", source], cwd=ROOT, check=True, capture_output=True)


def measure(run: Run) -> Iterator[Result]:
    """See the module's first line."""
    sources = modules() | import_cells()
    if run.params.tiny:
        sources = {name: sources[name] for name in ("lib", "lib.core.run")}
    jobs = {name: lambda source=source: in_a_process(source) for name, source in sources.items()}
    once = {name: seconds_of(job) for name, job in progress(jobs.items(), desc="imports")}
    slowest = sorted(once, key=once.get)[-N_SLOWEST:]
    times = in_turns({name: jobs[name] for name in slowest}, run.params.repetitions)
    lines = {name: LINE.of(seconds) for name, seconds in times.items()}
    name = max(lines, key=lambda name: lines[name].value)
    yield replace(lines[name], what=f"import of {name}, the slowest of {len(sources)} modules and notebooks")
