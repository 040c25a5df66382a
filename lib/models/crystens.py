"""CrysTens (Alverson et al., 10.1039/D3DD00165B): a crystal as an image, and a 2D UNet that denoises it.

Dismai-Bench trains it on one cell and one composition (10.1039/D4DD00100A, sections 2.2 and 4.2.3), so the parts of the
image that would tell lattice and group are left out. Up to some 60 atoms its second network, which makes 64 x 64 pixels
into more, has nothing to do and is left out, too.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, silu

from lib.models.batch import Batch, Conditions
from lib.models.losses import minimum_image
from lib.models.one_cell_state import CellTensors
from lib.models.unet import TimeEmbedding
from lib.symmetry.spacegroups import into_cell

GROUPS = 8  # of channels that are normalised together; widths are multiples of it


class ImageStates(CellTensors):
    """States that diffusion sees as images; what they are like is left to those who inherit from this.

    The network predicts the noise, at times that are spaced as in the published code.
    """

    prediction_type, spacing = "epsilon", "leading"

    @property
    def kind(self) -> np.ndarray:
        """(N,) number of each atom's element among those that there are, from 0."""
        return np.unique(self.species, return_inverse=True)[1]

    def loss(self, prediction: Tensor, target: Tensor, conditions: Conditions) -> Tensor:
        """(B,) mean squared error over all pixels."""
        return (prediction - target).square().mean((1, 2))


class CrysTensStates(ImageStates):
    """Images of N + 2 by N + 2 pixels and four channels, all within [-1, 1].

    Pixel (i, j) of two atoms holds their distance and the three differences of their fractional coordinates, as they
    are and not of the nearest images. The last two rows and columns hold each atom's element and coordinates.
    """

    def to_euclidean(self, x: Tensor) -> Tensor:
        """States (B, N + 2, 3) as images (B, N + 2, (N + 2) * 4)."""
        coords, n = x[:, :-2], self.n_sites
        way = coords[:, :, None] - coords[:, None]
        cell = torch.as_tensor(self.lattice, dtype=x.dtype, device=x.device)
        corners = np.array(list(itertools.product((-1, 1), repeat=3))) @ self.lattice
        longest = np.linalg.norm(corners, axis=1).max() / 2
        length = (minimum_image(way) @ cell).norm(dim=-1, keepdim=True)
        element = torch.as_tensor(2 * self.kind / max(1, self.kind.max()) - 1, dtype=x.dtype, device=x.device)
        atoms = torch.cat([element[:, None].expand(len(x), n, 1), 2 * coords - 1], dim=-1)
        image = x.new_zeros(len(x), n + 2, n + 2, 4)
        image[:, :n, :n] = torch.cat([2 * length / longest - 1, way], dim=-1)
        image[:, :n, n:], image[:, n:, :n] = atoms[:, :, None], atoms[:, None]
        return image.flatten(2)

    def from_euclidean(self, z: Tensor) -> Tensor:
        """The coordinates of an atom are the mean of what every other atom says of them: its own, and the way."""
        n = self.n_sites
        image = z.unflatten(2, (n + 2, 4))[..., 1:]
        told = (image[:, :n, n:].mean(2) + image[:, n:, :n].mean(1) + 2) / 4
        way = (image[:, :n, :n] - image[:, :n, :n].transpose(1, 2)) / 2
        coords = into_cell((told[:, None] + way).mean(2))
        return torch.cat([coords, coords.new_zeros(len(z), 2, 3)], dim=1)


@dataclass(frozen=True)
class ImageSizes:
    """Channels at the finest scale, and what they are multiplied by at each; 64 and (1, 2, 4) in the paper's runs."""

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4)

    row_multiple: ClassVar[int] = 1
    templates: ClassVar[bool] = False


class ImageBlock(nn.Module):
    """Images (B, C, H, W) and times (B, T) -> (B, C', H, W): two convolutions of 3 x 3, and what came is added."""

    def __init__(self, channels: int, out: int, of_time: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(GROUPS, channels), nn.GroupNorm(GROUPS, out)])
        self.convolutions = nn.ModuleList([nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)])
        self.time = nn.Linear(of_time, out)
        self.same = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """See the class."""
        h = self.convolutions[0](silu(self.norms[0](x))) + self.time(silu(time))[:, :, None, None]
        return self.same(x) + self.convolutions[1](silu(self.norms[1](h)))


class TokenAttention(nn.Module):
    """Tokens (B, L, C) -> the same, with what each takes from all added."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attend = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        h = self.norm(x)
        return x + self.attend(h, h, h, need_weights=False)[0]


class CrysTensNet(nn.Module):
    """Noised images (B, S, S * 4) of side S and times (B,) -> their noise."""

    def __init__(self, representation: CrysTensStates, sizes: ImageSizes) -> None:
        super().__init__()
        widths = [sizes.width * m for m in sizes.multipliers]
        self.side, self.scale, of_time = representation.n_rows, 2 ** (len(widths) - 1), sizes.width
        self.time = TimeEmbedding(sizes.width // 4)
        self.first = nn.Conv2d(4, widths[0], 3, padding=1)
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(ImageBlock(a, a, of_time) for a, _ in pairs)
        self.coarsen = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.middle = nn.ModuleList(ImageBlock(widths[-1], widths[-1], of_time) for _ in range(2))
        self.attention = TokenAttention(widths[-1])
        self.refine = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in reversed(pairs))
        self.up = nn.ModuleList(ImageBlock(2 * a, a, of_time) for a, _ in reversed(pairs))
        self.norm, self.last = nn.GroupNorm(GROUPS, widths[0]), nn.Conv2d(widths[0], 4, 3, padding=1)

    def forward(self, z: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """See the class."""
        time, short = self.time(t), -self.side % self.scale
        h, fine = self.first(pad(z.unflatten(2, (self.side, 4)).movedim(-1, 1), (0, short, 0, short))), []
        for block, coarsen in zip(self.down, self.coarsen, strict=True):
            fine.append(block(h, time))
            h = coarsen(fine[-1])
        h = self.middle[0](h, time)
        h = self.attention(h.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, h.shape[2:])
        h = self.middle[1](h, time)
        for refine, block in zip(self.refine, self.up, strict=True):
            h = block(torch.cat([refine(interpolate(h, scale_factor=2)), fine.pop()], dim=1), time)
        image = self.last(silu(self.norm(h)))[:, :, : self.side, : self.side]
        return image.movedim(1, -1).flatten(2)
