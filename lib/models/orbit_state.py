"""States of crystals that keep to a space group: the free parameters of their orbits, and the lattice."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from pymatgen.core import Structure
from torch import Tensor
from torch.nn.functional import pad

from lib.core.streams import numpy_stream
from lib.crystals.lattices import lattice_values, matrix_of_values, symmetric_function, values_of_matrix
from lib.crystals.table import CrystalTable
from lib.models.batch import Batch, Template
from lib.models.periodic_state import TorusStates
from lib.symmetry.orbits import Orbits, rotations_of
from lib.symmetry.packed import PackedUnits
from lib.symmetry.spacegroups import into_cell
from lib.symmetry.wyckoff import AsymmetricUnit, free_atoms

LARGEST_STRAIN = 2.0  # |S| beyond this is cut before it is made symmetric: cells of such shape do not occur


class OrbitTensors(TorusStates):
    """States (B, T + 2, 3): the parameters u of T orbits on the torus, then the lattice.

    Cells are spglib's standard primitive ones; the lattice keeps to the symmetry of its group. Crystals to be modified
    have a row an atom, as their orbits are not those of the crystal to be made.
    """

    @classmethod
    def fit(cls, table: CrystalTable, multiple: int = 1) -> OrbitTensors:
        """Sizes and lattice statistics of a training table's standard cells."""
        volumes, units = cls.volumes_of(table), table.thinned().asymmetric_units
        values = lattice_values(units.lattice, units.sums(volumes))
        n_sites = -(-int(table.asymmetric_units.n_atoms.max()) // multiple) * multiple
        return cls(n_sites, volumes.tolist(), values.mean(0).tolist(), values.std(0).clip(1e-3).tolist())

    def pack(self, table: CrystalTable) -> Batch:
        """A table's crystals as states (n, n_sites + 2, 3), with the conditions and the orbits that they have."""
        units = table.asymmetric_units
        atoms = units.atoms
        species = [atoms[a:b] for a, b in itertools.pairwise(units.atom_offsets)]
        batch = self.request(species, table.space_group, table.formation_energy, units)
        return replace(batch, x_1=self.encode_units(units))

    def initial(self, table: CrystalTable) -> tuple[Tensor, Tensor]:
        """x_0 (n, n_sites + 2, 3) and species_0 (n, n_sites) of a table's crystals, a row an atom."""
        batch = self.pack_atoms(table)
        return batch.x_1, batch.conditions.species

    def request(self, species, space_group, energy, units: Sequence[AsymmetricUnit] | None = None) -> Batch:
        """Crystals to be made on the orbits of the given units, whose elements take the place of `species`.

        Without units every atom is an orbit of its own. Units some of whose sites name a lender are templates as well;
        of all others neither the free parameters nor the lattice matter.
        """
        units = units or [free_atoms(s) for s in species]
        batch = super().request([unit.species for unit in units], space_group, energy)
        return replace(batch, orbits=Orbits.pack(units, self.n_sites), template=self.encode_templates(units))

    def encode_units(self, units: Sequence[AsymmetricUnit]) -> Tensor:
        """(n, n_sites + 2, 3) states of crystals given by their asymmetric units."""
        units = PackedUnits.of(units)
        x = np.zeros((len(units), self.n_rows, 3), dtype=np.float32)
        x[_places(units)] = units.parameters
        x[:, -2:] = self.lattice_rows(units.lattice, units.sums(self.volumes))
        return torch.from_numpy(x)

    def encode_templates(self, units: Sequence[AsymmetricUnit]) -> Template | None:
        """Those units as templates whose sites name a lender; None where none does."""
        units = PackedUnits.of(units)
        lenders = np.zeros((len(units), self.n_sites), dtype=np.int64)
        lenders[_places(units)] = units.lender
        if not lenders.any():
            return None
        template = Template(self.encode_units(units), torch.from_numpy(lenders))
        return template.hidden(~template.given)

    def decode(self, x: Tensor, batch: Batch) -> list[Structure | None]:
        """Structures of states; None where the cell is flat or huge, or a number is not finite."""
        return self.decode_atoms(_atom_by_atom(x, batch.orbits), batch.conditions.species)

    def rows(self, batch: Batch) -> Tensor:
        """(B, T + 2) the orbits and the lattice."""
        return pad(batch.orbits.mask, (0, 2), value=True)

    def trim(self, batch: Batch, largest: tuple[int, int] | None = None) -> Batch:
        orbits, conditions, template = batch.orbits, batch.conditions, batch.template
        n_orbits, n_atoms = largest or (int(orbits.mask.sum(1).max()), int(conditions.n_sites.max()))
        return replace(
            batch,
            x_1=torch.cat([batch.x_1[:, :n_orbits], batch.x_1[:, -2:]], dim=1),
            conditions=replace(conditions, species=conditions.species[:, :n_atoms]),
            orbits=orbits.trimmed(n_orbits, n_atoms),
            template=None if template is None else template.trimmed(n_orbits),
        )

    def forget(self, batch: Batch, share: float, generator: torch.Generator) -> Batch:
        """See the base class; moreover that share of all batches is kept to no symmetry and shown no templates."""
        coin = numpy_stream(generator.initial_seed(), "coin")  # the host's: to ask a GPU is to wait for it
        if coin.random() >= share:
            return super().forget(batch, share, generator)
        return super().forget(self.freed(batch), 0.5, generator)

    def freed(self, batch: Batch) -> Batch:
        """The same crystals with every atom an orbit of its own."""
        x, orbits = _atom_by_atom(batch.x_1, batch.orbits), Orbits.single(batch.conditions.species)
        return replace(batch, x_1=x, orbits=orbits, template=None)

    def constrain(self, x: Tensor, batch: Batch) -> Tensor:
        """The state with its lattice made symmetric: the mean of R^T G R over the group, G = L L^T."""
        rotations = rotations_of(x.device)[batch.orbits.symmetry]
        mean, std = (_constant(tuple(v.flat), x.dtype, x.device) for v in (self.lattice_mean, self.lattice_std))
        strain = matrix_of_values(x[:, -2:] * std + mean).clamp(-LARGEST_STRAIN, LARGEST_STRAIN)
        metric = symmetric_function(strain, lambda s: (2 * s).exp())
        metric = torch.einsum("bgki,bkl,bglj->bij", rotations, metric, rotations) / rotations.shape[1]
        values = values_of_matrix(symmetric_function(metric, lambda g: 0.5 * g.clamp(min=1e-6).log()))
        return torch.cat([x[:, :-2], (values - mean) / std], dim=1)

    def velocity_loss(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """(B,) mean squared error over the free parameters, each orbit weighed by its atoms, plus the lattice's.

        A shortest way is uniform in [-1/2, 1/2); 12 times its square is 1 on average, as for the lattice. A drift of
        the whole crystal along an axis on which its group has no origin costs nothing.
        """
        orbits, error = batch.orbits, prediction - target
        weight = orbits.multiplicity[:, :, None] * orbits.free
        coords = 12 * (weight * orbits.without_drift(error[:, :-2]) ** 2).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)
        return coords + (error[:, -2:] ** 2).mean((1, 2))


def _atom_by_atom(x: Tensor, orbits: Orbits) -> Tensor:
    """States (B, N + 2, 3) that have a row an atom, of those by orbits (B, T + 2, 3)."""
    return torch.cat([into_cell(orbits.atoms(x[:, :-2])), x[:, -2:]], dim=1)


def _places(units: PackedUnits) -> tuple[np.ndarray, np.ndarray]:
    """(sites,), (sites,) the unit that each site is of, and its number there."""
    unit = np.repeat(np.arange(len(units)), units.n_orbits)
    return unit, np.arange(len(unit)) - units.offsets[unit]


@functools.cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Lattice values (2, 3), sent to a device once."""
    return torch.tensor(values, dtype=dtype, device=device).view(2, 3)
