"""Many asymmetric units in packed arrays, so that millions of them are there at once and a batch is packed quickly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np

from lib.symmetry.wyckoff import AsymmetricUnit, Position, Site, positions

_ROW_A_CRYSTAL, _ROW_A_SITE = ("lattice", "symmetry"), ("species", "position", "n_free", "parameters", "lender")


@dataclass(frozen=True, eq=False)
class PackedUnits(Sequence[AsymmetricUnit]):
    """A sequence of asymmetric units; the sites of unit i are rows offsets[i]:offsets[i+1]. A unit asked for by its
    number is made then, and kept."""

    lattice: np.ndarray  # (n, 3, 3) rows a, b, c in Å
    symmetry: np.ndarray  # (n,) as in AsymmetricUnit
    offsets: np.ndarray  # (n + 1,) first site of each unit
    species: np.ndarray  # (sites,) atomic numbers
    position: np.ndarray  # (sites,) which of lib.symmetry.wyckoff.positions
    n_free: np.ndarray  # (sites,) free parameters
    parameters: np.ndarray  # (sites, 3) those, and zeros
    lender: np.ndarray  # (sites,) as in Site
    _made: dict[int, AsymmetricUnit] = field(default_factory=dict)

    @classmethod
    def of(cls, units: Iterable[AsymmetricUnit]) -> PackedUnits:
        """Pack units; those that are packed stay as they are."""
        if isinstance(units, cls):
            return units
        units = list(units)
        sites = [site for unit in units for site in unit.sites]
        n_free = np.array([len(site.parameters) for site in sites], dtype=np.uint8)
        parameters = np.zeros((len(sites), 3))
        flat = np.concatenate([np.zeros(0), *(np.asarray(site.parameters, float) for site in sites)])
        parameters[np.arange(3) < n_free[:, None]] = flat
        return cls(
            lattice=np.array([unit.lattice for unit in units], dtype=float).reshape(-1, 3, 3),
            symmetry=np.array([unit.symmetry for unit in units], dtype=np.uint8),
            offsets=np.concatenate([[0], np.cumsum([len(unit.sites) for unit in units])]).astype(int),
            species=np.array([site.species for site in sites], dtype=np.uint8),
            position=np.array([site.position for site in sites], dtype=np.uint8),
            n_free=n_free,
            parameters=parameters,
            lender=np.array([site.lender for site in sites], dtype=np.uint8),
        )

    def __len__(self) -> int:
        return len(self.symmetry)

    def __getitem__(self, i: int | slice) -> AsymmetricUnit | PackedUnits:
        if isinstance(i, slice):
            return self.take(np.arange(len(self))[i])
        i = range(len(self))[i]
        if i not in self._made:
            rows = slice(self.offsets[i], self.offsets[i + 1])
            columns = (self.species, self.position, self.n_free, self.lender)
            whole = zip(*(column[rows].tolist() for column in columns), strict=True)
            sites = (
                Site(z, p, values[:d], lender)
                for (z, p, d, lender), values in zip(whole, self.parameters[rows], strict=True)
            )
            self._made[i] = AsymmetricUnit(self.lattice[i], int(self.symmetry[i]), tuple(sites))
        return self._made[i]

    @property
    def n_orbits(self) -> np.ndarray:
        """(n,) sites of each unit, and so orbits of its atoms."""
        return np.diff(self.offsets)

    @property
    def n_atoms(self) -> np.ndarray:
        """(n,) atoms of each unit's primitive cell."""
        return np.diff(self.atom_offsets)

    @property
    def n_parameters(self) -> np.ndarray:
        """(n,) free parameters of each unit's sites."""
        return np.diff(np.concatenate([[0], np.cumsum(self.n_free, dtype=int)])[self.offsets])

    @cached_property
    def places(self) -> tuple[list[tuple[int, Position]], np.ndarray]:
        """The different positions that are occupied, each with its space group, and (sites,) which of them each is."""
        both = np.repeat(self.symmetry.astype(int), self.n_orbits) * 256 + self.position
        found, which = np.unique(both, return_inverse=True)
        return [(n // 256, positions(n // 256)[n % 256]) for n in found.tolist()], which

    @cached_property
    def multiplicity(self) -> np.ndarray:
        """(sites,) atoms of each orbit."""
        known, which = self.places
        return np.array([position.multiplicity for _, position in known], dtype=int)[which]

    @cached_property
    def atom_offsets(self) -> np.ndarray:
        """(n + 1,) first atom of each unit, counted orbit by orbit."""
        return np.concatenate([[0], np.cumsum(self.multiplicity)])[self.offsets]

    @property
    def atoms(self) -> np.ndarray:
        """(atoms,) atomic numbers, unit by unit and orbit by orbit."""
        return np.repeat(self.species, self.multiplicity)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(n,) sum over each unit's atoms of what `values` (119,) has for their elements."""
        of_atom, starts, counts = values[self.atoms], self.atom_offsets[:-1], self.n_atoms
        found = np.zeros(len(self))
        for n in np.unique(counts):  # rows of one length: sums in the order of a single crystal's, to the last digit
            rows = np.flatnonzero(counts == n)
            found[rows] = of_atom[starts[rows, None] + np.arange(n)].sum(axis=1)
        return found

    def take(self, rows: np.ndarray) -> PackedUnits:
        """The units of these numbers (k,), in that order."""
        counts = self.n_orbits[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        sites = np.repeat(self.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        taken = {name: getattr(self, name)[rows] for name in _ROW_A_CRYSTAL}
        taken |= {name: getattr(self, name)[sites] for name in _ROW_A_SITE}
        return PackedUnits(offsets=offsets, **taken)

    @classmethod
    def join(cls, several: Sequence[PackedUnits]) -> PackedUnits:
        """One after the other."""
        counts = np.concatenate([units.n_orbits for units in several])
        names = [f.name for f in fields(cls) if f.name not in ("offsets", "_made")]
        joined = {name: np.concatenate([getattr(units, name) for units in several]) for name in names}
        return cls(offsets=np.concatenate([[0], np.cumsum(counts)]).astype(int), **joined)
