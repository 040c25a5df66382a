"""Scores of structures that anybody made: files of every kind, and scores known beforehand."""

import subprocess
import sys
import zipfile

import ase.io
import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from lib.crystals import CrystalTable
from lib.evaluate import answers_for, crystal_structure_prediction, generation, is_neutral, read_structures
from lib.run import ROOT, BadInput

CUBIC = [[0, 0, 0], [0.5, 0.5, 0.5]]


def caesium_chloride(a: float, *elements: str) -> Structure:
    return Structure(Lattice.cubic(a), elements, CUBIC)


def zinc_blende(a: float, *elements: str) -> Structure:
    cell = Structure.from_spacegroup(216, Lattice.cubic(a), elements, [[0, 0, 0], [0.25] * 3])
    return cell.get_primitive_structure()


@pytest.fixture
def table() -> CrystalTable:
    """Two polymorphs of ZnS and one CsCl."""
    known = [zinc_blende(5.4, "Zn", "S"), caesium_chloride(3.4, "Zn", "S"), caesium_chloride(4.1, "Cs", "Cl")]
    return CrystalTable.from_structures(
        known, id=["blende", "dense", "halide"], formation_energy=[-1.0, -0.5, -2.0], energy_kind="test"
    )


def swapped(table) -> dict[str, Structure]:
    """The right answers, but for the polymorphs of ZnS in the wrong order."""
    return {"blende": table.structure(1), "dense": table.structure(0), "halide": table.structure(2)}


def scores_of(frame: pd.DataFrame) -> dict[str, float]:
    return frame.set_index("score").value.to_dict()


def test_metre_forgives_the_order_of_polymorphs_and_the_match_rate_does_not(table):
    scores = scores_of(crystal_structure_prediction(table, swapped(table), n_workers=1))
    assert scores["answered"] == 1
    assert scores["match, default"] == pytest.approx(1 / 3)
    assert scores["METRe, default"] == 1 and scores["METRe, strict"] == 1
    right = {name: table.structure(i) for i, name in enumerate(table.id)}
    scores = scores_of(crystal_structure_prediction(table, right, n_workers=1))
    assert scores["match, strict"] == 1 and scores["RMSD of csp matches"] == pytest.approx(0, abs=1e-6)


def test_a_missing_answer_is_no_match(table):
    scores = crystal_structure_prediction(table, {"halide": table.structure(2)}, n_workers=1).set_index("score")
    assert scores.value["answered"] == scores.value["match, csp"] == pytest.approx(1 / 3)
    assert (scores.n.drop("RMSD of csp matches") == 3).all()


def test_answers_by_formula_are_taken_in_turn(table):
    made = {"a": table.structure(1), "b": table.structure(0)}
    assert answers_for(table, made, "formula") == [table.structure(1), table.structure(0), None]
    with pytest.raises(BadInput, match="none of the 2 structures has the id .* names are like 'a'"):
        answers_for(table, made)


def test_generated_structures_are_counted(table):
    made = {
        "known": table.structure(0),
        "known, larger": zinc_blende(5.5, "Zn", "S"),
        "new": zinc_blende(6.5, "Cs", "Cl"),
        "crushed": caesium_chloride(1.5, "Cs", "I"),
    }
    scores = scores_of(generation(table, made, n_workers=1))
    assert scores == {"valid": 0.75, "neutral": 1, "unique": 0.75, "novel": 0.5, "valid, unique and novel": 0.25}


@pytest.mark.parametrize(("formula", "neutral"), [("NaCl", True), ("NaCl2", False), ("TiO2", True), ("Ni3Al", True)])
def test_neutrality(formula, neutral):
    assert is_neutral(formula) == neutral


def test_every_kind_of_file_is_read(table, tmp_path):
    table.structure(0).to(str(tmp_path / "one.cif"), fmt="cif")
    table.structure(1).to(str(tmp_path / "two.vasp"), fmt="poscar")
    (tmp_path / "notes.txt").write_text("nothing")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("deep/three.cif", table.structure(2).to(fmt="cif"))
        archive.writestr("readme.md", "nothing")
    frames = [AseAtomsAdaptor.get_atoms(table.structure(i), msonable=False) for i in (0, 1)]
    frames[0].info["material_id"] = "four"
    ase.io.write(tmp_path / "frames.extxyz", frames, format="extxyz")
    found = read_structures([tmp_path])
    assert sorted(found) == ["four", "frames_1", "one", "three", "two"]
    assert found["four"].composition == found["one"].composition == table.structure(0).composition
    assert found["frames_1"].lattice == table.structure(1).lattice


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("broken.cif", "data_\n_cell_length_a oops", "broken.cif does not parse as CIF"),
        ("broken.zip", "PK no zip", "no whole zip file"),
        ("broken.xyz", "3\nnothing\nHe", "does not parse as extended XYZ"),
        ("molecule.xyz", "1\n\nHe 0 0 0\n", "has no cell"),
        ("words.txt", "words", "is no CIF, POSCAR, extended XYZ or zip file"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=words):
        read_structures([tmp_path / name])


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        read_structures([tmp_path / "absent"])
    with pytest.raises(BadInput, match="no CIF, POSCAR or extended XYZ file in"):
        read_structures([tmp_path])


def test_two_structures_of_one_name_are_refused(table, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        table.structure(0).to(str(tmp_path / folder / "same.cif"), fmt="cif")
    with pytest.raises(BadInput, match="same stands more than once"):
        read_structures([tmp_path])


def test_command_line(table, tmp_path):
    table.to_parquet(tmp_path / "table.parquet")
    for name, structure in swapped(table).items():
        structure.to(str(tmp_path / f"{name}.cif"), fmt="cif")
    words = [sys.executable, "-m", "lib.evaluate", *map(str, tmp_path.glob("*.cif"))]
    words += ["--task", "csp", "--reference", str(tmp_path / "table.parquet"), "--out", str(tmp_path / "scores.csv")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "METRe, default" in done.stdout
    scores = pd.read_csv(tmp_path / "scores.csv").set_index("score")
    assert scores.value["METRe, default"] == 1 and np.isfinite(scores.ci_low["match, default"])
    words[words.index("--reference") + 1] = str(tmp_path / "absent.parquet")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "absent.parquet does not exist" in done.stderr and "Traceback" not in done.stderr
