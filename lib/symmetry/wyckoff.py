"""Wyckoff positions, derived from the operations of a space group, and the ways to put a composition on them.

Everything is in fractional coordinates of the primitive cell that spglib makes of the group's conventional cell. A
position is the set of points that some operations leave where they are: points, lines, planes or all of space. Its
representative is x = directions @ u + origin with free parameters u, each of period 1, and its other atoms follow by
the group's operations (International Tables for Crystallography A, 8.3.2).
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import spglib

from lib.symmetry.cells import right_handed
from lib.symmetry.spacegroups import checked_space_group, into_cell, symmetry_operations

GRID = 24  # operations shift by multiples of 1/24, and every position passes through a point of such coordinates
GENERIC = np.array([2**0.5, 3**0.5, 5**0.5]) / 7  # parameters of a point that is special in no way
TOLERANCE = 1e-6
ON_POSITION = 0.1  # Å; an idealised crystal's atoms lie on theirs to far less, and none is nearer another
NEVER = 2**60  # a cost that no sum of costs reaches
EXACTLY = 1e3 * np.eye(3)  # a cell so large that ON_POSITION means 1e-4 of it
SHIFTS = np.array(list(itertools.product((-2, -1, 0, 1, 2), repeat=3)))
SMALL_VECTORS = np.array(sorted(itertools.product(range(-3, 4), repeat=3), key=lambda v: (np.dot(v, v), -sum(v))))


@dataclass(frozen=True, eq=False)
class Position:
    """A Wyckoff position of a primitive cell."""

    directions: np.ndarray  # (3, d) whole numbers; the representative moves along them with its d free parameters
    origin: np.ndarray  # (3,) where the representative is for u = 0
    # (3 - d, 3) whole numbers; x lies on the representative's point, line or plane, or on one a lattice vector away,
    # where normals @ (x - origin) are whole numbers
    normals: np.ndarray
    # rotations, translations: (m, 3, 3), (m, 3): the m atoms are rotations @ x + translations; the first is x
    rotations: np.ndarray
    translations: np.ndarray

    @property
    def multiplicity(self) -> int:
        """Atoms in the primitive cell."""
        return len(self.rotations)

    @property
    def n_free(self) -> int:
        """Free parameters."""
        return self.directions.shape[1]

    def atoms(self, parameters: np.ndarray) -> np.ndarray:
        """(m, 3) fractional coordinates for free parameters (d,)."""
        return self.rotations @ (self.directions @ parameters + self.origin) + self.translations

    def parameters_of(self, points: np.ndarray, lattice: np.ndarray = EXACTLY) -> np.ndarray:
        """Free parameters (k, d) in [0, 1) of those k of the points (m, 3) that lie on the representative, to
        ON_POSITION in a lattice (3, 3) in Å; without one exactly, but for rounding."""
        shifted = points[:, None] + SHIFTS - self.origin
        miss = np.abs(shifted @ self.normals.T).max(axis=2, initial=0)
        nearest = shifted[np.arange(len(points)), miss.argmin(axis=1)]
        parameters = nearest @ self.inverse.T
        off = np.linalg.norm((nearest - parameters @ self.directions.T) @ lattice, axis=1)
        return into_cell(parameters[off <= ON_POSITION])

    def operations(self, space_group: int) -> np.ndarray:
        """(m,) which of the :func:`primitive_operations` makes each atom; no two have the same rotation."""
        rotations, _ = primitive_operations(space_group)
        return (self.rotations[:, None] == rotations).all((2, 3)).argmax(axis=1)

    @functools.cached_property
    def generic_atoms(self) -> np.ndarray:
        """(m, 3) the atoms of an orbit that is special in no way."""
        return self.atoms(GENERIC[: self.n_free])

    @functools.cached_property
    def inverse(self) -> np.ndarray:
        """(d, 3) what makes free parameters of what the representative's points are beyond the origin."""
        return np.linalg.pinv(self.directions)

    @functools.cached_property
    def atoms_directions(self) -> np.ndarray:
        """(m, 3, d) how the atoms move with the free parameters."""
        return self.rotations @ self.directions

    @functools.cached_property
    def atoms_origin(self) -> np.ndarray:
        """(m, 3) where the atoms are for u = 0."""
        return self.rotations @ self.origin + self.translations


@dataclass(frozen=True, eq=False)
class Site:
    """An element on a Wyckoff position."""

    species: int  # atomic number
    position: int  # which of positions
    parameters: np.ndarray  # (d,) free parameters
    lender: int = 0  # atomic number of the element that has this site in the template it comes from; 0: there is none


@functools.cache
def primitive_basis(space_group: int) -> np.ndarray:
    """(3, 3) columns: the primitive cell's vectors in those of the conventional cell, as spglib chooses them."""
    operations = _operations(space_group)
    pure = (operations[:, :3, :3] == np.eye(3)).all((1, 2))
    centring = sorted({tuple(np.round(t * 6).astype(int)) for t in operations[pure, :3, 3]} - {(0, 0, 0)})
    return {
        (): np.eye(3),
        ((3, 3, 3),): np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2,  # I
        ((0, 3, 3),): np.array([[2, 0, 0], [0, 1, -1], [0, 1, 1]]) / 2,  # A
        ((3, 3, 0),): np.array([[1, 1, 0], [-1, 1, 0], [0, 0, 2]]) / 2,  # C
        ((2, 4, 4), (4, 2, 2)): np.array([[2, -1, -1], [1, 1, -2], [1, 1, 1]]) / 3,  # R, obverse
        ((0, 3, 3), (3, 0, 3), (3, 3, 0)): np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2,  # F
    }[tuple(centring)]


@functools.cache
def primitive_operations(space_group: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (n, 3, 3) and translations (n, 3) in [0, 1) of the primitive cell, the identity first."""
    operations, basis = _operations(space_group), primitive_basis(space_group)
    rotations = np.round(np.linalg.inv(basis) @ operations[:, :3, :3] @ basis)
    translations = operations[:, :3, 3] @ np.linalg.inv(basis).T
    _, first = np.unique(rotations.reshape(-1, 9), axis=0, return_index=True)  # centred copies fall together
    first = sorted(first, key=lambda i: (not (rotations[i] == np.eye(3)).all(), i))
    return rotations[first], np.round(translations[first] * GRID) % GRID / GRID


@functools.cache
def positions(space_group: int) -> tuple[Position, ...]:
    """The Wyckoff positions of a space group, those without free parameters first, the general one last."""
    rotations, translations = primitive_operations(space_group)
    grid = np.array(list(itertools.product(range(GRID), repeat=3))) / GRID
    images = np.einsum("gij,pj->pgi", rotations, grid) + translations
    stays = np.abs(images - grid[:, None] - np.round(images - grid[:, None])).max(-1) < TOLERANCE
    packed = np.packbits(stays, axis=1)  # sorts as the rows themselves do, but faster
    _, first, of_point = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    flats = [_fixed_flats(rotations[pattern]) for pattern in stays[first]]
    found: list[Position] = []
    for n_free in range(3):
        for directions in {f.tobytes(): f for several in flats for f in several if f.shape[1] == n_free}.values():
            has = np.array([any(np.array_equal(f, directions) for f in several) for several in flats])
            points = grid[has[of_point.ravel()]]
            generic = np.einsum("gij,pj->pgi", rotations, points + directions @ GENERIC[:n_free]) + translations
            new = np.ones(len(points), dtype=bool)
            for position in found:
                new &= (position.n_free != n_free) | ~_holds(position, generic)
            while new.any():
                found.append(_position(directions, points[new][0], rotations, translations))
                new &= ~_holds(found[-1], generic)
    found.append(_position(np.eye(3), np.zeros(3), rotations, translations))
    return tuple(sorted(found, key=lambda p: (p.n_free, p.multiplicity)))


def _operations(space_group: int) -> np.ndarray:
    operations = symmetry_operations()[checked_space_group(space_group)].astype(float)
    return operations[operations[:, 3, 3] == 1]


def _fixed_flats(rotations: np.ndarray) -> list[np.ndarray]:
    """Directions (3, d) of what the operations that meet in a point leave where it is, alone and two by two."""
    several = [*rotations[:, None], *rotations[list(itertools.combinations(range(len(rotations)), 2))], rotations]
    flats = (_whole_solutions(np.concatenate(list(some)) - np.tile(np.eye(3), (len(some), 1))) for some in several)
    return list({flat.tobytes() + bytes(flat.shape): flat for flat in flats if flat.shape[1] < 3}.values())


def _whole_solutions(matrix: np.ndarray) -> np.ndarray:
    """(3, d) basis of the whole-number vectors v with matrix @ v = 0: short ones that span them all."""
    vectors = SMALL_VECTORS[(np.abs(SMALL_VECTORS @ matrix.T) < TOLERANCE).all(axis=1)][1:]  # the first is zero
    rank = np.linalg.matrix_rank(vectors) if len(vectors) else 0
    if rank == 2:
        normal = next(n for n in (np.cross(vectors[0], v) for v in vectors) if n.any())
        normal = normal // np.gcd.reduce(normal)
        second = next(v for v in vectors if (np.abs(np.cross(vectors[0], v)) == np.abs(normal)).all())
        return np.stack([vectors[0], second], axis=1).astype(float)
    return np.eye(3) if rank == 3 else vectors[:rank].T.reshape(3, rank).astype(float)


def _holds(position: Position, images: np.ndarray) -> np.ndarray:
    """(p,) whether any of a point's images (p, g, 3) lies on the position's representative."""
    off = (images - position.origin) @ position.normals.T
    return (np.abs(off - np.round(off)) < TOLERANCE).all(-1).any(-1)


def _position(directions: np.ndarray, origin: np.ndarray, rotations: np.ndarray, translations: np.ndarray) -> Position:
    generic = directions @ GENERIC[: directions.shape[1]] + origin
    images = rotations @ generic + translations
    _, first = np.unique(np.round(images % 1 % (1 - TOLERANCE), 5), axis=0, return_index=True)
    first = np.sort(first)  # the identity stays first
    return Position(directions, origin, _whole_solutions(directions.T).T, rotations[first], translations[first])


@dataclass(frozen=True, eq=False)
class AsymmetricUnit:
    """A crystal by the sites that its symmetry does not repeat, in the standard primitive cell."""

    lattice: np.ndarray  # (3, 3) rows a, b, c in Å
    symmetry: int  # the space group whose operations repeat the sites; 1 for a crystal that is not known to have any
    sites: tuple[Site, ...]  # the elements and where they are

    @functools.cached_property
    def species(self) -> np.ndarray:
        """(n,) atomic numbers, orbit by orbit."""
        counts = [positions(self.symmetry)[site.position].multiplicity for site in self.sites]
        return np.repeat([site.species for site in self.sites], counts)

    @property
    def frac_coords(self) -> np.ndarray:
        """(n, 3) fractional coordinates in that order."""
        return into_cell(np.concatenate([positions(self.symmetry)[s.position].atoms(s.parameters) for s in self.sites]))

    @classmethod
    def of(cls, lattice: np.ndarray, frac_coords: np.ndarray, species: np.ndarray, symprec: float) -> AsymmetricUnit:
        """A crystal's, idealised by spglib; without symmetry where spglib finds none that its atoms keep."""
        finite = np.isfinite(lattice).all() and np.isfinite(frac_coords).all()  # else spglib ends the process
        lattice, frac_coords = right_handed(lattice, frac_coords)
        try:
            found = spglib.get_symmetry_dataset((lattice, frac_coords, species), symprec=symprec) if finite else None
        except spglib.error.SpglibError:
            found = None
        if found is not None:
            basis = primitive_basis(int(found.number))
            _, atoms = np.unique(found.std_mapping_to_primitive, return_index=True)
            inside = into_cell(found.std_positions[atoms] @ np.linalg.inv(basis).T)
            standard = basis.T @ found.std_lattice
            sites = sites_of(inside, found.std_types[atoms], int(found.number), standard)
            if sites is not None:
                return cls(standard, int(found.number), tuple(sites))
        return cls(lattice, 1, tuple(Site(int(z), 0, x) for z, x in zip(species, frac_coords, strict=True)))


def free_atoms(species: np.ndarray) -> AsymmetricUnit:
    """Atoms that nothing is known of but their elements: space group 1, a unit cube, all at its corner."""
    return AsymmetricUnit(np.eye(3), 1, tuple(Site(int(z), 0, np.zeros(3)) for z in species))


def sites_of(frac_coords: np.ndarray, species: np.ndarray, space_group: int, lattice: np.ndarray) -> list[Site] | None:
    """The orbits of a standard primitive cell's atoms; None where its atoms do not lie on the group's positions."""
    rotations, translations = primitive_operations(space_group)
    images = np.einsum("gij,aj->agi", rotations, frac_coords) + translations
    apart = images[:, :, None] - frac_coords  # atom, operation, atom
    near = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=-1) < ON_POSITION
    same = near.any(1)
    sites, done = [], np.zeros(len(species), dtype=bool)
    for atom in range(len(species)):
        if done[atom]:
            continue
        orbit = np.flatnonzero(same[atom])
        done[orbit] = True
        site = site_of(frac_coords[orbit], space_group, lattice)
        if site is None or len(set(species[orbit].tolist())) > 1:
            return None
        sites.append(Site(int(species[atom]), *site))
    return sites


def site_of(orbit: np.ndarray, space_group: int, lattice: np.ndarray = EXACTLY) -> tuple[int, np.ndarray] | None:
    for number, position in enumerate(positions(space_group)):
        if position.multiplicity != len(orbit):
            continue
        parameters = position.parameters_of(orbit, lattice)
        if len(parameters):
            return number, parameters[0]
    return None


@functools.cache
def origin_shifts(space_group: int) -> tuple[tuple[np.ndarray, tuple[int, ...]], ...]:
    """Shifts of the origin (3,) after which the group's operations are the same, and what they make of its positions.

    Of shifts along axes on which the group has no origin there is one alone, none at all. With each shift comes the
    number of the position on which each of :func:`positions` then lies.
    """
    rotations, _ = primitive_operations(space_group)
    grid = np.array(list(itertools.product(range(12), repeat=3))) / 12
    moved = np.einsum("gij,pj->pgi", rotations, grid) - grid[:, None]
    allowed = grid[(np.abs(moved - np.round(moved)) < TOLERANCE).all((1, 2))]
    allowed = allowed - allowed @ rotations.mean(0).T
    _, first = np.unique(np.round(allowed % 1 % (1 - TOLERANCE), 5), axis=0, return_index=True)
    known = positions(space_group)
    found = []
    for shift in allowed[np.sort(first)]:
        generic = (position.generic_atoms + shift for position in known)
        found.append((shift, tuple(site_of(orbit, space_group)[0] for orbit in generic)))
    return tuple(found)


def assignments(
    space_group: int, counts: Sequence[int], costs: np.ndarray | None = None
) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Ways to put so many atoms of each element on Wyckoff positions of one primitive cell, one after another.

    A position without free parameters is occupied once at most; one with a free parameter any number of times. The
    search is best-first, and what a part of a way will cost at least when it is complete is known exactly (A*, Hart et
    al. 1968, 10.1109/TSSC.1968.300136): it enters no dead end, so that its time and memory grow with the ways that are
    taken from it, not with those that there are.

    Whether any way exists is a necessary condition for a crystal of the group: all ways may have a higher symmetry.

    Args:
        space_group: 1 to 230.
        counts: atoms of each element in the primitive cell.
        costs: (n,) of one orbit on each of :func:`positions`; a way costs the sum over its orbits. None: all the same.

    Yields:
        For each way and each element the numbers of its positions in :func:`positions`, in ascending order; the
        cheapest way first, and of equally cheap ones that of lower numbers.
    """
    known = positions(space_group)
    costs = np.zeros(len(known)) if costs is None else costs
    prices = np.round(np.asarray(costs) * 2**20).astype(np.int64)  # whole numbers: equal sums are equal
    n_fixed = sum(position.n_free == 0 for position in known)  # they come first
    multiplicities = [position.multiplicity for position in known]
    least = _least_costs(multiplicities, n_fixed, counts, prices)
    queue: list[tuple] = []  # cost of the best way that begins so, its beginning, cost of that, and where to go on

    def go_on(so_far: tuple, spent: int, element: int, first: int, left: int, occupied: int) -> None:
        if left == 0 and element + 1 < len(counts):
            so_far, element, first, left = (*so_far, ()), element + 1, 0, counts[element + 1]
        best = spent + int(least[element][first, left, occupied])
        if best < NEVER:
            heapq.heappush(queue, (best, so_far, spent, element, first, left, occupied))

    go_on(((),), 0, 0, 0, counts[0], 0)
    while queue:
        _, so_far, spent, element, first, left, occupied = heapq.heappop(queue)
        if left == 0:
            yield so_far
            continue
        go_on(so_far, spent, element, first + 1, left, occupied)  # no more orbits on this position
        bit = 1 << first if first < n_fixed else 0
        if multiplicities[first] <= left and not occupied & bit:
            more = (*so_far[:-1], (*so_far[-1], first))
            left, spent = left - multiplicities[first], spent + int(prices[first])
            go_on(more, spent, element, first + bool(bit), left, occupied | bit)


def _least_costs(
    multiplicities: Sequence[int], n_fixed: int, counts: Sequence[int], prices: np.ndarray
) -> list[np.ndarray]:
    """What placing the atoms that are left costs at least, element by element, by dynamic programming from the end.

    Returns:
        For each element (n + 1, count + 1, 2^n_fixed): the position from which on its orbits are chosen, its atoms that
        are left, and bit by bit which positions without free parameters are occupied; NEVER where they find no place.
    """
    occupied = np.arange(2**n_fixed)
    after, tables = np.zeros(2**n_fixed, dtype=np.int64), []
    for count in reversed(counts):
        table = np.full((len(prices) + 1, count + 1, 2**n_fixed), NEVER)
        table[:, 0] = after
        for p in reversed(range(len(prices))):
            table[p, 1:] = table[p + 1, 1:]
            for left in range(multiplicities[p], count + 1):
                rest = table[p, left - multiplicities[p]]
                if p < n_fixed:
                    rest = table[p + 1, left - multiplicities[p]][occupied | 1 << p]
                    rest = np.where(occupied >> p & 1, NEVER, rest)
                table[p, left] = np.minimum(table[p, left], rest + prices[p])
        after = table[0, count]
        tables.append(table)
    return tables[::-1]
