"""States of crystals that all have one cell and one composition: where the atoms are is all that is open."""

from __future__ import annotations

import numpy as np
import torch
from pymatgen.core import Structure
from torch import Tensor

from lib.core.errors import BadInput
from lib.core.streams import Streams
from lib.crystals.lattices import to_structure
from lib.crystals.table import CrystalTable
from lib.models.batch import Batch, Conditions, coordinate_rows
from lib.models.periodic_state import PeriodicTensors

SAME = 1e-3  # Å by which two cells may differ


class CellTensors(PeriodicTensors):
    """A row an atom on the torus, atoms of one element beside each other; the two rows of the lattice stay zero.

    Attributes:
        lattice: (3, 3) Å, that of every crystal.
        species: (N,) atomic numbers, those of every crystal.
    """

    def __init__(self, lattice: list, species: list) -> None:
        super().__init__(len(species), [0.0] * 119, np.zeros((2, 3)), np.ones((2, 3)))
        self.lattice, self.species = np.array(lattice), np.array(species)

    @classmethod
    def fit(cls, table: CrystalTable, multiple: int = 1) -> CellTensors:
        """The cell and the composition of a training table.

        Raises:
            BadInput: the table is empty, or has several.
        """
        if not len(table):
            raise BadInput("there are no crystals to learn from; give some")
        species = table.species_of(0)
        rep = cls(table.lattice[0].tolist(), species.tolist())
        rep._check(table)
        return rep

    def _check(self, table: CrystalTable) -> None:
        n = len(self.species)
        alike = (table.n_sites == n) & (np.abs(table.lattice - self.lattice).max((1, 2), initial=0) < SAME)
        for i in np.flatnonzero(alike):
            alike[i] = (table.species_of(i) == self.species).all()
        if not alike.all():
            raise BadInput(
                f"crystal {table.id[~alike][0]} has another cell or composition than the first; this network is for "
                "crystals of one cell alone: choose another network or leave it out"
            )

    def state(self) -> dict:
        """The cell and the composition."""
        return {"lattice": self.lattice.tolist(), "species": self.species.tolist()}

    def pack(self, table: CrystalTable) -> Batch:
        """A table's crystals as states (n, N + 2, 3).

        Raises:
            BadInput: one has another cell or composition.
        """
        self._check(table)
        return Batch(torch.from_numpy(coordinate_rows(table, self.n_rows)), Conditions.of(table, self.n_sites))

    def request(self, species, space_group, energy, units=None) -> Batch:
        """Crystals to be made; their species must be those of the training table.

        Raises:
            BadInput: they are others.
        """
        if any(len(asked) != self.n_sites or (asked != self.species).any() for asked in species):
            raise BadInput("the model makes crystals of the composition that it learnt from; ask for that one")
        return super().request(species, space_group, energy)

    def decode(self, x: Tensor, batch: Batch) -> list[Structure | None]:
        """Structures in the one cell; None where a number is not finite."""
        values = x.detach().double().cpu().numpy()
        return [to_structure(self.lattice, self.species, row[:-2]) for row in values]

    def noise(self, kind: str, like: Tensor, streams: Streams) -> Tensor:
        """Uniform coordinates on the torus, whatever the kind."""
        return self._with_cell(super().noise("uniform", like, streams))

    def velocity(self, x_0: Tensor, x_1: Tensor) -> Tensor:
        """The shortest way of each atom."""
        return self._with_cell(super().velocity(x_0, x_1))

    def advance(self, x: Tensor, change: Tensor) -> Tensor:
        """x + change, wrapped into the cell."""
        return self._with_cell(super().advance(x, change))

    def velocity_loss(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """(B,) 12 times the mean squared error over the atoms."""
        return 12 * ((prediction - target)[:, :-2] ** 2).mean((1, 2))

    @staticmethod
    def _with_cell(x: Tensor) -> Tensor:
        return torch.cat([x[:, :-2], torch.zeros_like(x[:, -2:])], dim=1)
