"""Space groups as tensors of symmetry operations (paper section 2.1), and their subgroups."""

from __future__ import annotations

import difflib
import functools
import re
from typing import TypeVar

import numpy as np

from lib.core.errors import BadInput

Coordinates = TypeVar("Coordinates")  # numpy's or torch's
N_SPACE_GROUPS = 230
FIRST_CUBIC = 195
MAX_OPERATIONS = 192


@functools.cache
def symmetry_operations() -> np.ndarray:
    """Symmetry operations of all space groups in their conventional setting (spglib's default for each group).

    Operations of a group are sorted by the entries of their matrices, so their order depends on nothing else.

    Returns:
        (231, 192, 4, 4) float32 affine matrices, row = space group, translations in [0, 1); a group of fewer than 192
        operations is padded with zeros, and row 0 is zero. The array is shared and read-only.
    """
    import spglib

    table = np.zeros((N_SPACE_GROUPS + 1, MAX_OPERATIONS, 4, 4), dtype=np.float32)
    for number, hall_number in _default_hall_numbers().items():
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


def _default_hall_numbers() -> dict[int, int]:
    """The first of spglib's 530 settings of each space group: unique axis b, origin choice 1, hexagonal axes."""
    import spglib

    first: dict[int, int] = {}
    for hall_number in range(1, 531):
        first.setdefault(spglib.get_spacegroup_type(hall_number).number, hall_number)
    return first


def into_cell(frac_coords: Coordinates) -> Coordinates:
    """Fractional coordinates, an array or a tensor, moved into [0, 1): once is not enough, as -1e-9 % 1 rounds to 1."""
    return frac_coords % 1 % 1


def checked_space_group(number: int) -> int:
    """The number itself, if there is such a space group.

    Raises:
        BadInput: it is not between 1 and 230.
    """
    if not 1 <= number <= N_SPACE_GROUPS:
        raise BadInput(f"space group {number} does not exist; give a number from 1 to {N_SPACE_GROUPS}")
    return int(number)


def space_group_number(word: str) -> int:
    """The space group that a word names: its number, or its Hermann-Mauguin symbol such as Fm-3m, P6_3/mmc or Pbnm.

    Symbols of all 530 settings of International Tables A are known, short, full and, of cubic groups, without the bar
    as they were written before 1983 (Fm3m); capitals, blanks and underscores do not count, nor does what follows a
    colon. The setting itself is not heeded: Pbnm is group 62 as Pnma is.

    Raises:
        BadInput: there is no such group.
    """
    if re.fullmatch(r"\s*\d+\s*", word):
        return checked_space_group(int(word))
    symbols = _symbols()
    written = _plain(word.partition(":")[0])
    if written in symbols:
        return symbols[written]
    near = difflib.get_close_matches(written, symbols, n=1)
    hint = f"; is it group {symbols[near[0]]}, {near[0].capitalize()}?" if near else ""
    raise BadInput(
        f"space group {word.strip()!r} is neither a number from 1 to {N_SPACE_GROUPS} nor a symbol such as Fm-3m{hint}"
    )


def _plain(symbol: str) -> str:
    return re.sub(r"[\s_]", "", symbol).casefold()


@functools.cache
def _symbols() -> dict[str, int]:
    """Number of the group of each symbol as :func:`_plain` leaves it."""
    import spglib

    found: dict[str, int] = {}
    for hall_number in range(1, 531):
        kind = spglib.get_spacegroup_type(hall_number)
        several = [kind.international_short, kind.international_full, *kind.international.split("=")]
        found |= {_plain(symbol): kind.number for symbol in several}
    older = {symbol.replace("-3", "3"): number for symbol, number in found.items() if number >= FIRST_CUBIC}
    return older | found


@functools.cache
def subgroups(space_group: int) -> frozenset[int]:
    """The other space group types among a group's subgroups, at any index: chains of pymatgen's maximal subgroups.

    Subgroups that lose translations count (P4/mmm is one of Im-3m), so that two types can each contain the other.

    Raises:
        BadInput: there is no such space group.
    """
    from pymatgen.symmetry.groups import SYMM_DATA

    maximal, found, new = SYMM_DATA["maximal_subgroups"], set(), {checked_space_group(space_group)}
    while new:
        new = {below for group in new for below in maximal[str(group)]} - found
        found |= new
    return frozenset(found - {space_group})
