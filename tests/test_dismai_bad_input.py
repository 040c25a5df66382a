"""What a user may get wrong is scored as failed, or refused in one sentence that names it; nothing computed is lost."""

from __future__ import annotations

import json
import sys

import ase.io
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure, SymmOp
from pymatgen.io.ase import AseAtomsAdaptor
from test_dismai_alloy import shuffled

from lib.core.errors import BadInput
from lib.core.parameters import validated
from lib.dismai import silicon
from lib.dismai.alloy import FccSites, to_table
from lib.dismai.commands import main
from lib.dismai.datasets import split
from lib.dismai.params import DismaiEntrantsParams
from lib.dismai.score import Reference, score
from lib.dismai.systems import Silicon

SITES = FccSites.of(32)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Scores structures, written as one file, beside an alloy; returns what is printed and the line of the json."""
    train, validation = split(to_table(shuffled(SITES, 20), SITES, "alloy"), 0)
    train.to_parquet(tmp_path / "alloy_test_train.parquet")
    validation.to_parquet(tmp_path / "alloy_test_validation.parquet")

    def scored(frames: list[Structure], *words: str) -> tuple[str, dict]:
        atoms = [AseAtomsAdaptor.get_atoms(s, msonable=False) for s in frames]
        ase.io.write(tmp_path / "mine.xyz", atoms, format="extxyz")
        where = ["--data", str(tmp_path), "--out", str(tmp_path / "score"), "--baselines", "0", *words]
        monkeypatch.setattr(sys, "argv", ["x", "score", str(tmp_path / "mine.xyz"), "--dataset", "alloy_test", *where])
        main()
        return capsys.readouterr().out, json.loads((tmp_path / "score.json").read_text())[0]

    return scored


@pytest.fixture
def good() -> Structure:
    return to_table(shuffled(SITES, 1, 5), SITES, "one").structure(0)


@pytest.mark.slow
def test_wrong_atoms_broken_numbers_atoms_at_one_place_and_missing_ones_have_failed(run, good):
    wrong, broken, heap = good.copy(), good.copy(), good.copy()
    wrong.replace(0, "Co")
    broken.translate_sites([0], [np.nan, 0, 0], to_unit_cell=False)
    heap = Structure(good.lattice, good.species, np.full((32, 3), 0.25))
    out, line = run([good, wrong, broken, heap], "--asked", "6")
    assert line["asked"] == 6 and line["n"] == 1 and line["failed"] == pytest.approx(5 / 6)
    assert "wrong composition: 1" in line["failures"] and "no structure: 4" in line["failures"]
    assert np.isfinite(line["value"]) and "d_cluster" in out and "of 4 structures 2 cannot be used" in out


def test_another_cell_is_refused_by_the_frames_name(run, good):
    other = Structure(Lattice.cubic(8), good.species, good.frac_coords)
    with pytest.raises(SystemExit, match=r"mine_2 has a cell of \(8.*give structures in the data set's \(7.2"):
        run([good, good, other])


def cells(n: int) -> list[Structure]:
    """Diamond, shaken."""
    cube = Structure.from_spacegroup(227, Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
    return [cube.copy().perturb(0.05, seed=i) for i in range(n)]


def test_without_lammps_silicon_is_scored_as_generated(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lammps", None)
    silicon._lammps.cache_clear()
    table = silicon.silicon_table(cells(6), np.full(6, -4.6))
    lines = score("mine", cells(2), Reference("silicon", table.take(range(4)), table.take([4, 5]), n=4))
    silicon._lammps.cache_clear()
    assert set(lines.state) == {"as generated"} and lines.value.notna().all()
    assert "pip install '.[dismai]'" in capsys.readouterr().out


def test_silicon_in_a_turned_cell_is_relaxed_in_that_of_the_data(monkeypatch):
    (cell,) = cells(1)
    turned = Structure(Lattice.from_parameters(*cell.lattice.parameters), cell.species, cell.frac_coords)
    turned.apply_operation(SymmOp.from_axis_angle_and_translation([1, 2, 3], 40))
    seen = []

    def relax(structure: Structure) -> tuple[Structure, float, int]:
        seen.append(structure.lattice.matrix)
        return structure, -4.6, 3

    monkeypatch.setattr(silicon, "relax", relax)
    found = Silicon(cell.lattice.matrix, 8).describe([cell, turned])
    assert found.failures == ["", ""] and np.allclose(seen, cell.lattice.matrix)
    np.testing.assert_allclose(*found.features["d_rdf"], atol=1e-6)


def test_a_structure_at_which_lammps_stops_is_not_relaxed_and_the_others_are_scored(monkeypatch):
    class Box:
        def commands_string(self, _):
            raise Exception("ERROR: Lost atoms")

    monkeypatch.setattr(silicon, "_box", lambda _: Box())
    (cell,) = cells(1)
    assert Silicon(cell.lattice.matrix, 8).describe([cell, None]).failures == ["not relaxed", "no structure"]


def test_silicon_atoms_at_one_place_have_failed_or_have_numbers():
    (cell,) = cells(1)
    heap = Structure(cell.lattice, cell.species, np.full((8, 3), 0.25))
    found = Silicon(cell.lattice.matrix, 8).describe([cell, heap, None], relaxed=False)
    assert found.failures[0] == "" and found.failures[1] and found.failures[2] == "no structure"
    assert all(np.isfinite(rows).all() and len(rows) == 1 for rows in found.features.values())
    assert found.of_all["close"][1] >= 28, "every two of eight"


@pytest.mark.parametrize(
    "files, words",
    [
        ({"alloy_300K_narrow": {"mine": "a.xyz"}}, "'files' has structures for alloy_300K_narrow, which is not in"),
        ({"alloy_300K_wide": {"graph": "a.xyz"}}, "the name 'graph' in 'files' is too much like 'graph'"),
        ({"alloy_300K_wide": {"CryinGAN repaired": "a.xyz"}}, "too much like 'CryinGAN, repaired'; choose another"),
        ({"alloy_300K_wide": {"a+b": "a.xyz", "a b": "a.xyz"}}, "the name 'a b' in 'files' is too much like 'a.b'"),
    ],
)
def test_files_that_no_data_set_asks_for_or_that_would_take_anothers_place_are_refused(files, words):
    with pytest.raises(BadInput, match=words):
        validated(DismaiEntrantsParams, {"files": files})
