"""The multigraph over inequivalent sites is the graph of all atoms of the cell, whoever stands for an orbit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from lib.symmetry import multigraph as module
from lib.symmetry.multigraph import MERGED, Multigraph, envelope, multigraph
from lib.symmetry.normaliser import generic_cell, normaliser
from lib.symmetry.orbits import Orbits
from lib.symmetry.wyckoff import AsymmetricUnit, Site, positions, primitive_operations

# one group of each of the 14 Bravais types, most with screw axes or glide planes; the last three have polar axes
GROUPS = [2, 14, 15, 62, 63, 70, 74, 129, 141, 194, 166, 198, 227, 229, 1, 36, 160]
CUTOFF = 4.0  # Å
FREE = {"most_edges": 10_000, "most_near": 10_000}  # no cap, so that sums over all pairs compare


def unit_of(group: int, seed: int = 0) -> AsymmetricUnit:
    """A crystal with an atom on one of the group's positions of each number of free parameters, at random."""
    rng = np.random.default_rng([group, seed])
    known = positions(group)
    chosen = {known[number].n_free: number for number in rng.permutation(len(known))}
    sites = [Site(int(z), p, rng.random(n)) for z, (n, p) in zip((8, 26, 57, 8), sorted(chosen.items()), strict=False)]
    volume = 12 * sum(known[site.position].multiplicity for site in sites)
    lattice = generic_cell(group)
    return AsymmetricUnit(lattice * (volume / np.linalg.det(lattice)) ** (1 / 3), group, tuple(sites))


def parameters(units: list[AsymmetricUnit], n: int) -> torch.Tensor:
    u = torch.zeros(len(units), n, 3, dtype=torch.float64)
    for row, unit in zip(u, units, strict=True):
        for place, site in zip(row, unit.sites, strict=False):
            place[: len(site.parameters)] = torch.from_numpy(np.asarray(site.parameters))
    return u


def graph_of(units: list[AsymmetricUnit], **options) -> tuple[Orbits, Multigraph]:
    """Of some units, in double precision."""
    n = max(len(unit.species) for unit in units)
    orbits = Orbits.pack(units, n)
    orbits = Orbits(**{k: v.double() if v.is_floating_point() else v for k, v in vars(orbits).items()})
    orbits = orbits.trimmed(max(len(unit.sites) for unit in units), n)
    lattice = torch.tensor(np.array([unit.lattice for unit in units]), dtype=torch.float64)
    u = parameters(units, orbits.species.shape[1])
    return orbits, multigraph(orbits, u, lattice @ lattice.mT, **{"cutoff": CUTOFF} | FREE | options)


def moments(orbits: Orbits, graph: Multigraph) -> torch.Tensor:
    """(B, 12) sums over all edges and triplets of the whole cell, of functions of elements, lengths and angles."""
    species, atoms = orbits.species.flatten().double(), orbits.multiplicity.flatten().double()
    pair = (species[graph.node] / 10).sin() * (species[graph.neighbour] / 7).cos() + 1.3
    parts = [graph.weight * pair * (-graph.distance * k / 2).exp() for k in range(4)]
    edge, near = graph.edge, graph.near
    third = (species[graph.neighbour[near]] / 9).cos() + 1.1
    triplet = graph.weight[edge] * graph.near_weight[near] * pair[edge] * third
    lengths = (graph.distance[edge] - graph.distance[near] * 1.7).cos()
    several = [triplet * lengths * graph.cosine**k for k in range(8)]
    found = torch.zeros(len(orbits), 12, dtype=torch.float64)
    found[:, :4].index_add_(0, graph.crystal, torch.stack(parts, 1) * atoms[graph.node][:, None])
    found[:, 4:].index_add_(0, graph.crystal[edge], torch.stack(several, 1) * atoms[graph.node[edge]][:, None])
    return found


def without_symmetry(unit: AsymmetricUnit) -> AsymmetricUnit:
    """The same crystal with each atom an orbit of its own."""
    places = zip(unit.species, unit.frac_coords, strict=True)
    return AsymmetricUnit(unit.lattice, 1, tuple(Site(int(z), 0, x) for z, x in places))


@pytest.fixture(scope="module")
def units() -> list[AsymmetricUnit]:
    return [unit_of(group) for group in GROUPS]


@pytest.fixture(scope="module")
def whole(units) -> torch.Tensor:
    """Moments of the crystals, their space groups known."""
    return moments(*graph_of(units))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # packed orbits have seven digits


def test_without_symmetry_its_edges_are_pymatgens_neighbours(units):
    orbits, graph = graph_of([without_symmetry(unit) for unit in units])
    for i, unit in enumerate(units):
        structure = Structure(Lattice(unit.lattice), unit.species.tolist(), unit.frac_coords)
        centre, other, _, distance = structure.get_neighbor_list(CUTOFF, numerical_tol=1e-8)
        mine = graph.crystal == i
        start = i * orbits.species.shape[1]
        for atom in range(len(unit.species)):
            here = mine & (graph.node == start + atom)
            np.testing.assert_allclose(graph.distance[here], np.sort(distance[centre == atom]), atol=1e-6)
            np.testing.assert_array_equal(graph.neighbour[here].sort()[0] - start, np.sort(other[centre == atom]))


def test_edges_and_triplets_are_those_of_all_atoms(units, whole):
    """Angles included: an operation turns the edges of the representative to those of its image."""
    close(moments(*graph_of([without_symmetry(unit) for unit in units])), whole)


@pytest.mark.parametrize("caps", [FREE, {"most_edges": 12, "most_near": 5}])
def test_it_does_not_depend_on_which_atoms_stand_for_orbits_nor_on_the_origin_or_axes(units, caps):
    whole = moments(*graph_of(units, **caps))
    rng = np.random.default_rng(0)
    others = []
    for unit in units:
        known = positions(unit.symmetry)
        several = normaliser(unit.symmetry)
        rotation, shift, position_of = several[rng.integers(len(several))]
        sites = []
        for site in unit.sites:
            position = known[position_of[site.position]]
            moved = known[site.position].atoms(site.parameters) @ rotation.T + shift
            sites.append(
                Site(site.species, position_of[site.position], rng.permutation(position.parameters_of(moved))[0])
            )
        turned = np.linalg.inv(rotation).T @ unit.lattice
        others.append(AsymmetricUnit(turned, unit.symmetry, tuple(sites[i] for i in rng.permutation(len(sites)))))
    close(moments(*graph_of(others, **caps)), whole)


def test_the_reverse_of_an_edge_is_the_same_pair_seen_from_its_other_end(units):
    _, graph = graph_of(units)
    assert (graph.reverse >= 0).all(), "without a cap there is one"
    back = graph.reverse
    torch.testing.assert_close(graph.distance[back], graph.distance)
    assert torch.equal(graph.node[back], graph.neighbour) and torch.equal(graph.neighbour[back], graph.node)
    counts = graph.node.bincount(minlength=len(graph.reach))
    assert len(graph.edge) == (counts[graph.neighbour] - 1).sum(), "and it alone makes no triplet"
    straight = (graph.cosine > 1 - 1e-9) & ((graph.distance[graph.edge] - graph.distance[graph.near]).abs() < 1e-9)
    assert not straight.any(), "the neighbour of a neighbour is not the atom itself"


# ------------------------------------------------------------------------------------ positions that are not known


def rock_salt(shift: float = 0.0) -> AsymmetricUnit:
    """NaCl told as sites on the general position of Fm-3m, of which each has 48 images; a = 5.64 Å."""
    general = len(positions(225)) - 1
    lattice = 2.82 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    off = np.array([0.31, 0.2, -0.17])
    off *= shift / np.linalg.norm(off @ lattice)
    return AsymmetricUnit(lattice, 225, (Site(11, general, off), Site(17, general, np.full(3, 0.5) + off)))


def test_images_on_a_special_position_are_one_atom():
    _, graph = graph_of([rock_salt()], merge=True, cutoff=3.0)
    assert graph.node.bincount().tolist() == [6, 6]
    torch.testing.assert_close(graph.distance, torch.full((12,), 2.82, dtype=torch.float64))
    for node in range(2):
        assert graph.vector[graph.node == node].sum(0).norm() < 1e-9, "unit vectors cancel"
    _, unmerged = graph_of([rock_salt()], cutoff=3.0)
    first = unmerged.distance > 1
    assert unmerged.node[first].bincount().tolist() == [288, 288]


def test_merged_images_are_the_positions_that_are_known(units):
    spaced, general = [], []
    for unit in units:
        known = positions(unit.symmetry)
        crystal = Structure(Lattice(unit.lattice), unit.species.tolist(), unit.frac_coords)
        if crystal.is_valid(2 * MERGED):
            places = [(s.species, known[s.position].atoms(s.parameters)[0]) for s in unit.sites]
            spaced.append(unit)
            general.append(replace(unit, sites=tuple(Site(z, len(known) - 1, x) for z, x in places)))
    assert len(spaced) > 8
    expected = graph_of(spaced)
    graph = graph_of(general, merge=True)[1]
    close(moments(expected[0], graph), moments(*expected))


def test_nothing_jumps_while_images_meet():
    """A site leaves the mirror plane of Pnma; where a sum changes most, the path is looked at more closely."""
    general, lattice = len(positions(62)) - 1, np.diag([5.0, 4.0, 6.0])

    def sums(shifts: np.ndarray) -> torch.Tensor:
        sites = [
            (Site(11, general, np.array([0.1, 0.25 + x, 0.2])), Site(17, general, np.array([0.6, 0.25, 0.55])))
            for x in shifts
        ]
        orbits, graph = graph_of(
            [AsymmetricUnit(lattice, 62, two) for two in sites], merge=True, most_edges=30, most_near=12
        )
        return moments(replace(orbits, multiplicity=torch.ones_like(orbits.multiplicity)), graph)

    begin, end = 0.0, 0.06  # of b, 0 to 0.24 Å
    apart = (sums(np.array([begin, end])).diff(dim=0).abs() + 0.1)[0]
    for _ in range(4):
        shifts = np.linspace(begin, end, 21)
        change = (sums(shifts).diff(dim=0).abs() / apart).amax(1)
        step = int(change.argmax())
        begin, end = shifts[step], shifts[step + 1]
    assert change.max() < 0.02


# --------------------------------------------------------------------------------------------- caps and odd crystals


def test_the_envelope_ends_smoothly_and_stays_zero():
    x = torch.tensor([0.0, 1 - 1e-4, 1.0, 1.2, 2.0], dtype=torch.float64)
    assert envelope(x)[0] == 1 and envelope(x)[1] < 1e-10 and (envelope(x)[2:] == 0).all()


def test_a_cap_leaves_whole_shells_of_the_nearest(units):
    _, free = graph_of(units)
    _, capped = graph_of(units, most_edges=20, most_near=5)
    counts = capped.node.bincount(minlength=len(capped.reach))
    assert counts.max() <= 30 and counts[counts > 0].float().mean() < 22
    kept = free.distance < capped.reach[free.node]
    torch.testing.assert_close(capped.distance, free.distance[kept])
    assert (
        capped.node[capped.near.unique()].bincount(minlength=len(counts))[counts > 0].double().mean() < 9
        and (capped.near_weight >= 0).all()
    )
    filled = torch.zeros_like(capped.reach).index_add_(0, capped.node, capped.weight)
    torch.testing.assert_close(
        filled[capped.reach < CUTOFF], torch.full_like(filled, 20 * module.FILLING)[capped.reach < CUTOFF]
    )
    assert (capped.reverse < 0).any(), "a reverse may be beyond the reach of the other end"


def test_a_batch_too_large_at_once_is_split(units, whole, monkeypatch):
    monkeypatch.setattr(module, "MOST_PAIRS", 1000)
    orbits, graph = graph_of(units)
    close(moments(orbits, graph), whole)
    assert (graph.distance[graph.reverse] - graph.distance).abs().max() < 1e-5


def test_crystals_without_a_cell_have_no_edges_and_leave_the_others_alone(units, whole):
    flat = units[0].lattice * np.array([[1], [1], [1e-3]])
    odd = [replace(units[0], lattice=lattice) for lattice in (flat, np.full((3, 3), np.nan), np.zeros((3, 3)))]
    orbits, graph = graph_of([*odd, *units])
    assert graph.sound.tolist() == [False] * 3 + [True] * len(units)
    assert (graph.crystal >= 3).all()
    close(moments(orbits, graph)[3:], whole)


@pytest.mark.parametrize("lost", [np.nan, np.inf, 1e30])
def test_crystals_whose_sites_are_nowhere_have_no_edges_and_leave_the_others_alone(lost):
    away = replace(rock_salt(), sites=tuple(replace(s, parameters=np.full(3, lost)) for s in rock_salt().sites))
    orbits, graph = graph_of([away, rock_salt(0.05)], merge=True)
    assert graph.sound.tolist() == [False, True] and (graph.crystal == 1).all() and len(graph.crystal)
    close(moments(orbits, graph)[1:], moments(*graph_of([rock_salt(0.05)], merge=True)))


@pytest.mark.parametrize("merge", [False, True])
def test_sites_at_one_place_have_edges_without_a_direction(merge):
    general = len(positions(225)) - 1
    both = replace(rock_salt(), sites=(Site(11, general, np.zeros(3)), Site(17, general, np.zeros(3))))
    _, graph = graph_of([both], merge=merge, cutoff=4.5)
    nowhere = graph.vector.abs().amax(1) < 1e-9
    assert nowhere.any() and (graph.vector[nowhere] / graph.distance[nowhere, None] == 0).all()
    assert len(graph.cosine) and graph.cosine.isfinite().all()
    assert (graph.cosine[nowhere[graph.edge] | nowhere[graph.near]] == 0).all()


def test_tables_of_operations_are_a_group():
    for group in GROUPS:
        n = len(primitive_operations(group)[0])
        inverse, (product,) = module._inverses(group)[0][:n], module._products(group)
        assert (product[np.arange(n), inverse] == 0).all() and (np.sort(product[:n, :n]) == np.arange(n)).all()
