"""States whose cell has as many coordinates as its symmetry leaves free, and how distances change with each of them.

Two charts of the cell are here. In the paper's (Sultanov et al., 10.1021/acs.jcim.3c00969, section 2) a coordinate is a
length of the conventional cell, brought onto the real line by L = k log(exp(a / k) - 1): one to three, and none for
monoclinic and triclinic cells. In the other it is a component of the logarithmic strain that takes a reference cell of
the group, at the volume of its elements, to the crystal's: one to six, for every group. Any values give a cell of the
right symmetry, so that noise and scores need no further constraint.

A chart is given by the metric of the primitive cell, lattice times its transpose, and its derivatives; the distance d
of a fractional vector f is sqrt(f G f), so that its derivatives are those of G between f, divided by 2 d.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pymatgen.core import Structure
from torch import Tensor

from lib.core.errors import BadInput
from lib.crystals.lattices import to_structure, upright
from lib.crystals.table import CrystalTable
from lib.models.batch import Batch
from lib.models.orbit_state import LARGEST_STRAIN, OrbitTensors
from lib.symmetry.multigraph import APPROACHES, Images
from lib.symmetry.orbits import Orbits
from lib.symmetry.spacegroups import N_SPACE_GROUPS, into_cell
from lib.symmetry.wyckoff import (
    AsymmetricUnit,
    Site,
    free_atoms,
    positions,
    primitive_basis,
    primitive_operations,
)

LEVELS = 10  # of noise, numbered from the least
POSITION_WIDTHS = (0.001**0.5, 6.0)  # Å; the widths between are in equal ratios, as of the cell's
SOFTNESS = 10.0  # Å, the paper's k
FIRST_ORTHORHOMBIC, FIRST_TETRAGONAL, FIRST_TRIGONAL, FIRST_CUBIC = 16, 75, 143, 195
_CPU = torch.device("cpu")


def in_equal_ratios(widths: tuple[float, float], t: Tensor) -> Tensor:
    """The width of noise at levels t, any numbers from 0 to LEVELS - 1, between two widths."""
    low, high = np.log(widths)
    return (low + t * ((high - low) / (LEVELS - 1))).exp()


def own_metrics(orbits: Orbits, metric: Tensor) -> Tensor:
    """(B, T, 3, 3) metric of each orbit's free parameters in Å^2, the identity where there are none."""
    own = orbits.directions.mT @ metric[:, None] @ orbits.directions
    return own + torch.diag_embed((~orbits.free).to(own))


class CellStates(OrbitTensors):
    """States (B, T + 2, 3) as :class:`OrbitTensors`, whose last rows are the six coordinates of a chart of the cell.

    They are standardised over the training set, and zero where the symmetry leaves none. Written out here is the chart
    of logarithmic strain; :class:`LengthStates` has the paper's.

    Attributes:
        cell_widths: the least and the largest width of noise of the chart's coordinates.
        merges: whether sites are told without their positions, so that images of one may coincide.
    """

    cell_widths: ClassVar[tuple[float, float]] = (0.02, 0.4)
    merges: ClassVar[bool] = False

    @classmethod
    def fit(cls, table: CrystalTable, multiple: int = 1) -> CellStates:
        """Sizes and statistics of a training table's standard cells.

        Raises:
            BadInput: a crystal has a group that the chart does not cover.
        """
        units, volumes = table.asymmetric_units, cls.volumes_of(table)
        n_sites = -(-max(len(unit.species) for unit in units) // multiple) * multiple
        rep = cls(n_sites, volumes.tolist(), np.zeros((2, 3)).tolist(), np.ones((2, 3)).tolist())
        groups = torch.tensor([unit.symmetry for unit in units])
        metric = torch.from_numpy(np.array([unit.lattice @ unit.lattice.T for unit in units]))
        expected = cls.reference_volumes(units, volumes)
        values, free = rep.coordinates(metric, groups, expected).double(), rep.free_of(groups)
        n = free.sum(0).clamp(min=1)
        mean = (values * free).sum(0) / n
        std = (((values - mean) ** 2 * free).sum(0) / n).sqrt().clamp(min=1e-2)
        return cls(n_sites, volumes.tolist(), mean.view(2, 3).tolist(), std.view(2, 3).tolist())

    @classmethod
    def reference_volumes(cls, units: Sequence[AsymmetricUnit], volumes: np.ndarray) -> Tensor:
        """(n,) Å^3 that the elements of crystals take, of which the cell is a strain."""
        return torch.tensor([volumes[unit.species].sum() for unit in units])

    # ------------------------------------------------------------------------------------------------- the chart

    def free_of(self, groups: Tensor) -> Tensor:
        """(B, 6) which coordinates the groups leave free."""
        return torch.arange(6, device=groups.device) < _strains(groups.device)[2][groups][:, None]

    def coordinates(self, metric: Tensor, groups: Tensor, volumes: Tensor) -> Tensor:
        """(B, 6) coordinates of metrics (B, 3, 3) Å^2 that have the symmetry of their groups.

        Args:
            volumes: (B,) Å^3 that the elements take.
        """
        reference, basis, _ = (values[groups].to(metric.dtype) for values in _strains(metric.device))
        inverse = torch.linalg.inv(reference)
        scale = volumes.to(metric.dtype)[:, None, None] ** (2 / 3)
        squares, axes = torch.linalg.eigh(inverse @ metric @ inverse.mT / scale)
        strain = (axes * (squares.clamp(min=1e-9).log() / 2)[:, None]) @ axes.mT
        return torch.einsum("bij,bkij->bk", strain, basis) / 3

    def metric(self, values: Tensor, groups: Tensor, volumes: Tensor) -> tuple[Tensor, Tensor]:
        """Metrics (B, 3, 3) Å^2 of coordinates (B, 6), and their derivatives (B, 6, 3, 3)."""
        reference, basis, _ = (table[groups].to(values.dtype) for table in _strains(values.device))
        reference = reference * volumes[:, None, None].to(values.dtype) ** (1 / 3)
        logs, axes = torch.linalg.eigh(torch.einsum("bk,bkij->bij", values, basis))
        logs = logs.clamp(-LARGEST_STRAIN, LARGEST_STRAIN)
        apart = logs[:, :, None] - logs[:, None]
        ratio = torch.where(apart.abs() < 1e-4, 1, apart.sinh() / torch.where(apart == 0, 1, apart))
        slope = 2 * (logs[:, :, None] + logs[:, None]).exp() * ratio  # divided differences of exp(2 s)
        turned = axes.mT[:, None] @ basis @ axes[:, None] * slope[:, None]
        outer = reference @ axes
        metric = (outer * (2 * logs).exp()[:, None]) @ outer.mT
        return metric, outer[:, None] @ turned @ outer.mT[:, None]

    # ------------------------------------------------------------------------------------------------- of states

    def free(self, batch: Batch) -> Tensor:
        """(B, 6) which coordinates of the cell are free."""
        return self.free_of(batch.orbits.symmetry)

    def values(self, x: Tensor) -> Tensor:
        """(B, 6) the chart's coordinates of states (B, T + 2, 3)."""
        return x[:, -2:].flatten(1) * x.new_tensor(self.lattice_std.ravel()) + x.new_tensor(self.lattice_mean.ravel())

    def rows_of(self, values: Tensor, free: Tensor) -> Tensor:
        """(B, 2, 3) rows of states of the chart's coordinates (B, 6); inverse of :meth:`values`."""
        mean, std = (values.new_tensor(v.ravel()) for v in (self.lattice_mean, self.lattice_std))
        return ((values - mean) / std * free).unflatten(1, (2, 3))

    def cell(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Metrics of states and their derivatives by the chart's coordinates, see :meth:`metric`; of states that are no
        numbers those of the reference cell, so that one crystal does not end a batch."""
        values = self.values(x).nan_to_num(0.0, 0.0, 0.0) * self.free(batch)
        return self.metric(values, batch.orbits.symmetry, self._volumes(batch))

    def request(
        self,
        species: Sequence[np.ndarray],
        space_group: np.ndarray,
        energy: np.ndarray,
        units: Sequence[AsymmetricUnit] | None = None,
    ) -> Batch:
        """See the base class; crystals of more sites than the training set's have more rows, as the network has none
        that are their own."""
        most = max((len(one) for one in species), default=0)
        if most > self.n_sites:
            return type(self)(**self.state() | {"n_sites": most}).request(species, space_group, energy, units)
        return super().request(species, space_group, energy, units)

    def encode_units(self, units: Sequence[AsymmetricUnit]) -> Tensor:
        """(n, n_sites + 2, 3) states of crystals given by their asymmetric units."""
        x = super().encode_units(units)
        groups = torch.tensor([unit.symmetry for unit in units])
        metric = torch.from_numpy(np.array([unit.lattice @ unit.lattice.T for unit in units]))
        expected = self.reference_volumes(units, self.volumes)
        x[:, -2:] = self.rows_of(self.coordinates(metric, groups, expected).to(x.dtype), self.free_of(groups))
        return x

    def freed(self, batch: Batch) -> Batch:
        """The same crystals with every atom an orbit of its own, in the chart of cells without symmetry."""
        metric, freed = self.cell(batch.x_1, batch)[0], super().freed(batch)
        values = self.coordinates(metric, freed.orbits.symmetry, self._volumes(batch))
        return replace(freed, x_1=torch.cat([freed.x_1[:, :-2], self.rows_of(values, self.free(freed))], dim=1))

    def constrain(self, x: Tensor, batch: Batch) -> Tensor:
        """The state without coordinates of the cell that the symmetry does not leave free."""
        return torch.cat([x[:, :-2], x[:, -2:] * self.free(batch).view(-1, 2, 3)], dim=1)

    def decode(self, x: Tensor, batch: Batch) -> list[Structure | None]:
        """Structures of states; None where the cell is flat or huge, or a number is not finite."""
        x, lattices = self._lattices(x, batch)
        coords, species = batch.orbits.atoms(x[:, :-2]).cpu().numpy(), batch.conditions.species.cpu().numpy()
        cells = upright(lattices.cpu().numpy())
        atoms = (s[s > 0] for s in species)
        return [to_structure(cell, s, v[: len(s)]) for cell, s, v in zip(cells, atoms, coords, strict=True)]

    def _lattices(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """States in double precision, and their lattices (B, 3, 3), nan where a number is not finite."""
        x = x.detach().double()
        lattices, failed = torch.linalg.cholesky_ex(self.cell(x, batch)[0])
        finite = x.isfinite().all((1, 2)) & (failed == 0)
        return x, torch.where(finite[:, None, None], lattices, torch.nan)

    def _volumes(self, batch: Batch) -> Tensor:
        """(B,) Å^3 that the elements of the atoms take."""
        known = torch.as_tensor(self.volumes, device=batch.conditions.species.device)
        return known[batch.conditions.species].sum(1)


class LengthStates(CellStates):
    """The paper's chart: softplus coordinates of the lengths a, b, c of the conventional cell, groups 16 to 230."""

    cell_widths: ClassVar[tuple[float, float]] = (0.1**0.5, 6.0)

    def free_of(self, groups: Tensor) -> Tensor:
        """(B, 6) one length of a cubic cell, two of a tetragonal or hexagonal one, three of an orthorhombic one.

        Raises:
            BadInput: a group has a cell with free angles.
        """
        if len(groups) and int(groups.min()) < FIRST_ORTHORHOMBIC:
            raise BadInput(
                f"group {int(groups.min())} has a cell with free angles, which lengths alone do not describe; take the "
                "network dimenet, whose cells are strained, or crystals of groups 16 to 230"
            )
        n = 3 - (groups >= FIRST_TETRAGONAL).long() - (groups >= FIRST_CUBIC).long()
        return torch.arange(6, device=groups.device) < n[:, None]

    def coordinates(self, metric: Tensor, groups: Tensor, volumes: Tensor) -> Tensor:
        """(B, 6) softplus coordinates; the elements' volumes do not enter."""
        back = torch.linalg.inv(_conventional(metric.device)[0][groups].to(metric.dtype))
        lengths = (back.mT @ metric @ back).diagonal(dim1=1, dim2=2).sqrt()
        a, b, c = lengths.unbind(1)
        second = torch.where(groups < FIRST_TETRAGONAL, b, c)  # a = b elsewhere
        lengths = torch.stack([a, second, c], dim=1)
        values = SOFTNESS * torch.expm1(lengths / SOFTNESS).log()
        return torch.cat([values, torch.zeros_like(values)], dim=1) * self.free_of(groups)

    def metric(self, values: Tensor, groups: Tensor, volumes: Tensor) -> tuple[Tensor, Tensor]:
        """Metrics (B, 3, 3) of the primitive cell, and derivatives (B, 6, 3, 3)."""
        primitive, angles, which = (table[groups] for table in _conventional(values.device))
        lengths = SOFTNESS * torch.nn.functional.softplus(values[:, :3] / SOFTNESS)
        slopes = torch.sigmoid(values[:, :3] / SOFTNESS)
        primitive, angles = primitive.to(values.dtype), angles.to(values.dtype)
        taken = torch.nn.functional.one_hot(which, 3).to(values.dtype)  # (B, axis, coordinate)
        axes = (taken @ lengths[:, :, None])[..., 0]
        whole = axes[:, :, None] * axes[:, None] * angles
        change = (taken * slopes[:, None]).mT  # (B, coordinate, axis)
        slope = (change[:, :, :, None] * axes[:, None, None] + axes[:, None, :, None] * change[:, :, None]) * angles[
            :, None
        ]
        slope = torch.cat([primitive.mT[:, None] @ slope @ primitive[:, None], torch.zeros_like(slope)], dim=1)
        return primitive.mT @ whole @ primitive, slope

    def freed(self, batch: Batch) -> Batch:
        """The batch as it is: lengths do not describe a cell whose angles its symmetry leaves free."""
        return batch


class SiteStates(CellStates):
    """Crystals told as sites alone, without their Wyckoff positions: the level of knowledge of the paper.

    Every site is on the general position, of which its images may coincide, so that the number of atoms is not told
    and may change on the way; structures have images nearer than 0.3 Å as one atom (section 4.2). The reference volume
    is what the elements of the sites take, each counted once.
    """

    merges: ClassVar[bool] = True

    @classmethod
    def fit(cls, table: CrystalTable, multiple: int = 1) -> SiteStates:
        """See the base class; there are as many atoms as all sites have images."""
        fitted = super().fit(table, multiple)
        most = max(len(_general(unit).species) for unit in table.asymmetric_units)
        return cls(**fitted.state() | {"n_sites": -(-most // multiple) * multiple})

    @classmethod
    def reference_volumes(cls, units: Sequence[AsymmetricUnit], volumes: np.ndarray) -> Tensor:
        """(n,) Å^3."""
        return torch.tensor([sum(volumes[site.species] for site in unit.sites) for unit in units])

    def request(
        self,
        species: Sequence[np.ndarray],
        space_group: np.ndarray,
        energy: np.ndarray,
        units: Sequence[AsymmetricUnit] | None = None,
    ) -> Batch:
        """See the base class; of the units the elements of their sites count, and not the positions."""
        units = [_general(unit) for unit in units or map(free_atoms, species)]
        return super().request([unit.species for unit in units], space_group, energy, units)

    def encode_units(self, units: Sequence[AsymmetricUnit]) -> Tensor:
        """(n, n_sites + 2, 3) states of crystals given by their asymmetric units."""
        return super().encode_units([_general(unit) for unit in units])

    def freed(self, batch: Batch) -> Batch:
        """The batch as it is: which images are atoms of their own is not known."""
        return batch

    def decode(self, x: Tensor, batch: Batch) -> list[Structure | None]:
        """Structures of states, images that coincide being one atom; see the base class."""
        x, lattices = self._lattices(x, batch)
        orbits = replace(
            batch.orbits, **{k: v.double() for k, v in vars(batch.orbits).items() if v.is_floating_point()}
        )
        images = Images.merged(orbits, x[:, :-2].nan_to_num(0.0, 0.0, 0.0), lattices.nan_to_num())
        for _ in range(APPROACHES):
            images = Images.merged(orbits, images.u, lattices.nan_to_num())
        kept = batch.conditions.mask & (images.kept == torch.arange(images.kept.shape[1], device=x.device))
        cells = upright(lattices.cpu().numpy())
        atoms = zip(cells, batch.conditions.species, images.atom, kept, strict=True)
        return [to_structure(cell, z[one].cpu().numpy(), v[one].cpu().numpy()) for cell, z, v, one in atoms]

    def _volumes(self, batch: Batch) -> Tensor:
        return torch.as_tensor(self.volumes, device=batch.orbits.species.device)[batch.orbits.species].sum(1)


def _general(unit: AsymmetricUnit) -> AsymmetricUnit:
    """The same crystal with each site on the general position."""
    known = positions(unit.symmetry)
    places = [(site.species, known[site.position].atoms(np.asarray(site.parameters))[0]) for site in unit.sites]
    return replace(unit, sites=tuple(Site(z, len(known) - 1, into_cell(x)) for z, x in places))


@functools.cache
def _strains(device: torch.device = _CPU) -> tuple[Tensor, Tensor, Tensor]:
    """Reference lattices (231, 3, 3) of volume 1, strains (231, 6, 3, 3) that keep each group's symmetry, and how many.

    The first strain is the same in all directions; together they are orthonormal, the first being the identity.
    """
    candidates = np.zeros((6, 3, 3))
    candidates[0], candidates[1], candidates[2] = np.eye(3), np.diag([1, 1, -2]), np.diag([1, -1, 0])
    for k, (i, j) in enumerate(((1, 2), (0, 2), (0, 1)), start=3):
        candidates[k, i, j] = candidates[k, j, i] = 1
    reference, basis = np.zeros((N_SPACE_GROUPS + 1, 3, 3)), np.zeros((N_SPACE_GROUPS + 1, 6, 3, 3))
    count = np.zeros(N_SPACE_GROUPS + 1, dtype=np.int64)
    for group in range(1, N_SPACE_GROUPS + 1):
        rotations, _ = primitive_operations(group)
        lattice = np.linalg.cholesky((rotations.transpose(0, 2, 1) @ rotations).mean(0))
        reference[group] = lattice / np.linalg.det(lattice) ** (1 / 3)
        turns = np.linalg.inv(lattice) @ rotations.transpose(0, 2, 1) @ lattice
        for strain in candidates:
            kept = (turns.transpose(0, 2, 1) @ strain @ turns).mean(0)
            for other in basis[group, : count[group]]:
                kept = kept - (kept * other).sum() / 3 * other
            if np.linalg.norm(kept) > 1e-6:
                basis[group, count[group]] = kept * np.sqrt(3) / np.linalg.norm(kept)
                count[group] += 1
    return tuple(torch.from_numpy(values).to(device) for values in (reference, basis, count))


@functools.cache
def _conventional(device: torch.device = _CPU) -> tuple[Tensor, Tensor, Tensor]:
    """Primitive bases (231, 3, 3), cosines between conventional axes (231, 3, 3), and which of the free lengths each
    axis has (231, 3)."""
    primitive, cosines = np.tile(np.eye(3), (2, N_SPACE_GROUPS + 1, 1, 1))
    cosines[FIRST_TRIGONAL:FIRST_CUBIC, [0, 1], [1, 0]] = -0.5
    which = np.tile([0, 1, 2], (N_SPACE_GROUPS + 1, 1))
    which[FIRST_TETRAGONAL:] = [0, 0, 1]
    which[FIRST_CUBIC:] = 0
    for group in range(FIRST_ORTHORHOMBIC, N_SPACE_GROUPS + 1):
        primitive[group] = primitive_basis(group)
    return tuple(torch.from_numpy(values).to(device) for values in (primitive, cosines, which))
