"""A transformer over the orbits of a crystal and its lattice, whose output does not depend on the order of the orbits.

Nor does it depend on the origin where the space group fixes none. Elsewhere another origin, or another atom of an
orbit, gives other velocities; therefore one choice is made for each crystal
(:func:`lib.symmetry.normaliser.canonical_unit`).

A token stands for an orbit, which is one atom where no symmetry is asked for. The representative atom of the orbit
attends to every atom of the cell; it is told its element and the periodic difference of their coordinates. Conditions
enter every block by scales and shifts (adaptive layer norm, Peebles and Xie, arXiv:2212.09748).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, silu

from lib.crystals.elements import standardised_features
from lib.models.batch import Batch, Template
from lib.models.interfaces import Representation
from lib.models.unet import TimeEmbedding, zeroed
from lib.symmetry.orbits import Orbits, along, polar_projectors
from lib.symmetry.spacegroups import N_SPACE_GROUPS

POLYMORPH_BLOCKS = 2


@dataclass(frozen=True)
class TransformerSizes:
    """Sizes of the network: 6 blocks of width 128 have 2.1 million parameters.

    `harmonics` is K in sines and cosines of 2 pi k (f_i - f_j), k = 1..K, `pair_width` the length of what they become;
    `templates` says whether the network has layers for a template.
    """

    width: int = 128
    blocks: int = 6
    heads: int = 8
    harmonics: int = 4
    pair_width: int = 32
    templates: bool = False

    row_multiple: ClassVar[int] = 1  # any number of orbits will do


def pair_network(sizes: TransformerSizes) -> nn.Module:
    """Waves of a difference (..., 6 K) -> what a pair of atoms is to the blocks (..., P)."""
    first, last = nn.Linear(6 * sizes.harmonics, sizes.pair_width), nn.Linear(sizes.pair_width, sizes.pair_width)
    return nn.Sequential(first, nn.SiLU(), last)


class Block(nn.Module):
    """Attention of the tokens (B, T, W) to all atoms and the lattice, biased by pairs (B, T, A, P), and a feed-forward
    layer; both residual.

    What a token attends to gives it values and, because a bias alone has no direction, the pair as well.
    """

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        width, self.heads = sizes.width, sizes.heads
        self.norms = nn.ModuleList([nn.LayerNorm(width, elementwise_affine=False) for _ in range(2)])
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.qkv = nn.Linear(width, 3 * width)
        self.bias = nn.Linear(sizes.pair_width, sizes.heads)
        self.proj = nn.Linear(width + sizes.heads * sizes.pair_width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor, pairs: Tensor, emb: Tensor, mask: Tensor, of_atom: Tensor) -> Tensor:
        """Args: of_atom: (B, A) the token that each key stands for; mask: (B, A) which keys there are."""
        shift, scale, gate, shift_2, scale_2, gate_2 = self.modulation(emb)[:, None].chunk(6, dim=-1)
        h = h + gate * self._attention(self.norms[0](h) * (1 + scale) + shift, pairs, mask, of_atom)
        return h + gate_2 * self.narrow(gelu(self.wide(self.norms[1](h) * (1 + scale_2) + shift_2)))

    def _attention(self, h: Tensor, pairs: Tensor, mask: Tensor, of_atom: Tensor) -> Tensor:
        q, kv = self.qkv(h).split([h.shape[-1], 2 * h.shape[-1]], dim=-1)
        kv = kv.gather(1, of_atom[:, :, None].expand(-1, -1, kv.shape[-1]))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, *kv.chunk(2, dim=-1)))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + self.bias(pairs).permute(0, 3, 1, 2)
        weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(dim=-1)  # (B, heads, T, A)
        values = (weights @ v).transpose(1, 2).flatten(2)
        seen = (weights.transpose(1, 2) @ pairs).flatten(2)
        return self.proj(torch.cat([values, seen], dim=-1))


class TemplateEncoder(nn.Module):
    """What a template adds to tokens, pairs and the lattice: where it has them, and which elements it has there."""

    def __init__(self, n_elements: int, sizes: TransformerSizes) -> None:
        super().__init__()
        width = sizes.width
        self.lender = nn.Embedding(n_elements, width)
        self.moved = nn.Linear(6 * sizes.harmonics, width)
        self.pairs = nn.Linear(6 * sizes.harmonics, sizes.pair_width)
        self.lattice = nn.Linear(13, width)

    def forward(
        self, x: Tensor, template: Template, orbits: Orbits, apart: Tensor, waves: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is added to tokens (B, T, W), pairs (B, T, N, P) and the lattice (B, W); zero for crystals without one.

        How far an orbit is from its place in the template means nothing where the group has no origin; there only the
        change of the differences between atoms counts.

        Args:
            x: (B, T + 2, 3) states.
            apart: (B, T, N, 3) differences between the representative of each orbit and each atom.
            waves: turns differences into sines and cosines.
        """
        given = template.given[:, None].to(x)
        place = orbits.representatives(template.x[:, :-2])
        has_origin = (polar_projectors().to(x)[orbits.symmetry].abs().sum((1, 2)) == 0)[:, None, None]
        moved = self.moved(waves(place - orbits.representatives(x[:, :-2]))) * has_origin
        token = (self.lender(template.lenders) + moved) * given[:, :, None]
        there = place[:, :, None] - orbits.atoms(template.x[:, :-2])[:, None]
        pair = self.pairs(waves(there - apart)) * given[:, :, None, None]
        cell, own = template.x[:, -2:].flatten(1), x[:, -2:].flatten(1)
        return token, pair, self.lattice(torch.cat([cell, cell - own, given], dim=1)) * given


class InitialCrystalEncoder(nn.Module):
    """What the crystal to be modified, x_0, says of the one to be made: what surrounds each element, and the cell.

    The atoms of x_0 correspond to no orbits of another space group. They attend to one another in blocks of their own;
    an orbit is given the mean of those of its element, and the conditions that of all.
    """

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        width = sizes.width
        self.lattice = nn.Linear(6, width)
        self.pairs = pair_network(sizes)
        self.blocks = nn.ModuleList([Block(sizes) for _ in range(POLYMORPH_BLOCKS)])
        self.token, self.crystal = zeroed(nn.Linear(width, width)), zeroed(nn.Linear(2 * width, width))

    def forward(
        self, x_0: Tensor, species_0: Tensor, h: Tensor, species: Tensor, waves: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """What is added to tokens (B, T, W) and the lattice (B, W).

        Args:
            x_0, species_0: (B, N + 2, 3), (B, N) the crystals to be modified, a row an atom.
            h: (B, N, W) their embedded elements.
            species: (B, T) elements of the orbits to be made.
            waves: turns differences into sines and cosines.
        """
        coords, mask = x_0[:, :-2], species_0 > 0
        pairs = self.pairs(waves(coords[:, :, None] - coords[:, None]))
        cell = self.lattice(x_0[:, -2:].flatten(1))
        own = torch.arange(h.shape[1], device=h.device).expand(len(h), -1)
        for block in self.blocks:
            h = block(h, pairs, silu(cell), mask, own)
        alike = torch.cat([species[:, :, None] == species_0[:, None], mask[:, None]], dim=1) & mask[:, None]
        means = alike.to(h) @ h / alike.sum(2, keepdim=True).clamp(min=1)
        return self.token(means[:, :-1]), self.crystal(torch.cat([means[:, -1], cell], dim=1))


class CrystalTransformer(nn.Module):
    """Velocity of a crystal on its way: drift-free for the orbits' parameters, and that of the lattice values.

    Args:
        representation: :class:`lib.models.orbit_state.OrbitTensors`, or the periodic one for crystals without symmetry.
        sizes: width and depth.
        x_0_condition: whether it has layers for a crystal to be modified. Without such a crystal it generates.
    """

    x_0_layers = "polymorph."  # what the names of those parameters begin with that a generator does not have

    def __init__(self, representation: Representation, sizes: TransformerSizes, x_0_condition: bool = False) -> None:
        super().__init__()
        width = sizes.width
        self.register_buffer("features", torch.tensor(standardised_features()), persistent=False)
        self.register_buffer("orders", 2 * torch.pi * torch.arange(1, sizes.harmonics + 1), persistent=False)
        self.register_buffer("polar", polar_projectors(), persistent=False)
        self.element = nn.Embedding(len(self.features), width)
        self.feature = nn.Linear(self.features.shape[1], width)
        self.n_free = nn.Embedding(4, width)
        self.multiplicity = nn.Embedding(representation.n_sites + 1, width)
        self.lattice = nn.Linear(6, width)
        self.pairs = pair_network(sizes)
        self.template = TemplateEncoder(len(self.features), sizes) if sizes.templates else None
        self.time = TimeEmbedding(width // 4)
        self.space_group = nn.Embedding(N_SPACE_GROUPS + 1, width)
        self.n_sites = nn.Embedding(representation.n_sites + 1, width)
        self.energy = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList([Block(sizes) for _ in range(sizes.blocks)])
        self.norm_out = nn.LayerNorm(width)
        self.coords_out = zeroed(nn.Linear(width, 3))
        self.lattice_out = zeroed(nn.Linear(width, 6))
        self.polymorph = InitialCrystalEncoder(sizes) if x_0_condition else None

    def forward(self, x: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """States (B, T + 2, 3), times (B,) in thousandths -> velocities (B, T + 2, 3)."""
        conditions = batch.conditions
        orbits = Orbits.single(conditions.species) if batch.orbits is None else batch.orbits
        lattice = self.lattice(x[:, -2:].flatten(1))
        h = self._embedded(orbits.species) + self.n_free(orbits.n_free) + self.multiplicity(orbits.multiplicity)
        apart = orbits.representatives(x[:, :-2])[:, :, None] - orbits.atoms(x[:, :-2])[:, None]
        pairs = self.pairs(self._waves(apart))
        if self.template is not None and batch.template is not None:
            token, pair, cell = self.template(x, batch.template, orbits, apart, self._waves)
            h, pairs, lattice = h + token, pairs + pair, lattice + cell
        if self.polymorph is not None and batch.x_0 is not None:
            atoms = self._embedded(batch.species_0)
            token, crystal = self.polymorph(batch.x_0, batch.species_0, atoms, orbits.species, self._waves)
            h, lattice = h + token, lattice + crystal
        emb = self.time(t) + self.space_group(conditions.space_group) + self.n_sites(conditions.n_sites)
        energy = torch.stack([conditions.energy.nan_to_num(0.0), conditions.energy.isnan().float()], dim=1)
        emb = silu(emb + self.energy(energy) + lattice)
        # the lattice is the last token, and the last that they attend to; its pairs are zero
        h, pairs = torch.cat([h, lattice[:, None]], dim=1), pad(pairs, (0, 0, 0, 1, 0, 1))
        last = torch.arange(h.shape[1], device=h.device)[-1:]  # a number here would be compiled in, length by length
        of_atom = torch.cat([orbits.of_atom, last.expand(len(h), 1)], dim=1)
        mask = pad(conditions.mask, (0, 1), value=True)
        for block in self.blocks:
            h = block(h, pairs, emb, mask, of_atom)
        h = self.norm_out(h)
        change = along(orbits.inverse, self.coords_out(h[:, :-1]))
        lattice = self.lattice_out(h[:, -1]).unflatten(-1, (2, 3))
        return torch.cat([orbits.without_drift(change, self.polar), lattice], dim=1)

    def _embedded(self, species: Tensor) -> Tensor:
        return self.element(species) + self.feature(self.features[species])

    def _waves(self, difference: Tensor) -> Tensor:
        """(..., 3) differences of fractional coordinates -> (..., 6 K) sines and cosines."""
        angles = (difference[..., None] * self.orders).flatten(-2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
