"""Atoms that were generated too close together are moved apart before anything relaxes them (section 4.3.1)."""

from __future__ import annotations

import numpy as np
from pymatgen.core import Structure

LEAST, WIDENED = 1.5, 1.6  # Å: nearer pairs are moved to this distance
ROUNDS = 100


def close_pairs(structure: Structure, least: float = LEAST) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of atoms, images included, nearer than `least` Å: the two atoms, and the (n, 3) way between them in Å."""
    one, other, image, _ = structure.get_neighbor_list(least, numerical_tol=0, exclude_self=True)
    way = (structure.frac_coords[other] + image - structure.frac_coords[one]) @ structure.lattice.matrix
    forward = (one < other) | ((one == other) & (way @ [1.0, 1e-3, 1e-6] > 0))
    return one[forward], other[forward], way[forward]


def pushed_apart(structure: Structure, rng: np.random.Generator) -> Structure | None:
    """The structure with no two atoms nearer than LEAST; None where ROUNDS do not bring them apart.

    In each round both atoms of every close pair move along the shortest way between them, across the cell's faces if
    need be. (The published code moves one of the two, along the way inside the cell.) Atoms at one place part in a
    random direction.
    """
    moved = structure.copy()
    for _ in range(ROUNDS):
        one, other, way = close_pairs(moved)
        if not len(one):
            return moved
        length = np.linalg.norm(way, axis=1, keepdims=True)
        random = rng.normal(size=way.shape)
        direction = np.where(length > 1e-3, way / np.maximum(length, 1e-3), random)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        half = (WIDENED - length) / 2 * direction
        step = np.zeros((len(moved), 3))
        np.add.at(step, other, half)
        np.add.at(step, one, -half)
        moved = Structure(
            moved.lattice, moved.species, moved.cart_coords + step, coords_are_cartesian=True, to_unit_cell=True
        )
    return None if len(close_pairs(moved)[0]) else moved
