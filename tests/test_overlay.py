"""The shortcut against pymatgen itself: the same verdicts and displacements, pair by pair."""

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from lib.core.files import ROOT
from lib.crystals.table import CrystalTable
from lib.crystals.validity import flaw
from lib.datasets.polymorphs import polymorph_groups
from lib.datasets.sources.embedded import EMBEDDED
from lib.datasets.sources.mp20 import from_parquet
from lib.metrics.matching import CSP, DEFAULT, compare
from lib.metrics.overlay import (
    SAME,
    Overlay,
    Tolerances,
    _may_be_smaller,
    primitive_cell,
    reduced_cell,
    similar_bases,
)

MP_20 = ROOT.parent / "shared" / "data" / "mp_20" / "train.parquet"


def matcher(tolerances, **options):
    return StructureMatcher(ltol=tolerances.lengths, stol=tolerances.sites, angle_tol=tolerances.angles, **options)


def pairs_of(table, n, rng):
    """Crystals, and for each what one may get in its place: another description, a strained one, a polymorph, noise."""
    groups = [rows for rows in polymorph_groups(table).values() if len(rows) > 1]
    for k in range(n):
        rows = groups[rng.integers(len(groups))]
        i, j = rng.choice(rows, 2, replace=False)
        target, other = table.structure(i), table.structure(j)
        cell = np.array([[[1, 1, 0], [0, 1, 0], [0, -1, 1]], [[1, 0, 0], [1, 2, 0], [0, 0, 1]]])[rng.integers(2)]
        same = target.make_supercell(cell, in_place=False)
        size = (0.0, 0.03, 0.15, 0.3)[rng.integers(4)]
        moves = rng.normal(0, size, (len(same), 3)) @ np.linalg.inv(same.lattice.matrix) + rng.random(3)
        strained = Lattice(same.lattice.matrix @ (np.eye(3) + size / 2 * rng.normal(0, 0.5, (3, 3))))
        moved = Structure(strained, same.species, same.frac_coords + moves)
        noise = Structure(target.lattice, target.species, rng.random((len(target), 3)))
        yield (moved, other, noise, moved)[k % 4], target


def assert_as_pymatgen(pairs):
    """Every question that `lib.metrics.matching` asks, put to both; returns the verdicts."""
    default, csp, unscaled = matcher(DEFAULT), matcher(CSP), matcher(DEFAULT, scale=False)
    verdicts = []
    for candidate, target in pairs:
        if flaw(candidate):
            continue
        overlay = Overlay(primitive_cell(candidate), reduced_cell(target), CSP)
        expected, rms = csp.get_rms_dist(candidate, target), overlay.least_rms()
        assert (rms is None) == (expected is None)
        assert rms is None or rms == pytest.approx(expected[0], abs=SAME if expected[0] < SAME else 1e-9)
        found = [rms is not None, overlay.fits(DEFAULT), overlay.fits(DEFAULT, at_one_volume=False)]
        verdict = compare(candidate, target)
        assert found[1] == verdict["match_default"] == default.fit(candidate, target)
        if abs(np.log(candidate.volume / len(candidate) / target.volume * len(target))) < np.log(1.05):
            assert found[2] == unscaled.fit(candidate, target)
        verdicts.append(found)
    return np.array(verdicts)


@pytest.mark.parametrize("n", [60, pytest.param(320, marks=pytest.mark.slow)])
def test_embedded_pairs_get_pymatgens_answers(n):
    verdicts = assert_as_pymatgen(pairs_of(CrystalTable.from_parquet(EMBEDDED), n, np.random.default_rng(5)))
    assert len(verdicts) > 0.78 * n
    assert (verdicts.mean(0) > 0.2).all() and (verdicts.mean(0) < 0.8).all()
    assert (verdicts[:, 0] & ~verdicts[:, 1]).any(), "no pair lies between the tolerances"


@pytest.mark.slow
def test_real_pairs_get_pymatgens_answers():
    if not MP_20.exists():
        pytest.skip(f"{MP_20} is missing")
    verdicts = assert_as_pymatgen(pairs_of(from_parquet(MP_20), 160, np.random.default_rng(6)))
    assert len(verdicts) > 120
    assert (verdicts.mean(0) > 0.2).all() and (verdicts.mean(0) < 0.8).all()


def test_bases_are_those_of_find_all_mappings():
    rng = np.random.default_rng(0)
    for tolerances in (CSP, DEFAULT, Tolerances(0.1, 0.3, 20)):
        for _ in range(20):
            cell = Lattice(np.eye(3) * 3 + rng.normal(0, 0.5, (3, 3)))
            other = Lattice(cell.matrix * rng.uniform(0.95, 1.05, (3, 1)))
            expected = cell.find_all_mappings(other, tolerances.lengths, tolerances.angles, skip_rotation_matrix=True)
            expected = [scale for _, _, scale in expected if abs(abs(np.linalg.det(scale)) - 1) < 0.5]
            found = similar_bases(cell.matrix, other.matrix, tolerances)
            assert len(expected) > 0
            assert np.array_equal(found, expected)


def test_no_smaller_cell_is_overlooked():
    table, rng = CrystalTable.from_parquet(EMBEDDED), np.random.default_rng(7)
    found = {True: 0, False: 0}
    for i in rng.permutation(len(table))[:150]:
        structure = table.structure(i).make_supercell([1, 1, rng.integers(1, 3)], in_place=False)
        size = rng.choice([0, 0.05, 0.25])
        moves = rng.normal(0, size, (len(structure), 3)) @ np.linalg.inv(structure.lattice.matrix)
        moved = Structure(structure.lattice, structure.species, structure.frac_coords + moves).get_reduced_structure()
        smaller = len(moved.get_primitive_structure()) < len(moved)
        assert _may_be_smaller(moved) or not smaller
        found[_may_be_smaller(moved)] += not smaller
    assert found[False] > 10 * found[True]


def test_cells_with_a_common_divisor_are_looked_at_for_translations():
    salt = Structure.from_spacegroup(225, Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert len(primitive_cell(salt).species) == len(reduced_cell(salt).species) == 2
    other = Structure.from_spacegroup(221, Lattice.cubic(3.3), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert primitive_cell(other).frac_coords.shape == (2, 3)


def test_cells_of_different_size_have_no_overlay():
    two = Structure(Lattice.cubic(4), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    coords = [[0, 0, 0], [0.4, 0.3, 0.2], [0.5, 0.5, 0.5], [0.1, 0.8, 0.7]]
    four = Structure(Lattice.orthorhombic(4, 4.4, 9), ["Cs", "Cs", "Cl", "Cl"], coords)
    overlay = Overlay(primitive_cell(four), reduced_cell(two), CSP)
    assert overlay.least_rms() is None
    assert not overlay.fits(DEFAULT)
