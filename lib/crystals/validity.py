"""Whether a structure is a crystal to go on with: numbers, volume and distances; and its space group."""

from collections.abc import Iterable

import numpy as np
from ase.data import covalent_radii
from pymatgen.core import Structure

from lib.core.workers import progress
from lib.symmetry.cells import LOOSE_SYMPREC, SYMPREC

SYMPRECS = (SYMPREC, LOOSE_SYMPREC)
NO_STRUCTURE = "no structure"
MIN_VOLUME, MAX_VOLUME = 1.0, 1e6  # Å^3 a cell; pymatgen's cell reduction fails for much larger ones
OVERLAP_DISTANCE = 0.5  # Å; closer atoms, or an atom and its own image, overlap
MIN_DISTANCE_BEFORE = 0.6  # sums of two covalent radii; of a structure fresh from a model, which relaxation may mend
MIN_DISTANCE_AFTER = 0.7  # of a relaxed one; the embedded set's crystals have 0.7 at the very least
VOLUME_WINDOW = (0.6, 1.6)  # of the volume the elements take in the data


def flaw(structure: Structure | None) -> str:
    """Why a structure is no crystal to compare, or "" where it is one."""
    if structure is None:
        return NO_STRUCTURE
    if not (np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()):
        return "non-finite numbers"
    if not MIN_VOLUME < structure.volume < MAX_VOLUME:
        return f"cell volume not between {MIN_VOLUME:g} and {MAX_VOLUME:g} Å^3"
    if shortest_vector(structure) < OVERLAP_DISTANCE or not structure.is_valid(OVERLAP_DISTANCE):
        return f"atoms closer than {OVERLAP_DISTANCE:g} Å"
    return ""


def shortest_vector(structure: Structure) -> float:
    """Length of the shortest vector of a structure's lattice, Å."""
    return min(structure.lattice.get_lll_reduced_lattice().abc)


def reason_invalid(structure: Structure | None, volumes: np.ndarray, min_distance: float = MIN_DISTANCE_BEFORE) -> str:
    """Why a structure is no crystal to go on with, or "".

    Args:
        structure: None where the model's numbers make no cell.
        volumes: (119,) Å^3 an atom of each element takes (:func:`lib.crystals.table.atomic_volumes`).
        min_distance: in sums of two covalent radii (Cordero et al., 10.1039/b801115j).
    """
    if structure is None:
        return "no valid cell"
    numbers = np.array(structure.atomic_numbers)
    if not VOLUME_WINDOW[0] < structure.volume / volumes[numbers].sum() < VOLUME_WINDOW[1]:
        return "volume outside the window"  # asked first: the neighbour list of a crushed cell is endless
    if flaw(structure):
        return "atoms too close"
    radii = covalent_radii[numbers]
    one, other, _, distances = structure.get_neighbor_list(2 * min_distance * radii.max())
    return "atoms too close" if (distances < min_distance * (radii[one] + radii[other])).any() else ""


def reason_unusable(failure: str, relaxed: Structure, volumes: np.ndarray) -> str:
    """Why a relaxation gave no crystal to go on with: its own failure, else :func:`reason_invalid`; "" where it did."""
    return failure or reason_invalid(relaxed, volumes, MIN_DISTANCE_AFTER)


def obtained_space_group(structure: Structure, symprec: float) -> int:
    """Space group at a tolerance in Å; P1 where spglib finds none, as with a tolerance near the atoms' distances."""
    from pymatgen.symmetry.analyzer import SymmetryUndeterminedError

    if not (np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()):
        return 1  # spglib would end the process
    try:
        return structure.get_space_group_info(symprec)[1]
    except (SymmetryUndeterminedError, TypeError, ValueError):
        return 1


def space_groups(structures: Iterable[Structure | None]) -> dict[str, list[int]]:
    """Columns group_0.01 and group_0.1: space groups at these symprec (Å), 0 where there is no structure."""
    found = [[obtained_space_group(s, x) if s else 0 for x in SYMPRECS] for s in progress(structures, desc="symmetry")]
    return {f"group_{symprec:g}": [row[i] for row in found] for i, symprec in enumerate(SYMPRECS)}
