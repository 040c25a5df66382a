"""Imports inside lib obey the table in docs/how-it-is-built.md: a module imports only from the rows above its own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lib.run import ROOT

MODULES = sorted((ROOT / "lib").rglob("*.py"))


def rows() -> dict[str, int]:
    """Row of each room in the table."""
    text = (ROOT / "docs/how-it-is-built.md").read_text().split("| modules |")[1].split("\n\n")[0]
    lines = [line.split("|")[1] for line in text.splitlines()[2:] if line.startswith("|")]
    return {room: row for row, line in enumerate(lines) for room in re.findall(r"`(\w+)`", line)}


def imported(source: str) -> set[str]:
    """Full names of the modules that a piece of Python imports, wherever the import stands."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms(source: str) -> set[str]:
    """Rooms of lib that a piece of Python imports from."""
    parts = (name.split(".") for name in imported(source))
    return {part[1] for part in parts if part[0] == "lib" and len(part) > 1}


def test_reads_imports_in_every_form():
    source = "import lib.run\nfrom lib import hull as h\ndef f():\n    from lib.figures.style import x"
    assert rooms(source) == {"run", "hull", "figures"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_rows_above(path: Path):
    room, order = path.relative_to(ROOT / "lib").parts[0].removesuffix(".py"), rows()
    if room == "__init__":
        assert not rooms(path.read_text())
        return
    assert room in order, f"{room} has no row in the table of docs/how-it-is-built.md"
    upwards = {other for other in rooms(path.read_text()) if other != room and order[other] >= order[room]}
    assert not upwards, f"lib/{room} imports {upwards}, which stand in its own row or below"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_library_knows_nothing_of_its_users(path: Path):
    tops = {name.split(".")[0] for name in imported(path.read_text())}
    assert not tops & {"tests", "notebooks", "outputs", "benchmarks", "pytest"}
    plots = {"matplotlib", "plotly", "seaborn"} & tops
    assert not plots or "figures" in path.parts or path.name in ("run.py", "pages.py"), f"{path} plots"


def test_nothing_imports_the_builder_of_the_embedded_set():
    users = [path.name for path in MODULES if "build_embedded" in rooms(path.read_text())]
    assert not users
