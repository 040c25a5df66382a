"""One setting for all crystals: what files describe differently comes out as one row, and nothing else changes."""

import itertools

import numpy as np
import pytest
from conftest import table
from pymatgen.core import Lattice, Structure

from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.retrieval.template_features import IMAGES, NEIGHBOUR, LocalEnvironments
from lib.symmetry.cells import (
    cell_parameters,
    lattice_from_parameters,
    reduced,
    space_group_of,
    standard_cell,
    standardised,
)

QUARTZ = Structure.from_spacegroup(
    152, Lattice.hexagonal(4.913, 5.405), ["Si", "O"], [[0.4697, 0, 1 / 3], [0.4133, 0.2672, 0.2144]]
)
SALT = Structure.from_spacegroup(225, Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
RUTILE = Structure.from_spacegroup(136, Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]])
BODY = Structure.from_spacegroup(
    139, Lattice.tetragonal(3.9, 12.5), ["K", "Ni", "Se"], [[0, 0, 0.5], [0, 0.5, 0.25], [0, 0, 0.15]]
)
ODD = Structure(
    Lattice.from_parameters(3.1, 4.4, 5.2, 80, 95, 110), ["W", "B", "Ta"], [[0.2, 0.7, 0], [0.9, 0.1, 0.3], [0.4] * 3]
)
SHEAR = np.array([[1, 2, 0], [0, 1, -3], [1, 2, 1]])  # of determinant 1: the cell stays as large
DESCRIPTIONS = {
    "as given": np.eye(3),
    "unreduced": SHEAR,
    "left-handed": np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "left-handed and unreduced": -SHEAR,
    "doubled": np.diag([1, 2, 1]),
    "doubled, unreduced and left-handed": np.diag([-2, 1, 1]) @ SHEAR,
}


def described(crystal: Structure, change: np.ndarray) -> Structure:
    """The same atoms in the cell change @ lattice, whatever its hand."""
    shifts = np.array(list(itertools.product((0, 1), repeat=3)))
    numbers = np.repeat(crystal.atomic_numbers, len(shifts))
    inside = (crystal.frac_coords[:, None] + shifts).reshape(-1, 3) @ np.linalg.inv(change) % 1
    lattice = change @ crystal.lattice.matrix
    rounded = np.round(inside, 6) % 1
    _, first = np.unique(np.column_stack([numbers, rounded]), axis=0, return_index=True)
    assert len(first) == round(abs(np.linalg.det(change))) * len(crystal)
    return Structure(Lattice(lattice), numbers[first].tolist(), inside[first])


def same_row(one: CrystalTable, other: CrystalTable) -> bool:
    """The same atoms to 1e-4, where axes of equal lengths and angles may be turned into each other."""
    metric = one.lattice[0] @ one.lattice[0].T
    np.testing.assert_allclose(other.lattice[0] @ other.lattice[0].T, metric, atol=1e-4)
    assert one.species.tolist() == other.species.tolist()
    for entries in itertools.product((-1, 0, 1), repeat=9):
        turn = np.reshape(entries, (3, 3))
        if np.linalg.det(turn) < 0.5 or np.abs(turn @ metric @ turn.T - metric).max() > 1e-3:
            continue  # another hand, or other lengths and angles
        apart = (one.frac_coords @ np.linalg.inv(turn))[:, None] - other.frac_coords
        near = (np.abs(apart - np.round(apart)) < 1e-4).all(-1) & (one.species[:, None] == other.species)
        if near.any(1).all():
            return True
    return False


@pytest.mark.parametrize("description", DESCRIPTIONS)
@pytest.mark.parametrize(
    ("crystal", "n_sites", "group"), [(QUARTZ, 9, 152), (SALT, 2, 225), (RUTILE, 6, 136), (BODY, 5, 139), (ODD, 3, 1)]
)
def test_descriptions_of_a_crystal_are_one_row(crystal, n_sites, group, description):
    given = described(crystal, DESCRIPTIONS[description])
    row, first = (table([one], energy=[-1.25]).standardised() for one in (given, crystal))
    assert row.n_sites.tolist() == [n_sites] and row.space_group.tolist() == [group]
    assert row.formation_energy.tolist() == [-1.25]
    assert np.linalg.det(row.lattice[0]) > 0
    assert same_row(first, row)
    assert row.asymmetric_units[0].symmetry == group
    assert row.asymmetric_units[0].frac_coords.shape == (n_sites, 3)
    np.testing.assert_array_equal(row.standardised().frac_coords, row.frac_coords)


def test_the_two_quartzes_stay_two():
    mirrored = Structure(Lattice(QUARTZ.lattice.matrix * [1, 1, -1]), QUARTZ.species, QUARTZ.frac_coords)
    assert np.linalg.det(mirrored.lattice.matrix) < 0
    left, right = (table([crystal]).standardised() for crystal in (mirrored, QUARTZ))
    assert [left.space_group[0], right.space_group[0]] == [154, 152]
    assert not same_row(left, right)


def rebuilt(crystals: CrystalTable) -> Structure:
    """The first crystal as models see it: by lengths and angles."""
    lattice = lattice_from_parameters(*cell_parameters(crystals.lattice))[0]
    return Structure(Lattice(lattice), crystals.species.tolist(), crystals.frac_coords)


def test_a_left_handed_cell_keeps_its_crystals_hand():
    swapped = described(QUARTZ, DESCRIPTIONS["left-handed"])
    assert np.linalg.det(swapped.lattice.matrix) < 0 and space_group_of(swapped) == 152
    as_given = table([swapped])
    assert space_group_of(rebuilt(as_given)) == 154, "the mirror image, were it left as it is"
    assert space_group_of(rebuilt(as_given.standardised())) == 152
    assert space_group_of(standardised(swapped)) == 152
    assert as_given.asymmetric_units[0].symmetry == 152


def test_the_embedded_set_is_read_through_the_same_door():
    embedded = CrystalTable.from_parquet(EMBEDDED)
    few = embedded.take(range(0, len(embedded), 30))
    again = few.standardised()
    assert again.id.tolist() == few.id.tolist() and again.n_sites.tolist() == few.n_sites.tolist()
    same = [np.array_equal(again.lattice[i], few.lattice[i]) for i in range(len(few))]
    kept = np.repeat(same, few.n_sites)
    assert np.mean(same) > 0.95, "the others have angles of 89.9 degrees where 90.1 are reduced"
    np.testing.assert_array_equal(again.frac_coords[kept], few.frac_coords[kept])


def test_a_small_distortion_is_no_translation():
    """Of a chain whose atoms pair by 0.1 Å the cell is the doubled one."""
    chain = Structure(Lattice.orthorhombic(3, 4, 6), ["H", "H"], [[0, 0, 0], [0, 0, 0.5 + 0.1 / 6]])
    assert len(standardised(chain)) == 2
    assert len(standardised(Structure(chain.lattice, ["H", "H"], [[0, 0, 0], [0, 0, 0.5]]))) == 1


def test_neighbours_in_skewed_cells_are_those_of_a_search_in_many_cells():
    """Where the image of the rounded difference, and those in the cells beside it, need not be the nearest."""
    rng = np.random.default_rng(0)
    far = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    species, elements, too_few = np.array([11, 11, 17, 8]), (8, 17, 11), 0
    for _ in range(40):
        lattice, coords = 3 * np.eye(3) + 0.4 * rng.normal(size=(3, 3)), rng.random((4, 3))
        distances = np.linalg.norm(((coords[:, None] - coords)[:, :, None] + far) @ lattice, axis=-1)
        distances[distances < 1e-6] = np.inf
        skewed = Structure(Lattice(SHEAR @ lattice), species.tolist(), coords @ np.linalg.inv(SHEAR))
        around = LocalEnvironments.of(table([skewed], [1]), 0)
        contacts = [[distances[np.ix_(species == a, species == b)].min() for b in elements] for a in elements]
        np.testing.assert_allclose(around.contacts, contacts)
        near = (distances < NEIGHBOUR * distances.min(axis=(1, 2), keepdims=True)).sum((1, 2))
        np.testing.assert_allclose(around.neighbours, [near[species == a].mean() for a in elements])
        apart = skewed.frac_coords[:, None] - skewed.frac_coords
        beside = np.linalg.norm(((apart - np.round(apart))[:, :, None] + IMAGES) @ skewed.lattice.matrix, axis=-1)
        too_few += (beside[0] > 1e-6).any() and beside[0][beside[0] > 1e-6].min() > distances[0].min() + 1e-6
    assert too_few > 5


def test_flat_cells_and_coincident_atoms_are_left_to_others():
    flat = np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])
    lattice, coords = reduced(flat, np.zeros((1, 3)))
    np.testing.assert_array_equal(lattice, flat)
    together = standard_cell(4 * np.eye(3), np.zeros((2, 3)), np.array([5, 5]))
    assert len(together[2]) == 2
