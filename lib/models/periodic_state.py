"""States on the torus: fractional coordinates as they are periodic, and a lattice that is always a cell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from pymatgen.core import Structure
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import pad

from lib.core.streams import Streams, normal, uniform
from lib.crystals.lattices import lattice_of_values, lattice_values, to_structure
from lib.crystals.table import CrystalTable, atomic_volumes, predicted_volumes
from lib.models.batch import Batch, Conditions, coordinate_rows
from lib.models.interfaces import EuclideanRepresentation, Representation
from lib.models.losses import minimum_image
from lib.symmetry.spacegroups import into_cell


class TorusStates(Representation):
    """States (B, R + 2, 3): R rows that lie on the torus, then two for the lattice.

    The lattice rows are the diagonal and the off-diagonal (yz, xz, xy) of the symmetric S with
    L L^T = v^(2/3) exp(2 S), standardised over the training set; v is the volume that the elements take in the training
    set. Every S gives a cell, and the cell's rotation in space does not enter. Paths on the torus take the minimum
    image.

    What the R rows are is left to those who inherit from this: atoms, or free parameters of orbits.
    """

    time_scale = 1000.0

    def __init__(self, n_sites: int, volumes: list, lattice_mean: list, lattice_std: list) -> None:
        self.n_sites, self.n_rows = n_sites, n_sites + 2
        self.volumes = np.array(volumes)  # (119,) by atomic number, Å^3; padding, number 0, takes none
        self.lattice_mean, self.lattice_std = np.array(lattice_mean), np.array(lattice_std)

    def state(self) -> dict:
        fitted = {name: getattr(self, name).tolist() for name in ("volumes", "lattice_mean", "lattice_std")}
        return {"n_sites": self.n_sites} | fitted

    @staticmethod
    def volumes_of(table: CrystalTable) -> np.ndarray:
        """(119,) Å^3 that each element takes in a training table, 0 for padding."""
        volumes = atomic_volumes(table)
        volumes[0] = 0
        return volumes

    def lattice_rows(self, lattice: np.ndarray, volumes: np.ndarray) -> np.ndarray:
        """(n, 2, 3) rows of lattices (n, 3, 3) whose elements take the volumes (n,), in Å and Å^3."""
        return (lattice_values(lattice, volumes) - self.lattice_mean) / self.lattice_std

    def pack_atoms(self, table: CrystalTable) -> Batch:
        """A table's crystals, a row an atom, as by :meth:`Representation.pack`."""
        conditions, x = Conditions.of(table, self.n_sites), coordinate_rows(table, self.n_rows)
        x[:, -2:] = self.lattice_rows(table.lattice, predicted_volumes(table, self.volumes))
        return Batch(torch.from_numpy(x), conditions)

    def decode_atoms(self, x: Tensor, species: Tensor) -> list[Structure | None]:
        """Structures of states that have a row an atom; None where the cell is flat or huge, or a number not finite."""
        values, species = x.detach().double().cpu().numpy(), species.cpu().numpy()
        volumes = self.volumes[species].sum(1)
        lattices = lattice_of_values(values[:, -2:] * self.lattice_std + self.lattice_mean, volumes)
        atoms = (s[s > 0] for s in species)
        return [to_structure(cell, s, v[: len(s)]) for cell, s, v in zip(lattices, atoms, values, strict=True)]

    def noise(self, kind: str, like: Tensor, streams: Streams) -> Tensor:
        """Uniform coordinates on the torus; the lattice rows are N(0, 1) or U(0, 1).

        A normal of unit width wrapped round the torus is uniform to nine digits, so both kinds agree on coordinates.
        """
        whole = uniform(like, streams)
        return whole if kind == "uniform" else torch.cat([whole[:, :-2], normal(like, streams)[:, -2:]], dim=1)

    def velocity(self, x_0: Tensor, x_1: Tensor) -> Tensor:
        """The shortest way: minimum image of x_1 - x_0 for coordinates, the difference for the lattice."""
        difference = x_1 - x_0
        return torch.cat([minimum_image(difference[:, :-2]), difference[:, -2:]], dim=1)

    def advance(self, x: Tensor, change: Tensor) -> Tensor:
        """x + change, coordinates wrapped into [0, 1)."""
        moved = x + change
        return torch.cat([into_cell(moved[:, :-2]), moved[:, -2:]], dim=1)


class PeriodicTensors(TorusStates, EuclideanRepresentation):
    """A row an atom on the torus; padding is left out of everything.

    Diffusion, which needs a vector space, sees each coordinate as the point sqrt(2) (cos, sin)(2 pi f) on the circle.
    """

    prediction_type, spacing = "sample", "trailing"

    @classmethod
    def fit(cls, table: CrystalTable, multiple: int = 1) -> PeriodicTensors:
        """Sizes and lattice statistics of a training table."""
        volumes, few = cls.volumes_of(table), table.thinned()
        values = lattice_values(few.lattice, predicted_volumes(few, volumes))
        n_sites = -(-int(table.n_sites.max()) // multiple) * multiple
        return cls(n_sites, volumes.tolist(), values.mean(0).tolist(), values.std(0).clip(1e-3).tolist())

    def pack(self, table: CrystalTable) -> Batch:
        """States (n, n_sites + 2, 3)."""
        return self.pack_atoms(table)

    def decode(self, x: Tensor, batch: Batch) -> list[Structure | None]:
        return self.decode_atoms(x, batch.conditions.species)

    def rows(self, batch: Batch) -> Tensor:
        """(B, n_sites + 2) the atoms and the lattice."""
        return pad(batch.conditions.mask, (0, 2), value=True)

    def align(self, batch: Batch) -> Batch:
        """The batch with the atoms of each element of x_1 in the order that brings them nearest to those of x_0."""
        if batch.x_0 is None:
            return batch
        start, end = batch.x_0[:, :-2].cpu().numpy(), batch.x_1[:, :-2].cpu().numpy()
        species = batch.conditions.species.cpu().numpy()
        difference = start[:, :, None] - end[:, None]
        distance = np.square(difference - np.round(difference)).sum(-1)
        distance += 1e3 * (species[:, :, None] != species[:, None])
        order = np.stack([linear_sum_assignment(d)[1] for d in distance])
        aligned = torch.from_numpy(np.take_along_axis(end, order[:, :, None], axis=1)).to(batch.x_1.device)
        return replace(batch, x_1=torch.cat([aligned, batch.x_1[:, -2:]], dim=1))

    def to_euclidean(self, x: Tensor) -> Tensor:
        """(B, rows, 6): each coordinate as sqrt(2) (cos, sin), unit variance; lattice rows padded with zeros."""
        angle = 2 * torch.pi * x[:, :-2]
        circle = 2**0.5 * torch.cat([angle.cos(), angle.sin()], dim=-1)
        lattice = torch.cat([x[:, -2:], torch.zeros_like(x[:, -2:])], dim=-1)
        return torch.cat([circle, lattice], dim=1)

    def from_euclidean(self, z: Tensor) -> Tensor:
        """Inverse of :meth:`to_euclidean`; points off the circle are projected onto it."""
        coords = into_cell(torch.atan2(z[:, :-2, 3:], z[:, :-2, :3]) / (2 * torch.pi))
        return torch.cat([coords, z[:, -2:, :3]], dim=1)

    def loss(self, prediction: Tensor, target: Tensor, conditions: Conditions) -> Tensor:
        """(B,) mean squared error (5.2) over atoms on the circle, plus that over the lattice."""
        square = (prediction - target) ** 2
        coords = (square[:, :-2].mean(-1) * conditions.mask).sum(1) / conditions.n_sites
        return coords + square[:, -2:, :3].mean((1, 2))

    def velocity_loss(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """(B,) the same for velocities on the torus; a drift of all atoms counts, as the UNet sees where they are.

        A shortest way is uniform in [-1/2, 1/2); 12 times its square is 1 on average, as for the lattice.
        """
        square, conditions = (prediction - target) ** 2, batch.conditions
        coords = 12 * (square[:, :-2].mean(-1) * conditions.mask).sum(1) / conditions.n_sites
        return coords + square[:, -2:].mean((1, 2))
