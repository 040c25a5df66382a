"""DimeNet++ with an answer for every edge of the symmetric multigraph, and the scores that the edges make together.

The layers are those of Gasteiger et al., arXiv:2011.14115, with the changes of Sultanov et al.,
10.1021/acs.jcim.3c00969, 4.2: dense layers on edges in place of atoms, and no pooling; `PUBLISHED` has their sizes.

An answer of an edge is a movement along it, for the score of positions, and a change of its length, for that of the
cell. The network sees lengths and angles alone, so that both scores turn with the crystal and keep its space group:
what several edges related by symmetry say of a site lies in the subspace in which the site may move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import spherical_jn
from torch import Tensor, nn
from torch.nn.functional import silu

from lib.crystals.elements import SYMBOLS
from lib.models.batch import Batch
from lib.models.cell_state import LEVELS, POSITION_WIDTHS, CellStates, in_equal_ratios, own_metrics
from lib.symmetry.multigraph import Multigraph, multigraph
from lib.symmetry.orbits import Orbits, along, polar_projectors

LARGEST_MOVEMENT = 15.0  # of an edge, in widths of the noise; nearer to 0 it is unchanged
LEAST_SHARE = 0.05  # of the cutoff: Bessel functions of shorter edges are those at it
RIDGE = 1e-3  # of the least squares, times the mean square derivative


@dataclass(frozen=True)
class DimeNetSizes:
    """Sizes of the network: these have 61,542 parameters.

    `width` of messages, `out` of the output blocks, `interaction` and `basis` of what triplets see, numbers of radial
    and spherical functions; `cutoff` in Å and the caps are those of :func:`lib.symmetry.multigraph.multigraph`; `cell`
    says how the cell's score follows from its edges: by "least squares", or by the paper's "mean" of what each edge
    alone would say, which is biased (an exact answer of orthorhombic edges gives about a third of the strain).
    """

    width: int = 32
    out: int = 32
    interaction: int = 16
    basis: int = 8
    blocks: int = 3
    spherical: int = 7
    radial: int = 6
    cutoff: float = 5.0
    most_edges: int = 32
    most_near: int = 12
    cell: str = "least squares"

    row_multiple: ClassVar[int] = 1  # any number of orbits will do
    templates: ClassVar[bool] = False  # it has no input for them


PUBLISHED = {
    "materials project": DimeNetSizes(64, 64, 32, 8, 4, 7, 6, 5.0, 80, 80, "mean"),
    "mp20": DimeNetSizes(64, 128, 64, 10, 4, 7, 10, 6.0, 80, 80, "mean"),
}
PUBLISHED_EMBEDDED = 96 + 20 + 2  # elements, levels and kinds of edges that the published networks have rows for


def spherical_zeros(n_orders: int, n_zeros: int) -> np.ndarray:
    """(n_orders, n_zeros) the first zeros of spherical Bessel functions; those of one order lie between the last's."""
    zeros = np.zeros((n_orders, n_zeros))
    between = np.arange(1, n_zeros + n_orders) * np.pi
    zeros[0] = between[:n_zeros]
    for order in range(1, n_orders):
        pairs = zip(between, between[1:], strict=False)
        between = np.array([brentq(lambda x, n=order: spherical_jn(n, x), a, b) for a, b in pairs])
        zeros[order] = between[:n_zeros]
    return zeros


class SphericalBasis(nn.Module):
    """Fourier-Bessel functions of the length of one edge and the angle to another (DimeNet, equations 6 and 7)."""

    def __init__(self, sizes: DimeNetSizes) -> None:
        super().__init__()
        zeros = spherical_zeros(sizes.spherical, sizes.radial)
        orders = np.arange(sizes.spherical)[:, None]
        norms = np.sqrt(2) / np.abs(spherical_jn(orders + 1, zeros))
        self.n = sizes.spherical
        self.register_buffer("zeros", torch.from_numpy(zeros), persistent=False)
        self.register_buffer("norms", torch.from_numpy(norms), persistent=False)
        harmonic = torch.from_numpy(np.sqrt((2 * np.arange(sizes.spherical) + 1) / (4 * np.pi)))
        self.register_buffer("harmonic", harmonic.float(), persistent=False)

    def radial(self, share: Tensor) -> Tensor:
        """(E, L, N) of lengths over the cutoff (E,), by recursion in double precision: upwards it loses digits."""
        x = share.double().clamp(min=LEAST_SHARE)[:, None, None] * self.zeros
        sine = x.sin() / x
        values = [sine, (sine - x.cos()) / x]
        for order in range(1, self.n - 1):
            values.append((2 * order + 1) / x * values[order] - values[order - 1])
        orders = range(self.n)
        return (torch.stack([values[n][:, n] for n in orders], dim=1) * self.norms).to(share.dtype)

    def angular(self, cosine: Tensor) -> Tensor:
        """(K, L) zonal harmonics of the angles whose cosines are given (K,): Legendre's polynomials by recursion."""
        values = [torch.ones_like(cosine), cosine]
        for order in range(1, self.n - 1):
            values.append(((2 * order + 1) * cosine * values[order] - order * values[order - 1]) / (order + 1))
        return torch.stack(values[: self.n], dim=1) * self.harmonic.to(cosine.dtype)


class Residual(nn.Module):
    """Two dense layers and what they were given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return x + silu(self.layers[1](silu(self.layers[0](x))))


@dataclass(frozen=True)
class Triplets:
    """The triplets of a graph by the edges whose messages are heard, the nearest of their nodes.

    Messages are made of those alone. Rows are taken by index_select, the gradient of which is quicker than that of [].

    Attributes:
        heard: (H,) those edges.
        edge: (K,) where each triplet's message arrives.
        near: (K,) the row in `heard` of the edge that it comes from.
    """

    heard: Tensor
    edge: Tensor
    near: Tensor

    @classmethod
    def of(cls, graph: Multigraph) -> Triplets:
        hears = torch.zeros_like(graph.own_image).index_fill_(0, graph.near, True)
        return cls(hears.nonzero()[:, 0], graph.edge, (hears.cumsum(0) - 1)[graph.near])


class Interaction(nn.Module):
    """Messages (E, W) of edges, told those of the edges that start where they lead to."""

    def __init__(self, sizes: DimeNetSizes) -> None:
        super().__init__()
        width, few, basis = sizes.width, sizes.interaction, sizes.basis
        self.radial = nn.Sequential(nn.Linear(sizes.radial, basis, bias=False), nn.Linear(basis, width, bias=False))
        functions = sizes.spherical * sizes.radial
        self.spherical = nn.Sequential(nn.Linear(functions, basis, bias=False), nn.Linear(basis, few, bias=False))
        self.onwards, self.own = nn.Linear(width, width), nn.Linear(width, width)
        self.down, self.up = nn.Linear(width, few, bias=False), nn.Linear(few, width, bias=False)
        self.before, self.skip = Residual(width), nn.Linear(width, width)
        self.after = nn.Sequential(Residual(width), Residual(width))

    def forward(self, m: Tensor, radial: Tensor, spherical: Tensor, triplets: Triplets) -> Tensor:
        heard, few = m.index_select(0, triplets.heard), radial.index_select(0, triplets.heard)
        far = silu(self.down(silu(self.onwards(heard)) * self.radial(few)))
        seen = far.index_select(0, triplets.near) * self.spherical(spherical)
        seen = seen.new_zeros(len(m), far.shape[1]).index_add_(0, triplets.edge, seen)
        h = silu(self.own(m)) + silu(self.up(seen))
        return self.after(m + silu(self.skip(self.before(h))))


class EdgeOutput(nn.Module):
    """Two numbers of each edge (E, 2) from its message: movement, and change of length."""

    def __init__(self, sizes: DimeNetSizes) -> None:
        super().__init__()
        self.radial = nn.Linear(sizes.radial, sizes.width, bias=False)
        self.up = nn.Linear(sizes.width, sizes.out, bias=False)
        self.norm = nn.LayerNorm(sizes.out)
        self.layers = nn.ModuleList([nn.Linear(sizes.out, sizes.out) for _ in range(3)])
        self.last = nn.Linear(sizes.out, 2, bias=False)

    def forward(self, m: Tensor, radial: Tensor) -> Tensor:
        h = self.norm(self.up(m * self.radial(radial)))
        for layer in self.layers:
            h = silu(layer(h))
        return self.last(h)


class ScoreNet(nn.Module):
    """The noise of a crystal's positions and of its cell, each in units of its width.

    Args:
        representation: states whose cell is a chart.
        sizes: width and depth.
    """

    def __init__(self, representation: CellStates, sizes: DimeNetSizes) -> None:
        super().__init__()
        self.representation, self.sizes = representation, sizes
        width = sizes.width
        self.element, self.level = nn.Embedding(len(SYMBOLS), width), nn.Embedding(LEVELS, width)
        # an edge leads to another node, to an image of its own by an operation, or to one by the lattice alone; these
        # tell the cell, however noisy the positions are, and the published network has them among the first
        self.kind = nn.Embedding(3, width)
        self.frequencies = nn.Parameter(torch.pi * torch.arange(1, sizes.radial + 1))
        self.radial = nn.Linear(sizes.radial, width)
        self.embedded = nn.Linear(5 * width, width)
        self.basis = SphericalBasis(sizes)
        self.interactions = nn.ModuleList([Interaction(sizes) for _ in range(sizes.blocks)])
        self.outputs = nn.ModuleList([EdgeOutput(sizes) for _ in range(sizes.blocks + 1)])
        self.register_buffer("polar", polar_projectors(), persistent=False)
        # of a site that is off the place at which its images meet, how much of that is noise, level by level
        self.meeting = nn.Embedding(LEVELS, 1) if representation.merges else None

    def forward(self, x: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """States (B, T + 2, 3) and levels (B,) of noise -> noise (B, T + 2, 3): of the free parameters, per Å of the
        width of noise of positions, then the six coordinates of the chart of the cell."""
        sizes, orbits = self.sizes, batch.orbits
        metric, slope = self.representation.cell(x, batch)
        caps = {"most_edges": sizes.most_edges, "most_near": sizes.most_near}
        graph = multigraph(orbits, x[:, :-2], metric, sizes.cutoff, merge=self.representation.merges, **caps)
        movement, stretch = self.edges(graph, orbits, t).unbind(1)
        positions = self.of_positions(movement, graph, orbits, metric)
        if self.meeting is not None:
            off = (x[:, :-2] - graph.merged) / in_equal_ratios(POSITION_WIDTHS, t)[:, None, None]
            positions = positions + at_level(self.meeting, t)[:, None] * off
        return torch.cat(
            [
                positions,
                self.of_cell(stretch, graph, orbits, slope, self.representation.free(batch)).unflatten(1, (2, 3)),
            ],
            dim=1,
        )

    def edges(self, graph: Multigraph, orbits: Orbits, t: Tensor) -> Tensor:
        """(E, 2) the two answers of every edge."""
        share = (graph.distance / self.sizes.cutoff).clamp(min=LEAST_SHARE)
        radial = (self.frequencies * share[:, None]).sin() / share[:, None] * graph.weight[:, None]
        triplets = Triplets.of(graph)
        spherical = self.basis.radial(share[triplets.heard]) * graph.near_weight[triplets.heard, None, None]
        spherical = (spherical[triplets.near] * self.basis.angular(graph.cosine)[:, :, None]).flatten(1)
        level = at_level(self.level, t)
        element = self.element(orbits.species.flatten())
        kind = self.kind(torch.where(graph.own_image, 1, 2 * (graph.node == graph.neighbour)))
        ends = (element.index_select(0, nodes) for nodes in (graph.node, graph.neighbour))
        parts = [*ends, silu(self.radial(radial)), level.index_select(0, graph.crystal), kind]
        m = silu(self.embedded(torch.cat(parts, dim=1)))
        answer = self.outputs[0](m, radial)
        for interaction, output in zip(self.interactions, self.outputs[1:], strict=True):
            m = interaction(m, radial, spherical, triplets)
            answer = answer + output(m, radial)
        return answer

    def of_positions(self, movement: Tensor, graph: Multigraph, orbits: Orbits, metric: Tensor) -> Tensor:
        """(B, T, 3) noise of the free parameters: the sum of movements times unit vectors (section 4.2), weighed by the
        envelope, so that nothing jumps where an edge ends (the paper's have no weights), and projected onto the
        directions in which a site may move, without a drift of the crystal where it has no origin."""
        movement = LARGEST_MOVEMENT * (movement / LARGEST_MOVEMENT).tanh() * graph.weight / graph.distance
        total = graph.vector.new_zeros(orbits.species.numel(), 3)
        total = total.index_add_(0, graph.node, movement[:, None] * graph.vector).view(*orbits.species.shape, 3)
        own, directions = own_metrics(orbits, metric), orbits.directions
        along_own = along(directions.mT, along(metric[:, None], total))
        change = along(torch.linalg.inv(own), along_own) * orbits.free
        return orbits.without_drift(change, self.polar)

    def of_cell(self, stretch: Tensor, graph: Multigraph, orbits: Orbits, slope: Tensor, free: Tensor) -> Tensor:
        """(B, 6) noise of the coordinates of the cell, from changes of length in shares of each length (section 4.3).

        The paper takes the mean over edges of d G / (G^2 + 1e-3), where G is the derivative of an edge's length.
        """
        length, crystal = graph.distance, graph.crystal
        vector = graph.vector[:, :, None] * graph.vector[:, None]
        derivative = torch.einsum("ekij,eij->ek", slope[crystal], vector) / (2 * length[:, None]) * free[crystal]
        weight = graph.weight * orbits.multiplicity.flatten()[graph.node]
        total = weight.new_full((len(free),), 1e-9).index_add_(0, crystal, weight)
        change = stretch * length * weight / total[crystal]
        if self.sizes.cell == "mean":
            norm = (derivative**2).sum(1) + 1e-3
            return slope.new_zeros(len(free), 6).index_add_(0, crystal, (change / norm)[:, None] * derivative)
        right = slope.new_zeros(len(free), 6).index_add_(0, crystal, change[:, None] * derivative)
        outer = derivative[:, :, None] * derivative[:, None] * (weight / total[crystal])[:, None, None]
        left = slope.new_zeros(len(free), 6, 6).index_add_(0, crystal, outer)
        ridge = RIDGE * left.diagonal(dim1=1, dim2=2).sum(1) + 1e-6
        left = left + torch.diag_embed(ridge[:, None] + (~free).to(left))
        return torch.linalg.solve(left, right)


def at_level(table: nn.Embedding, t: Tensor) -> Tensor:
    """(B, W) rows of an embedding of levels at t (B,), between whole levels in proportion."""
    low = t.floor().clamp(0, LEVELS - 2).long()
    return torch.lerp(table(low), table(low + 1), (t - low)[:, None])
