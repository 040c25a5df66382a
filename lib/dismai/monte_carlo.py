"""Canonical Monte Carlo of the alloy by swaps of atoms (Kawasaki dynamics, section 4.1.1), compiled.

A pass is as many attempted swaps as there are atoms. A chain starts at random, is annealed from ANNEAL_FROM to its
temperature, and is then recorded: started at 300 K, some chains stay in another ordered state, some 3 meV/atom higher.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from lib.core.files import replacing
from lib.core.streams import numpy_stream
from lib.core.workers import do_all
from lib.dismai.alloy import CONSTANT, INTERACTIONS, N_SHELLS, PAIRS, FccSites

BOLTZMANN = 8.617333262e-5  # eV/K
ANNEAL_FROM = 3000.0  # K
TRAPPED = 0.0015  # eV/atom above the lowest chain's mean: another ordered state


@dataclass(frozen=True)
class Chain:
    """What a chain left.

    Attributes:
        occupation: (S, N) snapshots.
        energy: (S,) eV/atom.
        accepted: share of the attempted swaps that were made.
        seconds: that the recorded passes took.
    """

    occupation: np.ndarray
    energy: np.ndarray
    accepted: float
    seconds: float


def couplings() -> np.ndarray:
    """(7, 3, 3) eV of a pair of two elements in each shell."""
    matrix = np.zeros((N_SHELLS, 3, 3))
    for p, (a, b) in enumerate(PAIRS):
        matrix[:, a, b] = matrix[:, b, a] = INTERACTIONS[:, p]
    return matrix


def run_chain(n_atoms: int, temperature: float, passes: int, every: int, anneal: int, seed: int, number: int) -> Chain:
    """One chain: annealed for `anneal` passes, then `passes` more, of which every `every`-th is kept.

    Args:
        temperature: K.
        seed, number: two chains of one seed with different numbers are independent.
    """
    sites, rng = FccSites.of(n_atoms), numpy_stream(seed, "alloy", n_atoms, round(temperature), number)
    occupation = rng.permutation(np.repeat(np.arange(3), sites.composition))
    index, shell = sites.neighbours
    pair = couplings()
    field = _fields(occupation, index, shell, pair)
    classes, of_pair = np.unique(sites.shells.reshape(N_SHELLS, -1).T, axis=0, return_inverse=True)
    of_pair = of_pair.reshape(len(sites), len(sites)).astype(np.int16)
    between = np.einsum("cs,sab->cab", classes, pair)
    rest = (index, shell, pair, of_pair, between, rng)
    kept = np.zeros((0, n_atoms), np.int8)
    _sweep(occupation, field, 1 / (BOLTZMANN * np.geomspace(ANNEAL_FROM, temperature, anneal)), every, kept, *rest)
    kept = np.zeros((passes // every, n_atoms), np.int8)
    started = time.perf_counter()
    accepted = _sweep(occupation, field, np.full(passes, 1 / (BOLTZMANN * temperature)), every, kept, *rest)
    seconds = time.perf_counter() - started
    return Chain(kept, _energies(kept, index, shell, pair), accepted / max(1, passes * n_atoms), seconds)


def run_chains(
    n_atoms: int,
    temperature: float,
    n_chains: int,
    *,
    passes: int,
    every: int,
    anneal: int,
    seed: int,
    n_workers: int,
    folder: Path,
) -> list[Chain]:
    """Several chains in parallel; each is kept in `folder` as soon as it ends, and not run again."""
    name = f"alloy_{n_atoms}_{temperature:g}K_{passes}_{every}_{anneal}_{seed}"
    paths = [folder / f"{name}_{i}.npz" for i in range(n_chains)]
    how = (n_atoms, temperature, passes, every, anneal, seed)
    missing = [(path, *how, i) for i, path in enumerate(paths) if not path.exists()]
    do_all(_kept, missing, n_workers, desc=f"Monte Carlo at {temperature:g} K", unit="chain")
    return [_read(path) for path in paths]


def _kept(path: Path, *how) -> None:
    chain = run_chain(*how)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **vars(chain))


def _read(path: Path) -> Chain:
    with np.load(path) as values:
        return Chain(values["occupation"], values["energy"], float(values["accepted"]), float(values["seconds"]))


def trapped(chains: Sequence[Chain]) -> np.ndarray:
    """Which chains stayed in a state of higher energy than the lowest of them."""
    means = np.array([chain.energy.mean() for chain in chains])
    return means > means.min() + TRAPPED


@njit(cache=True)
def _fields(occupation, index, shell, pair):  # pragma: no cover (compiled)
    """(N, 3) energy of each element on each site with its neighbours."""
    field = np.zeros((len(index), 3))
    for i in range(len(index)):
        for n in range(len(shell)):
            for kind in range(3):
                field[i, kind] += pair[shell[n], kind, occupation[index[i, n]]]
    return field


@njit(cache=True)
def _energies(snapshots, index, shell, pair):  # pragma: no cover (compiled)
    found = np.zeros(len(snapshots))
    for s in range(len(snapshots)):
        field = _fields(snapshots[s], index, shell, pair)
        for i in range(len(index)):
            found[s] += field[i, snapshots[s, i]] / 2  # each pair is seen from both its ends
    return CONSTANT + found / len(index)


@njit(cache=True)
def _sweep(occupation, field, betas, every, kept, index, shell, pair, of_pair, between, rng):  # pragma: no cover
    """Passes at inverse temperatures `betas`, 1/eV; returns how many swaps were made.

    The fields of both sites hold the pair that the two form, which a swap does not change: it is taken out.
    """
    n, made = len(occupation), 0
    for p in range(len(betas)):
        for _ in range(n):
            i, j = int(rng.random() * n), int(rng.random() * n)
            a, b = occupation[i], occupation[j]
            if a == b:
                continue
            w = between[of_pair[i, j]]
            change = field[i, b] - field[i, a] + field[j, a] - field[j, b] - w[a, a] - w[b, b] + 2 * w[a, b]
            if change > 0 and rng.random() >= np.exp(-betas[p] * change):
                continue
            occupation[i], occupation[j] = b, a
            made += 1
            for m in range(len(shell)):
                s = shell[m]
                for kind in range(3):
                    gain = pair[s, kind, b] - pair[s, kind, a]
                    field[index[i, m], kind] += gain
                    field[index[j, m], kind] -= gain
        if (p + 1) % every == 0 and (p + 1) // every <= len(kept):
            kept[(p + 1) // every - 1] = occupation
    return made
