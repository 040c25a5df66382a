"""Space groups as tensors of symmetry operations (paper section 2.1), and their subgroups."""

import functools
from typing import TypeVar

import numpy as np

from lib.core.errors import BadInput

Coordinates = TypeVar("Coordinates")  # numpy's or torch's
N_SPACE_GROUPS = 230
MAX_OPERATIONS = 192


@functools.cache
def symmetry_operations() -> np.ndarray:
    """Symmetry operations of all space groups in their conventional setting (spglib's default for each group).

    Operations of a group are sorted by the entries of their matrices, so their order depends on nothing else. They are
    (231, 192, 4, 4) float32 affine matrices, row = space group, translations in [0, 1); a group of fewer than 192
    operations is padded with zeros, and row 0 is zero. The array is shared and read-only.
    """
    import spglib

    table = np.zeros((N_SPACE_GROUPS + 1, MAX_OPERATIONS, 4, 4), dtype=np.float32)
    settings: dict[int, int] = {}  # the first of each group's: unique axis b, origin choice 1, hexagonal axes
    for hall_number in range(1, 531):
        settings.setdefault(spglib.get_spacegroup_type(hall_number).number, hall_number)
    for number, hall_number in settings.items():
        database = spglib.get_symmetry_from_database(hall_number)
        operations = np.zeros((len(database["rotations"]), 4, 4))
        operations[:, :3, :3] = database["rotations"]
        # every translation of the conventional settings is a multiple of 1/12
        operations[:, :3, 3] = np.round(database["translations"] * 12) % 12 / 12
        operations[:, 3, 3] = 1
        flat = operations.reshape(len(operations), 16)
        table[number, : len(operations)] = operations[np.lexsort(flat.T[::-1])]
    table.flags.writeable = False
    return table


def into_cell(frac_coords: Coordinates) -> Coordinates:
    """Fractional coordinates, an array or a tensor, moved into [0, 1): once is not enough, as -1e-9 % 1 rounds to 1."""
    return frac_coords % 1 % 1


def checked_space_group(number: int) -> int:
    """The number itself, if there is such a space group. Raises BadInput if it is not between 1 and 230."""
    if not 1 <= number <= N_SPACE_GROUPS:
        raise BadInput(f"space group {number} does not exist; give a number from 1 to {N_SPACE_GROUPS}")
    return int(number)


@functools.cache
def subgroups(space_group: int) -> frozenset[int]:
    """The other space group types among a group's subgroups, at any index: chains of pymatgen's maximal subgroups.

    Subgroups that lose translations count (P4/mmm is one of Im-3m), so that two types can each contain the other.
    """
    from pymatgen.symmetry.groups import SYMM_DATA

    maximal, found, new = SYMM_DATA["maximal_subgroups"], set(), {checked_space_group(space_group)}
    while new:
        new = {below for group in new for below in maximal[str(group)]} - found
        found |= new
    return frozenset(found - {space_group})
