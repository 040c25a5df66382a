"""Settings of space groups: every way to name one gives its operations; a CIF that names it is the crystal it is."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
import spglib
from pymatgen.core import Lattice, Structure
from test_structure_io import cif, operations

from lib.core.errors import BadInput
from lib.crystals.structure_io import read_one
from lib.symmetry import settings

SAMPLE = list(enumerate(gemmi.spacegroup_table()))[:530:23]


def signature(group: gemmi.SpaceGroup) -> frozenset:
    found = spglib.get_symmetry_from_database(spglib_number(group))
    moved = np.round(found["translations"] * 24).astype(int) % 24
    return frozenset(map(tuple, np.hstack([found["rotations"].reshape(-1, 9), moved]).tolist()))


def spglib_number(group: gemmi.SpaceGroup) -> int:
    return next(i for i, other in enumerate(gemmi.spacegroup_table(), 1) if other.xhm() == group.xhm())


@pytest.mark.parametrize(("place", "group"), SAMPLE, ids=[group.xhm() for _, group in SAMPLE])
def test_names_mean_the_operations_of_spglib(place, group):
    """gemmi's tables against spglib's, by name, Hall symbol, list of operations, full name and number."""
    right = signature(group)
    triplets = [operation.triplet() for operation in group.operations()]
    assert settings.by_hall(group.hall).signature == right
    assert settings.by_operations(triplets, "operations").signature == right
    assert [setting.signature for setting in settings.by_name(group.xhm())] == [right]
    full = spglib.get_spacegroup_type(place + 1).international_full
    for several in (settings.by_name(group.hm), settings.by_name(full), settings.by_number(group.number)):
        assert right in [setting.signature for setting in several]
        assert {setting.number for setting in several} == {group.number}


def expected(group: gemmi.SpaceGroup, lattice: np.ndarray, sites: list[tuple[str, tuple]]) -> Structure:
    """The sites under gemmi's operations, one after the other."""
    species, coords = [], []
    for symbol, place in sites:
        own: list[np.ndarray] = []
        for operation in group.operations():
            image = np.array(operation.apply_to_xyz(list(place)))
            apart = [image - other for other in own]
            if all(np.linalg.norm((d - np.round(d)) @ lattice) > 0.1 for d in apart):
                own.append(image)
        species += [symbol] * len(own)
        coords += own
    return Structure(Lattice(lattice), species, coords)


def cell_of(group: gemmi.SpaceGroup, volume: float) -> np.ndarray:
    """A cell that the group's rotations leave alone, and as oblique as they let it be."""
    start = np.array([[1, 0, 0], [0.1, 1.15, 0], [-0.07, 0.12, 1.3]])
    rotations = [np.array(o.rot) / gemmi.Op.DEN for o in group.operations().sym_ops]
    metric = np.mean([rotation.T @ start @ start.T @ rotation for rotation in rotations], axis=0)
    matrix = np.linalg.cholesky(metric)
    return matrix * (volume / np.linalg.det(matrix)) ** (1 / 3)


@pytest.mark.parametrize(("place", "group"), SAMPLE, ids=[group.xhm() for _, group in SAMPLE])
def test_a_cif_that_names_its_setting_is_read_as_it_is_or_refused(place, group):
    sites = [("Mg", (0, 0, 0)), ("O", (0.13, 0.27, 0.41))]
    n = len(expected(group, cell_of(group, 1000), sites))
    lattice = cell_of(group, 500 * n)  # so wide that no two atoms come near
    right = expected(group, lattice, sites)
    atoms = "\n".join(f"{symbol}1 {symbol} {' '.join(map(str, place))}" for symbol, place in sites)
    exact = [
        f"_space_group_name_H-M_alt '{group.xhm()}'",
        f"_space_group_name_Hall '{group.hall}'\n_space_group_IT_number {group.number}",
        operations(*(operation.triplet() for operation in group.operations())),
    ]
    open_ones = [f"_space_group_name_H-M_alt '{group.hm}'"]
    for about in exact + open_ones:
        text = cif(about, atoms, [f"{value:.6f}" for value in Lattice(lattice).parameters])
        try:
            found = read_one(text, "cif", "a.cif")
        except BadInput as error:
            assert about in open_ones and ":1" in str(error) and ":2" in str(error)
            continue
        assert found.composition == right.composition
        apart = found.frac_coords[:, None] - right.frac_coords[None]
        distances = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=2)
        assert distances.min(axis=1).max() < 1e-3


def test_simple_fractions_are_meant_by_their_decimals():
    setting = settings.by_operations(["x,y,z", "x+0.333,y-.6667,Z+ 1/2", "x+1/5,y,z"], "operations")
    np.testing.assert_allclose(setting.translations[1:], [[1 / 3, 1 / 3, 1 / 2], [0.2, 0, 0]])


@pytest.mark.parametrize("triplet", ["a,b,c", "2x,y,z", "x y,z", "x,x,z", "x/2,y,z", "x,y", "1*x,y,z", ""])
def test_operations_that_are_none(triplet):
    with pytest.raises(BadInput, match="operations: the symmetry operation"):
        settings.by_operations(["x,y,z", triplet], "operations")


def test_old_and_short_names():
    said = {
        "P2(1)/c": "P 1 21/c 1", "P 21/b": "P 1 1 21/b", "Fm_-3m": "F m -3 m", "I a 3 d": "I a -3 d",
        "F 4/m -3 2/m": "F m -3 m", "R3m:R": "R 3 m:R", "R -3 c H": "R -3 c:H", "C m c e": "C m c a",
        "P 4/n m m S": "P 4/n m m:1", "Pn3m Z": "P n -3 m:2", "P 63/m 2/m 2/c": "P 63/m m c",
    }  # fmt: skip
    assert {name: settings.by_name(name)[0].name for name in said} == said
    assert settings.by_name("P m n o") == [] and settings.by_name("P m -3 m :2") == []
