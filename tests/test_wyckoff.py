"""Wyckoff positions against pymatgen's table and spglib, and crystals as asymmetric units."""

import heapq
import itertools
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import spglib
from pymatgen.analysis.prototypes import WYCKOFF_MULTIPLICITY_DICT, WYCKOFF_POSITION_PARAM_DICT
from pymatgen.core import Lattice, Structure

from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.metrics.matching import compare
from lib.symmetry.normaliser import generic_cell
from lib.symmetry.wyckoff import AsymmetricUnit, Site, assignments, free_atoms, positions, primitive_basis

GROUPS = [
    1,
    2,
    5,
    8,
    12,
    15,
    22,
    31,
    36,
    38,
    43,
    47,
    62,
    63,
    69,
    70,
    71,
    88,
    99,
    109,
    119,
    122,
    129,
    139,
    141,
    146,
    148,
]
GROUPS += [155, 160, 161, 164, 166, 167, 176, 186, 187, 191, 194, 198, 205, 216, 221, 223, 225, 227, 229, 230]


@pytest.mark.parametrize("group", GROUPS)
def test_positions_are_those_of_the_international_tables(group):
    letters = WYCKOFF_MULTIPLICITY_DICT[str(group)]
    free = WYCKOFF_POSITION_PARAM_DICT[str(group)]
    lattice_points = round(1 / np.linalg.det(primitive_basis(group)))
    expected = sorted((free[letter], n // lattice_points) for letter, n in letters.items())
    assert [(p.n_free, p.multiplicity) for p in positions(group)] == expected


@pytest.mark.parametrize("group", [2, 12, 63, 70, 122, 160, 166, 194, 216, 225, 227])
def test_spglib_finds_the_atoms_of_a_position_equivalent(group):
    """In a crystal whose other atoms leave no symmetry but the group's."""
    rng = np.random.default_rng(0)
    general = positions(group)[-1].atoms(rng.random(3))
    for position in positions(group)[:-1]:
        orbit = position.atoms(rng.random(position.n_free))
        species = [1] * len(orbit) + [2] * len(general)
        found = spglib.get_symmetry_dataset((generic_cell(group), np.concatenate([orbit, general]), species), 1e-4)
        assert found.number == group
        assert len(set(found.equivalent_atoms[: len(orbit)].tolist())) == 1
        assert np.abs((orbit[:, None] - orbit) % 1).sum(-1)[~np.eye(len(orbit), dtype=bool)].min(initial=1) > 1e-3


@pytest.mark.parametrize("group", [5, 43, 122, 146, 160, 166, 194, 227])
def test_parameters_are_found_again(group):
    rng = np.random.default_rng(0)
    for position in positions(group):
        parameters = rng.random(position.n_free)
        point = position.atoms(parameters)[0] + rng.integers(-2, 3, 3)
        np.testing.assert_allclose(position.parameters_of(point[None])[0], parameters, atol=1e-6)


def test_every_crystal_comes_back_from_its_asymmetric_unit():
    embedded = CrystalTable.from_parquet(EMBEDDED)
    embedded = embedded.take(range(0, len(embedded), 200))
    units = embedded.asymmetric_units
    assert [unit.symmetry for unit in units] == embedded.space_group.tolist()
    for i, unit in enumerate(units):
        again = Structure(Lattice(unit.lattice), unit.species.tolist(), unit.frac_coords)
        assert compare(again, embedded.structure(i))["match_strict"], embedded.id[i]
    assert sum(len(unit.sites) for unit in units) < 0.7 * embedded.n_sites.sum(), "symmetry leaves less to say"


def test_a_crystal_without_a_group_is_left_as_it_is():
    coincident = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])
    unit = AsymmetricUnit.of(4 * np.eye(3), coincident, np.array([74, 5]), 0.01)
    assert unit.symmetry == 1 and unit.species.tolist() == [74, 5]
    np.testing.assert_allclose(unit.frac_coords, coincident)


@pytest.mark.parametrize("c", [4.75, 52.0])
def test_a_layer_keeps_its_symmetry_whatever_the_vacuum(c):
    """Mg(OH)2, whose H is 0.96 Å from its O: in a long cell that is less than two hundredths of c."""
    thickness = 4.75 / c
    layer = Structure.from_spacegroup(
        164,
        Lattice.hexagonal(3.14, c),
        ["Mg", "O", "H"],
        [[0, 0, 0], [1 / 3, 2 / 3, 0.22 * thickness], [1 / 3, 2 / 3, 0.42 * thickness]],
    )
    unit = AsymmetricUnit.of(layer.lattice.matrix, layer.frac_coords, np.array(layer.atomic_numbers), 0.01)
    assert unit.symmetry == 164 and sorted(site.species for site in unit.sites) == [1, 8, 12]
    assert len(unit.species) == 5
    distances = Structure(Lattice(unit.lattice), unit.species.tolist(), unit.frac_coords).distance_matrix
    assert np.min(distances[distances > 0]) == pytest.approx(0.95, abs=1e-3)


def test_free_atoms_keep_their_order():
    unit = free_atoms(np.array([5, 73, 5]))
    assert unit.species.tolist() == [5, 73, 5] and unit.symmetry == 1 and len(unit.sites) == 3


def test_rock_salt_and_its_twin_are_the_ways_to_put_one_and_one_on_group_225():
    assert list(assignments(225, (1, 1))) == [((0,), (1,)), ((1,), (0,))]


def every_way(group: int, counts: tuple[int, ...]) -> set[tuple[tuple[int, ...], ...]]:
    """Each element on any multiset of positions that has its number of atoms, no fixed position taken twice."""
    known = positions(group)
    sizes = [p.multiplicity for p in known]
    of_elements = [
        [
            taken
            for n in range(1, count + 1)
            for taken in itertools.combinations_with_replacement(range(len(known)), n)
            if sum(sizes[p] for p in taken) == count
        ]
        for count in counts
    ]
    found = set()
    for ways in itertools.product(*of_elements):
        fixed = [p for taken in ways for p in taken if known[p].n_free == 0]
        if len(fixed) == len(set(fixed)):
            found.add(ways)
    return found


@pytest.mark.parametrize(
    ("group", "counts"),
    [(2, (1, 3)), (47, (3, 2)), (47, (4,)), (119, (2, 1, 2)), (146, (2, 4)), (186, (2, 2)), (221, (1, 3, 4))]
    + [(225, (1, 6)), (227, (1, 1))],
)
def test_assignments_are_all_ways_the_cheapest_first(group, counts):
    costs = np.random.default_rng(group).exponential(size=len(positions(group)))
    costs[::3] = costs[0]  # some cost the same
    found = list(assignments(group, counts, costs))
    assert len(set(found)) == len(found) and set(found) == every_way(group, counts)
    total = [sum(costs[p] for taken in ways for p in taken) for ways in found]
    assert (np.diff(total) > -1e-4).all()
    assert list(assignments(group, counts)) == sorted(found), "of equal cost those of lower numbers come first"


@pytest.mark.parametrize(
    ("group", "counts"),
    [(47, (24,)), (47, (2,) * 12), (47, (3,) * 7), (47, (1,) * 9), (10, (20, 20, 20)), (1, (1,) * 60)],
)
def test_the_search_for_assignments_costs_what_is_taken_from_it(group, counts, monkeypatch):
    """However many ways there are, the first 100 take less than 32 MiB, and each a step for an atom and a position."""
    pushed = []
    push = lambda queue, node: (pushed.append(1), heapq.heappush(queue, node))  # noqa: E731
    monkeypatch.setattr("lib.symmetry.wyckoff.heapq", SimpleNamespace(heappush=push, heappop=heapq.heappop))
    positions(group)
    costs = np.random.default_rng(0).exponential(size=len(positions(group)))
    tracemalloc.start()
    try:
        found = list(itertools.islice(assignments(group, counts, costs), 100))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == {(47, (1,) * 9): 0, (1, (1,) * 60): 1}.get((group, counts), 100)
    assert peak < 2**25
    steps = sum(counts) + len(counts) * len(positions(group))
    assert len(pushed) <= 2 * steps * len(found)


@pytest.mark.parametrize("group", [2, 62, 139, 166, 194, 216, 221, 225, 227])
def test_groups_hold_what_they_have_a_way_for(group):
    for counts in [(1,), (2,), (1, 1), (1, 2), (1, 3), (2, 3), (1, 1, 3), (1, 5)]:
        assert (next(assignments(group, counts), None) is not None) == bool(every_way(group, counts)), counts


def test_sites_count_their_atoms():
    unit = AsymmetricUnit(np.eye(3), 221, (Site(38, 0, np.zeros(0)), Site(8, 3, np.zeros(0))))
    assert unit.species.tolist() == [38] + [8] * positions(221)[3].multiplicity
