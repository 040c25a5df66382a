"""Symmetry operations against pymatgen's own tables, and Wyckoff positions against real structures."""

import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spglib
from pymatgen.analysis.prototypes import WYCKOFF_MULTIPLICITY_DICT, WYCKOFF_POSITION_PARAM_DICT
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.groups import SpaceGroup, sg_symbol_from_int_number

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.crystals.table import CrystalTable
from lib.symmetry.settings import space_group_number
from lib.symmetry.spacegroups import checked_space_group, subgroups, symmetry_operations
from lib.symmetry.wyckoff import assignments, primitive_basis

SHARED = Path(os.environ.get("CRYSTAL_SHARED", ROOT.parent / "shared"))
# the 19 groups of the paper's data and their number of operations (International Tables A)
PAPER_GROUPS = {
    **{6: 2, 8: 4, 10: 4, 12: 8, 25: 4, 35: 8, 44: 8, 47: 8, 65: 16, 71: 16, 99: 8, 119: 16, 123: 16, 129: 16},
    **{139: 32, 160: 18, 166: 36, 216: 96, 225: 192},
}


def lattice_points(space_group: int) -> int:
    """Per conventional cell: what the primitive one is a fraction of."""
    return round(1 / np.linalg.det(primitive_basis(space_group)))


def tabulated_multiplicities(space_group: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Per primitive cell, of the positions without and with free parameters, by pymatgen's table."""
    letters, free = WYCKOFF_MULTIPLICITY_DICT[str(space_group)], WYCKOFF_POSITION_PARAM_DICT[str(space_group)]
    points = lattice_points(space_group)
    return tuple(tuple(n // points for x, n in letters.items() if (free[x] > 0) == some) for some in (False, True))


def count_operations(space_group: int) -> int:
    return int(symmetry_operations()[space_group, :, 3, 3].sum())


def test_shape_padding_and_dtype():
    operations = symmetry_operations()
    assert operations.shape == (231, 192, 4, 4) and operations.dtype == np.float32
    assert not operations[0].any()
    for group in range(1, 231):
        assert not operations[group, count_operations(group) :].any()
    assert (operations[..., :3, 3] >= 0).all() and (operations[..., :3, 3] < 1).all()


def test_all_230_groups_are_distinct():
    assert len(np.unique(symmetry_operations().reshape(231, -1), axis=0)) == 231


def test_number_of_operations():
    assert {group: count_operations(group) for group in PAPER_GROUPS} == PAPER_GROUPS
    assert {count_operations(group) for group in (221, 225, 229)} == {48, 192, 96}


@pytest.mark.parametrize("group", [*PAPER_GROUPS, 2, 14, 62, 63, 191, 194, 221, 229])
def test_operations_are_those_of_pymatgen(group):
    """pymatgen keeps its own tables, generated independently of spglib."""
    expected = {operation_key(op.affine_matrix) for op in SpaceGroup.from_int_number(group).symmetry_ops}
    ours = {operation_key(op) for op in symmetry_operations()[group, : count_operations(group)]}
    assert ours == expected


def operation_key(matrix: np.ndarray) -> tuple[int, ...]:
    """An affine matrix as whole numbers, translations in twelfths modulo 1."""
    matrix = np.array(matrix, dtype=float)
    return (*np.rint(matrix[:3, :3]).astype(int).ravel(), *(np.rint(matrix[:3, 3] * 12).astype(int) % 12))


@pytest.mark.parametrize("group", [1, 48, 160, 166, 227, 230])
def test_operations_form_a_group(group):
    operations = symmetry_operations()[group, : count_operations(group)].astype(float)
    ours = {operation_key(op) for op in operations}
    generators = operations[:: max(1, len(operations) // 8)]
    assert {operation_key(a @ b) for a, b in itertools.product(generators, operations)} <= ours
    assert operation_key(np.eye(4)) in ours


def test_order_is_sorted_and_does_not_depend_on_the_hash_seed():
    for group in (12, 166, 225):
        flat = symmetry_operations()[group, : count_operations(group)].reshape(-1, 16).tolist()
        assert flat == sorted(flat)
    code = "import zlib; from lib.symmetry.spacegroups import symmetry_operations as operations\n"
    code += "print(zlib.crc32(operations()))"
    sums = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(sums) == 1


def test_the_shared_array_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        symmetry_operations()[1] = 0


def test_lattice_points_follow_the_centring_letter_of_every_group():
    expected = {"P": 1, "A": 2, "C": 2, "I": 2, "R": 3, "F": 4}
    for group in range(1, 231):
        assert lattice_points(group) == expected[sg_symbol_from_int_number(group)[0]]


def test_general_position_has_as_many_atoms_as_operations():
    for group in range(1, 231):
        _, free = tabulated_multiplicities(group)
        assert max(free) * lattice_points(group) == count_operations(group)


def allows(group: int, counts: Sequence[int]) -> bool:
    """Whether Wyckoff positions of the group can hold so many atoms of each element in a primitive cell."""
    return next(assignments(group, counts), None) is not None


@pytest.mark.parametrize(
    ("group", "counts", "crystal"),
    [
        (225, [1, 1], "rock salt"),
        (225, [1, 1, 2], "full Heusler"),
        (216, [1, 1, 1], "half Heusler"),
        (216, [1, 1, 1, 1], "quaternary Heusler"),
        (227, [2], "diamond"),
        (227, [2, 4, 8], "spinel"),
        (221, [1, 1, 3], "perovskite"),
        (229, [1], "bcc"),
        (194, [2], "hcp"),
        (191, [1, 2], "AlB2"),
        (221, [1, 6], "CaB6"),
        (166, [12], "alpha boron"),
        (186, [2, 2], "wurtzite"),
        (62, [4, 4, 12], "GdFeO3 perovskite"),
        (1, [3, 1, 4], "anything fits P1"),
    ],
)
def test_known_crystals_are_allowed(group, counts, crystal):
    assert allows(group, counts), crystal


@pytest.mark.parametrize(
    ("group", "counts", "reason"),
    [
        (225, [1, 1, 1], "a primitive Fm-3m cell has two single sites"),
        (216, [1, 1, 1, 1, 1], "F-43m has four"),
        (227, [1, 1], "Fd-3m has no single site"),
        (194, [1, 1], "P6_3/mmc has no single site"),
        (221, [1, 1, 1], "Pm-3m has two single sites"),
        (230, [1, 1, 6], "Ia-3d starts at eight"),
        (14, [1, 2], "P2_1/c has only even multiplicities"),
        (2, [1] * 9, "P-1 has eight inversion centres"),
        (225, [5, 1], "one, one and two atoms fixed, then six: no five beside another single"),
    ],
)
def test_impossible_compositions_are_refused(group, counts, reason):
    assert not allows(group, counts), reason


def test_order_of_the_elements_does_not_matter():
    for counts in ([1, 1, 6], [1, 2, 5], [2, 1, 5]):
        for group in PAPER_GROUPS:
            assert len({allows(group, c) for c in itertools.permutations(counts)}) == 1


@pytest.mark.parametrize("group", [2, 47, 99, 119, 123, 166, 191, 216, 225, 227])
def test_search_agrees_with_trying_every_assignment(group):
    fixed, free = tabulated_multiplicities(group)
    for counts in [(1,), (3,), (1, 1), (1, 2), (2, 3), (1, 6), (4, 5), (1, 1, 1), (1, 2, 3)]:
        assert allows(group, counts) == by_brute_force(counts, fixed, free), counts


def by_brute_force(counts: tuple[int, ...], fixed: tuple[int, ...], free: tuple[int, ...]) -> bool:
    """Give every fixed position to an element or to none; what is missing must be a sum of free multiplicities."""
    sums = {0}
    for _ in range(max(counts)):
        sums |= {total + part for total in sums for part in free if total + part <= max(counts)}
    for owners in itertools.product(range(len(counts) + 1), repeat=len(fixed)):
        taken = Counter()
        for owner, multiplicity in zip(owners, fixed, strict=True):
            taken[owner] += multiplicity
        if all(count - taken[element] in sums for element, count in enumerate(counts)):
            return True
    return False


@pytest.mark.parametrize("group", [0, 231, -1])
def test_space_groups_that_do_not_exist(group):
    with pytest.raises(BadInput, match=f"space group {group} does not exist.*1 to 230"):
        next(assignments(group, [1, 1]))
    with pytest.raises(BadInput, match="does not exist"):
        checked_space_group(group)


@pytest.mark.slow
def test_real_structures_are_allowed_in_their_own_group():
    """Materials Project structures: their group holds them, position by position."""
    path = SHARED / "data" / "mp_20" / "train.parquet"
    if not path.exists():
        pytest.skip(f"{path} is missing: set CRYSTAL_SHARED to the folder of reference data")
    rows = pd.read_parquet(path).sample(250, random_state=0)
    groups = set()
    for row in rows.itertuples():
        lattice = Lattice.from_parameters(row.a, row.b, row.c, row.alpha, row.beta, row.gamma)
        structure = Structure(lattice, list(row.numbers), np.reshape(row.frac, (-1, 3)))
        cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
        group, positions = occupied_positions(cell)
        primitive = spglib.find_primitive(cell, symprec=0.01)
        assert allows(group, list(Counter(primitive[2].tolist()).values())), (row.material_id, group)
        fixed, free = tabulated_multiplicities(group)
        assert all(n / lattice_points(group) in {*fixed, *free} for n in positions), (row.material_id, group)
        groups.add(group)
    assert len(groups) > 50


def test_embedded_crystals_are_allowed_in_their_own_group():
    table = CrystalTable.from_parquet(ROOT / "lib" / "data" / "embedded.parquet")
    asked = {
        (int(group), tuple(np.unique(table.species_of(i), return_counts=True)[1].tolist()))
        for i, group in enumerate(table.space_group)
    }
    assert len(asked) > 100
    assert not [(group, counts) for group, counts in asked if not allows(group, counts)]


def occupied_positions(cell: tuple) -> tuple[int, list[int]]:
    """Space group, and how many atoms of the conventional cell each orbit has, as spglib finds them."""
    dataset = spglib.get_symmetry_dataset(cell, symprec=0.01)
    standard = (dataset.std_lattice, dataset.std_positions, dataset.std_types)
    orbits = spglib.get_symmetry_dataset(standard, symprec=0.01).crystallographic_orbits
    return dataset.number, list(Counter(orbits.tolist()).values())


def test_subgroups_agree_with_pymatgen_and_tables():
    assert {139, 166, 62, 1} <= subgroups(225) and not {194, 225, 193} & subgroups(225)
    assert 229 not in subgroups(194) and 62 in subgroups(194) and subgroups(1) == frozenset()
    for number in (62, 139, 166, 194):
        group = SpaceGroup(sg_symbol_from_int_number(number))
        other = [n for n in PAPER_GROUPS if n != number and PAPER_GROUPS[n] <= len(group.symmetry_ops)]
        for n in other:
            assert (n in subgroups(number)) == SpaceGroup(sg_symbol_from_int_number(n)).is_subgroup(group), (n, number)


def test_subgroups_of_no_group_are_refused():
    with pytest.raises(BadInput, match="231"):
        subgroups(231)


@pytest.mark.parametrize(
    ("word", "number"),
    [("225", 225), ("Fm-3m", 225), ("F m -3 m", 225), ("Fm3m", 225), ("P6_3/mmc", 194), ("p63/mmc", 194), ("Pbnm", 62)]
    + [("R-3m:H", 166), ("C2/m", 12), ("F 4_1/d -3 2/m", 227), ("Ia-3", 206), ("P1", 1), ("P-1", 2)],
)
def test_a_group_is_named_by_number_or_symbol(word, number):
    assert space_group_number(word) == number


def test_each_group_is_known_by_its_own_symbol():
    from pymatgen.symmetry.groups import sg_symbol_from_int_number

    assert [space_group_number(sg_symbol_from_int_number(g)) for g in range(1, 231)] == list(range(1, 231))


def test_no_group_is_named_by_what_is_none():
    for word in ("Fm-4m", "", "0", "231", "x"):
        with pytest.raises(BadInput):
            space_group_number(word)
    with pytest.raises(BadInput, match="is it group 194"):
        space_group_number("P63/mmmc")
