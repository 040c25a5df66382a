"""One asymmetric unit for each crystal, and the normalisers that give the choices."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.metrics.matching import compare
from lib.symmetry.normaliser import canonical_unit, generic_cell, normaliser
from lib.symmetry.wyckoff import AsymmetricUnit, Site, positions, primitive_operations, site_of

GROUPS = [4, 14, 19, 33, 47, 75, 92, 129, 146, 152, 160, 166, 194, 198, 205, 216, 227]


@pytest.mark.parametrize("group", GROUPS)
def test_choices_leave_the_operations_as_they_are(group):
    """n G n^-1 = G, lengths and angles stay, and no crystal becomes its mirror image."""
    rotations, translations = primitive_operations(group)
    metric = generic_cell(group) @ generic_cell(group).T
    for turn, shift, position_of in normaliser(group):
        assert np.linalg.det(turn) == pytest.approx(1)
        np.testing.assert_allclose(turn.T @ metric @ turn, metric, atol=1e-6)
        back = np.linalg.inv(turn)
        for rotation, translation in zip(rotations, translations, strict=True):
            image = turn @ rotation @ back
            moved = turn @ translation + shift - image @ shift
            (own,) = np.flatnonzero((np.abs(rotations - image) < 1e-6).all((1, 2)))
            apart = moved - translations[own]
            assert np.abs(apart - np.round(apart)).max() < 1e-6
        assert sorted(position_of) == list(range(len(positions(group))))
    first = normaliser(group)[0]
    assert (first[0] == np.eye(3)).all() and first[2] == tuple(range(len(positions(group))))


@pytest.mark.parametrize(
    ("group", "n"), [(2, 8), (47, 8), (75, 4), (152, 4), (198, 4), (216, 8), (221, 2), (225, 2), (227, 2)]
)
def test_their_number_is_that_of_the_international_tables(group, n):
    """Section 3.5, the index of G in its normaliser: halved for 75 and 198, whose mirror images are other crystals, and
    without the shifts along the free axis of 75."""
    assert len(normaliser(group)) == n


def same(one: AsymmetricUnit, other: AsymmetricUnit) -> bool:
    """The same sites in the same order, parameters to 2e-3."""
    if one.symmetry != other.symmetry or len(one.sites) != len(other.sites):
        return False
    pairs = list(zip(one.sites, other.sites, strict=True))
    if any((a.species, a.position) != (b.species, b.position) for a, b in pairs):
        return False
    gaps = np.concatenate([a.parameters - b.parameters for a, b in pairs])
    return bool((np.abs(gaps - np.round(gaps)) < 2e-3).all())


@pytest.mark.parametrize("group", GROUPS)
def test_another_choice_of_the_same_crystal_is_the_same_unit(group):
    """Another atom of each orbit, another element of the normaliser, another order, and a drift along free axes."""
    rng = np.random.default_rng(group)
    known, (rotations, translations) = positions(group), primitive_operations(group)
    numbers = [len(known) - 1, len(known) - 1, *rng.integers(len(known), size=2)]
    sites = [Site(5 + i, int(p), rng.random(known[p].n_free)) for i, p in enumerate(numbers)]
    unit = AsymmetricUnit(generic_cell(group), group, tuple(sites))
    first = canonical_unit(unit)
    for turn, shift, _ in normaliser(group):
        drift = rotations.mean(0) @ rng.random(3)
        moved = []
        for site in sites:
            operation = rng.integers(len(rotations))
            orbit = known[site.position].atoms(site.parameters) @ rotations[operation].T + translations[operation]
            number, _ = site_of((orbit @ turn.T + shift) % 1, group)
            several = known[number].parameters_of((orbit @ turn.T + shift) % 1)
            further = known[number].inverse @ drift
            moved.append(Site(site.species, number, (several[rng.integers(len(several))] + further) % 1))
        other = canonical_unit(AsymmetricUnit(unit.lattice, group, tuple(moved[i] for i in rng.permutation(4))))
        assert same(first, other), turn
    assert same(canonical_unit(first), first)


def test_another_description_gives_the_same_unit():
    """Shifted origin, unreduced axes and shuffled atoms of embedded crystals: what spglib makes of these differs."""
    embedded = CrystalTable.from_parquet(EMBEDDED)
    _, rows = np.unique(embedded.space_group, return_index=True)
    rng = np.random.default_rng(0)
    as_found, as_chosen = [], []
    shear = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]])
    for row in rows[1:61]:
        lattice, frac_coords, species = embedded.lattice[row], embedded.frac_coords_of(row), embedded.species_of(row)
        order = rng.permutation(len(species))
        moved = (frac_coords + rng.random(3)) @ np.linalg.inv(shear) % 1
        found = [
            AsymmetricUnit.of(lattice, frac_coords, species, 0.01),
            AsymmetricUnit.of(shear @ lattice, moved[order], species[order], 0.01),
        ]
        as_found.append(same(*found))
        chosen = [canonical_unit(unit) for unit in found]
        as_chosen.append(same(*chosen))
        crystal = Structure(Lattice(chosen[0].lattice), chosen[0].species.tolist(), chosen[0].frac_coords)
        assert compare(crystal, embedded.structure(row))["match_strict"], embedded.id[row]
    assert np.mean(as_found) < 0.3 and np.mean(as_chosen) > 0.95


def test_a_lender_stays_with_its_site():
    sites = Site(8, 1, np.zeros(0), lender=9), Site(12, 0, np.zeros(0), lender=11)
    unit = AsymmetricUnit(generic_cell(225), 225, sites)
    chosen = canonical_unit(unit)
    assert {site.species: site.lender for site in chosen.sites} == {8: 9, 12: 11}
