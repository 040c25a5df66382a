"""Space groups as tensors of symmetry operations (paper section 2.1), and which compositions they can hold."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from lib.run import BadInput

Coordinates = TypeVar("Coordinates")  # numpy's or torch's
N_SPACE_GROUPS = 230
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


@functools.cache
def lattice_points(space_group: int) -> int:
    """Lattice points per conventional cell: 1 (P), 2 (A, C, I), 3 (R in hexagonal axes) or 4 (F).

    Raises:
        BadInput: there is no such space group.
    """
    operations = symmetry_operations()[checked_space_group(space_group)]
    return int((operations[:, :3, :3] == np.eye(3)).all(axis=(1, 2)).sum())


def wyckoff_allows(space_group: int, counts: Sequence[int]) -> bool:
    """Whether Wyckoff positions of the group can hold so many atoms of each element in one primitive cell.

    A position without free parameters is a set of points in space, so it is occupied once at most, by one element; one
    with a free parameter can be occupied any number of times. Multiplicities, tabulated for the conventional cell, are
    divided by its lattice points, because the data hold primitive cells: rock salt is `wyckoff_allows(225, [1, 1])`.
    It is a necessary condition: atoms on the positions found may have a higher symmetry than was asked for.

    Args:
        space_group: 1 to 230.
        counts: atoms of each element in the primitive cell.

    Raises:
        BadInput: there is no such space group, or a count is not a positive whole number.
    """
    checked_space_group(space_group)
    if not len(counts) or any(count < 1 or count != int(count) for count in counts):
        raise BadInput(f"atom counts {list(counts)} are not positive whole numbers; give those of one primitive cell")
    return _allows(int(space_group), tuple(sorted(map(int, counts), reverse=True)))


@functools.cache
def _allows(space_group: int, counts: tuple[int, ...]) -> bool:
    fixed, free = wyckoff_multiplicities(space_group)
    return _fits(counts, tuple(sorted(Counter(fixed).items())), tuple(sorted(set(free))))


@functools.cache
def wyckoff_multiplicities(space_group: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Multiplicities per primitive cell of the positions without and with free parameters.

    Raises:
        BadInput: there is no such space group.
    """
    from pymatgen.analysis.prototypes import WYCKOFF_MULTIPLICITY_DICT, WYCKOFF_POSITION_PARAM_DICT

    points = lattice_points(space_group)
    multiplicity, parameters = (
        table[str(space_group)] for table in (WYCKOFF_MULTIPLICITY_DICT, WYCKOFF_POSITION_PARAM_DICT)
    )
    fixed = tuple(n // points for letter, n in multiplicity.items() if parameters[letter] == 0)
    free = tuple(n // points for letter, n in multiplicity.items() if parameters[letter] > 0)
    return fixed, free


@functools.cache
def _fits(counts: tuple[int, ...], fixed: tuple[tuple[int, int], ...], free: tuple[int, ...]) -> bool:
    """Whether the first element fits some choice of the fixed positions left, and the others what then remains."""
    if not counts:
        return True
    return any(
        _fits(counts[1:], left, free)
        for taken, left in _choices(counts[0], fixed)
        if _is_sum_of(counts[0] - taken, free)
    )


def _choices(count: int, fixed: tuple[tuple[int, int], ...]):
    """Ways to take up to `count` atoms from (multiplicity, number of positions) pairs: (atoms taken, pairs left)."""
    if not fixed:
        yield 0, ()
        return
    (multiplicity, available), others = fixed[0], fixed[1:]
    for used in range(min(available, count // multiplicity) + 1):
        for taken, left in _choices(count - used * multiplicity, others):
            yield taken + used * multiplicity, ((multiplicity, available - used), *left)


@functools.cache
def _is_sum_of(count: int, parts: tuple[int, ...]) -> bool:
    """Whether a number is a sum of the parts, each used any number of times."""
    return count == 0 or any(_is_sum_of(count - part, parts) for part in parts if part <= count)
