"""Crystals by their asymmetric unit: the free parameters of each orbit on the torus, and the lattice.

An orbit is a set of atoms that the space group carries into each other; the atoms follow where its parameters u go. A
crystal without symmetry is a special case: space group 1, each atom an orbit of its own with three free parameters.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lib.symmetry.packed import PackedUnits
from lib.symmetry.spacegroups import N_SPACE_GROUPS
from lib.symmetry.wyckoff import AsymmetricUnit, primitive_operations

_CPU = torch.device("cpu")


class Rows:
    """Rows and devices of a dataclass whose fields are tensors, other such dataclasses, or None."""

    def _each(self, function: Callable) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{name: None if value is None else function(value) for name, value in values.items()})

    def __getitem__(self, rows: Tensor | slice) -> Self:
        return self._each(lambda value: value[rows])

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return self._each(lambda value: value.to(device))


@dataclass(frozen=True)
class Orbits(Rows):
    """The orbits of B crystals, padded to T orbits and N atoms; atom j of a crystal lies at
    rotation[j] @ u[of_atom[j]] + translation[j]."""

    species: Tensor  # (B, T) atomic numbers, 0 = padding
    multiplicity: Tensor  # (B, T) atoms of each orbit
    n_free: Tensor  # (B, T) free parameters of each orbit
    # directions, origin: (B, T, 3, 3), (B, T, 3): the representative lies at directions @ u + origin; columns beyond
    # the free parameters are zero
    directions: Tensor
    origin: Tensor
    inverse: Tensor  # (B, T, 3, 3) pseudo-inverse of `directions`
    of_atom: Tensor  # (B, N) the orbit of each atom
    # rotation, translation: (B, N, 3, 3), (B, N, 3)
    rotation: Tensor
    translation: Tensor
    operation: Tensor  # (B, N) which of the group's primitive operations makes the atom of the representative
    position: Tensor  # (B, T) which of lib.symmetry.wyckoff.positions each orbit is on
    symmetry: Tensor  # (B,) space group whose operations these are: 1 where none was asked for

    def __len__(self) -> int:
        return len(self.species)

    def trimmed(self, n_orbits: int, n_atoms: int) -> Self:
        """The first rows of the padded axes."""
        atoms = ("of_atom", "rotation", "translation", "operation")
        padded = {name: value for name, value in vars(self).items() if name != "symmetry"}
        return replace(self, **{k: v[:, : n_atoms if k in atoms else n_orbits] for k, v in padded.items()})

    @property
    def mask(self) -> Tensor:
        """(B, T) which rows are orbits."""
        return self.species > 0

    @property
    def free(self) -> Tensor:
        """(B, T, 3) which parameters are free."""
        return torch.arange(3, device=self.n_free.device) < self.n_free[:, :, None]

    def representatives(self, u: Tensor) -> Tensor:
        """(B, T, 3) fractional coordinates of the first atom of each orbit, for parameters u (B, T, 3)."""
        return along(self.directions, u) + self.origin

    def atoms(self, u: Tensor) -> Tensor:
        """(B, N, 3) fractional coordinates of all atoms."""
        of_atom = u.gather(1, self.of_atom[:, :, None].expand(-1, -1, 3))
        return along(self.rotation, of_atom) + self.translation

    def without_drift(self, change: Tensor, polar: Tensor | None = None) -> Tensor:
        """Changes of u (B, T, 3) without what moves the whole crystal along axes on which the group has no origin.

        A network gives its :func:`polar_projectors`, as its compiler does not see through the cache.
        """
        polar = polar_projectors(change.device) if polar is None else polar
        moves = along(self.directions, change)
        n_atoms = self.multiplicity.sum(1).clamp(min=1)
        mean = (moves * self.multiplicity[:, :, None]).sum(1) / n_atoms[:, None]
        drift = along(polar[self.symmetry], mean)
        return (change - along(self.inverse, drift[:, None])) * self.free

    @classmethod
    def single(cls, species: Tensor) -> Self:
        """Every atom of species (B, N) an orbit of its own: no symmetry is asked for."""
        b, n = species.shape
        axes = torch.eye(3, device=species.device).expand(b, n, 3, 3)
        one = (species > 0).long()
        zeros = torch.zeros(b, n, 3, device=species.device)
        of_atom = torch.arange(n, device=species.device).expand(b, n)
        none = torch.zeros_like(one)
        return cls(
            species, one, 3 * one, axes, zeros, axes, of_atom, axes, zeros, none, none, torch.ones_like(one[:, 0])
        )

    @classmethod
    def pack(cls, units: Sequence[AsymmetricUnit], n_max: int) -> Self:
        """Orbits of crystals, padded to n_max orbits and atoms; their free parameters do not enter."""
        units = PackedUnits.of(units)
        shape = len(units), n_max
        names = ("species", "multiplicity", "n_free", "of_atom", "operation", "position")
        whole = {name: np.zeros(shape, dtype=np.int64) for name in names}
        real = {name: np.zeros((*shape, 3, 3), dtype=np.float32) for name in ("directions", "inverse", "rotation")}
        real |= {name: np.zeros((*shape, 3), dtype=np.float32) for name in ("origin", "translation")}
        known, which = units.places
        crystal = np.repeat(np.arange(len(units)), units.n_orbits)
        number = np.arange(len(which)) - units.offsets[crystal]
        row = crystal, number
        whole["species"][row], whole["multiplicity"][row] = units.species, units.multiplicity
        whole["n_free"][row], whole["position"][row] = units.n_free, units.position
        real["directions"][row] = _padded([position.directions for _, position in known])[which]
        real["inverse"][row] = _padded([position.inverse for _, position in known])[which]
        real["origin"][row] = np.array([position.origin for _, position in known]).reshape(-1, 3)[which]
        # atom by atom: the atoms of all the known positions follow each other, and each orbit has those of its own
        first = np.cumsum([0, *(position.multiplicity for _, position in known)])[which]
        orbit = np.repeat(np.arange(len(which)), units.multiplicity)
        before = np.cumsum(units.multiplicity) - units.multiplicity  # atoms of the orbits before each
        of_known = first[orbit] + np.arange(len(orbit)) - before[orbit]
        row = crystal[orbit], np.arange(len(orbit)) - units.atom_offsets[crystal[orbit]]
        whole["of_atom"][row] = number[orbit]
        whole["operation"][row] = _joined([position.operations(group) for group, position in known], int)[of_known]
        matrices = _joined([_padded(position.atoms_directions) for _, position in known]).reshape(-1, 3, 3)
        real["rotation"][row] = matrices[of_known]
        real["translation"][row] = _joined([p.atoms_origin for _, p in known]).reshape(-1, 3)[of_known]
        symmetry = units.symmetry.astype(np.int64)
        return cls(**{name: torch.from_numpy(v) for name, v in (whole | real | {"symmetry": symmetry}).items()})


def _padded(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """(k, 3, 3) matrices of fewer rows or columns with zeros beyond."""
    padded = np.zeros((len(matrices), 3, 3))
    for whole, part in zip(padded, matrices, strict=True):
        whole[: part.shape[0], : part.shape[1]] = part
    return padded


def _joined(arrays: Sequence[np.ndarray], dtype: type = float) -> np.ndarray:
    return np.concatenate([np.zeros((0, *np.shape(arrays[0])[1:]) if arrays else 0, dtype), *arrays])


def along(matrices: Tensor, vectors: Tensor) -> Tensor:
    """(..., 3, 3) matrices times (..., 3) vectors, in full precision inside autocast, too: coordinates need it."""
    return (matrices * vectors[..., None, :]).sum(-1)


@functools.cache
def rotations_of(device: torch.device = _CPU) -> Tensor:
    """(231, 48, 3, 3) rotations of every group's primitive cell, repeated to fill 48: every order divides it."""
    if device != _CPU:
        return rotations_of().to(device)
    table = np.zeros((N_SPACE_GROUPS + 1, 48, 3, 3), dtype=np.float32)
    for number in range(1, N_SPACE_GROUPS + 1):
        rotations, _ = primitive_operations(number)
        table[number] = np.tile(rotations, (48 // len(rotations), 1, 1))
    return torch.from_numpy(table)


@functools.cache
def polar_projectors(device: torch.device = _CPU) -> Tensor:
    """(231, 3, 3) mean rotation of every group: what it leaves of a vector is a shift of the origin."""
    return rotations_of(device).mean(1)
