"""UniMat (Yang et al., arXiv:2311.09235): a crystal as a video, and a network of its frames that denoises it.

Each frame is an atom and has a pixel an element, whose three channels hold the coordinates; all other pixels are -1. As
in Dismai-Bench (10.1039/D4DD00100A, sections 2.2 and 4.2.4) only elements that occur have pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from pymatgen.core import Structure
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu

from lib.models.batch import Batch
from lib.models.crystens import GROUPS, ImageBlock, ImageStates, TokenAttention
from lib.models.unet import TimeEmbedding
from lib.symmetry.spacegroups import into_cell

ABSENT = -1.0


class UniMatStates(ImageStates):
    """Videos of a frame an atom, of side x side pixels and three channels.

    A state's first number below the atoms counts the frames in which another element's pixel is brighter than its own:
    the video is then of another composition.
    """

    @property
    def side(self) -> int:
        """Pixels of a frame's edge."""
        return math.isqrt(int(self.kind.max())) + 1

    def _pixels(self, like: Tensor) -> Tensor:
        """(N, side^2) which pixel is whose."""
        return one_hot(torch.as_tensor(self.kind, device=like.device), self.side**2).to(like.dtype)

    def to_euclidean(self, x: Tensor) -> Tensor:
        """States (B, N + 2, 3) as videos (B, N + 2, side^2 * 3); the last two rows stay zero."""
        own = self._pixels(x)[:, :, None]
        frames = own * x[:, :-2, None] + (1 - own) * ABSENT
        return torch.cat([frames.flatten(2), x.new_zeros(len(x), 2, 3 * self.side**2)], dim=1)

    def from_euclidean(self, z: Tensor) -> Tensor:
        """The coordinates in each atom's own pixel, and in how many frames another one is brighter."""
        frames, own = z[:, :-2].unflatten(2, (-1, 3)), self._pixels(z)
        wrong = (frames.mean(-1).argmax(-1) != own.argmax(-1)).sum(1)
        below = z.new_zeros(len(z), 2, 3)
        below[:, 0, 0] = wrong
        return torch.cat([into_cell((frames * own[..., None]).sum(2)), below], dim=1)

    def decode(self, x: Tensor, batch: Batch) -> list[Structure | None]:
        """Structures; None where the composition is another one, as in the paper, or a number is not finite."""
        right = (x[:, -2, 0] == 0).tolist()
        return [s if ok else None for s, ok in zip(super().decode(x, batch), right, strict=True)]


@dataclass(frozen=True)
class VideoSizes:
    """Channels, and how many blocks follow each other; in the paper's runs 64 channels at three scales of 4 x 4 pixels,
    which frames of a few elements do not have."""

    width: int = 64
    blocks: int = 4

    row_multiple: ClassVar[int] = 1
    templates: ClassVar[bool] = False


class UniMatNet(nn.Module):
    """Noised videos (B, N + 2, side^2 * 3) and times (B,) -> their noise.

    Each block convolves the pixels of a frame, and then lets each pixel see itself in all frames, which have numbers:
    the order of the atoms is seen.
    """

    def __init__(self, representation: UniMatStates, sizes: VideoSizes) -> None:
        super().__init__()
        self.side, width = representation.side, sizes.width
        self.time = TimeEmbedding(width // 4)
        self.first = nn.Conv2d(3, width, 1)
        self.number = nn.Parameter(torch.randn(representation.n_sites, width) / width**0.5)
        self.blocks = nn.ModuleList(ImageBlock(width, width, width) for _ in range(sizes.blocks))
        self.attention = nn.ModuleList(TokenAttention(width) for _ in range(sizes.blocks))
        self.norm, self.last = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, 3, 1)

    def forward(self, z: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """See the class."""
        n, shape = z.shape[1] - 2, (self.side, self.side)
        frames = z[:, :-2].reshape(-1, *shape, 3).movedim(-1, 1)
        time = self.time(t).repeat_interleave(n, dim=0)
        h = self.first(frames) + self.number.repeat(len(z), 1)[:, :, None, None]
        for block, attention in zip(self.blocks, self.attention, strict=True):
            h = block(h, time)
            pixels = h.unflatten(0, (-1, n)).flatten(3).permute(0, 3, 1, 2)  # (B, pixels, N, C)
            mixed = attention(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
            h = mixed.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, shape)
        noise = self.last(silu(self.norm(h))).movedim(1, -1).reshape(len(z), n, -1)
        return torch.cat([noise, torch.zeros_like(z[:, -2:])], dim=1)
