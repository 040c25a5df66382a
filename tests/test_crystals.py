import dataclasses
import functools
import resource
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import DummySpecies, Element, Lattice, Species, Structure

from lib.core.errors import BadInput
from lib.crystals.elements import SYMBOLS, formula_of, parse_formula
from lib.crystals.table import CrystalTable, canonical_order, wrap
from lib.symmetry.cells import space_group_of
from lib.symmetry.wyckoff import AsymmetricUnit


@functools.cache
def structures():
    """Hexagonal, cubic, triclinic and one-atom cells, in no particular order of atoms, some atoms outside the cell."""
    third = 1 / 3
    return [
        Structure(
            Lattice.hexagonal(3.1, 3.3), ["Ta", "B", "B"], [[0, 0, 0], [third, 2 * third, 0.5], [2 * third, third, 0.5]]
        ),
        Structure.from_spacegroup(225, Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        Structure(
            Lattice.from_parameters(3, 4, 5, 80, 95, 110), ["W", "B", "Ta"], [[1.2, -0.3, 0], [0.9, 2.1, -1], [0.4] * 3]
        ),
        Structure(Lattice.cubic(3.2), ["W"], [[0, 0, 0]]),
    ]


def table(**changes):
    values = {
        "id": ["TaB2", "NaCl", "odd", "W"],
        "formation_energy": [-0.6, -2.1, 0.3, 0.0],
        "space_group": [191, 225, 1, 221],
        "energy_kind": "test energies",
        "extra": {"prototype": ["AlB2", "NaCl", "", "sc"], "rank": [3, 1, 2, 0]},
        "about": {"source": "this test", "counts": {"kept": 4}},
    }
    return CrystalTable.from_structures(structures(), **(values | changes))


# ------------------------------------------------------------------------------------------- words and order


def test_formula_is_that_of_aflow():
    # `compound` of three entries of AFLOW: alphabetical, with explicit counts, not reduced
    assert formula_of(np.array([74, 73, 5, 5])) == "B2Ta1W1"
    assert formula_of(np.array([9, 9, 9, 9, 14])) == "F4Si1"
    assert formula_of(np.array([7, 7, 7, 7])) == "N4"


def test_symbols_are_those_of_the_periodic_table():
    assert [SYMBOLS[z] for z in (1, 5, 73, 74, 118)] == ["H", "B", "Ta", "W", "Og"]
    assert all(SYMBOLS[z] == Element.from_Z(z).symbol for z in range(1, 119))


@pytest.mark.parametrize(
    ("formula", "amounts"),
    [
        ("TaW2B5", {"Ta": 1, "W": 2, "B": 5}),
        ("B5Ta1W2", {"Ta": 1, "W": 2, "B": 5}),
        ("Ta2(WB)3", {"Ta": 2, "W": 3, "B": 3}),
        ("NaN", {"Na": 1, "N": 1}),
    ],
)
def test_formula_parses(formula, amounts):
    assert parse_formula(formula).as_dict() == amounts


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("TaQ2", "Q, which is no element"),
        ("Ta0.5W", "whole numbers"),
        ("", "does not parse"),
        ("TaW2B-5", "does not parse"),
        ("Fe(III)2O3", "oxidation state"),
        ("Ta W2 (B", "does not parse"),
        ("nan", "does not parse"),
        (float("nan"), "does not parse"),
    ],
)
def test_formula_that_does_not_parse_is_named(formula, said):
    with pytest.raises(BadInput, match=said) as failure:
        parse_formula(formula)
    assert repr(formula) in str(failure.value)
    assert "write it" in str(failure.value)


def test_wrap_puts_coordinates_on_faces_at_zero():
    given = np.array([[1.25, -0.25, 0.5], [0.999999, 1e-7, -1e-7], [1.0, 0.0, -3.0]])
    np.testing.assert_allclose(wrap(given), [[0.25, 0.75, 0.5], [0, 0, 0], [0, 0, 0]], atol=1e-12)
    assert (wrap(given)[1:] == 0).all()


def test_canonical_order_is_by_symbol_then_coordinates():
    species = np.array(
        [74, 5, 73, 5]
    )  # alphabetical: B, B, Ta, W - not by number, which would put Ta (73) last but one too
    coords = np.array([[0, 0, 0], [0.5, 0, 0.1], [0, 0, 0], [0.5, 0, -0.95]])
    assert canonical_order(species, coords).tolist() == [3, 1, 2, 0]
    # Ag (47) comes before Al (13)
    assert canonical_order(np.array([13, 47]), np.zeros((2, 3))).tolist() == [1, 0]


def test_canonical_order_of_many_crystals_is_that_of_each():
    rng = np.random.default_rng(0)
    species, coords = rng.integers(1, 90, 60), rng.random((60, 3))
    crystal = np.repeat([0, 1, 2], [10, 30, 20])
    apart = [
        np.flatnonzero(crystal == c)[canonical_order(species[crystal == c], coords[crystal == c])] for c in range(3)
    ]
    assert canonical_order(species, coords, crystal).tolist() == np.concatenate(apart).tolist()


def test_order_of_atoms_given_does_not_matter():
    rng = np.random.default_rng(1)
    crystal = structures()[1]
    shuffled = Structure.from_sites([crystal[i] for i in rng.permutation(len(crystal))])
    one, other = (
        CrystalTable.from_structures([s], id=["a"], formation_energy=[0], energy_kind="x") for s in (crystal, shuffled)
    )
    assert one.species.tolist() == other.species.tolist() == [17] * 4 + [11] * 4
    np.testing.assert_allclose(one.frac_coords, other.frac_coords)


# --------------------------------------------------------------------------------------------------- round trips


def test_structures_return_as_they_were():
    matcher = StructureMatcher(ltol=1e-4, stol=1e-4, angle_tol=0.01, scale=False, primitive_cell=False)
    for given, returned in zip(structures(), table().structures(), strict=True):
        assert returned.composition == given.composition
        assert returned.volume == pytest.approx(given.volume, rel=1e-9)
        assert matcher.fit(given, returned)


def test_parquet_returns_everything(tmp_path):
    written = table()
    read = CrystalTable.from_parquet(written.to_parquet(tmp_path / "t.parquet"))
    for name in ("id", "lattice", "species", "offsets", "space_group"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name), err_msg=name)
    np.testing.assert_allclose(read.frac_coords, written.frac_coords, atol=1e-7)
    np.testing.assert_allclose(read.formation_energy, written.formation_energy, atol=1e-6)
    assert (read.frac_coords == 0).sum() == (written.frac_coords == 0).sum()  # what lies on a face stays exactly there
    assert read.energy_kind == "test energies"
    assert read.about == {"source": "this test", "counts": {"kept": 4}}
    assert read.extra["prototype"].tolist() == ["AlB2", "NaCl", "", "sc"]
    assert read.extra["rank"].tolist() == [3, 1, 2, 0]


def test_parquet_keeps_asymmetric_units_that_are_known(tmp_path, monkeypatch):
    written = table()
    unknown = CrystalTable.from_parquet(written.to_parquet(tmp_path / "t.parquet"))
    assert "asymmetric_units" not in vars(unknown)
    found = unknown.asymmetric_units
    monkeypatch.setattr(AsymmetricUnit, "of", None)  # so that none can be found again
    read = CrystalTable.from_parquet(unknown.to_parquet(tmp_path / "t.parquet"))
    for one, other in zip(read.asymmetric_units, found, strict=True):
        np.testing.assert_array_equal(one.lattice, other.lattice)
        np.testing.assert_array_equal(one.frac_coords, other.frac_coords)
        assert one.symmetry == other.symmetry and one.species.tolist() == other.species.tolist()
    assert read.unit_of(2).sites[0].species == read.take([2, 0]).asymmetric_units[0].sites[0].species
    assert sorted(read.extra) == ["prototype", "rank"]
    empty = CrystalTable.from_parquet(read.take([]).to_parquet(tmp_path / "t.parquet"))
    assert len(empty.asymmetric_units) == 0


def test_parquet_of_an_empty_table(tmp_path):
    empty = table().take([])
    read = CrystalTable.from_parquet(empty.to_parquet(tmp_path / "t.parquet"))
    assert len(read) == 0
    assert read.lattice.shape == (0, 3, 3)
    assert read.offsets.tolist() == [0]


def test_parquet_in_several_row_groups(tmp_path):
    path = table().to_parquet(tmp_path / "t.parquet")
    pq.write_table(pq.read_table(path), path, row_group_size=1)
    assert [s.formula for s in CrystalTable.from_parquet(path).structures()] == [
        s.formula for s in table().structures()
    ]


# ----------------------------------------------------------------------------------------------------- the table


def test_derived_columns():
    crystals = table()
    assert crystals.n_sites.tolist() == [3, 8, 3, 1]
    assert crystals.formula.tolist() == ["B2Ta1", "Cl4Na4", "B1Ta1W1", "W1"]
    assert crystals.reduced_formula.tolist() == ["TaB2", "NaCl", "TaBW", "W"]
    np.testing.assert_allclose(crystals.volume_per_atom[[0, 1, 3]], [3.1**2 * 3.3 * 0.75**0.5 / 3, 5.6**3 / 8, 3.2**3])
    assert crystals.has_element(74).tolist() == [False, False, True, True]


def test_take_by_numbers_and_by_mask():
    crystals = table()
    taken = crystals.take([2, 0, 2])
    assert taken.id.tolist() == ["odd", "TaB2", "odd"]
    assert taken.extra["rank"].tolist() == [2, 3, 2]
    np.testing.assert_array_equal(taken.frac_coords_of(1), crystals.frac_coords_of(0))
    assert crystals.take(np.array([False, True, False, True])).formula.tolist() == ["Cl4Na4", "W1"]
    assert crystals.take([-1]).structure(0).composition == crystals.structure(3).composition
    with pytest.raises(IndexError):
        crystals.take([4])


def test_join_puts_tables_one_after_the_other():
    crystals = table()
    joined = CrystalTable.join([crystals.take([1, 3]), crystals.take([]), crystals.take([0])], about={"pages": 3})
    assert joined.id.tolist() == ["NaCl", "W", "TaB2"]
    assert joined.offsets.tolist() == [0, 8, 9, 12]
    assert joined.extra["prototype"].tolist() == ["NaCl", "sc", "AlB2"]
    assert joined.about == {"pages": 3}
    assert [s.composition for s in joined.structures()] == [structures()[i].composition for i in (1, 3, 0)]


def test_energies_of_different_kinds_are_not_mixed():
    with pytest.raises(BadInput, match="different kinds .*PBE, test energies"):
        CrystalTable.join([table(), table(energy_kind="PBE")], about={})


def test_space_groups_are_found_by_spglib_where_not_given():
    # AlB2 type is 191, rock salt 225, a one-atom cubic cell 221; three atoms in a triclinic cell have no symmetry
    assert table(space_group=None).space_group.tolist() == [191, 225, 1, 221]


# ----------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("number", [231, 0, -3])
def test_space_group_that_does_not_exist(number):
    with pytest.raises(BadInput, match=f"odd .*{number}; .*1 to 230"):
        table(space_group=[191, 225, number, 221])


def test_name_given_twice():
    with pytest.raises(BadInput, match="NaCl stands more than once"):
        table(id=["NaCl", "NaCl", "odd", "W"])


def test_unknown_element_is_named():
    strange = Structure(Lattice.cubic(3), [DummySpecies("Qq"), "Ta"], [[0, 0, 0], [0.5] * 3])
    with pytest.raises(BadInput, match="s1 .*Qq"):
        CrystalTable.from_structures([strange], id=["s1"], formation_energy=[0], energy_kind="x")


def test_partly_occupied_site_is_named():
    alloy = Structure(Lattice.cubic(3), [{"Ta": 0.5, "W": 0.5}], [[0, 0, 0]])
    with pytest.raises(BadInput, match="s2 .*partly occupied"):
        CrystalTable.from_structures([alloy], id=["s2"], formation_energy=[0], energy_kind="x")


def test_ions_count_as_their_elements():
    salt = Structure(Lattice.cubic(4), [Species("Cs", 1), Species("Cl", -1)], [[0, 0, 0], [0.5] * 3])
    packed = CrystalTable.from_structures([salt], id=["s"], formation_energy=[0], energy_kind="x")
    assert packed.species.tolist() == [17, 55]


def test_coinciding_atoms_have_no_space_group():
    double = Structure(Lattice.cubic(3), ["Ta", "Ta"], [[0, 0, 0], [0, 0, 0]])
    with pytest.raises(BadInput, match="s3; .*coincide"):
        space_group_of(double, "s3")


def test_missing_parquet(tmp_path):
    with pytest.raises(BadInput, match="nothing.parquet .*run the notebook"):
        CrystalTable.from_parquet(tmp_path / "nothing.parquet")


@pytest.mark.parametrize("damage", ["cut short", "one byte", "text", "empty"])
def test_damaged_parquet(tmp_path, damage):
    crystals = table().take(np.arange(400) % 4)
    path = dataclasses.replace(crystals, id=np.arange(400).astype(str)).to_parquet(tmp_path / "t.parquet")
    content = bytearray(path.read_bytes())
    if damage == "one byte":  # amid the first column's data, where nothing but a checksum can tell
        content[pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset + 60] ^= 0x10
    path.write_bytes({"cut short": content[:-200], "one byte": content, "text": b"id,lattice\n", "empty": b""}[damage])
    with pytest.raises(BadInput, match="t.parquet .*write it again"):
        CrystalTable.from_parquet(path)


def test_parquet_of_something_else(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": ["a"], "species": [[1]]}), path)
    with pytest.raises(BadInput, match="formation_energy, frac_coords, lattice, space_group"):
        CrystalTable.from_parquet(path)
    columns = pq.read_table(table().to_parquet(path))
    wrong = columns.set_column(columns.column_names.index("species"), "species", pa.array(["Ta"] * 4))
    pq.write_table(wrong, path)
    with pytest.raises(BadInput, match="t.parquet is damaged"):
        CrystalTable.from_parquet(path)


@contextmanager
def disk_full_after(n_bytes):
    """The system itself refuses to let any file grow beyond that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_nothing_half_written_on_a_full_disk(tmp_path):
    path = table().to_parquet(tmp_path / "t.parquet")
    before = path.read_bytes()
    with disk_full_after(1000), pytest.raises(BadInput, match="t.parquet: .*; free"):
        table(energy_kind="new").to_parquet(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
