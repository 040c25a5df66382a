"""What trainer, methods and networks hand each other: a batch of crystals and what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.symmetry.orbits import Orbits, Rows
from lib.symmetry.spacegroups import checked_space_group


@dataclass(frozen=True)
class Conditions(Rows):
    """What a crystal is asked to be."""

    species: Tensor  # (B, N) atomic numbers, 0 = padding
    space_group: Tensor  # (B,) 1..230, 0 = any
    energy: Tensor  # (B,) formation energy in eV/atom, or for modification E_target - E_init; nan = any

    @property
    def mask(self) -> Tensor:
        """(B, N) which rows are atoms."""
        return self.species > 0

    @property
    def n_sites(self) -> Tensor:
        """(B,) atoms per cell."""
        return self.mask.sum(1)

    def __len__(self) -> int:
        return len(self.species)

    def forget(self, share: float, generator: torch.Generator) -> Conditions:
        """The same with the space group of a random share of the crystals left open, and the energy of another."""
        draw = torch.rand(2, len(self), generator=generator, device=self.energy.device) < share
        space_group = self.space_group.masked_fill(draw[0], 0)
        return replace(self, space_group=space_group, energy=self.energy.masked_fill(draw[1], torch.nan))

    def opened(self) -> Conditions:
        """The same with the space group and the energy of every crystal left open."""
        any_group, any_energy = torch.zeros_like(self.space_group), torch.full_like(self.energy, torch.nan)
        return replace(self, space_group=any_group, energy=any_energy)

    @classmethod
    def pack(cls, species: list[np.ndarray], space_group: np.ndarray, energy: np.ndarray, n_max: int) -> Conditions:
        """Pad species to (B, n_max). Raises BadInput if a crystal has more atoms than the model has rows, or
        an impossible space group."""
        largest = max((len(s) for s in species), default=0)
        if largest > n_max:
            raise BadInput(f"a crystal has {largest} atoms but the model takes {n_max}; ask for a smaller cell")
        for number in np.setdiff1d(space_group, 0):
            checked_space_group(int(number))
        padded = np.zeros((len(species), n_max), dtype=np.int64)
        for row, numbers in zip(padded, species, strict=True):
            row[: len(numbers)] = numbers
        groups = torch.tensor(np.asarray(space_group), dtype=torch.int64)
        return cls(torch.from_numpy(padded), groups, torch.tensor(np.asarray(energy), dtype=torch.float32))

    @classmethod
    def of(cls, table: CrystalTable, n_max: int) -> Conditions:
        """The conditions that a table's own crystals meet."""
        species = [table.species_of(i) for i in range(len(table))]
        return cls.pack(species, table.space_group, table.formation_energy, n_max)


@dataclass(frozen=True)
class Template(Rows):
    """Known crystals of other elements on the same Wyckoff positions."""

    x: Tensor  # (B, T + 2, 3) their states; zeros where a crystal has no template
    lenders: Tensor  # (B, T) atomic number of the element that stands on each orbit there; 0: no template, or padding

    @property
    def given(self) -> Tensor:
        """(B,) whether there is one."""
        return self.lenders[:, 0] > 0

    def hidden(self, rows: Tensor) -> Template:
        """The same without those of some rows (B,)."""
        return Template(self.x.masked_fill(rows[:, None, None], 0.0), self.lenders.masked_fill(rows[:, None], 0))

    def trimmed(self, n_orbits: int) -> Template:
        """The first rows of the padded axis, and the lattice."""
        return Template(torch.cat([self.x[:, :n_orbits], self.x[:, -2:]], dim=1), self.lenders[:, :n_orbits])


@dataclass(frozen=True)
class Batch(Rows):
    """B crystals and all that a model is told of them. Networks see everything but x_1."""

    # (B, R, 3) states to be learnt, in a representation (lib.models.interfaces.Representation); zeros of that
    # shape where crystals are to be made
    x_1: Tensor
    conditions: Conditions  # elements, space group and energy
    x_0: Tensor | None = None  # (B, R', 3) states of the crystals to be modified, one row an atom; None for generation
    species_0: Tensor | None = None  # (B, N') their atomic numbers, 0 = padding
    orbits: Orbits | None = None  # the orbits that the atoms form, where the representation has some
    template: Template | None = None  # known crystals on the same orbits, for a network that was trained with some

    def __len__(self) -> int:
        return len(self.x_1)


def coordinate_rows(table: CrystalTable, n_rows: int) -> np.ndarray:
    """(n, n_rows, 3) float32: fractional coordinates of a table's crystals, a row an atom, and zeros below them."""
    rows = np.zeros((len(table), n_rows, 3), dtype=np.float32)
    crystal = np.repeat(np.arange(len(table)), table.n_sites)
    rows[crystal, np.arange(len(table.species)) - table.offsets[crystal]] = table.frac_coords
    return rows
