"""Losses on fractional coordinates and lattices: the paper's L1, its PBC-aware loss, and the minimum image.

Every loss of coordinates takes `prediction` and `target` (B, N, 3) in fractional units with `mask` (B, N), true for
atoms and false for padding, sums a distance over the atoms of each structure, divides by their number, and averages
over the batch (A.4 sums over it, which only scales the learning rate). Distances are in fractional coordinates,
as in the paper: `norm` "l1" is |dx| + |dy| + |dz|, "l2" the Euclidean length.

What A.4 gets wrong: it looks for periodic images of a target only where a target coordinate is exactly 0 or 1, and
only at 0 and 1. A target at 0.95 predicted at -0.04 costs 0.99, although the two are 0.01 apart; a vertex predicted at
1.98 costs 0.98 instead of 0.02. :func:`image_loss` (section 3.3's 27 cells) is right up to 1.5 cells away, and
:func:`minimum_image_loss` everywhere.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lib.models.batch import Conditions

Norm = Literal["l1", "l2"]
PAPER_SITES = 60  # rows 0..59 of X are atoms, row 60 is padding, rows 61..63 are the lattice (equation 1)
SMALLEST_DISTANCE = 1e-12  # below it the soft minimum of A.4 is flat, which keeps the gradient of its logarithm finite


def l1_paper(prediction: Tensor, target: Tensor, n_sites: Tensor) -> Tensor:
    """The paper's L1 on its 64 x 3 tensors (sections 3.1, 3.2), as its code has it: padding rows count.

    Half of it is the sum of |prediction - target|, both (B, 64, 3), over the 60 rows of coordinates divided by the
    number of atoms (B,), so that the empty rows of a small cell outweigh its atoms; half is that over the three lattice
    rows (Å) divided by 3. Returns (B,), of each structure.
    """
    coords = (prediction - target)[:, :PAPER_SITES].abs().sum((-2, -1)) / n_sites
    return 0.5 * coords + 0.5 * _lattice_l1(prediction, target)


def direct_loss(prediction: Tensor, target: Tensor, mask: Tensor, *, norm: Norm = "l2") -> Tensor:
    """Distance to the target itself, whatever its periodic images: L1 (section 3.1) or L2, without padding."""
    return _mean_over_atoms(_length(prediction - target, norm), mask)


def pbc_loss(
    prediction: Tensor, target: Tensor, mask: Tensor, *, norm: Norm = "l2", order: float | None = None
) -> Tensor:
    """The PBC-aware loss as appendix A.4 defines it.

    A target coordinate, in [0, 1], that is exactly 0 or 1 may be either: a vertex has 8 images, an edge 4, a face 2,
    and every other atom only itself. The distance to the nearest image counts.

    Args:
        order: A.4's k < 0, for its differentiable minimum (sum_i d_i^k)^(1/k), which is smaller than the true
            minimum by at most a factor 8^(1/k); None for the exact minimum, its limit.

    Raises:
        ValueError: order is not negative.
    """
    if order is None:  # the images of an atom differ axis by axis, and so does the nearest of them
        nearest = torch.where(_on_boundary(target), (prediction.detach() > 0.5).to(target.dtype), target)
        return _mean_over_atoms(_length(prediction - nearest, norm), mask)
    images, distinct = boundary_images(target)
    distance = _length(prediction.unsqueeze(-2) - images, norm)
    return _mean_over_atoms(_minimum(distance.masked_fill(~distinct, torch.inf), order), mask)


def boundary_images(target: Tensor) -> tuple[Tensor, Tensor]:
    """The points (..., 8, 3) that A.4 takes for one (..., 3): coordinates that are exactly 0 or 1 may be either.

    With them comes which are distinct (..., 8): 8 for a vertex, 4 for an edge, 2 for a face (A.4's "side"), 1 else.
    """
    corners = _cells((0.0, 1.0), target)  # (8, 3)
    on_boundary = _on_boundary(target).unsqueeze(-2)  # (..., 1, 3)
    points = torch.where(on_boundary, corners, target.unsqueeze(-2))
    return points, (on_boundary | (corners == 0)).all(-1)


def _on_boundary(target: Tensor) -> Tensor:
    return (target == 0) | (target == 1)


def image_loss(
    prediction: Tensor, target: Tensor, mask: Tensor, *, norm: Norm = "l2", order: float | None = None
) -> Tensor:
    """Distance to the nearest of the target and its 26 images in the neighbouring cells (section 3.3).

    Exact while prediction and target are less than 1.5 cells apart along each axis. Arguments as in :func:`pbc_loss`.
    """
    images = target.unsqueeze(-2) + _cells((-1.0, 0.0, 1.0), target)  # (B, N, 27, 3)
    return _mean_over_atoms(_minimum(_length(prediction.unsqueeze(-2) - images, norm), order), mask)


def minimum_image(difference: Tensor) -> Tensor:
    """The shortest of all periodic images of a difference of fractional coordinates: d - round(d), in [-1/2, 1/2].

    Its derivative is 1 everywhere. Shortest along each axis; in a skewed cell another image may be closer in Å.
    """
    return difference - difference.round()


def minimum_image_loss(prediction: Tensor, target: Tensor, mask: Tensor, *, norm: Norm = "l2") -> Tensor:
    """Distance to the nearest of all periodic images of the target, in closed form; arguments as above."""
    return _mean_over_atoms(_length(minimum_image(prediction - target), norm), mask)


CoordinateLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
TrainingLoss = Callable[[Tensor, Tensor, Conditions], Tensor]


def training_losses(norm: Norm = "l2") -> dict[str, TrainingLoss]:
    """Four losses on the paper's 64 x 3 tensors for the regression model; they take (prediction, target, conditions).

    "published L1" counts padding. The others leave it out and differ from each other only in the periodic images
    that they allow the coordinates: "no images", "A.4" and "minimum image".
    """
    coordinate_losses = {"no images": direct_loss, "A.4": pbc_loss, "minimum image": minimum_image_loss}

    def published(prediction: Tensor, target: Tensor, conditions: Conditions) -> Tensor:
        return l1_paper(prediction, target, conditions.n_sites).mean()

    masked = {name: with_lattice(partial(loss, norm=norm)) for name, loss in coordinate_losses.items()}
    return {"published L1": published, **masked}


def with_lattice(loss: CoordinateLoss) -> TrainingLoss:
    """A loss on the 64 x 3 tensors: half that of the coordinates, without padding, half the lattice's L1.

    The parts weigh as in :func:`l1_paper`.
    """

    def total(prediction: Tensor, target: Tensor, conditions: Conditions) -> Tensor:
        coords = loss(prediction[:, :PAPER_SITES], target[:, :PAPER_SITES], conditions.mask)
        return 0.5 * coords + 0.5 * _lattice_l1(prediction, target).mean()

    return total


def of_each_structure(loss: CoordinateLoss, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """(B,) the loss of every structure of a batch by itself."""
    return torch.vmap(lambda *one: loss(*(value[None] for value in one)))(prediction, target, mask)


def on_slice(loss: CoordinateLoss, target: Tensor, positions: Tensor) -> Tensor:
    """(G, G) a loss for one atom (3,) whose predicted x (rows) and y (columns) take positions (G,), with z right."""
    x, y = torch.meshgrid(positions, positions, indexing="ij")
    prediction = torch.stack([x, y, target[2].expand_as(x)], -1).view(-1, 1, 3)
    mask = torch.ones(len(prediction), 1, dtype=torch.bool, device=target.device)
    return of_each_structure(loss, prediction, target.expand_as(prediction), mask).view_as(x)


def _lattice_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """(B,) sum of |prediction - target| (Å) over the lattice rows of (B, 64, 3), divided by their number."""
    return (prediction - target)[:, PAPER_SITES + 1 :].abs().sum((-2, -1)) / 3


def _cells(values: tuple[float, ...], like: Tensor) -> Tensor:
    """(len(values)^3, 3): every triple of the values."""
    return torch.tensor(list(itertools.product(values, repeat=3)), dtype=like.dtype, device=like.device)


def _length(difference: Tensor, norm: Norm) -> Tensor:
    """L1 or L2 length along the last axis; the gradient at zero length is zero, not NaN."""
    return torch.linalg.vector_norm(difference, ord={"l1": 1, "l2": 2}[norm], dim=-1)


def _minimum(distance: Tensor, order: float | None) -> Tensor:
    """Smallest distance along the last axis, or A.4's norm of order k < 0, computed from logarithms."""
    if order is None:
        return distance.min(-1).values  # at a tie the gradient of one image, where amin would give their zero mean
    if order >= 0:
        raise ValueError(f"order {order} must be negative: A.4's k goes to minus infinity")
    return (torch.logsumexp(order * distance.clamp_min(SMALLEST_DISTANCE).log(), -1) / order).exp()


def _mean_over_atoms(per_atom: Tensor, mask: Tensor) -> Tensor:
    """Scalar: (B, N) values averaged over the atoms of each structure, then over the batch."""
    return (torch.where(mask, per_atom, 0.0).sum(-1) / mask.sum(-1)).mean()
