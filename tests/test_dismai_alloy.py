"""The alloy: lattice, energies, order, atoms on sites, and Monte Carlo against plain readings and exact enumeration."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from scipy.optimize import linear_sum_assignment

from lib.core.errors import BadInput
from lib.dismai.alloy import (
    CONSTANT,
    ELEMENTS,
    INTERACTIONS,
    LATTICE_CONSTANT,
    MULTIPLICITY,
    ON_SITE,
    PAIR_NAMES,
    FccSites,
    cluster_fingerprint,
    energies,
    nearest_site,
    occupation_of,
    occupations_of,
    pair_fractions,
    to_table,
    warren_cowley,
)
from lib.dismai.monte_carlo import BOLTZMANN, run_chain, run_chains, trapped

SHARED = Path(os.environ.get("CRYSTAL_SHARED", "../shared")) / "data" / "dismai"
SMALL = FccSites.of(32)


def shuffled(sites: FccSites, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(np.repeat(np.arange(3), sites.composition)) for _ in range(n)])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published files are not at hand")
def test_interactions_and_lattice_are_the_published_ones():
    published = json.loads((SHARED / "eci_fe_ni_cr.json").read_text())
    assert published["constant"] == CONSTANT
    for s, pairs in enumerate(published["pairs"].values()):
        assert [pairs[name] for name in PAIR_NAMES] == pytest.approx(INTERACTIONS[s].tolist(), abs=0)
    assert list(published["pairs_per_atom"].values()) == MULTIPLICITY.tolist()
    sites = FccSites.of(256)
    reference = _frame(SHARED / "alloy_ref_struc.extxyz")
    occupation, removed, off_site = occupation_of(reference.frac_coords, reference.atomic_numbers, sites)
    assert (
        removed == 0 and off_site < 1e-6 and sorted(reference.atomic_numbers) == sorted(np.array(ELEMENTS)[occupation])
    )


def _frame(path: Path) -> Structure:
    from lib.crystals.exchange import read_structures

    return next(iter(read_structures([path]).values()))


@pytest.mark.parametrize("n_atoms", [32, 256])
def test_pairs_are_those_that_pymatgen_finds(n_atoms):
    sites = FccSites.of(n_atoms)
    assert (sites.shells.sum(2) == 2 * MULTIPLICITY[:, None]).all() and len(sites) == n_atoms
    (occupation,) = shuffled(sites, 1)
    structure = Structure(Lattice(sites.lattice), np.array(ELEMENTS)[occupation], sites.frac_coords)
    centre, other, _, distance = structure.get_neighbor_list(6.8)
    shell = np.round(2 * (distance / LATTICE_CONSTANT) ** 2).astype(int) - 1
    counts = np.zeros((7, 3, 3))
    np.add.at(counts, (shell, occupation[centre], occupation[other]), 1)
    plain = np.stack([np.diagonal(counts[s]) for s in range(7)])[:, [0, 1, 2]] / 2 / n_atoms / MULTIPLICITY[:, None]
    found = pair_fractions(occupation[None], sites)[0]
    np.testing.assert_allclose(found[:, [0, 3, 5]], plain, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_order_of_random_alloys_is_none_and_their_energy_the_mean_fields():
    sites = FccSites.of(256)
    occupation = shuffled(sites, 400)
    alpha = warren_cowley(occupation, sites)
    finite = np.abs(alpha.mean(0))  # a pair of two different atoms of one finite cell: c_A (N_A - 1) / (N - 1)
    assert finite.max() < 0.05
    assert energies(occupation, sites).mean() == pytest.approx(-0.0601, abs=0.0004), "published value of shuffled atoms"
    fingerprint = cluster_fingerprint(occupation, sites)
    assert fingerprint.shape == (400, 45) and fingerprint[:, :3].sum(1) == pytest.approx(1)
    np.testing.assert_allclose(fingerprint[:, 3:].reshape(-1, 7, 6).sum(2), 1, atol=1e-5)


def test_atoms_find_their_sites_wherever_the_lattice_lies():
    """Also by an assignment of least total distance among all sites, the plain reading of section 4.3.3."""
    rng = np.random.default_rng(1)
    (occupation,) = shuffled(SMALL, 1)
    noise = rng.normal(scale=0.05, size=(32, 3)) / SMALL.lattice[0, 0]
    noise[:2] += [0.2, 0.1, 0.0]  # two atoms between the sites
    shift = np.array([0.31, 0.77, 0.12])
    moved, species = SMALL.frac_coords + noise + shift, np.array(ELEMENTS)[occupation]
    found, removed, off_site = occupation_of(moved, species, SMALL)
    assert removed == 2 and (found == -1).sum() == 2
    same = any(
        (np.delete(found[SMALL.site_at(SMALL.grid + step)], [0, 1]) == occupation[2:]).all() for step in SMALL.grid
    )
    assert same, "the same pattern, but for a translation of the lattice"
    away = (moved - noise[2:].mean(0) - shift)[:, None] - SMALL.frac_coords
    distance = np.linalg.norm((away - np.round(away)) * SMALL.lattice[0, 0], axis=2)
    rows, columns = linear_sum_assignment(np.minimum(distance, ON_SITE))
    assert (distance[rows, columns] < ON_SITE).sum() == 30
    assert off_site == pytest.approx(distance.min(1).mean(), abs=0.02)


def test_no_turned_lattice_fits_the_cells_of_32_and_256_atoms():
    """The cell's edges would be other vectors of the lattice with the same length."""
    for n, turned in ((2, False), (3, True), (4, False)):
        reach = range(-2 * n, 2 * n + 1)
        edges = [v for v in itertools.product(reach, repeat=3) if sum(v) % 2 == 0 and np.dot(v, v) == 4 * n * n]
        assert any(np.count_nonzero(v) > 1 for v in edges) == turned


def test_nearest_sites_are_nearest():
    rng = np.random.default_rng(2)
    position = rng.uniform(-3, 3, size=(200, 3))
    grid, away = nearest_site(position)
    every = np.array([v for v in itertools.product(range(-5, 6), repeat=3) if sum(v) % 2 == 0])
    assert (grid.sum(1) % 2 == 0).all()
    least = np.linalg.norm(position[:, None] - every, axis=2).min(1)
    np.testing.assert_allclose(np.linalg.norm(away, axis=1), least)


def test_tables_carry_exact_energies_and_give_the_occupation_back():
    occupation = shuffled(SMALL, 5)
    table = to_table(occupation, SMALL, "alloy")
    back = occupations_of(table, SMALL)
    assert (back >= 0).all()
    np.testing.assert_allclose(energies(back, SMALL), table.formation_energy, atol=1e-6)
    np.testing.assert_allclose(energies(occupation, SMALL), table.formation_energy, atol=1e-6)


def test_without_heat_no_swap_raises_the_energy():
    """Also where the two atoms that swap are neighbours, whose own pair stays as it is."""
    quenched = np.stack([run_chain(32, 1, 12, 1, 1, 7, i).energy for i in range(40)])
    assert (np.diff(quenched) < 1e-12).all() and (quenched[:, 0] - quenched[:, -1]).max() > 0.001


@pytest.mark.slow
def test_monte_carlo_samples_boltzmanns_distribution():
    """By d<E>/d(beta) = -var(E), with E of the cell: its fall between two temperatures is the integral of its variance
    over a ladder of temperatures between them."""
    betas = np.linspace(1 / (BOLTZMANN * 1500), 1 / (BOLTZMANN * 1100), 5)
    chains = [run_chain(32, 1 / (BOLTZMANN * b), 12_000, 4, 200, 7, i) for i, b in enumerate(betas)]
    means = np.array([32 * chain.energy.mean() for chain in chains])
    spreads = np.array([(32 * chain.energy).var() for chain in chains])
    fall = -np.sum((spreads[1:] + spreads[:-1]) / 2 * np.diff(betas))
    assert means[-1] - means[0] == pytest.approx(fall, rel=0.1) and fall < 0
    first = chains[0]
    counts = (first.occupation[:, :, None] == np.arange(3)).sum(1)
    assert (counts == SMALL.composition).all(), "swaps keep the composition"
    np.testing.assert_allclose(first.energy, energies(first.occupation, SMALL), atol=1e-6)


def test_chains_are_repeatable_resume_and_tell_who_is_trapped(tmp_path):
    how = {"passes": 40, "every": 4, "anneal": 20, "seed": 3, "n_workers": 1, "folder": tmp_path}
    chains = run_chains(32, 300, 2, **how)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = run_chains(32, 300, 2, **how)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before and len(before) == 2
    assert all((a.occupation == b.occupation).all() for a, b in zip(chains, again, strict=True))
    assert (chains[0].occupation != chains[1].occupation).any()
    assert chains[0].occupation.shape == (10, 32) and 0 < chains[0].accepted < 1
    lifted = [chains[0], type(chains[0])(chains[0].occupation, chains[0].energy + 0.003, 0.1, 1.0)]
    assert trapped(lifted).tolist() == [False, True]


def test_other_sizes_are_refused():
    with pytest.raises(BadInput, match="32, 108, 256 atoms, not 64"):
        FccSites.of(64)
