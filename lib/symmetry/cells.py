"""One setting for all crystals: the reduced cell of the primitive lattice, right-handed.

Any cell of a crystal describes it, but not any will do: a conventional one has more atoms than a model takes, in a cell
that is not reduced the nearest image need not be that of the rounded difference, and from lengths and angles alone a
cell is built again right-handed: of a left-handed one that makes the mirror image, P3_221 (154) of quartz P3_121 (152).
"""

import math

import numpy as np
import spglib
from pymatgen.core import Lattice, Structure
from spglib.error import SpglibError

from lib.core.errors import BadInput

MIN_VOLUME_PER_ATOM = 1.0  # Å^3; what leaves its atoms less is no cell of a crystal
SETTING = "reduced (Niggli), primitive, right-handed"  # of :func:`standard_cell`
SYMPREC = 0.01  # Å, spglib's tolerance for relaxed crystals
LOOSE_SYMPREC = 0.1  # Å, for structures fresh from a model: at 0.01 Å they are P1, whatever they were meant to be


def cell_parameters(lattice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (n, 3) in Å and angles alpha, beta, gamma (n, 3) in radians of lattices (n, 3, 3)."""
    lengths = np.linalg.norm(lattice, axis=-1)
    unit = lattice / lengths[..., None]
    cosines = np.stack([np.sum(unit[:, i] * unit[:, j], axis=-1) for i, j in ((1, 2), (0, 2), (0, 1))], axis=-1)
    return lengths, np.arccos(np.clip(cosines, -1, 1))


def lattice_from_parameters(lengths: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Lattices (n, 3, 3) with a along x and b in the xy plane; nan where the angles span no cell."""
    alpha, beta, gamma = np.cos(angles).T
    sin_gamma = np.sin(angles[:, 2])
    with np.errstate(invalid="ignore", divide="ignore"):
        cy = (alpha - beta * gamma) / sin_gamma
        cz = np.sqrt(1 - beta**2 - cy**2)
    zero, one = np.zeros_like(alpha), np.ones_like(alpha)
    rows = [[one, zero, zero], [gamma, sin_gamma, zero], [beta, cy, cz]]
    return np.stack([np.stack(r, -1) for r in rows], axis=1) * lengths[..., None]


def right_handed(lattice: np.ndarray, frac_coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same atoms (n, 3) in right-handed axes (3, 3), rows in Å: of left-handed ones all three are reversed."""
    hand = -1.0 if np.linalg.det(lattice) < 0 else 1.0
    return hand * lattice, hand * frac_coords


def reduced(lattice: np.ndarray, frac_coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same atoms in the lattice's right-handed Niggli cell (Grosse-Kunstleve et al. 10.1107/S010876730302186X).

    They are left as they are where they are in it already, or where there is none, as of a flat cell.
    """
    lattice, frac_coords = right_handed(lattice, frac_coords)
    try:
        niggli = spglib.niggli_reduce(lattice)
    except SpglibError:  # raised or None returned, as whoever imported spglib has set it
        niggli = None
    if niggli is None or np.linalg.matrix_rank(lattice) < 3:
        return lattice, frac_coords
    change = np.round(niggli @ np.linalg.inv(lattice))
    if (change == np.eye(3)).all():
        return lattice, frac_coords
    return change @ lattice, frac_coords @ np.linalg.inv(change)


def standard_cell(
    lattice: np.ndarray, frac_coords: np.ndarray, species: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lattice, fractional coordinates and atomic numbers of the crystal's reduced, primitive, right-handed cell.

    The atoms stay where they are in space, but for SYMPREC, within which translations are looked for.
    """
    lattice, frac_coords = right_handed(lattice, frac_coords)
    if _may_be_smaller(lattice, frac_coords, species):
        try:
            found = spglib.standardize_cell((lattice, frac_coords, species), True, True, SYMPREC)
        except SpglibError:
            found = None
        if found is not None and len(found[2]) < len(species):
            lattice, frac_coords, species = found
    return *reduced(lattice, frac_coords), species


def _may_be_smaller(lattice: np.ndarray, frac_coords: np.ndarray, species: np.ndarray) -> bool:
    """False where no translation carries every atom to within a few SYMPREC of one of its element: it is primitive."""
    kinds, counts = np.unique(species, return_counts=True)
    if math.gcd(*counts.tolist()) == 1:
        return False
    fewest = frac_coords[species == kinds[counts.argmin()]]
    other = species[:, None] != species
    for move in fewest[1:] - fewest[0]:
        apart = frac_coords[:, None] + move - frac_coords
        distance = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=-1) + other
        if (distance.min(axis=1) < 5 * SYMPREC).all():
            return True
    return False


def space_group_of(structure: Structure, name: str = "the structure") -> int:
    """The number of the space group after spglib, symprec 0.01 Å. Raises BadInput if there is none, as where two atoms
    sit in one place."""
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    if not all(np.isfinite(array).all() for array in cell):  # spglib would end the process
        raise BadInput(f"the cell or the coordinates of {name} are no finite numbers; correct them")
    try:
        found = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
    except SpglibError:  # raised or None returned, as whoever imported spglib has set it
        found = None
    if found is None:
        raise BadInput(f"spglib finds no space group for {name}; look for atoms that coincide or a flat cell")
    return int(found.number)


def standardised(structure: Structure) -> Structure:
    """The same crystal in its reduced, primitive, right-handed cell: :func:`standard_cell`."""
    cell = (structure.lattice.matrix, structure.frac_coords, np.array(structure.atomic_numbers))
    lattice, frac_coords, species = standard_cell(*cell)
    return Structure(Lattice(lattice), species.tolist(), frac_coords)
