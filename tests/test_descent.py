"""Crystals described in subgroups of their space groups."""

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.symmetry.spacegroups import subgroups
from lib.symmetry.subgroups import described_in, supergroups, ways
from lib.symmetry.wyckoff import AsymmetricUnit, positions

EXACTLY = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.1, primitive_cell=False, scale=False)


def structure_of(unit: AsymmetricUnit) -> Structure:
    return Structure(unit.lattice, unit.species.tolist(), unit.frac_coords)


def unit_of(structure: Structure) -> AsymmetricUnit:
    numbers = np.array([site.specie.Z for site in structure])
    return AsymmetricUnit.of(structure.lattice.matrix, structure.frac_coords, numbers, 0.01)


PEROVSKITE = unit_of(
    Structure(
        Lattice.cubic(3.9),
        ["Sr", "Ti", "O", "O", "O"],
        [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    )
)


def test_a_cubic_perovskite_as_a_tetragonal_one():
    (unit,) = described_in(PEROVSKITE, 99)  # P4mm, the group of ferroelectric BaTiO3
    assert unit.symmetry == 99 and EXACTLY.fit(structure_of(unit), structure_of(PEROVSKITE))
    oxygen = [positions(99)[site.position].multiplicity for site in unit.sites if site.species == 8]
    assert sorted(oxygen) == [1, 2], "the three oxygens of the cubic cell are an apex and a base"
    assert all(len(site.parameters) == 1 for site in unit.sites), "and all may move along the axis"


def test_its_own_group_changes_nothing():
    assert described_in(PEROVSKITE, 221) == [PEROVSKITE]


def test_a_group_that_is_no_subgroup_has_no_description():
    assert described_in(PEROVSKITE, 225) == []


@pytest.mark.parametrize(
    ("group", "above"),
    [(160, {160, 161, 166, 215, 216, 217, 221, 225, 227, 229}), (123, {123, 221}), (225, {225})],
)
def test_supergroups_keep_the_translations(group, above):
    kept = supergroups(group)
    assert (above - {161}) <= kept, "R3m: minimal and further translationengleiche supergroups of the Tables"
    assert 161 not in kept, "R3c and R3m are of one class"


def test_subgroups_that_lose_translations_do_not_count():
    assert 221 in subgroups(229) and 229 not in supergroups(221), "Pm-3m is Im-3m without its centring"


def test_ways_that_differ_count_and_conjugate_ones_do_not():
    assert len(ways(47, 25)) == 3, "Pmmm holds Pmm2 along a, b and c, which none of its operations exchanges"
    assert len(ways(221, 123)) == 1, "Pm-3m holds P4/mmm along a, b and c, which its threefold axes exchange"


@pytest.mark.slow
def test_any_crystal_is_the_same_in_every_subgroup():
    embedded = CrystalTable.from_parquet(EMBEDDED)
    rows = np.random.default_rng(0).permutation(len(embedded))
    described, groups = 0, set()
    for unit in (unit_of(embedded.structure(row)) for row in rows[:40]):
        for group in sorted(subgroups(unit.symmetry))[::3]:
            for below in described_in(unit, group):
                described += 1
                groups.add(group)
                assert below.symmetry == group
                assert EXACTLY.fit(structure_of(below), structure_of(unit)), (unit.symmetry, group)
    assert described > 100 and len(groups) > 20
