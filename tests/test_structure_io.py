"""The door for structures from outside: each kind of wrong, odd or ambiguous input, by small texts written here."""

from __future__ import annotations

import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from test_cases import CSCL, NACL_8, SI_8, assert_is, evaluated, from_files

from lib.core.errors import BadInput
from lib.crystals.exchange import read_structures
from lib.crystals.structure_checks import cell, closest
from lib.crystals.structure_io import NOT_READ, kind_of, read_one, read_text
from lib.crystals.table import CrystalTable
from lib.crystals.validity import obtained_space_group
from lib.datasets.sources import mp20
from lib.studies import evaluation
from lib.symmetry.cells import space_group_of
from lib.symmetry.wyckoff import AsymmetricUnit

SITES = "Cs1 Cs 0 0 0\nCl1 Cl 0.5 0.5 0.5"
CUBIC = (4, 4, 4, 90, 90, 90)
HM = "_space_group_name_H-M_alt"
NUMBER = "_space_group_IT_number"


def cif(about: str = "", sites: str = SITES, parameters=CUBIC, columns: str = "label type_symbol", block="x") -> str:
    """A CIF of one block; `columns` are those beside the coordinates, which stand behind the first ones."""
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    first, *more = columns.split(" + ")
    tags = [*first.split(), "fract_x", "fract_y", "fract_z", *more]
    lines = [f"data_{block}", about, *(f"_cell_{name} {value}" for name, value in zip(names, parameters, strict=True))]
    return "\n".join([*lines, "loop_", *(f"_atom_site_{tag}" for tag in tags), sites, ""])


def poscar(elements="Cs Cl", counts="1 1", mode="Direct", rows="0 0 0\n0.5 0.5 0.5", scale="1.0", tail="") -> str:
    return f"t\n{scale}\n4 0 0\n0 4 0\n0 0 4\n{elements}\n{counts}\n{mode}\n{rows}\n{tail}"


def frame(about: str = "", rows: str = "Cs 0 0 0\nCl 2 2 2") -> str:
    return f'2\nLattice="4 0 0 0 4 0 0 0 4" {about}\n{rows}\n'


def operations(*triplets: str) -> str:
    return "\n".join(["loop_\n_symmetry_equiv_pos_as_xyz", *(f"'{triplet}'" for triplet in triplets)])


NACL, SI = (5.64, 5.64, 5.64, 90, 90, 90), (5.43, 5.43, 5.43, 90, 90, 90)
HEXAGONAL = (3.2, 3.2, 5.2, 90, 90, 120)
TIO2, TITANIUM_AT_0 = (3.785, 3.785, 9.514, 90, 90, 90), "Ti1 Ti 0 0 0\nO1 O 0 0 0.208"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (cif(f"{HM} 'P m -3 m'"), CSCL),
        (cif(f"{HM} 'f m 3 m'", parameters=NACL), "Cs4Cl4, 8 atoms, group 225, 2.820 Å"),
        (cif(f"{HM}\n;F m -3 m\n;", parameters=NACL), "Cs4Cl4, 8 atoms, group 225, 2.820 Å"),
        (cif("_space_group_name_Hall '-F 4 2 3'", parameters=NACL), "Cs4Cl4, 8 atoms, group 225, 2.820 Å"),
        (cif(f"{HM} 'F d -3 m'", "Si1 Si 0 0 0", SI), SI_8),
        (cif(f"{HM} 'F d 3 m Z'", "Si1 Si 0.125 0.125 0.125", SI), SI_8),
        (cif(f"{HM} 'F 41/d -3 2/m (origin 2)'", "Si1 Si 0.125 0.125 0.125", SI), SI_8),
        (cif(f"{HM} 'I 41/a m d'", TITANIUM_AT_0, TIO2), "Ti4O8, 12 atoms, group 141, 1.934 Å"),
        (cif(f"{HM} 'I 41/a m d'", "Ti1 Ti 0 0.75 0.125\nO1 O 0 0.75 0.333", TIO2),
         "Ti4O8, 12 atoms, group 141, 1.934 Å"),
        (cif(f"{HM} 'F d -3 m'\n_chemical_formula_sum 'Cu2 Mg'",
             "Mg1 Mg 0.125 0.125 0.125\nCu1 Cu 0.5 0.5 0.5", (7.03, 7.03, 7.03, 90, 90, 90)),
         "Mg8Cu16, 24 atoms, group 227, 2.485 Å"),
        (cif(f"{HM} 'R -3 m'", "As1 As 0.23 0.23 0.23", (4.13, 4.13, 4.13, 54, 54, 54)),
         "As2, 2 atoms, group 166, 2.544 Å"),
        (cif(f"{NUMBER} 166", "As1 As 0 0 0.23", (4.54, 4.54, 11.9, 90, 90, 120)), "As6, 6 atoms, group 166, 3.024 Å"),
        (cif(f"{HM} 'P 21/b'", "Na1 Na 0.1 0.2 0.3", (5, 6, 7, 90, 90, 100)), "Na4, 4 atoms, group 14, 3.081 Å"),
        (cif(f"{HM} 'P 21'", "Na1 Na 0.1 0.2 0.3", (5, 6, 7, 90, 90, 91)), "Na2, 2 atoms, group 11, 4.350 Å"),
        (cif(f"{HM} 'P 21'", "Na1 Na 0.1 0.2 0.3", (5, 6, 7, 90, 90, 90.5)), "Na2, 2 atoms, group 11, 4.355 Å"),
        (cif(f"{HM} 'P 63/m m c'", "Mg1 Mg 0.33 0.67 0.25", HEXAGONAL), "Mg2, 2 atoms, group 194, 3.190 Å"),
        (cif(f"{HM} 'P 6/m m m'", "Al1 Al 0 0 0\nB1 B 0.3334 0.6666 0.5", (3, 3, 3.26, 90, 90, 120)),
         "Al1B2, 3 atoms, group 191, 1.732 Å"),
        (cif(operations("x,y,z", "1*x,y,z").replace("\n'1*x,y,z'", "\n'x,\ty, Z'")), CSCL),
        (cif("_chemical_formula_sum 'Na4 Cl4'\n_cell_formula_units_Z 4\n" + HM + " 'Fm-3m'",
             SITES.replace("Cs", "Na"), NACL), NACL_8),  # as pymatgen writes it: the whole cell beside Z
        (cif(sites="Cs1 CS 0 0 0\nCl1 CL 0.5 0.5 0.5"), CSCL),
        (cif(sites="Cs Cs0+ 0 0 0 .\nCl Cl-1 0.5 0.5 0.5 1.0(1)", columns="label type_symbol + occupancy"), CSCL),
        (cif(sites="Cs1A 0 0 0\nCl(2) -0.5 1.5 0.5", columns="label"), CSCL),
        (cif(sites="Li Li 0 0 0\nD D 0.5 0.5 0.5"), "Li1H1, 2 atoms, group 221, 3.464 Å"),
        (cif(sites=SITES.replace("0.5", ".5(1)"), parameters=("4.(1)", 4, "4e0", "90.", 90, 90)), CSCL),
        (cif(f"_journal_name 'M\u00fcller \u2212'\n{HM} ?\n{NUMBER} ."), CSCL),
        (cif("_cell_formula_units_Z 1\n_chemical_formula_sum 'Cl Cs'"), CSCL),
        (cif("_space_group.name_H-M_alt 'F m -3 m'", parameters=NACL), "Cs4Cl4, 8 atoms, group 225, 2.820 Å"),
        (cif("_symmetry.space_group_name_H-M 'F m -3 m'", parameters=NACL), "Cs4Cl4, 8 atoms, group 225, 2.820 Å"),
        (cif("_space_group.IT_number 225", parameters=NACL), "Cs4Cl4, 8 atoms, group 225, 2.820 Å"),
        (cif(operations("x,y,z", "-x,-y,z", "-y,x,z", "y,-x,z").replace("v_p", "v.p"), "Cs1 Cs 0.2 0.1 0"),
         "Cs4, 4 atoms, group 83, 1.265 Å"),
        (cif("_space_group_name_Schoenflies C1^1\n_symmetry_cell_setting triclinic"), CSCL),
    ],
)  # fmt: skip
def test_cifs_that_are_read(text, words):
    assert_is(read_one(text, "cif", "a.cif"), words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (cif(f"{HM} 'F d -3 m'", "Mg1 Mg 0.125 0.125 0.125\nCu1 Cu 0.5 0.5 0.5", (7.03, 7.03, 7.03, 90, 90, 90)),
         ["227", "F d -3 m:1 and F d -3 m:2"]),
        (cif(f"{HM} 'P 1'\n_space_group_name_Hall '-F 4 2 3'"), ["'P 1'", "'-F 4 2 3'"]),
        (cif(f"{NUMBER} 225\n{operations('x,y,z', '-x,-y,-z')}"), ["_symmetry_equiv_pos_as_xyz", "225"]),
        (cif(f"{HM} 'P 21/n'\n{operations('x,y,z', '-x,y+1/2,-z+1/2', '-x,-y,-z', 'x,-y+1/2,z+1/2')}"),
         ["P 21/n", "settings"]),
        (cif(f"{HM} 'R -3 m :R'", parameters=HEXAGONAL), ["R -3 m :R", "cell"]),
        (cif(f"{HM} 'P n o n e'"), ["P n o n e"]),
        (cif(f"{NUMBER} 231"), ["231"]),
        (cif(operations("x,y,z", "a,b,-c")), ["a,b,-c"]),
        (cif(operations("-x,-y,-z")), ["x,y,z"]),
        (cif(operations("x,y,z", "-y,x,z"), "Cs1 Cs 0.2 0.1 0"), ["_symmetry_equiv_pos_as_xyz"]),
        (cif(operations("x,y,z", "x+1/2,y+1/2,z", "-x,-y,z"), "Cs1 Cs 0.2 0.1 0"), ["_symmetry_equiv_pos_as_xyz"]),
        (cif(operations("x,y,z", "-x,-y,-z").replace("_equiv_pos_", "_equiv_position_"), "Cs1 Cs 0.2 0.1 0"),
         ["_symmetry_equiv_position_as_xyz", "-x,-y,-z"]),
        (cif("_space_group_name_Schoenflies 'Oh^5'", parameters=NACL), ["_space_group_name_Schoenflies", "Oh^5"]),
        (cif(f"{HM} 'P 1'\n_symmetry_IT_number 225", parameters=NACL), ["_symmetry_IT_number", "225"]),
        (cif("loop_\n_space_group_symop_ssg_operation_algebraic\nx1,x2,x3,x4"), ["ssg_operation", "x1,x2,x3,x4"]),
        (cif(sites=f"{SITES} 1\nCl2 Cl 0.6 0.5 0.5 2".replace("0 0 0", "0 0 0 ."),
             columns="label type_symbol + disorder_group"), ["_atom_site_disorder_group"]),
        (cif(f"{HM} 'P m -3 m'", SITES + "\nCl2 Cl 0.45 0.5 0.5"), ["Cl2", "P m -3 m"]),
        (cif(f"{HM} 'I m -3 m'", "Cs1 Cs 0 0 0\nCs2 Cs 0.5 0.5 0.5"), ["Cs1 and Cs2"]),
        (cif("_chemical_formula_sum 'Cs Cl H'"), ["has H"]),
        (cif("_chemical_formula_sum 'Cs'"), ["lacks Cl"]),
        (cif("_chemical_formula_sum 'Cs Cl2'"), ["Cl1 Cs1", "Cs1 Cl2"]),
        (cif("_chemical_formula_sum 'Cs Cl'\n_cell_formula_units_Z 4"), ["Z = 4"]),
        (cif("_chemical_formula_sum 'Cs Cl, H2O'"), ["_chemical_formula_sum"]),
        (cif(sites=SITES + "\nCl1 Cl 0.5 0.5 -0.5"), ["Cl1 and Cl1"]),
        (cif(sites="Cs1 0 0 0\nH2O1 0.5 0.5 0.5", columns="label"), ["H2O1"]),
        (cif(sites="T1 0 0 0\nO1 0.5 0.5 0.5", columns="label"), ["T1"]),
        (cif(sites="Re1 RE 0 0 0\nM1 TM 0.5 0.5 0.5"), ["TM"]),
        (cif(sites="Cs1 Cs 0 0 0 1\nCl1 Cl 0.5 0.5 0.5 0.9", columns="label type_symbol + occupancy"), ["Cl1", "0.9"]),
        (cif(sites="Cs1 Cs 0 0 0 3\nCl1 Cl 0.5 0.5 0.5 1", columns="label type_symbol + occupancy"), ["Cs1", "3"]),
        (cif(sites="O1 O 0 0 0 2", columns="label type_symbol + attached_hydrogens"), ["O1", "ydrogens"]),
        (cif(sites="Cs1 Cs 0 0 0 2", columns="label type_symbol + symmetry_multiplicity"), ["Cs1", "2"]),
        (cif(sites="Cs1 Cs 0 0 ?"), ["Cs1 ?"]),
        (cif(sites="Cs1 Cs 0 0 \u22120.5"), ["_atom_site_fract_z of Cs1"]),
        (cif(parameters=("nan", 4, 4, 90, 90, 90)), ["_cell_length_a nan"]),
        (cif(parameters=(4, 4, -4, 90, 90, 90)), ["_cell_length_c -4"]),
        (cif(parameters=(4, 4, 4, 90, 180, 90)), ["_cell_angle_beta 180"]),
        (cif(parameters=(4, 4, 4, 60, 60, 120)), ["60, 60, 120"]),
        (cif(parameters=(0.05, 4, 4, 90, 90, 90)), ["Cs1 and its image"]),
        (cif().replace("_cell_length_b", "_cell.length_b"), ["_cell_length_b"]),
        (cif() + cif(block="second"), ["second"]),
        (cif(block="first").replace("Cs 0", "Qs 0") + cif(), ["block first", "Qs"]),
        (cif() + cif(), ["x"]),
        (cif() + "save_frame\n_a 1\nsave_\n", ["save"]),
        (cif("loop_\n_space_group_symop_magn_operation.xyz\nx,y,z,+1"), ["magnetic"]),
    ],
)  # fmt: skip
def test_cifs_that_are_refused(text, words):
    with pytest.raises(BadInput, match="^a.cif: ") as refused:
        read_one(text, "cif", "a.cif")
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        poscar("Cs_sv/8b3c91d Cl_GW # elements", "1 1 ! counts"),
        poscar(mode="Selective dynamics\nCartesian", rows="0 0 0 T T F Cs\n2 2 2 F F F Cl"),
        poscar(rows="0 0 0 T F T\n.5 .5 .5 F F F", tail="\n0 0 0\n0 0 0\n"),
        poscar(scale="-64 ! Å^3", tail="Lattice velocities and vectors\n1\n" + "0 0 0\n" * 3 + "4 0 0\n0 4 0\n0 0 4\n"),
        "t\n1.0\n4 0 0\n0 4 0\n0 0 4\n1 1\nDirect\n0 0 0 Cs\n.5 .5 .5 Cl",
        frame('comment="id=w" pbc=[T, T, T]'),
        frame('occupancy="_JSON {\\"0\\": {\\"Cs\\": 1.0}}" Properties=species:S:1:pos:R:3'),
        frame("Properties=species:S:1:pos:R:3:Z:I:1:occupancy:R:1", "Cs 0 0 0 55 1\nCl 2 2 2 17 1.0"),
        "\n" + frame("Properties=forces:R:3:pos:R:3:species:S:1", "1 1 1 0 0 0 Cs\n1 1 1 2 2 2 Cl"),
    ],
)  # fmt: skip
def test_poscars_and_frames_that_are_read(text):
    ((label, structure),) = read_text(text, "xyz" if "Lattice=" in text else "poscar", "a")
    assert label is None
    assert_is(structure, CSCL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (poscar("", "1 1").replace("\n\n", "\n"), "line of element symbols is missing"),
        (poscar("H.5 Cl"), "H.5"),
        (poscar("Cs Cl Br"), "3 elements"),
        (poscar(rows="0 0 0 Cl\n.5 .5 .5 Cs"), "named Cl"),
        (poscar(rows="0 0 0 Cl1\n.5 .5 .5 Cs1"), "named Cl"),
        ("t\n1.0\n4 0 0\n0 4 0\n0 0 4\n1 1\nDirect\n0 0 0 T\n.5 .5 .5 F", "line of element symbols is missing"),
        (poscar(rows="0 0 0\n.5 .5 .5\n.2 .2 .2"), ".2 .2 .2"),
        (poscar(rows="0 0 0\n.5 .5 nan"), "nan"),
        (poscar(mode="0 0 0"), "Direct nor Cartesian"),
        (poscar(scale="1 1 1"), "1 1 1"),
        (poscar() + poscar("Qq Na"), "POSCAR 2 in it.*Qq"),
        (poscar(mode="Direct configuration= 1") + "Direct configuration= 2\n0 0 0\n.5 .5 .4\n", "trajectory"),
        (frame('pbc="T T F"'), "frame 0.*pbc T T F"),
        (frame(rows="Cs 0 0 0\nX 2 2 2"), "frame 0.*X"),
        (frame(rows="Cs 0 0 0\nCl inf 2 2"), "frame 0.*Cl inf"),
        (frame("Properties=Z:I:1:pos:R:3", "0 0 0 0\n17 2 2 2"), "atomic number 0"),
        (frame() + "2\n" + frame().split("\n")[1] + "\nCs 0 0 0\n", "frame 1"),
        (frame() + "end\n", "frame 1.*end"),
        (frame().replace("Lattice", "cell"), "frame 0.*no cell"),
        (frame('Lattice="9 0 0 0 9 0 0 0 9"'), "frame 0.*Lattice stands twice"),
        (frame("Properties=species:S:1:pos:R:3:Z:I:1", "Cs 0 0 0 17\nCl 2 2 2 55"), "frame 0.*Cs and 17"),
        (frame("Properties=species:S:1:pos:R:2:charge:R:1"), "frame 0.*pos 2"),
        (frame("Properties=species:S:1:pos:R:3:occupancy:R:1", "Cs 0 0 0 0.5\nCl 2 2 2 1"), "frame 0.*occupancy 0.5"),
        (frame('occupancy="_JSON {\\"0\\": {\\"Cs\\": 0.5, \\"Rb\\": 0.5}}"'), "frame 0.*occupancy .*Rb"),
    ],
)
def test_poscars_and_frames_that_are_refused(text, words):
    with pytest.raises(BadInput, match=f"^a: .*{words}"):
        read_text(text, "poscar" if text.startswith("t\n") else "xyz", "a")


def test_names_say_what_a_file_holds():
    kinds = {"a.CIF": "cif", "a.vasp": "poscar", "CONTCAR": "poscar", "POSCAR.2": "poscar", "a.extxyz": "xyz"}
    for name in (
        "a.cif.txt",
        "a.zip",
        "a.tar.gz",
        "._a.cif",
        "a.mcif",
        "a.cif.gz",
        "POSCAR.gz",
        "poscars.csv",
        "a.json",
        "README.md",
    ):
        kinds[name] = None
    assert {name: kind_of(name) for name in kinds} == kinds
    assert all(NOT_READ.fullmatch(name) for name in ("a.cif.txt", "a.zip", "a.tar.gz", "a.mcif")), "named as left out"


def test_one_bad_structure_does_not_lose_the_rest(tmp_path, monkeypatch):
    (tmp_path / "good.cif").write_text(cif())
    (tmp_path / "bad.cif").write_text(cif(sites="X1 X 0 0 0"))
    (tmp_path / "old.cif.gz").write_bytes(b"")
    (tmp_path / "gone.cif").symlink_to(tmp_path / "nowhere")
    (tmp_path / "frames.extxyz").write_text(frame() + frame('pbc="F F F"') + frame())
    left_out: dict[str, str] = {}
    assert sorted(read_structures([tmp_path], left_out)) == ["frames_0", "frames_2", "good"]
    assert len(left_out) == 4
    for sentence, word in zip(sorted(left_out.values()), ("X", "frame 1", "gone.cif", "old.cif.gz"), strict=True):
        assert word in sentence
    with pytest.raises(BadInput, match="bad.cif"):
        read_structures([tmp_path])
    monkeypatch.setattr(sys, "argv", ["evaluate", str(tmp_path), "--export", "lemat", str(tmp_path / "out.csv")])
    with pytest.raises(SystemExit, match="bad.cif: "):
        evaluation.main()
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 4, "the header and what is sound"


def test_zips_are_read_as_they_come(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one/POSCAR", poscar())
        archive.writestr("two/CONTCAR", poscar("Na Cl"))
        archive.writestr("__MACOSX/one/._POSCAR", "\0")
        archive.writestr("more.csv", 'material_id,cif\nmp-1,"' + cif() + '"\n')
    assert sorted(evaluated(tmp_path / "a.zip")) == ["mp-1", "one", "two"]
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("scores.csv", "id,score\nmp-1,1\n")
    with pytest.raises(BadInput, match="scores.csv has no column"):
        evaluated(tmp_path / "a.zip")


def test_a_damaged_text_of_a_zip_does_not_lose_the_rest(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("folder\\a.cif", cif())
        archive.writestr("b.cif", cif(block="damaged"))
    raw = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(raw.replace(b"data_damaged", b"data_dAmaged"))
    left_out: dict[str, str] = {}
    assert list(read_structures([tmp_path / "a.zip"], left_out)) == ["a"]
    assert len(left_out) == 1 and "b.cif in a.zip is damaged" in left_out["b.cif"]


def test_a_set_may_lack_one_in_a_hundred(tmp_path, capsys):
    folder = tmp_path / "structures"
    folder.mkdir()
    names = [f"{i}.cif" for i in range(100)]
    for i, name in enumerate(names):
        (folder / name).write_text(cif(sites=SITES if i else "X1 X 0 0 0"))
    csv = tmp_path / "energies.csv"
    csv.write_text("file,formation_energy\n" + "".join(f"{name},{i}\n" for i, name in enumerate(names)))
    table, run = from_files(tmp_path, folder, csv)
    assert table.id.tolist() == names[1:] and table.formation_energy.tolist() == list(range(1, 100))
    assert "0.cif: " in capsys.readouterr().out
    assert "0.cif" in run.path("tables/left_out.csv", "").read_text()
    (folder / names.pop()).unlink()
    csv.write_text("file,formation_energy\n" + "".join(f"{name},-1\n" for name in names))
    with pytest.raises(BadInput, match=r"0.cif: .*X1.* \(1 of 99 structures\)"):
        from_files(tmp_path, folder, csv)


def test_what_a_piece_of_mp20_leaves_out_is_known_after_an_interruption(tmp_path):
    names, cifs = pd.Series(["mp-0", "mp-1"]), pd.Series([cif(), cif(sites="X1 X 0 0 0")])
    for texts in (cifs, pd.Series(["", ""])):  # the second time nothing is read
        piece = mp20._from_cifs(names, texts, np.array([-1.0, -2.0]), "formation energy", tmp_path / "piece.parquet")
        assert piece.id.tolist() == ["mp-0"] and piece.formation_energy.tolist() == [-1]
        assert "X1" in piece.about["left out"]["mp-1"]


def test_a_file_of_two_crystals_has_no_one_energy(tmp_path):
    (tmp_path / "two.vasp").write_text(poscar() + poscar("Na Cl"))
    with pytest.raises(BadInput, match="two.vasp: it holds 2 structures"):
        from_files(tmp_path, tmp_path / "two.vasp")


def test_the_nearest_atoms_are_found_in_any_cell():
    rng = np.random.default_rng(3)
    for _ in range(40):
        lattice = rng.uniform(1, 3, (3, 3)) + np.diag([3, 2, 1]) * rng.choice([1, -1])
        frac_coords = rng.uniform(-2, 2, (6, 3))
        skewed = np.array([[1, 0, 0], [4, 1, 0], [-3, 2, 1]]) @ lattice
        structure = Structure(Lattice(lattice), ["W"] * 6, frac_coords)
        reach = structure.get_all_neighbors(1.0)
        nearest = min((n.nn_distance for around in reach for n in around), default=None)
        found = closest(skewed, frac_coords @ lattice @ np.linalg.inv(skewed), 1.0)
        assert (found is None) == (nearest is None)
        if found:
            assert found[2] == pytest.approx(nearest)


def test_a_cell_of_numbers_is_checked():
    np.testing.assert_allclose(cell([3, 4, 5, 80, 90, 100]), Lattice.from_parameters(3, 4, 5, 80, 90, 100).matrix)
    with pytest.raises(BadInput, match="gamma 200"):
        cell([3, 4, 5, 80, 90, 200])


def test_what_is_not_finite_never_reaches_spglib(tmp_path):
    """It would end the process, so that failing here takes the whole test run along."""
    wrong = [
        Structure(Lattice(np.diag([np.nan, 4, 4])), ["W"], [[0, 0, 0]]),
        Structure(Lattice.cubic(4), ["W"], [[0, np.inf, 0]]),
    ]
    for structure in wrong:
        with pytest.raises(BadInput, match="no finite numbers"):
            space_group_of(structure)
        arrays = structure.lattice.matrix, structure.frac_coords, np.array([74])
        assert AsymmetricUnit.of(*arrays, 0.01).symmetry == 1
        assert obtained_space_group(structure, 0.01) == 1
        facts = {"id": ["w"], "formation_energy": [0], "space_group": [1], "energy_kind": "test"}
        path = CrystalTable.from_structures([structure], **facts).to_parquet(tmp_path / "w.parquet")
        with pytest.raises(BadInput, match="w.parquet"):
            CrystalTable.from_parquet(path)
