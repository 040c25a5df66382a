"""One crystal laid over another: what pymatgen's StructureMatcher looks for, found once for several tolerances.

`StructureMatcher` reduces both structures to primitive Niggli cells, lists the bases of the first lattice that resemble
the cell of the second, and for each of them and each translation that brings a pair of atoms together assigns atoms to
atoms. Asked three times with different tolerances it does nearly all of that three times. :class:`Overlay` does it once
with the widest and in arrays. Its answers are those of pymatgen (Ong et al., 10.1016/j.commatsci.2012.10.028): what it
leaves out cannot change them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pymatgen.core import Lattice, Structure
from pymatgen.util.coord_cython import is_coord_subset_pbc, pbc_shortest_vectors
from scipy.optimize import linear_sum_assignment

SAME = 1e-5  # a root mean square below this is not improved upon
AT_ONCE = 10**6  # memory, not time
PRIMITIVE = 0.25  # Å, get_primitive_structure's tolerance


@dataclass(frozen=True)
class Tolerances:
    """pymatgen's ltol (relative), stol (of (V/n)^(1/3)) and angle_tol (degrees)."""

    lengths: float
    sites: float
    angles: float


@dataclass(frozen=True)
class Cell:
    """A primitive cell: lattice (3, 3) in Å, atomic numbers (n,), fractional coordinates (n, 3)."""

    lattice: np.ndarray
    species: np.ndarray
    frac_coords: np.ndarray

    def scaled(self, factor: float) -> Cell:
        """The same with every length multiplied."""
        return Cell(self.lattice * factor, self.species, self.frac_coords)


def reduced_cell(structure: Structure) -> Cell:
    """The primitive Niggli cell that pymatgen compares; raises what pymatgen raises for cells that it cannot reduce."""
    structure = structure.get_reduced_structure()
    if _may_be_smaller(structure):
        structure = structure.get_primitive_structure()
    return Cell(structure.lattice.matrix, np.array(structure.atomic_numbers), structure.frac_coords)


def primitive_cell(structure: Structure) -> Cell:
    """The same crystal as :func:`reduced_cell`'s, in a basis that takes less time to find."""
    if math.gcd(*Counter(structure.atomic_numbers).values()) > 1:  # the tolerance for translations knows the basis
        return reduced_cell(structure)
    lattice = structure.lattice.get_lll_reduced_lattice()
    frac_coords = lattice.get_fractional_coords(structure.cart_coords)
    return Cell(lattice.matrix, np.array(structure.atomic_numbers), frac_coords)


def _may_be_smaller(structure: Structure) -> bool:
    """False where `get_primitive_structure` is sure to find no smaller cell: it looks for translations that carry every
    atom to within 0.5 Å along each axis of another, and for cells that they span to within 0.25 Å.
    """
    symbols = np.array([site.species_string for site in structure])
    kinds, counts = np.unique(symbols, return_counts=True)
    n_cells = math.gcd(*counts.tolist())
    if n_cells == 1:
        return False
    tolerance = PRIMITIVE / np.array(structure.lattice.abc)
    if tolerance.max() * n_cells > 1:  # so rough that no translation at all would do
        return True
    groups = [structure.frac_coords[symbols == kind] for kind in kinds]
    fewest = groups[counts.argmin()]
    moves = fewest[1:] - fewest[0]
    for group in groups:
        difference = moves[:, None, None] + group[:, None] - group
        difference -= np.round(difference)
        moves = moves[(np.abs(difference) < 2.001 * tolerance).all(-1).any(-1).all(-1)]
    return len(moves) > 0


class Overlay:
    """The ways to lay one crystal over another of the same reduced composition.

    Args:
        first: its bases are looked through; which one it is given in makes no difference.
        second: :func:`reduced_cell`.
        widest: tolerances that no later question exceeds.
    """

    def __init__(self, first: Cell, second: Cell, widest: Tolerances) -> None:
        self.as_given, self.widest = (first, second), widest
        factor = (_volume(second.lattice) / _volume(first.lattice)) ** (1 / 6)
        self.at_one_volume = first.scaled(factor), second.scaled(1 / factor)
        self.bases = np.empty((0, 3, 3))
        if len(first.species) == len(second.species):
            self.bases = similar_bases(*(cell.lattice for cell in self.at_one_volume), widest)

    def least_rms(self) -> float | None:
        """Smallest root mean square displacement in units of (V/n)^(1/3) within the widest tolerances, at one volume.

        `StructureMatcher.get_rms_dist(first, second)[0]`; None where that is None.
        """
        least, best = math.inf, 0
        for basis, distances in _superpositions(*self.at_one_volume, self.bases, self.widest.sites):
            rms = math.sqrt(distances @ distances / len(distances))
            if rms < least:
                least, best = rms, basis
                if rms < SAME:
                    break
        self.bases = np.roll(self.bases, -best, axis=0)  # what fits best is tried first hereafter
        return least if least < self.widest.sites else None

    def fits(self, tolerances: Tolerances, *, at_one_volume: bool = True) -> bool:
        """`StructureMatcher(..., scale=at_one_volume).fit(first, second)`."""
        first, second = self.at_one_volume if at_one_volume else self.as_given
        bases = self.bases[are_similar(self.bases @ first.lattice, second.lattice, tolerances)]
        return any(d.max() < tolerances.sites for _, d in _superpositions(first, second, bases, tolerances.sites))


def similar_bases(lattice: np.ndarray, target: np.ndarray, tolerances: Tolerances) -> np.ndarray:
    """(M, 3, 3) whole-numbered changes of basis after which `lattice` is like `target`: `Lattice.find_all_mappings`."""
    lengths, angles = _lengths_and_angles(target[None])
    lengths, (alpha, beta, gamma) = lengths[0], angles[0]
    longest = 1 + tolerances.lengths
    points, distance, _, _ = Lattice(lattice).get_points_in_sphere(
        [[0, 0, 0]], [0, 0, 0], lengths.max() * longest, zip_results=False
    )
    of_length = [points[(distance / length < longest) & (distance / length > 1 / longest)] for length in lengths]
    a, b, c = (rows @ lattice for rows in of_length)
    is_alpha, is_beta, is_gamma = (
        np.abs(_angles(u, v) - angle) <= tolerances.angles
        for u, v, angle in ((b, c, alpha), (a, c, beta), (a, b, gamma))
    )
    found = []
    rows = max(1, AT_ONCE // max(1, len(b) * len(c)))
    for i in range(0, len(a), rows):
        part = slice(i, i + rows)
        found.append(np.argwhere(is_gamma[part, :, None] & is_beta[part, None, :] & is_alpha) + [i, 0, 0])
    i, j, k = np.concatenate(found).T if found else np.empty((3, 0), int)
    bases = np.stack([of_length[0][i], of_length[1][j], of_length[2][k]], axis=1)
    return bases[np.abs(np.abs(np.linalg.det(bases)) - 1) < 0.5]


def are_similar(lattices: np.ndarray, target: np.ndarray, tolerances: Tolerances) -> np.ndarray:
    """(M,) which of the lattices (M, 3, 3) have the lengths and angles of `target` (3, 3)."""
    lengths, angles = _lengths_and_angles(lattices)
    target_lengths, target_angles = _lengths_and_angles(target[None])
    ratio, longest = lengths / target_lengths, 1 + tolerances.lengths
    close = (ratio < longest) & (ratio > 1 / longest) & (np.abs(angles - target_angles) <= tolerances.angles)
    return close.all(1)


def _superpositions(first: Cell, second: Cell, bases: np.ndarray, stol: float) -> Iterator[tuple[int, np.ndarray]]:
    """(basis, distances (n,) in units of (V/n)^(1/3) after the best shift) wherever all atoms may find a partner."""
    if not len(bases):
        return
    aligned = bases @ first.lattice
    frac_coords = first.frac_coords @ first.lattice @ np.linalg.inv(aligned)
    frac_coords -= np.floor(frac_coords)
    mean = _mean_lattices(aligned, second.lattice)
    n_sites = len(second.species)
    units = np.cbrt(np.abs(np.linalg.det(mean)) / n_sites)  # Å
    tolerance = 2 * stol * units[:, None] * _plane_density(mean)
    forbidden = (second.species[:, None] != first.species).astype(np.int64)
    rarest = forbidden.sum(1).argmax()
    shifts = frac_coords[:, forbidden[rarest] == 0] - second.frac_coords[rarest]
    metrics: dict[bytes, _Metric] = {}  # a basis and its negative have one
    for basis, coords in enumerate(frac_coords):
        for shift in shifts[basis]:
            moved = second.frac_coords + shift
            if not is_coord_subset_pbc(moved, coords, tolerance[basis], forbidden):
                continue
            key = mean[basis].tobytes()
            metric = metrics.get(key) or metrics.setdefault(key, _Metric(mean[basis], 2 * stol * units[basis]))
            vectors, squares = pbc_shortest_vectors(metric, moved, coords, forbidden, True, metric.tolerance)
            vectors = vectors[linear_sum_assignment(squares)]
            vectors -= vectors.sum(0) / n_sites
            yield basis, np.sqrt(np.einsum("ij,ij->i", vectors, vectors)) / units[basis]


class _Metric:
    """What `pbc_shortest_vectors` asks of a lattice, worked out once instead of at each call.

    Farther than the tolerance, (3,) fractional, no partner is looked for.
    """

    pbc = (True, True, True)

    def __init__(self, lattice: np.ndarray, radius: float) -> None:
        reduced = Lattice(lattice)
        self.matrix = self.lll_matrix = np.array(reduced.lll_matrix)
        self.inverse = reduced.lll_inverse
        self.tolerance = radius * _plane_density(self.matrix)

    def get_lll_frac_coords(self, frac_coords: np.ndarray) -> np.ndarray:
        return frac_coords @ self.inverse


def _mean_lattices(lattices: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(M, 3, 3) lattices whose lengths and angles are the means of those of (M, 3, 3) and (3, 3)."""
    lengths, angles = (
        (x + y) / 2 for x, y in zip(_lengths_and_angles(lattices), _lengths_and_angles(other[None]), strict=True)
    )
    (alpha, beta, gamma), sines = np.cos(np.radians(angles)).T, np.sin(np.radians(angles)).T
    star = np.arccos(((alpha * beta - gamma) / (sines[0] * sines[1])).clip(-1, 1))
    zero, one = np.zeros_like(alpha), np.ones_like(alpha)
    rows = [[sines[1], zero, beta], [-sines[0] * np.cos(star), sines[0] * np.sin(star), alpha], [zero, zero, one]]
    return np.stack([np.stack(row, -1) for row in rows], axis=1) * lengths[:, :, None]


def _lengths_and_angles(lattices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M, 3) lengths and (M, 3) angles alpha, beta, gamma in degrees of (M, 3, 3)."""
    lengths = np.sqrt((lattices**2).sum(-1))
    unit = lattices / lengths[..., None]
    cosines = (unit[:, [1, 0, 0]] * unit[:, [2, 2, 1]]).sum(-1)
    return lengths, np.degrees(np.arccos(cosines.clip(-1, 1)))


def _angles(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(A, B) degrees between vectors (A, 3) and (B, 3)."""
    u, v = (x / np.sqrt((x**2).sum(-1, keepdims=True)) for x in (u, v))
    return np.degrees(np.arccos((u @ v.T).clip(-1, 1)))


def _plane_density(lattices: np.ndarray) -> np.ndarray:
    """(..., 3) lattice planes an Å for (..., 3, 3): lengths of the crystallographic reciprocal lattice."""
    return np.sqrt((np.linalg.inv(lattices) ** 2).sum(-2))


def _volume(lattice: np.ndarray) -> float:
    return abs(float(np.linalg.det(lattice)))
