"""CryinGAN (Yong et al., 10.1039/D4DD00100A, section 2.4, Figure 6): a generator of point clouds and its two critics.

Sizes that the paper does not print are those of the code published with it. Atoms of one element stand beside each
other in a state, and their order does not matter to the critics.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, leaky_relu, softplus

from lib.models.batch import Batch
from lib.models.losses import minimum_image
from lib.models.one_cell_state import CellTensors

LATENT = 64
GENERATOR, FEATURES, CRITICS = "generator", "features", "critics"  # what the network is asked for
LEAK = 0.2
LEAST_SQUARE = 1e-8  # Å^2 under the root of a distance, whose gradient is infinite at zero
CENTRES, WIDTH = (1.5, 6.0), 0.3  # Å: of the repaired critic's shells
CONVOLUTIONS, SHELLS = 3, 16  # of the graph critic, and the bells by which it sees distances


@dataclass(frozen=True)
class GanSizes:
    """Widths; the defaults are the published ones. A quarter of them suits 32 atoms on a CPU.

    Attributes:
        channels: of the generator, an atom.
        critic: of the critics' first layers.
        outputs: of a critic; their mean is what it answers.
        neighbours: distances of each atom that the bond critic sees.
        pooling: of the atoms of an element, in the last critic: "average", "max" (CryinGAN-max) or "mix", both.
        critics: "separate", one of coordinates and one of distances; "combined", one that sees both (CryinGAN-comb);
            "coordinates" alone, which is the case lambda = 0; or "graph", one of graph convolutions (S17).
    """

    channels: int = 128
    critic: int = 512
    outputs: int = 10
    neighbours: int = 6
    pooling: Literal["average", "max", "mix"] = "average"
    critics: Literal["separate", "combined", "coordinates", "graph"] = "separate"

    row_multiple: ClassVar[int] = 1
    templates: ClassVar[bool] = False


class SavedBatchNorm(nn.Module):
    """Batch normalisation whose running means are parameters that no optimiser moves, so that checkpoints keep them.

    Args:
        eps: the published code has 0.8, where it meant a momentum of that size.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.mean = nn.Parameter(torch.zeros(channels), requires_grad=False)
        self.variance = nn.Parameter(torch.ones(channels), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) normalised by the batch in training, else by the running means."""
        return batch_norm(x, self.mean, self.variance, self.weight, self.bias, self.training, 0.1, self.eps)


class Generator(nn.Module):
    """Numbers (B, 64) -> fractional coordinates (B, N, 3)."""

    def __init__(self, n_sites: int, channels: int, eps: float) -> None:
        super().__init__()
        self.n_sites, self.channels = n_sites, channels
        self.spread = nn.Linear(LATENT, channels * n_sites)
        widths = [channels, 2 * channels, 4 * channels, 2 * channels]
        kernels = [(1, 3), (1, 1), (1, 1)]
        self.steps = nn.ModuleList(
            nn.ConvTranspose2d(a, b, kernel) for (a, b), kernel in zip(itertools.pairwise(widths), kernels, strict=True)
        )
        self.norms = nn.ModuleList(SavedBatchNorm(width, eps) for width in widths[1:])
        self.last = nn.ConvTranspose2d(widths[-1], 1, (1, 1))

    def forward(self, z: Tensor) -> Tensor:
        """See the class."""
        x = self.spread(z).relu().view(len(z), self.channels, self.n_sites, 1)
        for step, norm in zip(self.steps, self.norms, strict=True):
            x = norm(step(x)).relu()
        return self.last(x).sigmoid()[:, 0]


class Critic(nn.Module):
    """Features of atoms (B, N, F) -> answers (B, outputs): each atom alone, then the mean over those of each element.

    Args:
        blocks: atoms of each element, in the order of the rows.
    """

    def __init__(self, n_features: int, blocks: list[int], sizes: GanSizes, pooling: str) -> None:
        super().__init__()
        width, self.blocks, self.pooling = sizes.critic, blocks, pooling
        self.atom = nn.ModuleList([nn.Linear(n_features, width), nn.Linear(width, width), nn.Linear(width, width // 2)])
        pooled = width // 2 * len(blocks) * (2 if pooling == "mix" else 1)
        self.crystal = nn.ModuleList([nn.Linear(pooled, 1000), nn.Linear(1000, 200), nn.Linear(200, sizes.outputs)])

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        for layer in self.atom:
            x = leaky_relu(layer(x), LEAK)
        parts = x.split(self.blocks, dim=1)
        found = []
        if self.pooling != "max":
            found += [part.mean(1) for part in parts]
        if self.pooling != "average":
            found += [part.amax(1) for part in parts]
        x = torch.cat(found, dim=1)
        for layer in self.crystal[:-1]:
            x = leaky_relu(layer(x), LEAK)
        return self.crystal[-1](x)


def neighbour_distances(frac_coords: Tensor, lattice: Tensor, n: int) -> Tensor:
    """(B, N, n) distances of each atom from its n nearest neighbours, whatever they are, in rising order, Å.

    Neighbours are sought in the home cell and the 26 around it.

    Args:
        frac_coords: (B, N, 3).
        lattice: (3, 3) rows in Å.
    """
    steps = torch.tensor(list(itertools.product((-1, 0, 1), repeat=3)), dtype=lattice.dtype, device=lattice.device)
    apart = minimum_image(frac_coords[:, None] - frac_coords[:, :, None])
    square = ((apart[:, :, :, None] + steps) @ lattice).square().sum(-1)  # (B, N, N, 27)
    itself = torch.eye(square.shape[1], dtype=torch.bool, device=square.device)[:, :, None] & (steps == 0).all(1)
    nearest = square.masked_fill(itself, torch.inf).flatten(2).topk(n, largest=False).values
    return (nearest + LEAST_SQUARE).sqrt()


def pair_shells(frac_coords: Tensor, lattice: Tensor, n: int) -> Tensor:
    """(B, N, N, n) in which of n overlapping shells around an atom another one stands: smooth and periodic."""
    apart = minimum_image(frac_coords[:, None] - frac_coords[:, :, None]) @ lattice
    distance = (apart.square().sum(-1) + LEAST_SQUARE).sqrt() + 1e3 * torch.eye(apart.shape[1], device=apart.device)
    centres = torch.linspace(*CENTRES, n, device=apart.device)
    return (-0.5 * ((distance[..., None] - centres) / WIDTH).square()).exp()


def shell_counts(frac_coords: Tensor, lattice: Tensor, blocks: list[int], n: int) -> Tensor:
    """(B, N, elements * n) how many atoms of each element stand in n overlapping shells around each atom.

    Smooth in the coordinates and periodic: what the repaired bond critic sees in place of the nearest distances.
    """
    bells = pair_shells(frac_coords, lattice, n)
    return torch.cat([part.sum(2) for part in bells.split(blocks, dim=2)], dim=-1)


class GraphCritic(nn.Module):
    """Fractional coordinates (B, N, 3) -> answers (B, outputs), by the graph convolutions of CGCNN (Xie and Grossman,
    10.1103/PhysRevLett.120.145301, equation 5) with all atoms that bells up to CENTRES reach, and a mean over all atoms
    of each element.

    Messages are averaged: batch normalisation, which bounds their sums in CGCNN, goes with no penalty on the gradient
    of each crystal.
    """

    def __init__(self, lattice: Tensor, blocks: list[int], sizes: GanSizes) -> None:
        super().__init__()
        width, self.blocks = sizes.critic // 4, blocks
        self.register_buffer("lattice", lattice, persistent=False)
        self.element = nn.Parameter(torch.randn(len(blocks), width))
        self.gates = nn.ModuleList(nn.Linear(2 * width + SHELLS, width) for _ in range(CONVOLUTIONS))
        self.cores = nn.ModuleList(nn.Linear(2 * width + SHELLS, width) for _ in range(CONVOLUTIONS))
        self.crystal = nn.ModuleList([nn.Linear(width * len(blocks), 200), nn.Linear(200, sizes.outputs)])

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        n, shells = x.shape[1], pair_shells(x, self.lattice, SHELLS)
        near = shells.sum(-1, keepdim=True)
        near = near / (1 + near)  # goes to nothing where the last bell ends
        atoms = self.element.repeat_interleave(torch.tensor(self.blocks, device=x.device), dim=0).expand(len(x), n, -1)
        for gate, core in zip(self.gates, self.cores, strict=True):
            sides = atoms[:, :, None].expand(-1, -1, n, -1), atoms[:, None].expand(-1, n, -1, -1)
            pair = torch.cat([*sides, shells], dim=-1)
            messages = near * gate(pair).sigmoid() * softplus(core(pair))
            atoms = softplus(atoms + messages.sum(2) / (1 + near.sum(2)))
        pooled = torch.cat([part.mean(1) for part in atoms.split(self.blocks, dim=1)], dim=1)
        return self.crystal[1](leaky_relu(self.crystal[0](pooled), LEAK))


class CryinGan(nn.Module):
    """The generator and its critics in one module, which part is asked is its second argument.

    Asked for the "generator" it answers numbers (B, 64) with states (B, N + 2, 3); for "features", fractional
    coordinates (B, N, 3) with what critics see of them, (B, N, F); for "critics", features with (B, critics, outputs).

    Args:
        representation: of crystals of one cell.
    """

    eps = 0.8

    def __init__(self, representation: CellTensors, sizes: GanSizes) -> None:
        super().__init__()
        _, first = np.unique(representation.species, return_index=True)
        self.blocks = np.diff([*sorted(first), len(representation.species)]).tolist()
        self.sizes = sizes
        self.register_buffer("lattice", torch.tensor(representation.lattice, dtype=torch.float32), persistent=False)
        self.generator = Generator(representation.n_sites, sizes.channels, self.eps)
        coordinates, bonds = self.widths()
        kinds = {"separate": (coordinates, bonds), "combined": (coordinates + bonds,)}
        self.seen = kinds.get(sizes.critics, (coordinates,))
        pooling = ["average"] * (len(self.seen) - 1) + [sizes.pooling]
        self.critics = nn.ModuleList(Critic(n, self.blocks, sizes, p) for n, p in zip(self.seen, pooling, strict=True))
        if sizes.critics == "graph":
            self.critics = nn.ModuleList([GraphCritic(self.lattice, self.blocks, sizes)])
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def widths(self) -> tuple[int, int]:
        """Features of an atom for the coordinate and for the bond critic."""
        return 3, self.sizes.neighbours

    def coordinates_seen(self, frac_coords: Tensor) -> Tensor:
        """What the coordinate critic sees of atoms (B, N, 3)."""
        return frac_coords

    def bonds_seen(self, frac_coords: Tensor) -> Tensor:
        """What the bond critic sees."""
        return neighbour_distances(frac_coords, self.lattice, self.sizes.neighbours)

    def forward(self, x: Tensor, part: str, batch: Batch) -> Tensor:
        """See the class."""
        if part == GENERATOR:
            coords = self.generator(x)
            return torch.cat([coords, coords.new_zeros(len(coords), 2, 3)], dim=1)
        if part == FEATURES:
            coordinates = self.coordinates_seen(x)
            alone = sum(self.seen) == coordinates.shape[-1]
            return coordinates if alone else torch.cat([coordinates, self.bonds_seen(x)], dim=-1)
        parts = x.split(list(self.seen), dim=-1)
        return torch.stack([critic(part) for critic, part in zip(self.critics, parts, strict=True)], dim=1)


class RepairedCryinGan(CryinGan):
    """With features that are periodic, tell elements apart and are smooth, and batch normalisation as it is meant."""

    eps = 1e-5

    def widths(self) -> tuple[int, int]:
        """Sine and cosine of each coordinate; shells of each element."""
        return 6, self.sizes.neighbours * len(self.blocks)

    def coordinates_seen(self, frac_coords: Tensor) -> Tensor:
        """See :meth:`widths`."""
        angle = 2 * torch.pi * frac_coords
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def bonds_seen(self, frac_coords: Tensor) -> Tensor:
        """See :meth:`widths`."""
        return shell_counts(frac_coords, self.lattice, self.blocks, self.sizes.neighbours)
