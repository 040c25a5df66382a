"""Messy inputs, each with what is right: a crystal as it is meant, or a refusal that names what is wrong.

The files lie in the folder `cases` of the shared data (CRYSTAL_SHARED); inputs of the same kinds, written here, serve
where that folder is missing.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Composition, Structure

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.parameters import validated
from lib.core.run import Run
from lib.crystals.exchange import read_structures
from lib.crystals.structure_io import told
from lib.crystals.table import CrystalTable
from lib.datasets import sources
from lib.generation.generate import _parser, requests_of
from lib.studies.params import IngestParams
from lib.symmetry.cells import space_group_of

CASES = Path(os.environ.get("CRYSTAL_SHARED", ROOT.parent / "shared")) / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not here")

CSCL = "Cs1Cl1, 2 atoms, group 221, 3.464 Å"
NACL_2 = "Na1Cl1, 2 atoms, group 221, 4.884 Å"
NACL_8 = "Na4Cl4, 8 atoms, group 225, 2.820 Å"
SI_8 = "Si8, 8 atoms, group 227, 2.351 Å"
SI_16 = "Si16, 16 atoms, group 227, 1.920 Å"
AS_2 = "As2, 2 atoms, group 166, 2.544 Å"
AS_6 = "As6, 6 atoms, group 166, 3.024 Å"
CATIO3 = "Ca4Ti4O12, 20 atoms, group 62, 1.939 Å"
TAW = "Ta1W1, 2 atoms, group 221, 3.464 Å"
MG = "Mg2, 2 atoms, group 194, 3.190 Å"
W = "W2, 2 atoms, group 229, 2.598 Å"


def assert_is(structure: Structure, words: str) -> None:
    """A crystal is the one that words such as those above describe."""
    formula, n, group, distance = re.fullmatch(r"(\w+), (\d+) atoms?, group (\d+), ([\d.]+) Å", words).groups()
    distances = structure.distance_matrix
    np.fill_diagonal(distances, min(structure.lattice.get_lll_reduced_lattice().abc))
    assert structure.composition == Composition(formula) and len(structure) == int(n)
    assert space_group_of(structure) == int(group)
    assert distances.min() == pytest.approx(float(distance), abs=6e-4)


def evaluated(*paths: Path) -> dict[str, Structure]:
    """What lib.evaluate reads; it ends with the refusals of what it does not, as its command line does."""
    left_out: dict[str, str] = {}
    structures = read_structures(paths, left_out)
    if left_out:
        raise BadInput(told(left_out, len(structures) + len(left_out)))
    return structures


def ingested(root: Path, **values: object) -> tuple[CrystalTable, Run]:
    params = validated(IngestParams, values | {"run": "test", "n_workers": 1})
    run = Run(params, root)
    return sources.load(params, run), run


def from_files(root: Path, path: Path, csv: Path | None = None, **values: object) -> tuple[CrystalTable, Run]:
    """A folder with its csv; or a file alone in a folder, at -1 eV/atom."""
    if csv is None:
        (root / "structures").mkdir(exist_ok=True)
        shutil.copy(path, root / "structures")
        csv, path = root / "energies.csv", root / "structures"
        csv.write_text(f"file,formation_energy\n{next(path.iterdir()).name},-1\n")
    return ingested(root, source="files", files_folder=path, files_energies=csv, **values)


def improved(path: Path) -> None:
    requests_of(_parser().parse_args(["--improve", str(path), "--out", "made"]))


# ------------------------------------------------------------------------------------------------ the shared cases

EVALUATED = {  # of lib.evaluate: one crystal, or name -> crystal
    "cif-symmetry-operator-without-loop/cscl.cif": CSCL,
    "cif-text-block-with-data-line/si.cif": SI_8,
    "cif-group-name-with-origin/si-origin-1.cif": SI_8,
    "cif-group-name-with-origin/si-origin-1-letter-s.cif": SI_8,
    "cif-group-name-with-origin/si-origin-2.cif": SI_8,
    "cif-group-name-with-origin/si-origin-2-at-zero.cif": SI_16,
    "cif-group-name-with-origin/si-origin-2-letter-z-at-zero.cif": SI_16,
    "cif-group-name-old-cubic/si.cif": SI_8,
    "cif-group-name-old-cubic/nacl.cif": NACL_8,
    "cif-group-name-without-origin-origin-2/spinel.cif": "Mg8Al16O32, 56 atoms, group 227, 1.923 Å",
    "cif-group-name-rhombohedral-h/as.cif": AS_6,
    "cif-group-name-rhombohedral-h/as-colon.cif": AS_6,
    "cif-group-name-rhombohedral-cell/as.cif": AS_2,
    "cif-group-name-rhombohedral-cell/as-number.cif": AS_2,
    "cif-group-name-rhombohedral-cell/as-colon-r.cif": AS_2,
    "cif-group-name-full/nacl.cif": NACL_8,
    "cif-hall-symbol-only/nacl.cif": NACL_8,
    "cif-group-number-other-setting/catio3.cif": CATIO3,
    "cif-group-name-usual/nacl-alt.cif": NACL_8,
    "cif-group-name-usual/nacl-underscore.cif": NACL_8,
    "cif-group-name-usual/si-fd-3m.cif": SI_8,
    "cif-group-name-usual/si-f-d-3-m.cif": SI_8,
    "cif-group-name-usual/na-p-1-21-c-1.cif": "Na4, 4 atoms, group 14, 3.201 Å",
    "cif-group-name-usual/catio3-p-b-n-m.cif": CATIO3,
    "cif-group-name-usual/na-i-1-2-a-1.cif": "Na8, 8 atoms, group 15, 1.861 Å",
    "cif-symmetry-operators-odd-forms/capitals.cif": "Cs2Cl2, 4 atoms, group 129, 1.000 Å",
    "cif-symmetry-operators-odd-forms/decimals.cif": "Cs2, 2 atoms, group 11, 2.687 Å",
    "cif-third-as-0-333/mg.cif": MG,
    "cif-third-as-0-3333/mg-four-digits.cif": MG,
    "cif-third-as-0-3333/mg-five-digits.cif": MG,
    "cif-occupancy-question-mark/cscl.cif": CSCL,
    "cif-isotopes-and-oxidation-states/deuterium.cif": "Li1H1, 2 atoms, group 221, 3.464 Å",
    "cif-isotopes-and-oxidation-states/tritium.cif": "Li1H1, 2 atoms, group 221, 3.464 Å",
    "cif-isotopes-and-oxidation-states/cs1plus.cif": CSCL,
    "cif-isotopes-and-oxidation-states/csplus.cif": CSCL,
    "cif-isotopes-and-oxidation-states/upper-case.cif": CSCL,
    "cif-isotopes-and-oxidation-states/zero-plus.cif": TAW,
    "cif-two-data-blocks/cscl-and-w.cif": {"cscl-and-w_x": CSCL, "cscl-and-w_second": W},
    "cif-global-block-first/cscl.cif": CSCL,
    "cif-text-encoding/crlf.cif": CSCL,
    "cif-text-encoding/cr.cif": CSCL,
    "cif-text-encoding/latin-1.cif": CSCL,
    "cif-text-encoding/uncertainties.cif": CSCL,
    "cif-byte-order-mark/utf-8.cif": CSCL,
    "cif-byte-order-mark/utf-16.cif": CSCL,
    "cif-moments/cscl.cif": CSCL,
    "poscar-no-element-line/symbols-after-the-sites.vasp": CSCL,
    "poscar-negative-scale-direct/cscl.vasp": CSCL,
    "poscar-scale-cartesian/cscl.vasp": CSCL,
    "poscar-selective-dynamics/cscl.vasp": CSCL,
    "poscar-potential-names/ta-pv.vasp": TAW,
    "poscar-potential-names/ta-slash.vasp": TAW,
    "poscar-potential-names/ta-pv-hash.vasp": TAW,
    "poscar-several-in-one-file/gatheredPOSCARS": {
        "gatheredPOSCARS_0": CSCL,
        "gatheredPOSCARS_1": "Na2, 2 atoms, group 229, 3.464 Å",
    },
    "poscar-usual/kartesian.vasp": CSCL,
    "poscar-usual/tabs.vasp": CSCL,
    "poscar-usual/crlf.vasp": CSCL,
    "poscar-usual/byte-order-mark.vasp": CSCL,
    "poscar-usual/velocities.vasp": CSCL,
    "poscar-usual/predictor.vasp": CSCL,
    "poscar-usual/zero-count.vasp": CSCL,
    "poscar-usual/comments.vasp": CSCL,
    "poscar-usual/left-handed.vasp": "Cs1Cl1, 2 atoms, group 123, 3.614 Å",
    "poscar-in-folders": {"a": CSCL, "b": "Na1Cl1, 2 atoms, group 221, 3.464 Å"},
    "poscar-in-folders/a poscar-in-folders/b": {"a": CSCL, "b": "Na1Cl1, 2 atoms, group 221, 3.464 Å"},
    "extxyz-arrays/initial-charges.extxyz": CSCL,
    "extxyz-arrays/spacegroup-kinds.extxyz": CSCL,
    "extxyz-id-in-a-comment/cscl.extxyz": {"right": CSCL},
    "extxyz-id-quoted/single-quotes.extxyz": {"mp-1": CSCL},
    "extxyz-id-quoted/braces.extxyz": {"mp-1": CSCL},
    "extxyz-line-separator-in-a-comment/u2028.extxyz": {"one": CSCL, "two": CSCL},
    "extxyz-line-separator-in-a-comment/form-feed.extxyz": {"one": CSCL, "two": CSCL},
    "extxyz-usual/no-pbc.extxyz": CSCL,
    "extxyz-usual/forces-and-moments.extxyz": CSCL,
    "extxyz-usual/tags-and-mask.extxyz": CSCL,
    "extxyz-usual/mask-of-three.extxyz": CSCL,
    "extxyz-usual/crlf.extxyz": CSCL,
    "extxyz-usual/atomic-numbers.extxyz": CSCL,
    "csv-structures-usual/byte-order-mark.csv": {"mp-1": CSCL},
    "csv-structures-usual/crlf-in-cells.csv": {"mp-1": CSCL},
    "csv-structures-usual/ids-1-0-and-1.csv": {"1.0": CSCL, "1": NACL_2},
    "csv-structures-usual/oxidation-states.csv": {"a": CSCL},
    "zip-from-a-mac/cscl.zip": {"a": CSCL},
    "zip-with-csv/csv-and-cif.zip": {"mp-1": CSCL, "b": NACL_2},
    "zip-odd-entries/path-out-of-the-folder.zip": {"evil": CSCL},
}

REFUSED = {  # of lib.evaluate: words that the sentence holds
    "cif-group-name-p1-number-225/nacl.cif": ["P 1", "225"],
    "cif-symmetry-operators-unquoted/cs.cif": ["_symmetry_equiv_pos_as_xyz"],
    "cif-symmetry-operators-odd-forms/letters-a-b-c.cif": ["a,b,-c"],
    "cif-formula-has-hydrogen-sites-have-none/mgo2h2.cif": ["has H"],
    "cif-attached-hydrogens/mgo2h2.cif": ["O1 and O2"],
    "cif-hydrogen-on-the-site-of-oxygen/mgoh.cif": ["O1 and H1"],
    "cif-type-symbol-oh/type.cif": ["OH1-"],
    "cif-type-symbol-oh/label.cif": ["OH1"],
    "cif-type-symbol-water/type.cif": ["Wat"],
    "cif-type-symbol-water/label.cif": ["Wat1"],
    "cif-vacancy-site/va.cif": ["Va"],
    "cif-vacancy-site/vac.cif": ["Vac"],
    "cif-element-119/uuelr.cif": ["Uue"],
    "cif-occupancy-partial/half.cif": ["half.cif", "Cl1"],
    "cif-occupancy-partial/0-998.cif": ["0-998.cif", "Cs1"],
    "cif-occupancy-above-one/1-003.cif": ["Cs1", "1.003"],
    "cif-occupancy-above-one/2.cif": ["Cs1", "occupancy 2"],
    "cif-occupancy-above-one/duplicate-labels.cif": ["Cl1 and Cl1A"],
    "cif-duplicate-site/0-0004-angstrom.cif": ["Cl1 and Cl2", "0.0004 Å"],
    "cif-duplicate-site/0-004-angstrom.cif": ["Cl1 and Cl2", "0.004 Å"],
    "cif-labels-m1-x1/mx.cif": ["M1"],
    "cif-label-t1/t1-o1.cif": ["T1"],
    "cif-bad-first-block/w-and-cscl.cif": ["block first"],
    "cif-cell-not-a-number/nan.cif": ["nan.cif", "_cell_length_a nan"],
    "cif-cell-not-a-number/inf.cif": ["inf.cif", "_cell_length_a inf"],
    "cif-cell-not-a-number/zero-angle.cif": ["zero-angle.cif", "_cell_angle_alpha 0"],
    **{f"cif-unreadable/{name}.cif": [f"{name}.cif"] for name in (
        "impossible-angles", "tiny-cell", "coordinate-question-mark", "coordinate-dot", "coordinate-nan",
        "comma-decimals", "cartesian", "empty", "html", "lfs-pointer",
    )},  # fmt: skip
    "cif-negative-cell-length/cscl.cif": ["_cell_length_a -4"],
    "cif-loop-typo/urea.cif": ["urea.cif"],
    "cif-dotted-names/cscl.cif": ["cscl.cif"],
    "other-suffixes/cscl.mcif": ["cscl.mcif"],
    "other-suffixes/cscl.cif.gz": ["cscl.cif.gz"],
    "other-suffixes/cscl.json": ["cscl.json"],
    "poscar-no-element-line/title-cscl.vasp": ["element symbols is missing"],
    "poscar-no-element-line/title-cs-cl.vasp": ["element symbols is missing"],
    "poscar-no-element-line/title-c-si.vasp": ["element symbols is missing"],
    "poscar-fractional-hydrogen/h-5-h1-25.vasp": ["H.5"],
    "poscar-fractional-hydrogen/ti-h1-33.vasp": ["H1.33"],
    "poscar-three-scales/equal.vasp": ["equal.vasp"],
    "poscar-three-scales/unequal.vasp": ["unequal.vasp"],
    "poscar-symbols-in-one-case/upper.vasp": ["CS"],
    "poscar-symbols-in-one-case/lower.vasp": ["cs"],
    "poscar-cell-not-a-number/mg.vasp": ["mg.vasp", "-nan"],
    **{f"poscar-unreadable/{name}.vasp": [f"{name}.vasp"]
       for name in ("stars", "fortran-d", "too-few-sites", "blank-first-line")},  # fmt: skip
    "extxyz-not-periodic/molecule.extxyz": ["frame 0", "pbc F F F"],
    "extxyz-not-periodic/slab.extxyz": ["frame 0", "pbc T T F"],
    "extxyz-not-a-number/cell.extxyz": ["frame 0", "Lattice"],
    "extxyz-not-a-number/position.extxyz": ["frame 0", "Cl"],
    "extxyz-no-atoms/zero.extxyz": ["frame 0"],
    "extxyz-unknown-element/lix.extxyz": ["'X'"],
    **{f"extxyz-unreadable/{name}.extxyz": [f"{name}.extxyz"] for name in (
        "no-lattice", "zero-lattice", "cell-key", "truncated-frame", "number-as-species", "label-as-species",
    )},  # fmt: skip
    "csv-structures-refused/duplicate-ids.csv": ["mp-1"],
    **{f"csv-structures-refused/{name}.csv": [f"{name}.csv"] for name in (
        "empty-cif", "header-only", "empty", "upper-case-header", "python-dictionary", "ase-json",
        "partial-occupancy", "no-sites",
    )},  # fmt: skip
    "csv-structure-not-a-number/nan.csv": ["a of nan.csv", "cell"],
    "zip-in-zip/alone.zip": ["inner.zip is a zip file in the zip file"],
    "zip-in-zip/beside-a-cif.zip": ["inner.zip is a zip file in the zip file"],
    "zip-odd-entries/same-names-in-two-folders.zip": ["a stands more than once"],
    "zip-odd-entries/duplicate-entries.zip": ["a stands more than once"],
    "zip-odd-entries/empty.zip": ["empty.zip"],
    "zip-odd-entries/no-zip.zip": ["no-zip.zip"],
}  # fmt: skip


@needs_cases
@pytest.mark.parametrize("case", EVALUATED)
def test_evaluate_reads(case):
    found = evaluated(*(CASES / path for path in case.split()))
    right = EVALUATED[case]
    if isinstance(right, str):
        ((_, structure),) = found.items()
        assert_is(structure, right)
    else:
        assert set(found) == set(right)
        for name, words in right.items():
            assert_is(found[name], words)


@needs_cases
@pytest.mark.parametrize("case", REFUSED)
def test_evaluate_refuses(case):
    with pytest.raises(BadInput) as refused:
        evaluated(CASES / case)
    for words in REFUSED[case]:
        assert words in str(refused.value)


@needs_cases
def test_a_number_without_origin_is_read_or_refused_with_both():
    path = CASES / "cif-group-number-only-origin-2/si.cif"
    try:
        ((_, structure),) = evaluated(path).items()
    except BadInput as error:
        assert all(words in str(error) for words in ("227", "F d -3 m:1", "F d -3 m:2"))
    else:
        assert_is(structure, SI_8)


@needs_cases
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("cif-type-symbol-oh/mg-oh-2.cif", "OH1-"),
        ("cif-vacancy-site/va-with-formula.cif", "Va"),
        ("cif-duplicate-site/0-004-angstrom.cif", "0-004-angstrom.cif"),
        ("cif-labels-m1-x1/mx.cif", "M1"),
        ("cif-two-data-blocks/cscl-and-w.cif", "second"),
        ("cif-cell-not-a-number/nan.cif", "nan.cif: _cell_length_a nan"),
        ("cif-cell-not-a-number/inf.cif", "inf.cif: _cell_length_a inf"),
        ("cif-cell-not-a-number/zero-angle.cif", "zero-angle.cif: _cell_angle_alpha 0"),
        ("poscar-no-element-line/POSCAR_1", "POSCAR_1: the line of element symbols is missing"),
        ("poscar-cell-not-a-number/mg.vasp", "mg.vasp: in the cell vector '3.1 0 -nan' -nan"),
    ],
)
def test_own_files_are_refused(case, words, tmp_path):
    with pytest.raises(BadInput, match=re.escape(words)):
        from_files(tmp_path, CASES / case)


@needs_cases
def test_own_file_with_thirds_of_three_digits_is_read(tmp_path):
    table, _ = from_files(tmp_path, CASES / "cif-third-as-0-333/mg.cif")
    assert_is(table.structure(0), MG)


@needs_cases
@pytest.mark.parametrize(
    "name", ["trailing-comma", "extra-column", "byte-order-mark", "blank-lines", "quotes", "both-energies"]
)
def test_energies_are_read(name, tmp_path):
    folder = CASES / "files-energies-usual"
    table, _ = from_files(tmp_path, folder / "structures", folder / f"{name}.csv")
    assert table.id.tolist() == ["a.cif", "b.cif"] and table.formation_energy.tolist() == [-1, -2]
    assert_is(table.structure(0), CSCL)
    assert_is(table.structure(1), NACL_2)


@needs_cases
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("semicolons", "semicolons.csv"),
        ("comma-decimals", "comma-decimals.csv"),
        ("unit-in-the-cell", "a.cif"),
        ("unicode-minus", "a.cif"),
        ("thousands", "a.cif"),
        ("hexadecimal", "a.cif"),
        ("true", "a.cif"),
        ("fortran-d", "a.cif"),
        ("names-without-suffix", "a"),
        ("utf-16", "utf-16.csv"),
        ("row-twice", "a.cif stands more than once"),
    ],
)
def test_energies_are_refused(name, words, tmp_path):
    folder = CASES / "files-energies-refused"
    with pytest.raises(BadInput, match=re.escape(words)):
        from_files(tmp_path, folder / "structures", folder / f"{name}.csv")


@needs_cases
@pytest.mark.parametrize(
    ("case", "left_out"),
    [
        ("files-in-a-subfolder", "sub/a.cif"),
        ("files-extxyz-left-out", "c.extxyz"),
        ("files-cif-gz-left-out", "c.cif.gz"),
        ("files-mcif-left-out", "c.mcif"),
        ("files-mac-dotfile", None),
    ],
)
def test_what_is_left_out_of_a_folder_is_said(case, left_out, tmp_path, capsys):
    table, run = from_files(tmp_path, CASES / case / "structures", CASES / case / "energies.csv")
    assert table.id.tolist() == ["b.cif"] and table.formation_energy.tolist() == [-2]
    assert_is(table.structure(0), NACL_2)
    said = capsys.readouterr().out
    if left_out is None:
        assert not said and not run.path("tables/left_out.csv", "").exists()
    else:
        assert f"{left_out} is left out" in said
        assert pd.read_csv(run.path("tables/left_out.csv", "")).structure.tolist() == [left_out]


@needs_cases
@pytest.mark.parametrize(
    ("case", "csv", "words"),
    [
        ("files-extxyz-left-out", "energies-that-name-it", "c.extxyz is no file that is read here"),
        ("files-cif-gz-left-out", "energies-that-name-it", "c.cif.gz is no file that is read here"),
        ("files-name-in-other-case", "energies", "a.CIF"),
    ],
)
def test_names_that_do_not_fit_the_folder_are_refused(case, csv, words, tmp_path):
    with pytest.raises(BadInput, match=re.escape(words)):
        from_files(tmp_path, CASES / case / "structures", CASES / case / f"{csv}.csv")


@needs_cases
def test_references_that_stand_twice_are_refused(tmp_path):
    folder = CASES / "files-references-twice"
    total = {"files_energy": "total_energy", "files_references": folder / "references.yaml"}
    with pytest.raises(BadInput, match="Ta"):
        from_files(tmp_path, folder / "structures", folder / "energies.csv", **total)


@needs_cases
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("mp20-refused/duplicate-id.csv", ["mp-1"]),
        ("mp20-refused/empty-energy.csv", ["mp-1"]),
        ("mp20-refused/header-only.csv", ["no usable crystal"]),
        ("mp20-refused/no-energy-column.csv", ["formation_energy_per_atom"]),
        ("mp20-refused/partial-occupancy.csv", ["mp-1", "Cl1"]),
        ("mp20-refused/group-0.parquet", ["mp-1", "space group"]),
        ("mp20-refused/group-missing.parquet", ["mp-1", "space group"]),
        ("mp20-coordinates-missing/null.parquet", ["mp-1", "coordinates"]),
        ("mp20-coordinates-missing/short.parquet", ["mp-1", "coordinates"]),
        ("mp20-impossible-numbers/cell-nan.parquet", ["mp-1", ": a nan"]),
        ("mp20-impossible-numbers/cell-zero.parquet", ["mp-1", ": a 0"]),
        ("mp20-impossible-numbers/coordinate-nan.parquet", ["mp-1", "coordinates"]),
        ("mp20-impossible-numbers/gamma-200.parquet", ["mp-1", "gamma 200"]),
        ("mp20-atomic-number-0/z-0.parquet", ["mp-1", "atomic number 0"]),
        ("mp20-cell-not-a-number/nan.csv", ["mp-1", "_cell_length_a nan"]),
    ],
)
def test_mp20_is_refused(case, words, tmp_path):
    with pytest.raises(BadInput) as refused:
        ingested(tmp_path, source="mp20", mp20_path=CASES / case)
    for word in words:
        assert word in str(refused.value)


@needs_cases
def test_mp20_reads_a_rhombohedral_group_in_hexagonal_axes(tmp_path):
    table, _ = ingested(tmp_path, source="mp20", mp20_path=CASES / "mp20-group-name-rhombohedral-h/as.csv")
    assert table.id.tolist() == ["mp-1"] and table.space_group.tolist() == [166]
    assert table.formula.tolist() == ["As2"], "a third of the file's hexagonal cell"
    assert table.structure(0).distance_matrix[0, 1] == pytest.approx(2.517, abs=2e-3)


@needs_cases
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("improve-odd-atoms/unknown-atoms.cif", ["unknown-atoms.cif", "X"]),
        ("improve-odd-atoms/coinciding-atoms.cif", ["coinciding-atoms.cif"]),
        ("cif-cell-not-a-number/nan.cif", ["nan.cif", "_cell_length_a nan"]),
        ("poscar-no-element-line/title-cscl.vasp", ["element symbols is missing"]),
    ],
)
def test_improve_refuses(case, words):
    with pytest.raises(BadInput) as refused:
        improved(CASES / case)
    for word in words:
        assert word in str(refused.value)
