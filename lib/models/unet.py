"""The paper's 1D UNet over the rows of a crystal, and its condition blocks (paper section 4, Figure 2, A.3).

At the paper's sizes `PaperNet` has 304,781,763 parameters (305,060,931 with the x_0 condition).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, leaky_relu, linear, pad, scaled_dot_product_attention, silu

from lib.crystals.elements import N_ELEMENTS, element_features, standardised_features
from lib.models.batch import Batch
from lib.models.interfaces import Representation
from lib.models.paper_state import PAPER_ROWS
from lib.symmetry.spacegroups import N_SPACE_GROUPS, symmetry_operations

LEAKY_SLOPE = 0.2
MAX_PERIOD = 10000.0  # of a time's sines


@dataclass(frozen=True)
class UNetSizes:
    """Sizes of the network; the defaults are A.3's.

    `condition_channels` is the width of the last convolution of each condition block, `condition_features` the length
    of its embedding.
    """

    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 8)
    num_res_blocks: int = 7
    attention_resolutions: tuple[int, ...] = (1, 2, 4, 8)
    condition_channels: int = 256
    condition_features: int = 256

    templates: ClassVar[bool] = False  # it has no input for them

    @property
    def row_multiple(self) -> int:
        """What the number of rows is a multiple of, so that it can be halved at each level."""
        return max(4, 2 ** (len(self.channel_mult) - 1))


class RowNorm(nn.GroupNorm):
    """Group normalisation of (B, C, L) over the rows that a mask (B, 1, L) keeps; the others become zero.

    It has 32 groups from 128 channels on, as published, and at least four channels a group in smaller networks; where
    so many do not divide the channels, the next fewer that do.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(next(n for n in range(min(32, channels // 4), 0, -1) if channels % n == 0), channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return super().forward(x)
        h, rows = x.float().unflatten(1, (self.num_groups, -1)), mask[:, None]  # (B, groups, channels of one, L)
        n = rows.sum((2, 3), keepdim=True) * h.shape[2]
        h = (h - (h * rows).sum((2, 3), keepdim=True) / n) * rows
        h = h * ((h * h).sum((2, 3), keepdim=True) / n + self.eps).rsqrt()
        return (h.flatten(1, 2) * self.weight[:, None] + self.bias[:, None]) * mask


def zeroed(module: nn.Module) -> nn.Module:
    """The module with all its parameters set to zero: a residual branch that starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class RowConv(nn.Conv1d):
    """Convolution along the rows (B, C, L) -> (B, C', L').

    On a CPU, with fewer rows in the batch than channels, it is one matrix product: the weights are larger than what
    they are applied to, and the library's convolution would bring them into another order at each call.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.shape[0] * x.shape[2] >= self.out_channels:
            return super().forward(x)
        windows = pad(x, (self.padding[0],) * 2).unfold(2, self.kernel_size[0], self.stride[0])  # (B, C, L', width)
        return linear(windows.transpose(1, 2).flatten(2), self.weight.flatten(1), self.bias).transpose(1, 2)


class ResBlock(nn.Module):
    """Two convolutions of width 3 with the embedding (B, E) added between; (B, C, L) -> (B, C', L)."""

    def __init__(self, channels: int, out_channels: int, emb_channels: int) -> None:
        super().__init__()
        self.norm_in = RowNorm(channels)
        self.conv_in = RowConv(channels, out_channels, 3, padding=1)
        self.emb = nn.Linear(emb_channels, out_channels)
        self.norm_out = RowNorm(out_channels)
        self.conv_out = zeroed(RowConv(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if channels == out_channels else RowConv(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor, mask: Tensor | None) -> Tensor:
        h = self.conv_in(silu(self.norm_in(x, mask))) + self.emb(silu(emb))[:, :, None]
        return self.skip(x) + self.conv_out(silu(self.norm_out(h, mask)))


class Attention(nn.Module):
    """Single-head self-attention over the rows, residual; padded rows are not attended to."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RowNorm(channels)
        self.qkv = RowConv(channels, 3 * channels, 1)
        self.proj = zeroed(RowConv(channels, channels, 1))

    def forward(self, x: Tensor, emb: Tensor, mask: Tensor | None) -> Tensor:
        # (B, 1, L, C) each: without the axis of heads torch takes its slow path
        q, k, v = self.qkv(self.norm(x, mask)).transpose(1, 2)[:, None].chunk(3, dim=-1)
        h = scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None].bool())
        return x + self.proj(h[:, 0].transpose(1, 2))


class Downsample(nn.Module):
    """Halve the number of rows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = RowConv(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Double the number of rows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = RowConv(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.repeat_interleave(2, dim=-1))


class Stage(nn.ModuleList):
    """A residual block and its attention. Padded rows leave it as zeros: the next convolution must not read them."""

    def __init__(self, channels: int, out_channels: int, emb_channels: int, attends: bool) -> None:
        blocks: list[nn.Module] = [ResBlock(channels, out_channels, emb_channels)]
        super().__init__(blocks + [Attention(out_channels)] * attends)

    def forward(self, x: Tensor, emb: Tensor, mask: Tensor | None) -> Tensor:
        for block in self:
            x = block(x, emb, mask)
        return x if mask is None else x * mask


class UNet1d(nn.Module):
    """The backbone: (B, in_channels, L), embedding (B, 4 model_channels) -> (B, model_channels, L), before the head.

    L must be divisible by 2^(levels - 1). With a mask (B, 1, L) of zero rows, padding counts nowhere: the output
    does not depend on how many rows there are.
    """

    def __init__(self, in_channels: int, sizes: UNetSizes) -> None:
        super().__init__()
        width, emb = sizes.model_channels, 4 * sizes.model_channels
        self.conv_in = RowConv(in_channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels, skips, last = width, [width], len(sizes.channel_mult) - 1
        for level, mult in enumerate(sizes.channel_mult):
            attends = 2**level in sizes.attention_resolutions
            for _ in range(sizes.num_res_blocks):
                self.down.append(Stage(channels, mult * width, emb, attends))
                channels = mult * width
                skips.append(channels)
            if level < last:
                self.down.append(Downsample(channels))
                skips.append(channels)
        self.middle = nn.ModuleList([Stage(channels, channels, emb, True), Stage(channels, channels, emb, False)])
        for level, mult in reversed(list(enumerate(sizes.channel_mult))):
            attends = 2**level in sizes.attention_resolutions
            for _ in range(sizes.num_res_blocks + 1):
                self.up.append(Stage(channels + skips.pop(), mult * width, emb, attends))
                channels = mult * width
            if level:
                self.up.append(Upsample(channels))

    def forward(self, x: Tensor, emb: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.conv_in(x)
        skips, masks = [h], [mask]
        for block in self.down:
            if isinstance(block, Downsample):
                h = block(h)
                masks.append(None if mask is None else masks[-1][:, :, ::2].maximum(masks[-1][:, :, 1::2]))
            else:
                h = block(h, emb, masks[-1])
            skips.append(h)
        for block in self.middle:
            h = block(h, emb, masks[-1])
        for block in self.up:
            if isinstance(block, Upsample):
                h = block(h)
                masks.pop()
            else:
                h = block(torch.cat([h, skips.pop()], dim=1), emb, masks[-1])
        return h


class SpaceGroupBlock(nn.Module):
    """The group's operations (B, 192, 4, 4) through three 2D convolutions to an embedding."""

    def __init__(self, sizes: UNetSizes) -> None:
        super().__init__()
        c = sizes.condition_channels
        self.convs = nn.ModuleList(
            [nn.Conv2d(192, c // 4, 2), nn.Conv2d(c // 4, c // 2, 2), nn.Conv2d(c // 2, sizes.condition_features, 2)]
        )
        self.register_buffer("operations", torch.tensor(symmetry_operations()), persistent=False)

    def forward(self, space_group: Tensor) -> Tensor:
        h = self.operations[space_group]
        for conv in self.convs:
            h = leaky_relu(conv(h), LEAKY_SLOPE)
        return h.flatten(1)


class ElementBlock(nn.Module):
    """One-hot elements and their raw properties (B, 64, 103 + 22) through three 1D convolutions to an embedding."""

    def __init__(self, sizes: UNetSizes) -> None:
        super().__init__()
        c, features = sizes.condition_channels, torch.tensor(element_features())
        n_in = N_ELEMENTS + features.shape[1]
        self.convs = nn.ModuleList([nn.Conv1d(n_in, c // 4, 3), nn.Conv1d(c // 4, c // 2, 3), nn.Conv1d(c // 2, c, 3)])
        self.out = nn.Linear(c * (PAPER_ROWS - 6), sizes.condition_features)
        one_hot = torch.eye(N_ELEMENTS + 1)[:, 1:]  # row 0, padding, is all zero
        self.register_buffer("rows", torch.cat([one_hot, features[: N_ELEMENTS + 1]], dim=1), persistent=False)

    def forward(self, species: Tensor) -> Tensor:
        padded = pad(species, (0, PAPER_ROWS - species.shape[1]))
        h = self.rows[padded].transpose(1, 2)
        for conv in self.convs:
            h = gelu(conv(h))
        return self.out(h.flatten(1))


class InitialStructureBlock(nn.Module):
    """x_0 (B, 64, 3) to an embedding, the rows taken as channels (the Palette condition as published)."""

    def __init__(self, sizes: UNetSizes) -> None:
        super().__init__()
        c = sizes.condition_channels
        self.convs = nn.ModuleList([nn.Conv1d(PAPER_ROWS, c // 2, 2), nn.Conv1d(c // 2, c, 2)])
        self.out = nn.Linear(c, sizes.condition_features)

    def forward(self, x_0: Tensor) -> Tensor:
        for conv in self.convs:
            x_0 = gelu(conv(x_0))
        return self.out(x_0.flatten(1))


class TimeEmbedding(nn.Module):
    """Time (B,) to (B, 4 model_channels), by sines and cosines as in Nichol and Dhariwal, arXiv:2102.09672."""

    def __init__(self, model_channels: int) -> None:
        super().__init__()
        self.half, width = model_channels // 2, 4 * model_channels
        self.layers = nn.Sequential(nn.Linear(model_channels, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(self.half, device=t.device) / self.half)
        angles = t[:, None].float() * frequencies
        return self.layers(torch.cat([angles.cos(), angles.sin()], dim=-1))


class PaperNet(nn.Module):
    """The published network: f(x, t, el, spg, E[, x_0]) with one condition vector for the whole crystal (Figure 2).

    As published, all 64 rows of :class:`lib.models.paper_state.PaperTensors` are normalised, convolved and attended to
    alike, padding included. Their number is the same for every crystal, so that none depends on what it is batched
    with. With `x_0_condition` x_0 is a condition (diffusion modification).
    """

    def __init__(self, representation: Representation, sizes: UNetSizes, x_0_condition: bool = False) -> None:
        super().__init__()
        width = sizes.model_channels
        self.space_group = SpaceGroupBlock(sizes)
        self.elements = ElementBlock(sizes)
        self.initial = InitialStructureBlock(sizes) if x_0_condition else None
        self.time = TimeEmbedding(width)
        self.condition = nn.Linear(1 + (2 + x_0_condition) * sizes.condition_features, 4 * width)
        self.unet = UNet1d(3, sizes)
        self.norm_out = RowNorm(width)
        self.conv_out = zeroed(nn.Conv1d(width, 3, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """(B, 64, 3), times (B,) -> (B, 64, 3)."""
        conditions = batch.conditions
        energy = conditions.energy[:, None]
        parts = [energy, self.space_group(conditions.space_group), self.elements(conditions.species)]
        if self.initial is not None:
            parts.append(self.initial(batch.x_0))
        emb = self.time(t) + self.condition(torch.cat(parts, dim=1))
        h = self.unet(x.transpose(1, 2), emb)
        return self.conv_out(silu(self.norm_out(h))).transpose(1, 2)


class PeriodicNet(nn.Module):
    """The same UNet with conditions per atom, masked padding, and a head of its own for the lattice.

    Each atom row carries its coordinates on the circle, its element and its features, and the lattice; x_0 enters as
    further channels where it is a condition (Palette, arXiv:2111.05826). Time, energy, space group and number of sites
    form the embedding.

    Args:
        representation: :class:`lib.models.periodic_state.PeriodicTensors`.
        euclidean: whether states are those of :meth:`PeriodicTensors.to_euclidean` (diffusion) or coordinates.
        predicts_velocity: whether the output is a velocity (flow matching) or a point in that Euclidean space.
    """

    HARMONICS = 2
    ATOM_CHANNELS = 32

    def __init__(
        self,
        representation: Representation,
        sizes: UNetSizes,
        x_0_condition: bool = False,
        euclidean: bool = False,
        predicts_velocity: bool = False,
    ) -> None:
        super().__init__()
        self.euclidean = euclidean
        width, emb = sizes.model_channels, 4 * sizes.model_channels
        atoms = torch.tensor(standardised_features())
        self.register_buffer("features", atoms, persistent=False)
        self.element = nn.Embedding(len(atoms), self.ATOM_CHANNELS)
        self.feature = nn.Linear(atoms.shape[1], self.ATOM_CHANNELS)
        self.place = nn.Embedding(representation.n_sites, self.ATOM_CHANNELS)  # in the canonical order
        geometry = 6 * self.HARMONICS + 6
        state = (6 if euclidean else 6 * self.HARMONICS) + 6
        self.unet = UNet1d(state + self.ATOM_CHANNELS + 1 + geometry * x_0_condition, sizes)
        self.x_0_condition = x_0_condition
        self.time = TimeEmbedding(width)
        self.space_group = nn.Embedding(N_SPACE_GROUPS + 1, emb)
        self.n_sites = nn.Embedding(representation.n_sites + 1, emb)
        self.composition = nn.Linear(self.ATOM_CHANNELS, emb)
        self.energy = nn.Sequential(nn.Linear(1, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.norm_out = RowNorm(width)
        self.coords_out = zeroed(nn.Conv1d(width, 3 if predicts_velocity else 6, 1))
        self.lattice_out = nn.Sequential(nn.Linear(2 * width + emb + 6, emb), nn.SiLU(), zeroed(nn.Linear(emb, 6)))

    def _geometry(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Channels per atom (B, N, 6 H) of coordinates on the circle, and the six lattice values (B, 6)."""
        harmonics = 2 * torch.pi * torch.arange(1, self.HARMONICS + 1, device=x.device)
        angles = (x[:, :-2, :, None] * harmonics).flatten(2)
        return torch.cat([angles.cos(), angles.sin()], dim=-1), x[:, -2:, :3].flatten(1)

    def forward(self, x: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """States, times (B,) -> (B, n_sites + 2, 3) velocities, or (B, n_sites + 2, 6) Euclidean points."""
        conditions = batch.conditions
        atom_mask = conditions.mask[:, :, None].to(x.dtype)
        coords, lattice = (x[:, :-2], x[:, -2:, :3].flatten(1)) if self.euclidean else self._geometry(x)
        n_atoms = coords.shape[1]
        atoms = self.element(conditions.species) + self.feature(self.features[conditions.species]) + self.place.weight
        rows = [coords, lattice[:, None].expand(-1, n_atoms, -1), atoms, atom_mask]
        if self.x_0_condition:
            coords_0, lattice_0 = self._geometry(batch.x_0)
            rows += [coords_0, lattice_0[:, None].expand(-1, n_atoms, -1)]
        emb = self.time(t) + self.space_group(conditions.space_group) + self.n_sites(conditions.n_sites)
        emb = emb + self.composition((atoms * atom_mask).sum(1) / conditions.n_sites[:, None])
        emb = emb + self.energy(conditions.energy[:, None])
        mask = atom_mask.transpose(1, 2)
        h = silu(self.norm_out(self.unet((torch.cat(rows, dim=-1) * atom_mask).transpose(1, 2), emb, mask), mask))
        mean = (h * mask).sum(-1) / conditions.n_sites[:, None]
        peak = h.masked_fill(mask == 0, -1e4).amax(-1)
        coords_out = (self.coords_out(h) * mask).transpose(1, 2)
        lattice_out = self.lattice_out(torch.cat([mean, peak, silu(emb), lattice], dim=1)).view(-1, 2, 3)
        return torch.cat([coords_out, pad(lattice_out, (0, coords_out.shape[-1] - 3))], dim=1)


def describe(net: nn.Module, n_rows: int) -> list[dict[str, object]]:
    """What the network consists of, part by part, for Figure 2: read off the module itself.

    Returns:
        One entry a part with its `name`, `group` ("atoms" for what each row carries, "condition" for what becomes the
        embedding, "input" for the first convolution, "down", "middle", "up" or "head"), `inputs` (channels it reads),
        `channels`, `rows` (length of the sequence there, 0 for a vector), `attends` and `parameters`.
    """
    parts, heads, rows = [], [], n_rows
    for name, part in net.named_children():
        if name.endswith("_out") and name != "norm_out":
            heads.append(_entry(name.split("_")[0] + " head", "head", part, n_rows))
        elif name not in ("unet", "norm_out"):
            group = "atoms" if name in ("element", "feature", "place") else "condition"
            parts.append(_entry(name.replace("_", " "), group, part, 0))
    parts.append(_entry("convolution", "input", net.unet.conv_in, n_rows))
    for group in ("down", "middle", "up"):
        for block in getattr(net.unet, group):
            if isinstance(block, Downsample):
                rows //= 2
            elif isinstance(block, Upsample):
                rows *= 2
            parts.append(_entry(type(block).__name__.lower(), group, block, rows))
    return parts + heads


def _entry(name: str, group: str, part: nn.Module, rows: int) -> dict[str, object]:
    if isinstance(part, nn.Embedding):
        inputs, channels = part.num_embeddings, part.embedding_dim
    else:  # an attention block leaves the width of the residual block before it
        layers = [m for m in part.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
        inputs, channels = layers[0].weight.shape[1], len(layers[-1].weight)
    attends = any(isinstance(m, Attention) for m in part.modules())
    shape = {"inputs": inputs, "channels": channels, "rows": rows, "attends": attends}
    return {"name": name, "group": group} | shape | {"parameters": sum(p.numel() for p in part.parameters())}
