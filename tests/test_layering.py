"""Imports inside lib obey the table in docs/how-it-is-built.md: a room imports only from itself and the rooms above."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.house import DRAWING, MODULES, ROOMS, imported, imports, rooms
from lib.core.files import ROOT

PLOTS = {"core/run.py", "report/pages.py"}  # these save and embed pictures


def test_reads_imports_in_every_form():
    source = "import lib.core\nfrom lib import energies as h\ndef f():\n    from lib.figures.style import x"
    assert rooms(source) == {"core", "energies", "figures"}


def test_the_drawing_shows_every_room_and_who_imports_from_whom():
    table = imports()  # where this fails: python -m benchmarks --only house
    assert table.loc["generation", "training"] > 0 and not table.loc["training", "generation"]
    assert {f"<!-- {room} -->" for room in ROOMS} <= {line.strip() for line in DRAWING.read_text().splitlines()}


def test_the_table_names_every_room():
    assert sorted(ROOMS) == sorted(path.name for path in (ROOT / "lib").iterdir() if (path / "__init__.py").exists())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_come_from_rooms_above(path: Path):
    place, source = path.relative_to(ROOT / "lib"), path.read_text()
    if len(place.parts) > 1:
        assert rooms(source) <= set(ROOMS[: ROOMS.index(place.parts[0]) + 1])
    else:  # a command or the package itself
        assert len(source.splitlines()) < 30, f"{place} is a command; what it does belongs in a room"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_library_knows_nothing_of_its_users(path: Path):
    tops, place = {name.split(".")[0] for name in imported(path.read_text())}, path.relative_to(ROOT / "lib")
    assert not tops & {"tests", "notebooks", "outputs", "benchmarks", "pytest"}
    plots = {"matplotlib", "plotly", "seaborn"} & tops
    assert not plots or place.parts[0] == "figures" or str(place) in PLOTS, f"{place} plots"


def test_nothing_imports_the_builder_of_the_embedded_set():
    assert not [path.name for path in MODULES if "lib.datasets.build_embedded" in imported(path.read_text())][1:]
