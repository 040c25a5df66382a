"""Voronoi cells of the atoms of a periodic structure, from one tessellation of the atoms and the images around them.

A face is exact if every vertex of its cell lies within REACH / 2 of the atom, as atoms beyond REACH then cannot cut it.
A cell that reaches further, as at a surface, is made of the atoms within REACH alone, or of twice as many Å until it
is closed: those are the cells of pymatgen's `VoronoiNN`, which makes a tessellation for each atom.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from numba import njit
from scipy.spatial import QhullError, Voronoi

from lib.core.errors import BadInput

REACH = 7.0  # Å, of CrystalNN
WIDER = 3  # times that the reach is doubled for an open cell


@dataclass(frozen=True)
class Faces:
    """Faces of Voronoi cells, those of one atom after those of another.

    Attributes:
        atom, neighbour: (F,) indices of the atoms on the two sides.
        vector: (F, 3) from the atom to the neighbour's image, Å.
        solid_angle: (F,) of the face, seen from the atom.
        area: (F,) Å^2.
    """

    atom: np.ndarray
    neighbour: np.ndarray
    vector: np.ndarray
    solid_angle: np.ndarray
    area: np.ndarray


def voronoi_faces(lattice: np.ndarray, frac_coords: np.ndarray) -> Faces:
    """Every face of every atom's cell.

    Args:
        lattice: (3, 3) rows in Å.
        frac_coords: (n, 3).

    Raises:
        BadInput: two atoms coincide, a number is not finite, or a cell is open however many atoms it is made of.
    """
    n = len(frac_coords)
    if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()):
        raise BadInput("a structure has coordinates that are not finite; leave it out")
    points, index = _images(lattice, frac_coords - np.floor(frac_coords), REACH)
    parts, closed = _faces_of(points, index, np.arange(n), REACH / 2)
    parts = [part[closed[parts[0]]] for part in parts]
    for atom in np.flatnonzero(~closed):
        alone = _cell_of(lattice, frac_coords, atom)
        parts = [np.concatenate(pair) for pair in zip(parts, alone, strict=True)]
    order = np.argsort(parts[0], kind="stable")
    return Faces(*(part[order] for part in parts))


def _images(lattice: np.ndarray, frac_coords: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the atoms, which lie in the cell, and of their images within `reach` of it; and which atoms."""
    margin = reach * np.linalg.norm(np.linalg.inv(lattice), axis=0)  # fractional
    steps = [np.arange(-np.ceil(m), np.ceil(m) + 1) for m in margin]
    shifts = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    shifts = shifts[np.argsort(np.abs(shifts).sum(1), kind="stable")]  # the cell itself comes first
    moved = (frac_coords + shifts[:, None]).reshape(-1, 3)
    near = ((moved > -margin) & (moved < 1 + margin)).all(1)
    return moved[near] @ lattice, np.tile(np.arange(len(frac_coords)), len(shifts))[near]


def _faces_of(points: np.ndarray, index: np.ndarray, centres: np.ndarray, within: float) -> tuple[list, np.ndarray]:
    """Faces of the cells around some points, as :class:`Faces` has them, and which of the cells are closed."""
    if len(np.unique(points.round(6), axis=0)) < len(points):
        raise BadInput("two atoms of a structure stand at one place; move them apart or leave it out")
    tessellation = Voronoi(points)
    ends = np.concatenate([tessellation.ridge_points, tessellation.ridge_points[:, ::-1]])
    place = np.full(len(points), -1)
    place[centres] = np.arange(len(centres))
    used = np.flatnonzero(place[ends[:, 0]] >= 0)
    ridges = tessellation.ridge_vertices
    n_vertices = np.fromiter(map(len, ridges), int, len(ridges))
    start = np.concatenate([[0], np.cumsum(n_vertices)])
    vertices = np.fromiter(chain.from_iterable(ridges), int, start[-1])
    here, there = points[ends[used, 0]], points[ends[used, 1]]
    face = used % len(ridges)
    angle, area, far = _measure(here, there, tessellation.vertices, vertices, start[face], n_vertices[face])
    closed = np.bincount(place[ends[used, 0]], minlength=len(centres)) > 0
    closed[place[ends[used[~((far <= within) & np.isfinite(far))], 0]]] = False
    return [index[ends[used, 0]], index[ends[used, 1]], there - here, angle, area], closed


def _cell_of(lattice: np.ndarray, frac_coords: np.ndarray, atom: int) -> list[np.ndarray]:
    """Faces of one cell, made of the atoms within REACH, or twice that until it is closed."""
    inside = frac_coords - np.floor(frac_coords)
    for reach in REACH * 2.0 ** np.arange(WIDER + 1):
        points, index = _images(lattice, inside, reach)
        distance = np.linalg.norm(points - points[atom], axis=1)
        chosen = np.flatnonzero(distance <= reach)
        chosen = chosen[np.argsort(distance[chosen], kind="stable")]  # the atom itself comes first
        try:
            parts, closed = _faces_of(points[chosen], index[chosen], np.arange(1), np.inf)
        except QhullError:  # too few points, or all in a plane
            continue
        if closed.all():
            return parts
    raise BadInput(f"atom {atom} has no neighbours on one side within {reach:.0f} Å; give a structure that is periodic")


@njit(cache=True)
def _dot(a, b):  # pragma: no cover (compiled)
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True)
def _apart(a, b):  # pragma: no cover (compiled)
    return b[0] - a[0], b[1] - a[1], b[2] - a[2]


@njit(cache=True)
def _measure(here, there, positions, vertices, start, count):  # pragma: no cover (compiled)
    """Solid angle (van Oosterom and Strackee, 10.1109/TBME.1983.325207), area, and distance of the farthest vertex,
    infinite where the face is open."""
    n = len(start)
    angle, area, far = np.zeros(n), np.zeros(n), np.zeros(n)
    for f in range(n):
        for i in range(count[f]):
            v = vertices[start[f] + i]
            away = _apart(here[f], positions[v])
            far[f] = max(far[f], np.sqrt(_dot(away, away))) if v >= 0 else np.inf
        if far[f] == np.inf:
            continue
        a, volume = _apart(here[f], positions[vertices[start[f]]]), 0.0
        for i in range(start[f] + 1, start[f] + count[f] - 1):
            b, c = _apart(here[f], positions[vertices[i]]), _apart(here[f], positions[vertices[i + 1]])
            across = b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0]
            triple = abs(_dot(a, across))
            la, lb, lc = np.sqrt(_dot(a, a)), np.sqrt(_dot(b, b)), np.sqrt(_dot(c, c))
            ab, bc, ca = _dot(a, b), _dot(b, c), _dot(c, a)
            angle[f] += 2 * np.arctan2(triple, la * lb * lc + ab * lc + bc * la + ca * lb)
            volume += triple / 6
        between = _apart(here[f], there[f])
        area[f] = 6 * volume / np.sqrt(_dot(between, between))  # 3 V / height of the pyramid
    return angle, area, far
