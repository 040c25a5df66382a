"""Voronoi neighbours, motifs and fingerprints: as pymatgen reads them one atom at a time, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from benchmarks.disordered import plain_fingerprints, spaced
from lib.core.errors import BadInput
from lib.metrics.fingerprints import (
    CHEMICAL,
    GEOMETRIC,
    LABELS,
    Bonding,
    Neighbours,
    find_neighbours,
    fingerprints,
    fractions,
    likelihoods,
)
from lib.metrics.order_parameters import MOTIFS, TABLE, order_parameter

OXIDATION = {"Li": 1, "Sc": 3, "Co": 3, "Cl": -1, "O": -2}
IONIC = Bonding(charges={3: 1, 21: 3, 27: 3, 17: -1, 8: -2})


def amorphous() -> Structure:
    return Structure(Lattice.cubic(6.8), ["Si"] * 14, spaced(14, 1.9, [6.8] * 3, np.random.default_rng(0)))


def alloy() -> Structure:
    cell = Structure(
        Lattice.cubic(3.6), ["Fe", "Ni", "Cr", "Fe"], [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    )
    cell = cell * (2, 1, 1)
    return cell.perturb(0.1, seed=1)


def slab() -> Structure:
    """Some salt with 13 Å of nothing above, so that cells at its surface are open at first."""
    points = spaced(16, 1.5, [6, 7, 13], np.random.default_rng(2)) * [1, 1, 0.5]
    return Structure(Lattice.orthorhombic(6, 7, 26), ["Li", "O", "Co", "O", "Cl", "Sc", "Li", "Cl"] * 2, points)


def of(structure: Structure, bonding: Bonding = CHEMICAL) -> Neighbours:
    return find_neighbours(structure.lattice.matrix, structure.frac_coords, np.array(structure.atomic_numbers), bonding)


@pytest.mark.slow
@pytest.mark.parametrize(
    "structure, bonding, settings",
    [
        (amorphous(), CHEMICAL, {}),
        (amorphous(), GEOMETRIC, {"distance_cutoffs": None, "x_diff_weight": 0, "porous_adjustment": False}),
        (alloy(), CHEMICAL, {}),
        (slab(), IONIC, {"cation_anion": True}),
    ],
    ids=["silicon", "silicon, geometric", "alloy", "slab"],
)
def test_fingerprints_are_matminers(structure, bonding, settings):
    read = structure.copy()
    if bonding.charges:
        read.add_oxidation_state_by_element(OXIDATION)
    np.testing.assert_allclose(fingerprints(of(structure, bonding)), plain_fingerprints(read, **settings), atol=1e-6)


def test_fingerprints_belong_to_the_crystal_and_not_to_its_description():
    crystal = amorphous()
    expected = fingerprints(of(crystal))
    order = np.random.default_rng(3).permutation(len(crystal))
    moved = Structure(crystal.lattice, ["Si"] * 14, crystal.frac_coords[order] + [0.3, 0.7, 1.2])
    np.testing.assert_allclose(fingerprints(of(moved)), expected[order], atol=1e-9)
    angle = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    turned = Structure(Lattice(crystal.lattice.matrix @ angle), ["Si"] * 14, crystal.frac_coords)
    np.testing.assert_allclose(fingerprints(of(turned)), expected, atol=1e-9)
    doubled = crystal * (1, 2, 1)
    np.testing.assert_allclose(fingerprints(of(doubled)), np.repeat(expected, 2, axis=0), atol=1e-9)


@pytest.mark.slow
def test_motifs_are_one_for_their_ideal_shapes():
    ring = lambda n: [[np.cos(2 * np.pi * i / n), np.sin(2 * np.pi * i / n), 0] for i in range(n)]  # noqa: E731
    poles = [[0, 0, 1], [0, 0, -1]]
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5
    ideal = {
        "linear": poles,
        "trigonal planar": ring(3),
        "tetrahedral": corners,
        "square co-planar": ring(4),
        "trigonal bipyramidal": ring(3) + poles,
        "pentagonal planar": ring(5),
        "octahedral": ring(4) + poles,
        "hexagonal planar": ring(6),
        "pentagonal bipyramidal": ring(5) + poles,
        "hexagonal bipyramidal": ring(6) + poles,
        "body-centered cubic": [*corners, *-corners],
    }
    names = [(cn, name) for cn, motifs in MOTIFS.items() for name in motifs]
    for name, directions in ideal.items():
        values = {
            other: order_parameter(row, np.array(directions, dtype=float))
            for (cn, other), row in zip(names, TABLE, strict=True)
            if cn == len(directions)
        }
        assert values[name] == pytest.approx(1, abs=0.02) and max(values, key=values.get) == name, values


def test_bond_order_is_that_of_spherical_harmonics():
    from scipy.special import sph_harm_y

    directions = np.random.default_rng(5).normal(size=(12, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    polar, azimuth = np.arccos(directions[:, 2]), np.arctan2(directions[:, 1], directions[:, 0])
    for row in TABLE[-3:]:
        order = int(row[2])
        mean = [sph_harm_y(order, m, polar, azimuth).mean() for m in range(-order, order + 1)]
        plain = np.sqrt(4 * np.pi / (2 * order + 1) * np.square(np.abs(mean)).sum())
        assert order_parameter(row, directions) == pytest.approx(plain)


def test_diamond_is_fourfold_and_tetrahedral():
    diamond = Structure.from_spacegroup(227, Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]).perturb(0.01, seed=1)
    found = of(diamond)
    likely = likelihoods(found)
    assert (likely.argmax(1) == 4).all() and (likely.sum(1) == pytest.approx(1))
    assert np.diff(found.most_likely().offsets).tolist() == [4] * 8
    means = dict(zip(LABELS, fingerprints(found).mean(0), strict=True))
    assert means["tetrahedral CN_4"] > 0.95 and means["square co-planar CN_4"] < 0.3
    assert len(LABELS) == 61


def test_fractions_are_of_the_nearest_neighbours():
    found = of(slab(), IONIC)
    likely = likelihoods(found)[:, 1:] > 0
    species = np.array(slab().atomic_numbers)
    chlorine, oxygen = fractions(found, species, [17, 8]).reshape(len(species), 2, 24).transpose(1, 0, 2)
    cations = np.isin(species, (3, 21, 27))
    np.testing.assert_allclose((chlorine + oxygen)[cations], likely[cations])
    assert (fractions(found, species, [17])[~cations] == 0).all(), "anions have cations around them"


@pytest.mark.parametrize(
    "lattice, coords, words",
    [
        (np.eye(3) * 5, [[0, 0, 0], [0, 0, 1]], "stand at one place"),
        (np.eye(3) * 5, [[0, 0, 0], [0, 0, np.nan]], "not finite"),
        (np.eye(3) * 90, [[0, 0, 0]], "no neighbours on one side"),
    ],
)
def test_what_has_no_cells_is_refused(lattice, coords, words):
    with pytest.raises(BadInput, match=words):
        find_neighbours(lattice, np.array(coords, dtype=float), np.full(len(coords), 14))


def test_an_element_without_a_charge_is_named():
    with pytest.raises(BadInput, match="Cr has no oxidation state"):
        of(alloy(), IONIC)
