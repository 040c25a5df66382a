"""Files of structures: every kind is read, and what other evaluators read is written."""

import json
import zipfile
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifWriter

from lib.core.errors import BadInput
from lib.crystals.exchange import export, read_structures, write_answers

CUBIC = [[0, 0, 0], [0.5, 0.5, 0.5]]
NUMBERED = (  # an element by its number
    '{""lattice"": {""matrix"": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]}, '
    '""sites"": [{""species"": [{""element"": 17, ""occu"": 1}], ""abc"": [0, 0, 0]}]}'
)
DISORDERED = Structure(Lattice.cubic(3), [{"Ni": 0.5, "Al": 0.5}], [[0, 0, 0]]).to(fmt="cif")


@pytest.fixture
def made() -> dict[str, Structure]:
    """Structures of every crystal system but the easy ones, under names that invite misreading."""
    oblique = Lattice.from_parameters(3.1, 4.2, 5.3, 81, 97, 106)
    return {
        "mp-1": Structure(Lattice.cubic(4.1), ["Cs", "Cl"], CUBIC),
        "1e5": Structure(oblique, ["Zn", "S", "S"], [[0.1234567, 0, 0.9], [1 / 3, 2 / 3, 0.5], [0.7, 0.1, 0.2]]),
        "F": Structure(Lattice.hexagonal(3.2, 5.1), ["Mg", "Mg"], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]),
        "NaN": Structure(oblique, ["Na", "N"], CUBIC),
    }


def same(one: Structure, other: Structure, tolerance: float = 1e-6) -> bool:
    """The same atoms in the same order at the same places of the same cell; the cell may be turned."""
    shift = one.frac_coords - other.frac_coords
    cells = np.allclose(one.lattice.parameters, other.lattice.parameters, atol=tolerance)
    return cells and one.species == other.species and np.abs(shift - np.round(shift)).max() < tolerance


def test_every_kind_of_file_is_read(made, tmp_path):
    first, second, third, _ = made.values()
    first.to(str(tmp_path / "one.cif"), fmt="cif")
    second.to(str(tmp_path / "two.vasp"), fmt="poscar")
    (tmp_path / "notes.txt").write_text("nothing")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("deep/three.cif", third.to(fmt="cif"))
        archive.writestr("readme.md", "nothing")
    frames = [AseAtomsAdaptor.get_atoms(s, msonable=False) for s in (first, second)]
    frames[0].info["material_id"] = "four"
    ase.io.write(tmp_path / "frames.extxyz", frames, format="extxyz")
    found = read_structures([tmp_path])
    assert sorted(found) == ["four", "frames_1", "one", "three", "two"]
    assert found["four"].composition == found["one"].composition == first.composition
    assert found["frames_1"].lattice == second.lattice


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("broken.cif", "data_\n_cell_length_a oops", "broken.cif: _cell_length_a oops is no finite number"),
        ("broken.zip", "PK no zip", "no whole zip file"),
        ("broken.xyz", "3\nnothing\nHe", "broken.xyz: frame 0 has 1 lines of atoms where it says 3"),
        ("molecule.xyz", "1\n\nHe 0 0 0\n", "has no cell"),
        ("partly.cif", DISORDERED, "partly.cif: it has partly occupied sites"),
        ("scores.csv", "id,value\na,1\n", "scores.csv has no column structure, LeMatStructs, cif_string or cif"),
        ("half.csv", 'id,structure\na,"{""lattice"": 1}"\n', "a of half.csv: it is no pymatgen Structure"),
        ("twice.csv", "id,cif,cif\na,x,y\n", "twice.csv has the column cif twice"),
        ("number.csv", 'id,structure\na,"' + NUMBERED + '"\n', "a of number.csv: an atom is '17'"),
        ("words.txt", "words", "is no CIF, POSCAR, extended XYZ, csv or zip"),
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


def test_two_structures_of_one_name_are_refused(made, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        made["mp-1"].to(str(tmp_path / folder / "same.cif"), fmt="cif")
    with pytest.raises(BadInput, match="same stands more than once"):
        read_structures([tmp_path])


@pytest.mark.parametrize(
    ("evaluator", "name"),
    [("mattergen", "a.extxyz"), ("mattergen", "a.zip"), ("lemat", "a.csv"), ("lemat", "a")],
)
def test_what_is_exported_reads_back_the_same(made, tmp_path, evaluator, name):
    found = read_structures([export(made, evaluator, tmp_path / "new" / name)])
    assert set(found) == set(made)
    for key, structure in made.items():
        assert same(found[key], structure), key
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_the_evaluators_find_what_they_look_for(made, tmp_path):
    """As their code reads it: mattergen takes frames and top-level CIFs of a zip, LeMat-GenBench a named column."""
    frames = ase.io.read(export(made, "mattergen", tmp_path / "a.extxyz"), ":")
    assert all(same(AseAtomsAdaptor.get_structure(f), s) for f, s in zip(frames, made.values(), strict=True))
    with zipfile.ZipFile(export(made, "mattergen", tmp_path / "a.zip")) as archive:
        assert sorted(archive.namelist()) == sorted(f"{name}.cif" for name in made)
    frame = pd.read_csv(export(made, "lemat", tmp_path / "a.csv"))
    read = [Structure.from_dict(json.loads(text)) for text in frame["structure"]]
    assert all(same(a, b) for a, b in zip(read, made.values(), strict=True))
    folder = export(made, "lemat", tmp_path / "folder")
    assert sorted(path.stem for path in folder.rglob("*.cif")) == sorted(made)
    assert folder.stat().st_mode & 0o055, "others may not read it"


@pytest.mark.parametrize(
    ("evaluator", "name", "words"),
    [
        ("mattergen", "a.csv", "mattergen does not read a.csv; it reads .extxyz or .xyz or .zip"),
        ("lemat", "a.zip", "lemat does not read a.zip; it reads .csv or a folder"),
        ("cdvae", "a.csv", "no evaluator 'cdvae' is known; choose one of mattergen, lemat"),
        ("lemat", "", "exists"),
    ],
)
def test_what_no_evaluator_reads_is_refused(made, tmp_path, evaluator, name, words):
    with pytest.raises(BadInput, match=words):
        export(made, evaluator, tmp_path / name)


def test_a_name_that_no_file_can_have_is_refused_and_nothing_is_left(made, tmp_path):
    for name in ("a.zip", "folder"):
        with pytest.raises(BadInput, match="'of/a' cannot name a file"):
            export(made | {"of/a": made["F"]}, "mattergen" if name == "a.zip" else "lemat", tmp_path / name)
    assert not list(tmp_path.iterdir())
    assert "of/a" in read_structures([export({"of/a": made["F"]}, "mattergen", Path(tmp_path / "b.extxyz"))])


def test_the_answers_of_each_row_are_read_back_by_their_ids(made, tmp_path):
    rows = {"composition, group": made, "substitution": {"F": made["F"]}, "nothing": {}}
    with zipfile.ZipFile(write_answers(rows, tmp_path / "answers.zip")) as archive:
        archive.extractall(tmp_path)
    for row in ("composition, group", "substitution"):
        found = read_structures([tmp_path / f"{row}.extxyz"])
        assert [*found] == [*rows[row]] and all(same(found[name], rows[row][name]) for name in found)
    assert (tmp_path / "nothing.extxyz").read_text() == ""


def test_one_crystal_in_two_files_of_a_folder_is_read_once_and_two_of_one_name_are_refused(tmp_path):
    """What lib.generate writes: a CIF each, and all of them in one extended XYZ file."""
    rock_salt = Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    CifWriter(rock_salt, symprec=0.01).write_file(tmp_path / "NaCl_0.cif")
    export({"NaCl_0": rock_salt.get_primitive_structure()}, "mattergen", tmp_path / "structures.extxyz")
    assert list(read_structures([tmp_path])) == ["NaCl_0"]
    export({"NaCl_0": rock_salt.copy().scale_lattice(200)}, "mattergen", tmp_path / "structures.extxyz")
    with pytest.raises(BadInput, match="NaCl_0 stands more than once"):
        read_structures([tmp_path])
