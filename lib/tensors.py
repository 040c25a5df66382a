"""The model's view of a batch: the paper's 64x3 matrix and the periodic state (paper sections 2.1-2.3).

Both representations offer the same verbs, so that a method (:mod:`lib.flow`, :mod:`lib.diffusion`,
:mod:`lib.regression`) is written once:

- `encode` a table to states x (n, rows, 3), and `decode` states to structures;
- `noise`, `interpolate`, `velocity`, `advance`: the geometry in which x_0 is carried to x_1;
- `to_euclidean`, `from_euclidean`: the vector space in which diffusion adds its noise;
- `loss`, `velocity_loss`: how far each crystal's prediction is from its target, (B,).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pymatgen.core import Lattice, Structure
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import pad

from lib.cells import MIN_VOLUME_PER_ATOM
from lib.crystals import CrystalTable, atomic_volumes, predicted_volumes
from lib.losses import PAPER_SITES, l1_paper, minimum_image
from lib.orbits import Orbits, rotations_of
from lib.run import BadInput
from lib.spacegroups import checked_space_group, into_cell
from lib.streams import Streams, normal, numpy_stream, uniform
from lib.wyckoff import AsymmetricUnit

PAPER_ROWS = 64
MIN_HEIGHT = 0.5  # Å; a generated cell flatter than this, or smaller than MIN_VOLUME_PER_ATOM, is no lattice
MAX_LENGTH = 200.0  # Å
LARGEST_STRAIN = 2.0  # |S| beyond this is cut before it is made symmetric: cells of such shape do not occur


@dataclass(frozen=True)
class Template:
    """Crystals that lend their sites.

    Attributes:
        x: (B, T + 2, 3) their states; zeros where there is none.
        lenders: (B, T) atomic number of the element that has the site there; 0: no template, or padding.
    """

    x: Tensor
    lenders: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Template:
        return Template(self.x[rows], self.lenders[rows])

    def to(self, device: torch.device) -> Template:
        """The same on another device."""
        return Template(self.x.to(device), self.lenders.to(device))

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
class Polymorphs:
    """Crystals to be modified, in the transformer's eyes: their atoms have no counterparts among the orbits to come.

    Attributes:
        x: (B, N + 2, 3) their states, atom by atom.
        species: (B, N) atomic numbers, 0 = padding.
    """

    x: Tensor
    species: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Polymorphs:
        return Polymorphs(self.x[rows], self.species[rows])

    def to(self, device: torch.device) -> Polymorphs:
        """The same on another device."""
        return Polymorphs(self.x.to(device), self.species.to(device))


@dataclass(frozen=True)
class Conditions:
    """What a crystal is asked to be.

    Attributes:
        species: (B, N) atomic numbers in canonical order, 0 = padding.
        space_group: (B,) 1..230, 0 = any.
        energy: (B,) formation energy in eV/atom, or for modification E_target - E_init; nan = any.
        orbits: the :class:`lib.orbits.Orbits` that the atoms form, for the transformer.
        template: a crystal of other elements on the same orbits, for a transformer that was trained with some.
        polymorph: x_0, for a transformer that modifies crystals.
    """

    species: Tensor
    space_group: Tensor
    energy: Tensor
    orbits: Orbits | None = None
    template: Template | None = None
    polymorph: Polymorphs | None = None

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

    def __getitem__(self, rows: Tensor | slice) -> Conditions:
        return self._each(lambda value: value[rows])

    def to(self, device: torch.device) -> Conditions:
        """The same conditions on another device."""
        return self._each(lambda value: value.to(device))

    def _each(self, function: Callable) -> Conditions:
        values = (self.species, self.space_group, self.energy, self.orbits, self.template, self.polymorph)
        return Conditions(*(None if value is None else function(value) for value in values))

    def forget(self, share: float, generator: torch.Generator) -> Conditions:
        """The same with the space group, and apart from it the energy, of a random share of the crystals left open."""
        draw = torch.rand(2, len(self), generator=generator, device=self.energy.device) < share
        space_group = self.space_group.masked_fill(draw[0], 0)
        return replace(self, space_group=space_group, energy=self.energy.masked_fill(draw[1], torch.nan))

    def opened(self) -> Conditions:
        """The same with the space group and the energy of every crystal left open."""
        any_group, any_energy = torch.zeros_like(self.space_group), torch.full_like(self.energy, torch.nan)
        return replace(self, space_group=any_group, energy=any_energy)

    @classmethod
    def pack(cls, species: list[np.ndarray], space_group: np.ndarray, energy: np.ndarray, n_max: int) -> Conditions:
        """Pad species to (B, n_max).

        Raises:
            BadInput: a crystal has more atoms than the model has rows, or an impossible space group.
        """
        largest = max((len(s) for s in species), default=0)
        if largest > n_max:
            raise BadInput(f"a crystal has {largest} atoms but the model takes {n_max}; ask for a smaller cell")
        for number in np.setdiff1d(space_group, 0):
            checked_space_group(int(number))
        padded = np.zeros((len(species), n_max), dtype=np.int64)
        for row, numbers in zip(padded, species, strict=True):
            row[: len(numbers)] = numbers
        return cls(
            torch.from_numpy(padded),
            torch.as_tensor(np.asarray(space_group), dtype=torch.int64),
            torch.as_tensor(np.asarray(energy), dtype=torch.float32),
        )

    @classmethod
    def of(cls, table: CrystalTable, n_max: int) -> Conditions:
        """The conditions that a table's own crystals meet."""
        species = [table.species_of(i) for i in range(len(table))]
        return cls.pack(species, table.space_group, table.formation_energy, n_max)


def rows_of(share: slice, *values: Tensor | Conditions | None) -> tuple:
    """Those rows of each value."""
    if share == slice(None):
        return values
    return tuple(None if value is None else value[share] for value in values)


def cell_parameters(lattice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (n, 3) in Å and angles alpha, beta, gamma (n, 3) in radians of lattices (n, 3, 3)."""
    lengths = np.linalg.norm(lattice, axis=-1)
    unit = lattice / lengths[..., None]
    cosines = np.stack([np.sum(unit[:, i] * unit[:, j], axis=-1) for i, j in ((1, 2), (0, 2), (0, 1))], axis=-1)
    return lengths, np.arccos(np.clip(cosines, -1, 1))


def lattice_from_parameters(lengths: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Lattices (n, 3, 3) with a along x and b in the xy plane; nan where the angles span no cell."""
    alpha, beta, gamma = np.cos(angles).T
    sin_gamma = np.sin(angles[:, 2])
    with np.errstate(invalid="ignore", divide="ignore"):
        cy = (alpha - beta * gamma) / sin_gamma
        cz = np.sqrt(1 - beta**2 - cy**2)
    zero, one = np.zeros_like(alpha), np.ones_like(alpha)
    rows = [[one, zero, zero], [gamma, sin_gamma, zero], [beta, cy, cz]]
    return np.stack([np.stack(r, -1) for r in rows], axis=1) * lengths[..., None]


def lattice_values(lattice: np.ndarray, volumes: np.ndarray) -> np.ndarray:
    """(n, 2, 3) diagonals and off-diagonals (yz, xz, xy) of S, half the logarithm of L L^T at unit volume.

    Args:
        lattice: (n, 3, 3) Å.
        volumes: (n,) Å^3 that count as unit volume.
    """
    squares, axes = np.linalg.eigh(lattice @ lattice.transpose(0, 2, 1))
    logarithm = np.einsum("nik,nk,njk->nij", axes, 0.5 * np.log(squares), axes)
    diagonal = np.einsum("nii->ni", logarithm) - np.log(volumes)[:, None] / 3
    return np.stack([diagonal, logarithm[:, *_OFF_DIAGONAL]], axis=1)


def lattice_of_values(values: np.ndarray, volumes: np.ndarray) -> np.ndarray:
    """Lattices (n, 3, 3) in Å with a along x and b in the xy plane; inverse of :func:`lattice_values`."""
    logarithm = np.zeros((len(values), 3, 3))
    logarithm[:, *_OFF_DIAGONAL] = values[:, 1]
    logarithm += logarithm.transpose(0, 2, 1)
    np.einsum("nii->ni", logarithm)[:] = values[:, 0]
    logs, axes = np.linalg.eigh(np.nan_to_num(logarithm, posinf=0, neginf=0))
    lattice = np.einsum("nik,nk,njk->nij", axes, np.exp(logs.clip(-20, 20)), axes) * np.cbrt(volumes)[:, None, None]
    return np.where(np.isfinite(values).all((1, 2))[:, None, None], _upright(lattice), np.nan)


def _upright(lattice: np.ndarray) -> np.ndarray:
    """The same cells (n, 3, 3), turned so that a lies along x and b in the xy plane."""
    return lattice_from_parameters(*cell_parameters(lattice))


_OFF_DIAGONAL = [1, 0, 0], [2, 2, 1]


def to_structure(lattice: np.ndarray, species: np.ndarray, frac_coords: np.ndarray) -> Structure | None:
    """A pymatgen structure, or None where the numbers make no crystal (not finite, flat or collapsed cell)."""
    if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()) or np.abs(lattice).max() > MAX_LENGTH:
        return None
    volume = abs(np.linalg.det(lattice))
    faces = np.linalg.norm(np.cross(lattice[[1, 2, 0]], lattice[[2, 0, 1]]), axis=-1)
    if volume < MIN_VOLUME_PER_ATOM * len(species) or (volume / faces.clip(1e-9)).min() < MIN_HEIGHT:
        return None
    return Structure(Lattice(lattice), species.tolist(), frac_coords, to_unit_cell=True)


class PaperTensors:
    """The paper's representation: X (B, 64, 3) = 60 coordinate rows, a padding row, 3 lattice rows in Å (equation 1).

    Raw values throughout, padding in the noise and in the loss, coordinates on the line and not on the torus.
    """

    name = "paper"
    n_sites = PAPER_SITES
    n_rows = PAPER_ROWS
    channels = 3
    time_scale = 1.0  # flow matching feeds t in [0, 1] to a sinusoid made for 0..1000

    @classmethod
    def fit(cls, table: CrystalTable) -> PaperTensors:
        """Nothing is taken from the training table."""
        return cls()

    def pack(self, table: CrystalTable) -> tuple[Tensor, Conditions]:
        """States of a table's crystals, and the conditions that they meet."""
        return self.encode(table), Conditions.of(table, self.n_sites)

    def encode(self, table: CrystalTable) -> Tensor:
        """(n, 64, 3) matrices of a table; lattices are turned so that a lies along x and b in the xy plane."""
        if len(table) and table.n_sites.max() > PAPER_SITES:
            raise BadInput(f"crystals have up to {table.n_sites.max()} atoms; the 64x3 matrix holds {PAPER_SITES}")
        x = np.zeros((len(table), PAPER_ROWS, 3), dtype=np.float32)
        x[_atom_rows(table)] = table.frac_coords
        x[:, 61:] = _upright(table.lattice)
        return torch.from_numpy(x)

    def decode(self, x: Tensor, conditions: Conditions) -> list[Structure | None]:
        """Structures of states (B, 64, 3); None where the lattice rows make no cell."""
        values, species = x.detach().double().cpu().numpy(), conditions.species.cpu().numpy()
        return [to_structure(v[61:], s[s > 0], v[: np.count_nonzero(s)]) for v, s in zip(values, species, strict=True)]

    def rows(self, conditions: Conditions) -> Tensor:
        """(B, 64) which rows are a crystal's own: all, as padding is noised and learnt like atoms."""
        return torch.ones(len(conditions), self.n_rows, dtype=torch.bool, device=conditions.species.device)

    def noise(self, kind: str, like: Tensor, streams: Streams) -> Tensor:
        """N(0, 1) or U(0, 1) over all 64 rows, padding included."""
        return {"normal": normal, "uniform": uniform}[kind](like, streams)

    def velocity(self, x_0: Tensor, x_1: Tensor) -> Tensor:
        """dx_t/dt = x_1 - x_0."""
        return x_1 - x_0

    def advance(self, x: Tensor, change: Tensor) -> Tensor:
        """x + change."""
        return x + change

    def interpolate(self, x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
        """x_t = t x_1 + (1 - t) x_0, t (B,)."""
        return torch.lerp(x_0, x_1, t[:, None, None])

    def trim(
        self, x: Tensor, conditions: Conditions, largest: tuple[int, int] | None = None
    ) -> tuple[Tensor, Conditions]:
        """The batch as it is: a UNet halves a fixed number of rows."""
        return x, conditions

    def constrain(self, x: Tensor, conditions: Conditions) -> Tensor:
        """The state as it is."""
        return x

    def align(self, x_0: Tensor, x_1: Tensor, conditions: Conditions) -> Tensor:
        """x_1 as it is: the paper pairs atoms by their place in the list."""
        return x_1

    def to_euclidean(self, x: Tensor) -> Tensor:
        """The state itself."""
        return x

    def from_euclidean(self, z: Tensor) -> Tensor:
        """The state itself."""
        return z

    def loss(self, prediction: Tensor, target: Tensor, conditions: Conditions) -> Tensor:
        """The published L1: sum over rows and xyz over n_sites, half for coordinates and half for the lattice.

        What it teaches of a noise or a velocity is the median, not the mean of sections 5.2 and 5.3: of several
        crystals that meet the same conditions samples then favour the likeliest (25 in 100 become 5 in the tests).
        """
        return l1_paper(prediction, target, conditions.n_sites)

    def velocity_loss(self, prediction: Tensor, target: Tensor, conditions: Conditions) -> Tensor:
        """The same for velocities."""
        return self.loss(prediction, target, conditions)

    def state(self) -> dict:
        """What a checkpoint keeps."""
        return {}


class PeriodicTensors:
    """Coordinates on the torus, a normalised lattice, padding out of everything.

    The state (B, n_sites + 2, 3) holds fractional coordinates, then the diagonal and the off-diagonal (yz, xz, xy) of
    the symmetric S with L L^T = v^(2/3) exp(2 S), standardised over the training set; v is the volume that the elements
    take in the training set. Whatever S is, the cell is one, and no rotation of it matters. Paths on the torus take the
    minimum image; diffusion, which needs a vector space, sees each coordinate as the point sqrt(2) (cos, sin)(2 pi f)
    on the circle.
    """

    name = "periodic"
    time_scale = 1000.0

    def __init__(self, n_sites: int, volumes: list, lattice_mean: list, lattice_std: list) -> None:
        self.n_sites, self.n_rows = n_sites, n_sites + 2
        self.volumes = np.array(volumes)  # (119,) by atomic number, Å^3; padding, number 0, takes none
        self.lattice_mean, self.lattice_std = np.array(lattice_mean), np.array(lattice_std)

    @classmethod
    def fit(cls, table: CrystalTable, multiple: int = 4) -> PeriodicTensors:
        """Sizes and lattice statistics of a training table; rows are padded to a multiple that the UNet can halve."""
        n_sites = -(-int(table.n_sites.max()) // multiple) * multiple
        volumes = atomic_volumes(table)
        volumes[0] = 0
        values = lattice_values(table.lattice, predicted_volumes(table, volumes))
        return cls(n_sites, volumes.tolist(), values.mean(0).tolist(), values.std(0).clip(1e-3).tolist())

    def pack(self, table: CrystalTable) -> tuple[Tensor, Conditions]:
        """States of a table's crystals, and the conditions that they meet."""
        return self.encode(table), Conditions.of(table, self.n_sites)

    def encode(self, table: CrystalTable) -> Tensor:
        """(n, n_sites + 2, 3) states of a table."""
        if len(table) and table.n_sites.max() > self.n_sites:
            raise BadInput(f"crystals have up to {table.n_sites.max()} atoms; this model takes {self.n_sites}")
        x = np.zeros((len(table), self.n_rows, 3), dtype=np.float32)
        x[_atom_rows(table)] = table.frac_coords
        values = lattice_values(table.lattice, predicted_volumes(table, self.volumes))
        x[:, -2:] = (values - self.lattice_mean) / self.lattice_std
        return torch.from_numpy(x)

    def forget(
        self, x: Tensor, conditions: Conditions, share: float, generator: torch.Generator
    ) -> tuple[Tensor, Conditions]:
        """The batch with the space group, and apart from it the energy, of a random share of its crystals left open."""
        return x, conditions.forget(share, generator)

    def decode(self, x: Tensor, conditions: Conditions) -> list[Structure | None]:
        """Structures of states; None where the cell is flat or huge, or a number is not finite."""
        values, species = x.detach().double().cpu().numpy(), conditions.species.cpu().numpy()
        volumes = self.volumes[species].sum(1)
        lattices = lattice_of_values(values[:, -2:] * self.lattice_std + self.lattice_mean, volumes)
        atoms = (s[s > 0] for s in species)
        return [to_structure(cell, s, v[: len(s)]) for cell, s, v in zip(lattices, atoms, values, strict=True)]

    def rows(self, conditions: Conditions) -> Tensor:
        """(B, n_sites + 2) which rows are a crystal's own: its atoms and the lattice."""
        return pad(conditions.mask, (0, 2), value=True)

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

    def interpolate(self, x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
        """The point at time t (B,) on the shortest way from x_0 to x_1."""
        return self.advance(x_0, t[:, None, None] * self.velocity(x_0, x_1))

    def trim(
        self, x: Tensor, conditions: Conditions, largest: tuple[int, int] | None = None
    ) -> tuple[Tensor, Conditions]:
        """The batch as it is: a UNet halves a fixed number of rows."""
        return x, conditions

    def constrain(self, x: Tensor, conditions: Conditions) -> Tensor:
        """The state as it is: no symmetry is asked for."""
        return x

    def align(self, x_0: Tensor, x_1: Tensor, conditions: Conditions) -> Tensor:
        """x_1 with the atoms of each element in the order that brings them nearest to those of x_0."""
        start, end = x_0[:, :-2].cpu().numpy(), x_1[:, :-2].cpu().numpy()
        species = conditions.species.cpu().numpy()
        difference = start[:, :, None] - end[:, None]
        distance = np.square(difference - np.round(difference)).sum(-1)
        distance += 1e3 * (species[:, :, None] != species[:, None])
        order = np.stack([linear_sum_assignment(d)[1] for d in distance])
        aligned = np.take_along_axis(end, order[:, :, None], axis=1)
        return torch.cat([torch.from_numpy(aligned).to(x_1.device), x_1[:, -2:]], dim=1)

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
        """Mean squared error (5.2) over atoms on the circle, plus that over the lattice."""
        square = (prediction - target) ** 2
        coords = (square[:, :-2].mean(-1) * conditions.mask).sum(1) / conditions.n_sites
        return coords + square[:, -2:, :3].mean((1, 2))

    def velocity_loss(self, prediction: Tensor, target: Tensor, conditions: Conditions) -> Tensor:
        """The same for velocities on the torus; a drift of all atoms counts, as the UNet sees where they are.

        A shortest way is uniform in [-1/2, 1/2); 12 times its square is 1 on average, as for the lattice.
        """
        square = (prediction - target) ** 2
        coords = 12 * (square[:, :-2].mean(-1) * conditions.mask).sum(1) / conditions.n_sites
        return coords + square[:, -2:].mean((1, 2))

    def state(self) -> dict:
        """What a checkpoint keeps."""
        return {
            "n_sites": self.n_sites,
            "volumes": self.volumes.tolist(),
            "lattice_mean": self.lattice_mean.tolist(),
            "lattice_std": self.lattice_std.tolist(),
        }


class OrbitTensors(PeriodicTensors):
    """States (B, T + 2, 3): the parameters u of T orbits on the torus, then the two lattice rows of the base class.

    Cells are spglib's standard primitive ones; the lattice keeps to the symmetry of its group.
    """

    name = "orbits"

    @classmethod
    def fit(cls, table: CrystalTable) -> OrbitTensors:
        """Sizes and lattice statistics of a training table's standard cells."""
        units = table.asymmetric_units
        volumes = atomic_volumes(table)
        volumes[0] = 0
        values = lattice_values(np.array([unit.lattice for unit in units]), _predicted_volumes(units, volumes))
        n_sites = max(len(unit.species) for unit in units)
        return cls(n_sites, volumes.tolist(), values.mean(0).tolist(), values.std(0).clip(1e-3).tolist())

    def pack(self, table: CrystalTable) -> tuple[Tensor, Conditions]:
        """States (n, n_sites + 2, 3) of a table's crystals, and the conditions that they meet."""
        units = table.asymmetric_units
        return self.encode_units(units), self.asked(units, table.space_group, table.formation_energy)

    def polymorphs(self, table: CrystalTable) -> Polymorphs:
        """A table's crystals as those to be modified.

        Raises:
            BadInput: one has more atoms than the model has rows.
        """
        return Polymorphs(self.encode(table), Conditions.of(table, self.n_sites).species)

    def rows(self, conditions: Conditions) -> Tensor:
        """(B, T + 2) which rows are a crystal's own: its orbits and the lattice."""
        return pad(conditions.orbits.mask, (0, 2), value=True)

    def encode_units(self, units: Sequence[AsymmetricUnit]) -> Tensor:
        """(n, n_sites + 2, 3) states of crystals given by their asymmetric units."""
        x = np.zeros((len(units), self.n_rows, 3), dtype=np.float32)
        for row, unit in zip(x, units, strict=True):
            for place, site in zip(row, unit.sites, strict=False):
                place[: len(site.parameters)] = site.parameters
        values = lattice_values(np.array([u.lattice for u in units]), _predicted_volumes(units, self.volumes))
        x[:, -2:] = (values - self.lattice_mean) / self.lattice_std
        return torch.from_numpy(x)

    def asked(self, units: Sequence[AsymmetricUnit], space_group: np.ndarray, energy: np.ndarray) -> Conditions:
        """Conditions with the orbits of the given units; those whose sites have lenders are templates as well.

        Of the others neither the free parameters nor the lattices matter.

        Raises:
            BadInput: a crystal has more atoms than the model has rows, or an impossible space group.
        """
        conditions = Conditions.pack([unit.species for unit in units], space_group, energy, self.n_sites)
        return replace(conditions, orbits=Orbits.pack(units, self.n_sites), template=self.encode_templates(units))

    def encode_templates(self, units: Sequence[AsymmetricUnit]) -> Template | None:
        """The units as templates, as far as their sites have lenders; None where none has."""
        lenders = np.zeros((len(units), self.n_sites), dtype=np.int64)
        for row, unit in zip(lenders, units, strict=True):
            row[: len(unit.sites)] = [site.lender for site in unit.sites]
        if not lenders.any():
            return None
        template = Template(self.encode_units(units), torch.from_numpy(lenders))
        return template.hidden(~template.given)

    def trim(
        self, x: Tensor, conditions: Conditions, largest: tuple[int, int] | None = None
    ) -> tuple[Tensor, Conditions]:
        """The batch without the padding that none of its crystals needs.

        Args:
            largest: the most orbits and the most atoms of a crystal, where they are known; to ask a GPU is to wait.
        """
        n_orbits, n_atoms = largest or (int(conditions.orbits.mask.sum(1).max()), int(conditions.n_sites.max()))
        orbits, template = conditions.orbits.trimmed(n_orbits, n_atoms), conditions.template
        template = None if template is None else template.trimmed(n_orbits)
        conditions = replace(conditions, species=conditions.species[:, :n_atoms], orbits=orbits, template=template)
        return torch.cat([x[:, :n_orbits], x[:, -2:]], dim=1), conditions

    def forget(
        self, x: Tensor, conditions: Conditions, share: float, generator: torch.Generator
    ) -> tuple[Tensor, Conditions]:
        """See the base class; that share of the batches is not told of any symmetry, either, nor of templates."""
        coin = numpy_stream(generator.initial_seed(), "coin")  # the host's: to ask a GPU is to wait for it
        if coin.random() >= share:
            return x, conditions.forget(share, generator)
        x, conditions = self.freed(x, conditions)
        return x, conditions.forget(0.5, generator)

    def freed(self, x: Tensor, conditions: Conditions) -> tuple[Tensor, Conditions]:
        """The same crystals with every atom an orbit of its own."""
        atoms = into_cell(conditions.orbits.atoms(x[:, :-2]))
        conditions = replace(conditions, orbits=Orbits.single(conditions.species), template=None)
        return torch.cat([atoms, x[:, -2:]], dim=1), conditions

    def decode(self, x: Tensor, conditions: Conditions) -> list[Structure | None]:
        """Structures of states; None where the cell is flat or huge, or a number is not finite."""
        atoms = into_cell(conditions.orbits.atoms(x[:, :-2]))
        return super().decode(torch.cat([atoms, x[:, -2:]], dim=1), conditions)

    def constrain(self, x: Tensor, conditions: Conditions) -> Tensor:
        """The state with its lattice made symmetric: the mean of R^T G R over the group, G = L L^T."""
        rotations = rotations_of(x.device)[conditions.orbits.symmetry]
        mean, std = (_constant(tuple(v.flat), x.dtype, x.device) for v in (self.lattice_mean, self.lattice_std))
        values = x[:, -2:] * std + mean
        metric = _symmetric_function(_as_matrix(values).clamp(-LARGEST_STRAIN, LARGEST_STRAIN), lambda s: (2 * s).exp())
        metric = torch.einsum("bgki,bkl,bglj->bij", rotations, metric, rotations) / rotations.shape[1]
        values = _as_rows(_symmetric_function(metric, lambda g: 0.5 * g.clamp(min=1e-6).log()))
        return torch.cat([x[:, :-2], (values - mean) / std], dim=1)

    def velocity_loss(self, prediction: Tensor, target: Tensor, conditions: Conditions) -> Tensor:
        """Mean squared error over the free parameters, an orbit weighing as many as it has atoms, plus the lattice's.

        A shortest way is uniform in [-1/2, 1/2); 12 times its square is 1 on average, as for the lattice. A drift of
        the whole crystal along an axis without origin costs nothing.
        """
        orbits, error = conditions.orbits, prediction - target
        weight = orbits.multiplicity[:, :, None] * orbits.free
        coords = 12 * (weight * orbits.without_drift(error[:, :-2]) ** 2).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)
        return coords + (error[:, -2:] ** 2).mean((1, 2))


Representation = PaperTensors | PeriodicTensors


def _predicted_volumes(units: Sequence[AsymmetricUnit], volumes: np.ndarray) -> np.ndarray:
    return np.array([volumes[unit.species].sum() for unit in units])


@functools.cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Lattice values (2, 3), sent to a device once."""
    return torch.tensor(values, dtype=dtype, device=device).view(2, 3)


def _as_matrix(values: Tensor) -> Tensor:
    """Diagonals and off-diagonals (yz, xz, xy) (B, 2, 3) -> symmetric matrices (B, 3, 3)."""
    (xx, yy, zz), (yz, xz, xy) = values[:, 0].unbind(-1), values[:, 1].unbind(-1)
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], -1).unflatten(-1, (3, 3))


def _as_rows(matrix: Tensor) -> Tensor:
    """Inverse of :func:`_as_matrix`."""
    off = torch.stack([matrix[:, 1, 2], matrix[:, 0, 2], matrix[:, 0, 1]], -1)
    return torch.stack([matrix.diagonal(dim1=1, dim2=2), off], dim=1)


def _symmetric_function(matrix: Tensor, function) -> Tensor:
    values, axes = torch.linalg.eigh(matrix)
    return torch.einsum("bik,bk,bjk->bij", axes, function(values), axes)


def _atom_rows(table: CrystalTable) -> tuple[np.ndarray, np.ndarray]:
    """Where in a padded (n, rows) array each atom of a packed table goes."""
    crystal = np.repeat(np.arange(len(table)), table.n_sites)
    return crystal, np.arange(len(table.species)) - table.offsets[crystal]
