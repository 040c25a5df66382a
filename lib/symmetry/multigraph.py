"""The multigraph of a crystal over its inequivalent sites, exact in the symmetry of its space group.

Sultanov et al., 10.1021/acs.jcim.3c00969, section 4.1: a node is an orbit, and an edge leads from its representative to
every image within the cutoff that the group's operations and the lattice make of any orbit, so that a pair of nodes may
have several edges and a node edges to itself. Such an edge is a pair of neighbours as the whole crystal has it: which
atom stands for an orbit, which cell for the lattice, and where the origin lies change nothing.

Two things make it exact that are easily missed. An angle lies between the way back along an edge, turned by the inverse
of the operation that made its image, and an edge of the node that it leads to: both are in the frame of that node's
representative. And images that coincide are one atom: where positions are known (:mod:`lib.symmetry.wyckoff`) an orbit
has each atom once; where they are not, images nearer than MERGED become one by degrees.

All edges and triplets of a batch are found at once. Distances are in Å, vectors in fractional coordinates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from lib.symmetry.orbits import Orbits, along, rotations_of
from lib.symmetry.wyckoff import GRID, positions, primitive_operations

MERGED = 0.3  # Å; images of a site further apart are atoms of their own (section 4.2)
SURELY_MERGED = 0.15  # Å; nearer ones are wholly one
SAME_POINT = 1e-4  # Å; of images that have become one, one edge stands for all
MIN_HEIGHT = 0.5  # Å; a flatter cell is none, and has no edges
FARTHEST = 1e6  # periods from the origin, where single precision ends; coordinates beyond, or no numbers, are none
MOST_CELLS = 10  # on either side, along an axis
MOST_PAIRS = 20_000_000  # of sites and images that are looked at together; larger batches are split
EXPONENT = 6  # of the envelope, DimeNet's p + 1 (Gasteiger et al., arXiv:2003.03123, equation 8)
ORDER = 48  # the most operations of a primitive cell
KEY_BASE = 128  # cells are between -64 and 63
FILLING = 0.33939  # mean of the envelope over a ball
APPROACHES = 6  # steps in which images that become one come together
CROWD = 8  # so many times the edges that a cap means may be there while images become one; further ones are left out
HALVINGS = 30  # of the interval in which a reach is looked for


@dataclass(frozen=True)
class Multigraph:
    """Edges and triplets of B crystals. Node b T + i is orbit i of crystal b, of orbits padded to T.

    Attributes:
        crystal: (E,) the crystal of each edge.
        node: (E,) where it starts; edges are sorted by it, and by length.
        neighbour: (E,) the node whose image it leads to.
        vector: (E, 3) from the representative of `node` to that image, fractional.
        distance: (E,) Å.
        own_image: (E,) whether it leads to an image of its own node that an operation makes, not the lattice alone.
        weight: (E,) what it counts in a sum over the node's edges: an envelope that is zero from `reach` on, times the
            share of an atom that the image is.
        reverse: (E,) the same pair of neighbours seen from the other end; -1 where that is beyond the reach there.
        near_weight: (E,) as `weight`, in a sum over triplets, which takes the nearest edges alone.
        edge, near: (K,), (K,) the triplets: `near` starts where `edge` leads to, and is not its reverse.
        cosine: (K,) of the angle between them at that atom.
        reach: (B T,) Å, beyond which a node has no edges: the cutoff, or less where it would have too many.
        merged: (B, T, 3) the parameters u at which images that are one meet; those given, where positions are known.
        sound: (B,) false where the cell is flat, huge or no cell; such a crystal has no edges.
    """

    crystal: Tensor
    node: Tensor
    neighbour: Tensor
    vector: Tensor
    distance: Tensor
    own_image: Tensor
    weight: Tensor
    reverse: Tensor
    near_weight: Tensor
    edge: Tensor
    near: Tensor
    cosine: Tensor
    reach: Tensor
    merged: Tensor
    sound: Tensor


def envelope(x: Tensor) -> Tensor:
    """DimeNet's polynomial: 1 at x = 0, with two derivatives 0 at 1, and 0 from there on."""
    p = EXPONENT
    a, b, c = -(p + 1) * (p + 2) / 2, p * (p + 2), -p * (p + 1) / 2
    return (1 + x**p * (a + x * (b + x * c))).clamp(min=0) * (x < 1)


def multigraph(
    orbits: Orbits,
    u: Tensor,
    metric: Tensor,
    cutoff: float,
    *,
    most_edges: int = 80,
    most_near: int = 30,
    merge: bool = False,
) -> Multigraph:
    """The graph of crystals given by their orbits.

    Where a node would have more than about `most_edges`, its envelope ends earlier, so that the sum of its weights is
    that of so many atoms spread evenly; `most_near` does the same to the edges that triplets take. Whole shells of
    equal length stay or go, and no weight jumps when two atoms change places.

    Args:
        orbits: of B crystals; on the general position, every one, if `merge`.
        u: (B, T, 3) their free parameters.
        metric: (B, 3, 3) Å^2, lattice times its transpose, with the symmetry of the orbits' groups.
        cutoff: Å.
        merge: whether the positions are not known, so that images of a site may coincide and are then one.
    """
    sound, lattice, half = _cells(metric, cutoff)
    sound = sound & (u.abs() < FARTHEST).all((1, 2))
    u = u.masked_fill(~sound[:, None, None], 0.0)
    present = torch.arange(orbits.of_atom.shape[1], device=u.device) < orbits.multiplicity.sum(1)[:, None]
    images = Images.merged(orbits, u, lattice) if merge else Images.distinct(orbits, u)
    present = present & sound[:, None] & (images.kept == torch.arange(present.shape[1], device=u.device))
    n_pairs = (orbits.mask.sum(1) * present.sum(1) * (2 * half + 1).prod(1)).sum().item()
    if n_pairs > MOST_PAIRS and len(orbits) > 1:
        middle = len(orbits) // 2
        how = {"cutoff": cutoff, "most_edges": most_edges, "most_near": most_near, "merge": merge}
        parts = (slice(None, middle), slice(middle, None))
        return _joined(*(multigraph(orbits[rows], u[rows], metric[rows], **how) for rows in parts))

    ends, cell, vector = _pairs(orbits, images, present, lattice, half, cutoff)
    n_nodes, n_orbits = orbits.species.numel(), orbits.species.shape[1]
    node = ends[0] * n_orbits + ends[1]
    distance = (vector * vector).sum(1).sqrt().clamp(min=SAME_POINT)  # two sites at one place have no direction
    own = orbits.of_atom[ends[0], ends[2]] == ends[1]
    share = images.share[ends[0], ends[2]] * (1 - _overlap(distance) * own if merge else 1)
    order = (node.double() * (cutoff + 1) + distance).argsort(stable=True)
    reach = _reach(node[order], distance[order], share[order], n_nodes, cutoff, most_edges)
    order = order[distance[order] < reach[node[order]]]
    ends, cell, vector, node, distance, share = (
        v[..., order] if v is ends else v[order] for v in (ends, cell, vector, node, distance, share)
    )
    crystal, orbit, atom = ends
    neighbour = crystal * n_orbits + orbits.of_atom[crystal, atom]
    near_reach = torch.minimum(reach, _reach(node, distance, share, n_nodes, cutoff, most_near))

    operation = orbits.operation[crystal, atom]
    inverse, moved = _looked_up(_inverses, orbits.symmetry)
    inverse, moved = inverse[crystal, operation], moved[crystal, operation]
    back = rotations_of(u.device).to(u.dtype)[orbits.symmetry[crystal], inverse]
    reverse = _reverse(orbits, images, ends, cell, neighbour, (inverse, moved - along(back, cell.to(u.dtype)).long()))
    fractional = images.apart(ends, cell)
    returning = along(lattice.mT[crystal], -along(back, fractional))
    edge, near = _triplets(node, neighbour, distance < near_reach[node], n_nodes)
    onwards = near != reverse[edge]
    edge, near = edge[onwards], near[onwards]
    cosine = (returning[edge] * vector[near]).sum(1) / (distance[edge] * distance[near])
    return Multigraph(
        crystal=crystal,
        node=node,
        neighbour=neighbour,
        vector=fractional,
        distance=distance,
        own_image=(neighbour == node) & (operation > 0),
        weight=envelope(distance / reach[node]) * share,
        reverse=reverse,
        near_weight=envelope(distance / near_reach[node]) * share,
        edge=edge,
        near=near,
        cosine=cosine.clamp(-1, 1),
        reach=reach,
        merged=images.u,
        sound=sound,
    )


def _cells(metric: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Which crystals have a cell, lattices (B, 3, 3) of those metrics, and how many cells lie within the cutoff of one
    (B, 3), on either side; a unit cube stands for no cell."""
    lattice, failure = torch.linalg.cholesky_ex(metric)
    heights = torch.linalg.inv_ex(metric)[0].diagonal(dim1=1, dim2=2).rsqrt()
    half = (cutoff / heights + 0.5).floor()
    sound = (failure == 0) & (heights > MIN_HEIGHT).all(1) & (half <= MOST_CELLS).all(1)
    unit = torch.eye(3, dtype=metric.dtype, device=metric.device)
    return sound, torch.where(sound[:, None, None], lattice, unit), torch.where(sound[:, None], half, 0).long()


def _overlap(distance: Tensor) -> Tensor:
    """How far two images at this distance in Å are one: 1 up to SURELY_MERGED, 0 from MERGED on, smooth between."""
    x = ((MERGED - distance) / (MERGED - SURELY_MERGED)).clamp(0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


@dataclass(frozen=True)
class Images:
    """The images of the sites of B crystals, those that coincide as one.

    Attributes:
        u: (B, T, 3) parameters.
        site, atom: (B, T, 3), (B, N, 3) where the representatives and all images are.
        kept: (B, N) the image that stands for those that have become one.
        share: (B, N) of an atom that those for which it stands are together.
    """

    u: Tensor
    site: Tensor
    atom: Tensor
    kept: Tensor
    share: Tensor

    @classmethod
    def distinct(cls, orbits: Orbits, u: Tensor) -> Images:
        """Where positions are known, every atom is one."""
        atom = orbits.atoms(u)
        itself = torch.arange(atom.shape[1], device=u.device).expand(atom.shape[:2])
        return cls(u, orbits.representatives(u), atom, itself, torch.ones_like(atom[:, :, 0]))

    @classmethod
    def merged(cls, orbits: Orbits, u: Tensor, lattice: Tensor) -> Images:
        """Sites go, in a few steps, to the mean of their images nearby, weighed by how far they overlap.

        Their images follow (mean shift, Comaniciu and Meer, 10.1109/34.1000236). The share of an atom that an image is
        falls from 1 to 1 / k while k images become one, so that nothing jumps.
        """
        local, n_atoms = torch.arange(ORDER, device=u.device), orbits.of_atom.shape[1]
        own = local < orbits.multiplicity[:, :, None]
        begin = (orbits.multiplicity.cumsum(1) - orbits.multiplicity)[:, :, None]
        place = (begin + local).clamp(max=n_atoms - 1).flatten(1)

        def around(u: Tensor) -> tuple[Tensor, Tensor]:
            images = orbits.atoms(u).gather(1, place[:, :, None].expand(-1, -1, 3)).unflatten(1, (-1, ORDER))
            apart = images - orbits.representatives(u)[:, :, None]
            apart = apart - apart.round()
            return apart, (apart @ lattice[:, None]).norm(dim=-1).masked_fill(~own, torch.inf)

        merged = u
        for _ in range(APPROACHES):
            apart, distance = around(merged)
            overlap = _overlap(distance)
            merged = merged + (overlap[..., None] * apart).sum(2) / overlap.sum(2).clamp(min=1)[..., None]
        distance = around(merged)[1]
        (product,) = _looked_up(_products, orbits.symmetry)
        first = torch.where((distance < SAME_POINT)[:, :, None], product[:, None], ORDER).amin(-1)
        present = torch.arange(n_atoms, device=u.device) < orbits.multiplicity.sum(1)[:, None]
        kept = place.new_zeros(len(u), n_atoms).masked_scatter(present, (begin + first)[own])
        copies = torch.zeros_like(kept).scatter_add(1, kept, present.long())
        share = copies / _overlap(distance).sum(2).clamp(min=1).gather(1, orbits.of_atom)
        return cls(merged, orbits.representatives(merged), orbits.atoms(merged), kept, share)

    def apart(self, ends: Tensor, cell: Tensor) -> Tensor:
        """(E, 3) fractional vectors from site to image, of edges by crystal, orbit, atom (3, E) and cell (E, 3)."""
        crystal, orbit, atom = ends
        return self.atom[crystal, atom] + cell - self.site[crystal, orbit]


def _pairs(
    orbits: Orbits, images: Images, present: Tensor, lattice: Tensor, half: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Crystal, orbit and atom (3, E) of the edges within the cutoff, the image's cell (E, 3), vectors (E, 3) in Å."""
    crystal, orbit, atom = (orbits.mask[:, :, None] & present[:, None]).nonzero(as_tuple=True)
    apart = images.atom[crystal, atom] - images.site[crystal, orbit]
    nearest = apart.round()
    apart = along(lattice.mT[crystal], apart - nearest)

    sizes = 2 * half + 1
    counts = sizes.prod(1)
    of_cell, number = _enumerated(counts)
    _, y, z = sizes[of_cell].unbind(1)
    cells = torch.stack([number // (y * z), number // z % y, number % z], dim=1) - half[of_cell]
    shifts = along(lattice.mT[of_cell], cells.to(lattice.dtype))

    pair, number = _enumerated(counts[crystal])
    taken = (counts.cumsum(0) - counts)[crystal][pair] + number
    vector = apart[pair] + shifts[taken]
    close = ((vector * vector).sum(1) < cutoff**2).nonzero()[:, 0]
    pair, taken, vector = pair[close], taken[close], vector[close]
    cell = cells[taken] - nearest.long()[pair]
    ends = torch.stack([crystal, orbit, atom])[:, pair]
    itself = (orbits.of_atom[ends[0], ends[2]] == ends[1]) & (orbits.operation[ends[0], ends[2]] == 0)
    other = ~(itself & (cell == 0).all(1))
    return ends[:, other], cell[other], vector[other]


def _enumerated(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For each of so many things of each row, the row and the thing's number in it."""
    row = torch.repeat_interleave(counts)
    return row, torch.arange(len(row), device=counts.device) - (counts.cumsum(0) - counts)[row]


def _reach(node: Tensor, distance: Tensor, share: Tensor, n_nodes: int, cutoff: float, most: int) -> Tensor:
    """(n_nodes,) the cutoff, or less where the envelopes of a node's edges, sorted by length, would have a larger sum
    than those of `most` atoms spread evenly: the reach at which they have that sum, found by bisection."""
    if not len(node):
        return distance.new_full((n_nodes,), cutoff)
    counts = node.bincount(minlength=n_nodes)
    beyond = (counts.cumsum(0) - counts + CROWD * most).clamp(max=len(node) - 1)
    reach = torch.where(counts > CROWD * most, distance[beyond], cutoff)

    def crowded(reach: Tensor) -> Tensor:
        weights = share * envelope(distance / reach[node])
        return distance.new_zeros(n_nodes).index_add_(0, node, weights) > FILLING * most

    full = crowded(reach)
    if not full.any():
        return reach
    here = full[node]
    node, distance, share, low, high = node[here], distance[here], share[here], torch.zeros_like(reach), reach
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = crowded(middle)
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return torch.where(full, high, reach)


def _triplets(node: Tensor, neighbour: Tensor, near: Tensor, n_nodes: int) -> tuple[Tensor, Tensor]:
    """Each edge with each of the near ones, the first of their nodes, that start where it leads to."""
    counts = node.bincount(minlength=n_nodes)
    edge, number = _enumerated(node[near].bincount(minlength=n_nodes)[neighbour])
    return edge, (counts.cumsum(0) - counts)[neighbour[edge]] + number


def _reverse(
    orbits: Orbits, images: Images, ends: Tensor, cell: Tensor, neighbour: Tensor, turned: tuple[Tensor, Tensor]
) -> Tensor:
    """(E,) the place of each edge's reverse among the edges, -1 where it is none of them; integers alone decide.

    Args:
        turned: the inverse of the operation that makes the image an edge leads to, and the cell into which it brings
            what it makes of the edge's own node.
    """
    (crystal, orbit, atom), (inverse, into) = ends, turned
    n_orbits, n_atoms = orbits.species.shape[1], orbits.of_atom.shape[1]
    which, shift = _looked_up(_carried, orbits.symmetry[:, None].expand_as(orbits.position), orbits.position)
    begin = orbits.multiplicity.cumsum(1) - orbits.multiplicity
    back = begin[crystal, orbit] + which[crystal, orbit, inverse]
    kept = images.kept[crystal, back]
    meets = (images.atom[crystal, back] - images.atom[crystal, kept]).round().long()
    into = into + shift[crystal, orbit, inverse] + meets

    def key(node: Tensor, atom: Tensor, cell: Tensor) -> Tensor:
        whole = node * n_atoms + atom
        for axis in range(3):
            whole = whole * KEY_BASE + cell[:, axis] + KEY_BASE // 2
        return whole

    keys, order = key(crystal * n_orbits + orbit, atom, cell).sort()
    if not len(keys):
        return keys
    wanted = key(neighbour, kept, into)
    found = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[found] == wanted, order[found], -1)


def _joined(one: Multigraph, other: Multigraph) -> Multigraph:
    """The graph of two batches."""
    numbered = {"crystal": len(one.sound), "node": len(one.reach), "neighbour": len(one.reach)}
    numbered |= {"edge": len(one.node), "near": len(one.node), "reverse": len(one.node)}
    second = {f.name: getattr(other, f.name) for f in fields(Multigraph)}
    second = {k: torch.where(v < 0, v, v + numbered[k]) if k in numbered else v for k, v in second.items()}
    return Multigraph(**{name: torch.cat([getattr(one, name), value]) for name, value in second.items()})


# ------------------------------------------------------------------------------------------- tables of operations


def _looked_up(table: Callable[..., tuple[np.ndarray, ...]], *keys: Tensor) -> tuple[Tensor, ...]:
    """What a table says of every entry of the keys; each distinct combination is looked up once."""
    distinct, row = torch.stack(keys, -1).flatten(0, -2).unique(dim=0, return_inverse=True)
    columns = zip(*(table(*key) for key in distinct.tolist()), strict=True)
    rows = row.view(keys[0].shape)
    return tuple(torch.from_numpy(np.stack(column)).to(rows.device)[rows] for column in columns)


@functools.cache
def _inverses(space_group: int) -> tuple[np.ndarray, np.ndarray]:
    """(48,) the operation that undoes each up to a translation of the lattice, and that translation (48, 3)."""
    rotations, translations = primitive_operations(space_group)
    inverse, moved = np.zeros(ORDER, dtype=np.int64), np.zeros((ORDER, 3), dtype=np.int64)
    undone = np.round(np.linalg.inv(rotations))
    number = (undone[:, None] == rotations).all((2, 3)).argmax(1)
    shift = -np.einsum("gij,gj->gi", undone, translations) - translations[number]
    inverse[: len(rotations)], moved[: len(rotations)] = number, np.round(shift)
    return inverse, moved


@functools.cache
def _products(space_group: int) -> tuple[np.ndarray]:
    """(48, 48) the operation that is the first after the second; 48 beyond those that there are."""
    rotations, _ = primitive_operations(space_group)
    products = np.einsum("gij,hjk->ghik", rotations, rotations).reshape(-1, 1, 9)
    n, table = len(rotations), np.full((ORDER, ORDER), ORDER)
    table[:n, :n] = (products == rotations.reshape(1, -1, 9)).all(2).argmax(1).reshape(n, n)
    return (table,)


@functools.cache
def _carried(space_group: int, position: int) -> tuple[np.ndarray, np.ndarray]:
    """(48,) the atom of an orbit to which each operation brings its representative, and (48, 3) in which cell."""
    rotations, translations = primitive_operations(space_group)
    taken = positions(space_group)[position]
    directions, origins = rotations @ taken.directions, rotations @ taken.origin + translations
    shift = origins[:, None] - taken.atoms_origin
    whole = np.abs(shift - np.round(shift)).max(2) < 0.5 / GRID
    found = (whole & (directions[:, None] == taken.atoms_directions).all((2, 3))).argmax(1)
    atom, cell = np.zeros(ORDER, dtype=np.int64), np.zeros((ORDER, 3), dtype=np.int64)
    atom[: len(found)], cell[: len(found)] = found, np.round(shift[np.arange(len(found)), found])
    return atom, cell
