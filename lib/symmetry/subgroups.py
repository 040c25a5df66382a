"""A crystal described in a subgroup of its space group, for a crystal of lower symmetry that resembles it.

Only subgroups that keep all translations count (translationengleiche, International Tables for Crystallography A1): the
atoms per primitive cell stay as many as they are, while orbits split and positions gain free parameters.
"""

import functools
import math

import numpy as np
import spglib

from lib.symmetry.cells import reduced
from lib.symmetry.normaliser import canonical_unit
from lib.symmetry.spacegroups import N_SPACE_GROUPS, subgroups
from lib.symmetry.wyckoff import AsymmetricUnit, primitive_operations

MARK = 118  # an element that no crystal here holds: its atoms, in no special place, mark the subgroup
APART = 0.2  # Å between a mark and the atoms
EXACT = 1e-3  # Å; the described crystal is idealised, and its marks obey the subgroup to rounding


def described_in(unit: AsymmetricUnit, space_group: int) -> list[AsymmetricUnit]:
    """The same crystal by its sites in a subgroup, once for each way in which its own group holds that subgroup.

    Ways that an operation of the crystal's group takes into one another give the same description and count once. There
    is none where the group is no subgroup with the same translations; in its own group the unit stays as it is.
    """
    if unit.symmetry == space_group:
        return [unit]
    found = (_marked(unit, kept) for kept in ways(unit.symmetry, space_group))
    return [described for described in found if described.symmetry == space_group]


@functools.cache
def supergroups(space_group: int) -> frozenset[int]:
    """The space group types that hold a group with all their translations, the group itself among them."""
    above = (g for g in range(1, N_SPACE_GROUPS + 1) if space_group in subgroups(g) and ways(g, space_group))
    return frozenset([space_group, *above])


@functools.cache
def ways(space_group: int, subgroup: int) -> tuple[tuple[int, ...], ...]:
    """Operations of a group's primitive cell that make up a subgroup of a type, for each conjugacy class of them."""
    rotations, translations = primitive_operations(space_group)
    products = _products(space_group)
    inverse = (products == 0).argmax(axis=1)
    order = len(primitive_operations(subgroup)[0])
    found, seen = [], set()
    for kept in sorted(sorted(kept) for kept in _closed_sets(products.tobytes()) if len(kept) == order):
        if frozenset(kept) in seen:
            continue
        seen |= {frozenset(products[products[g, kept], inverse[g]].tolist()) for g in range(len(products))}
        kind = spglib.get_spacegroup_type_from_symmetry(rotations[kept].astype(int), translations[kept])
        if kind is not None and kind.number == subgroup:
            found.append(tuple(kept))
    return tuple(found)


@functools.cache
def _products(space_group: int) -> np.ndarray:
    """(n, n) which of a primitive cell's operations the product of two of them is, up to lattice vectors."""
    rotations = primitive_operations(space_group)[0].astype(int)
    number = {rotation.tobytes(): i for i, rotation in enumerate(rotations)}
    return np.array([[number[(a @ b).tobytes()] for b in rotations] for a in rotations])


@functools.cache
def _closed_sets(table: bytes) -> frozenset[frozenset[int]]:
    """All sets of operations that are closed, by :func:`_products`, which many groups have in common."""
    products = np.frombuffer(table, dtype=int)
    products = products.reshape(math.isqrt(len(products)), -1)

    def closed(operations: frozenset[int]) -> frozenset[int]:
        several = sorted(operations | {0})
        more = frozenset(products[np.ix_(several, several)].ravel().tolist())
        return more if len(more) == len(several) else closed(more)

    found = new = {closed(frozenset({g})) for g in range(len(products))}
    while new:
        new = {closed(kept | {g}) for kept in new for g in range(len(products)) if g not in kept} - found
        found = found | new
    return frozenset(found)


def _marked(unit: AsymmetricUnit, kept: tuple[int, ...]) -> AsymmetricUnit:
    """The crystal as spglib describes it when atoms of one more orbit leave it no symmetry but the kept operations."""
    rotations, translations = (several[list(kept)] for several in primitive_operations(unit.symmetry))
    rng = np.random.default_rng(0)
    for _ in range(100):
        marks = rotations @ rng.random(3) + translations
        lattice, both = reduced(unit.lattice, np.concatenate([unit.frac_coords, marks]))
        apart = both[: len(unit.species), None] - both[len(unit.species) :]
        if np.linalg.norm((apart - np.round(apart)) @ lattice, axis=-1).min() > APART:
            break
    species = np.concatenate([unit.species, np.full(len(marks), MARK)])
    found = AsymmetricUnit.of(unit.lattice, np.concatenate([unit.frac_coords, marks]) % 1, species, EXACT)
    sites = tuple(site for site in found.sites if site.species != MARK)
    return canonical_unit(AsymmetricUnit(found.lattice, found.symmetry, sites))
