"""A graph network for crystals of one cell: every atom sends a message to every other (Jiao et al., DiffCSP,
arXiv:2309.04475, section 4.2), which sees their difference as waves alone, so that no translation matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from lib.crystals.elements import SYMBOLS
from lib.models.batch import Batch
from lib.models.one_cell_state import CellTensors
from lib.models.unet import TimeEmbedding


@dataclass(frozen=True)
class GraphSizes:
    """Width of nodes, layers of messages, and K of the waves; 256, 4 and 128 in the paper's runs (section 4.2.2)."""

    width: int = 256
    layers: int = 4
    harmonics: int = 128

    row_multiple: ClassVar[int] = 1
    templates: ClassVar[bool] = False


class MessageLayer(nn.Module):
    """Nodes (B, N, W) and waves of pairs (B, N, N, E) -> nodes, with the mean message of all others added."""

    def __init__(self, sizes: GraphSizes) -> None:
        super().__init__()
        width = sizes.width
        self.norm = nn.LayerNorm(width)
        self.receiver, self.sender = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.pair = nn.Linear(6 * sizes.harmonics, width, bias=False)
        self.message = nn.Linear(width, width)
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, nodes: Tensor, waves: Tensor) -> Tensor:
        """See the class."""
        h = self.norm(nodes)
        first = silu(self.receiver(h)[:, :, None] + self.sender(h)[:, None] + self.pair(waves))
        messages = silu(self.message(first)).mean(2)
        return nodes + self.update(torch.cat([h, messages], dim=-1))


class CrystalGraph(nn.Module):
    """States (B, N + 2, 3) and times (B,) -> what the method asks of each atom, (B, N + 2, 3); zero for the cell, which
    is not seen, as it is the same for all."""

    def __init__(self, representation: CellTensors, sizes: GraphSizes) -> None:
        super().__init__()
        self.register_buffer("orders", 2 * torch.pi * torch.arange(1, sizes.harmonics + 1), persistent=False)
        self.element = nn.Embedding(len(SYMBOLS), sizes.width)
        self.time = TimeEmbedding(sizes.width // 4)
        self.join = nn.Linear(2 * sizes.width, sizes.width)
        self.layers = nn.ModuleList([MessageLayer(sizes) for _ in range(sizes.layers)])
        self.norm = nn.LayerNorm(sizes.width)
        self.out = nn.Linear(sizes.width, 3, bias=False)

    def forward(self, x: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """See the class."""
        coords, element = x[:, :-2], self.element(batch.conditions.species)
        angles = ((coords[:, None] - coords[:, :, None])[..., None] * self.orders).flatten(-2)
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        nodes = self.join(torch.cat([element, self.time(t)[:, None].expand_as(element)], dim=-1))
        for layer in self.layers:
            nodes = layer(nodes, waves)
        return torch.cat([self.out(self.norm(nodes)), torch.zeros_like(x[:, -2:])], dim=1)
