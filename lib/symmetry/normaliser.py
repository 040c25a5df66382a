"""One asymmetric unit for each crystal, whichever origin, axes and atoms of its orbits a description happens to name.

The same crystal looks different from another origin, along axes turned into equivalent ones, and by another atom of an
orbit. What may be chosen without a change of the group's operations are the elements of its Euclidean normaliser
(International Tables for Crystallography A, 3.5), here without those that would turn a crystal into its mirror image.
They are found from the operations themselves. :func:`canonical_unit` takes, of all choices, the one that comes first.
"""

import functools
import itertools

import numpy as np
from pymatgen.core import Structure

from lib.symmetry.cells import SYMPREC
from lib.symmetry.wyckoff import GRID, AsymmetricUnit, Site, origin_shifts, positions, primitive_operations, site_of

LATTICE = np.array(list(itertools.product(range(3), repeat=3)))  # of an atom's copies one lies at each height
DIGITS = 4  # of free parameters, by which choices are compared: idealised coordinates agree to more


@functools.cache
def generic_cell(space_group: int) -> np.ndarray:
    """A cell (3, 3) that has the symmetry of the group and no other."""
    rotations, _ = primitive_operations(space_group)
    skewed = 5 * np.eye(3) + np.random.default_rng(0).normal(size=(3, 3))
    return np.linalg.cholesky((rotations.transpose(0, 2, 1) @ (skewed @ skewed.T) @ rotations).mean(0))


@functools.cache
def normaliser(space_group: int) -> tuple[tuple[np.ndarray, np.ndarray, tuple[int, ...]], ...]:
    """Rotations (3, 3) and shifts (3,) that leave the operations as they are, and what they make of the positions.

    Of those that differ by an operation of the group, or by a shift along an axis on which it has no origin, one is
    given; the first leaves all as it is. With each comes the number of the position on which each of
    :func:`lib.symmetry.wyckoff.positions` then lies.
    """
    found = []
    for rotation, shift in _turns(space_group):
        for further, _ in origin_shifts(space_group):
            moved = ((p.generic_atoms @ rotation.T + shift + further) % 1 for p in positions(space_group))
            found.append((rotation, shift + further, tuple(site_of(orbit, space_group)[0] for orbit in moved)))
    return tuple(found)


def _turns(space_group: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """One rotation for each coset of the group's own among those that its lattice has and its operations bear."""
    rotations, translations = primitive_operations(space_group)
    numbers = {rotation.astype(int).tobytes(): i for i, rotation in enumerate(rotations)}
    cell = generic_cell(space_group)
    several = np.array(list(itertools.product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)
    metric = cell @ cell.T
    keeps = np.abs(several.transpose(0, 2, 1) @ metric @ several - metric).max((1, 2)) < 1e-6
    proper = several[keeps & (np.linalg.det(several) > 0)]
    grid = np.array(list(itertools.product(range(GRID), repeat=3))) / GRID
    found, seen = [(np.eye(3), np.zeros(3))], set(numbers)
    for turn in proper:
        if turn.tobytes() in seen:
            continue
        seen |= {(turn @ rotation.astype(int)).tobytes() for rotation in rotations}
        back = np.round(np.linalg.inv(turn)).astype(int)
        images = [numbers.get((turn @ rotation.astype(int) @ back).tobytes()) for rotation in rotations]
        if None in images:
            continue
        wanted = translations[images] - translations @ turn.T
        left = grid @ (np.eye(3) - rotations[images]).transpose(0, 2, 1) - wanted[:, None]
        fits = (np.abs(left - np.round(left)) < 1e-6).all((0, 2))
        if fits.any():
            found.append((turn.astype(float), grid[fits.argmax()]))
    return found


def unit_of(structure: Structure) -> AsymmetricUnit:
    """A structure by its sites, as spglib finds them at SYMPREC: :func:`canonical_unit`."""
    cell = structure.lattice.matrix, structure.frac_coords, np.array(structure.atomic_numbers)
    return canonical_unit(AsymmetricUnit.of(*cell, SYMPREC))


def canonical_unit(unit: AsymmetricUnit) -> AsymmetricUnit:
    """The same crystal by the choice of axes, origin and atoms that comes first.

    Positions of the lowest numbers come before all others, element by element; of choices that agree in them the one of
    the least free parameters, site by site. Along axes on which the group has no origin one of the rarest atoms lies at
    0. A unit without symmetry is left as it is: there is nothing to choose but an origin, of which nothing is made.
    """
    if unit.symmetry == 1:
        return unit
    known = positions(unit.symmetry)
    choices = [
        (sorted((site.species, position_of[site.position]) for site in unit.sites), i)
        for i, (_, _, position_of) in enumerate(normaliser(unit.symmetry))
    ]
    least = min(choices)[0]
    rotations, _ = primitive_operations(unit.symmetry)
    polar = rotations.mean(0)
    orbits = [known[site.position].atoms(site.parameters) for site in unit.sites]
    best: tuple = ()
    for rotation, shift, position_of in (normaliser(unit.symmetry)[i] for taken, i in choices if taken == least):
        at = [known[position_of[site.position]] for site in unit.sites]
        lent = [p.parameters_of((orbit @ rotation.T + shift) % 1) for p, orbit in zip(at, orbits, strict=True)]
        names = [(site.species, position_of[site.position]) for site in unit.sites]
        rarest = min(names, key=lambda name: (names.count(name) * known[name[1]].multiplicity, name))
        drifts = np.zeros((1, 3))
        if polar.any():
            first = [
                p.directions @ u + p.origin for p, n, us in zip(at, names, lent, strict=True) if n == rarest for u in us
            ]
            drifts = ((LATTICE[:, None] - np.array(first)) @ polar.T).reshape(-1, 3)
            drifts = drifts[np.unique(np.round(drifts, 5) % 1, axis=0, return_index=True)[1]]
        for drift in drifts:
            sites = []
            for site, name, position, parameters in zip(unit.sites, names, at, lent, strict=True):
                moved = (parameters + position.inverse @ drift) % 1
                rounded = np.round(moved, DIGITS) % 1
                row = np.lexsort(rounded.T[::-1])[0] if position.n_free else 0
                sites.append((*name, tuple(rounded[row].tolist()), Site(*name, moved[row], site.lender)))
            sites.sort(key=lambda one: one[:3])
            key = [one[:3] for one in sites]
            if not best or key < best[0]:
                best = key, tuple(one[3] for one in sites)
    return AsymmetricUnit(unit.lattice, unit.symmetry, best[1])
