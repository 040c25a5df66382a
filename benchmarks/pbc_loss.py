"""The PBC-aware loss, forward and backward, against appendix A.4 read line by line: atom by atom, vertex by vertex."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.timing import Result, in_turns, ratios, repeated
from lib.core.run import Run
from lib.models.losses import pbc_loss

LINE = Result("speed.pbc_loss_ratio", "PBC loss and gradient, 256 x 60 atoms, to A.4 atom by atom", "x")
ON_BOUNDARY = 0.4  # share of coordinates that are exactly 0 or 1


def naive_loss(prediction: Tensor, target: Tensor, n_sites: list[int]) -> Tensor:
    """A.4 as it stands, divided by the size of the batch."""
    total = prediction.new_zeros(())
    for structure, (points, targets) in enumerate(zip(prediction, target, strict=True)):
        loss = prediction.new_zeros(())
        for i in range(n_sites[structure]):
            loss = loss + _atom_loss(points[i], targets[i])
        total = total + loss / n_sites[structure]
    return total / len(prediction)


def _atom_loss(prediction: Tensor, target: Tensor) -> Tensor:
    x, y, z = target.tolist()
    fixed = [value not in (0.0, 1.0) for value in (x, y, z)]
    if not any(fixed):  # a vertex
        images = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    elif sum(fixed) == 1:  # an edge
        pairs = [(i, j) for i in (0, 1) for j in (0, 1)]
        if fixed[0]:
            images = [(x, i, j) for i, j in pairs]
        elif fixed[1]:
            images = [(i, y, j) for i, j in pairs]
        else:
            images = [(i, j, z) for i, j in pairs]
    elif sum(fixed) == 2:  # a side
        if not fixed[0]:
            images = [(i, y, z) for i in (0, 1)]
        elif not fixed[1]:
            images = [(x, i, z) for i in (0, 1)]
        else:
            images = [(x, y, i) for i in (0, 1)]
    else:
        return torch.linalg.vector_norm(prediction - target)
    distances = [torch.linalg.vector_norm(prediction - prediction.new_tensor(image)) for image in images]
    return torch.stack(distances).min()


def atoms(batch: int, n_sites: int, seed: int) -> tuple[Tensor, Tensor]:
    """(prediction, target), (B, N, 3) each: predictions in the cell, targets of which many lie on its boundary."""
    generator = torch.Generator().manual_seed(seed)
    prediction, target = torch.rand(2, batch, n_sites, 3, generator=generator)
    on_boundary = torch.rand(target.shape, generator=generator) < ON_BOUNDARY
    return prediction.requires_grad_(), torch.where(on_boundary, target.round(), target)


def value_and_gradient(loss, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """A loss of the prediction, and its gradient."""
    value = loss(prediction)
    return value.detach(), torch.autograd.grad(value, prediction)[0]


def jobs(batch: int, n_sites: int, seed: int) -> dict:
    """The two computations, checked to be the same."""
    prediction, target = atoms(batch, n_sites, seed)
    mask, counts = torch.ones(batch, n_sites, dtype=torch.bool), [n_sites] * batch
    both = {
        "naive": lambda: value_and_gradient(lambda p: naive_loss(p, target, counts), prediction),
        "lib": lambda: value_and_gradient(lambda p: pbc_loss(p, target, mask), prediction),
    }
    for naive, lib in zip(both["naive"](), both["lib"](), strict=True):
        torch.testing.assert_close(lib, naive, rtol=1e-4, atol=1e-7)
    return both


def measure(run: Run) -> Iterator[Result]:
    """See the module's first line."""
    both = jobs(*((3, 4) if run.params.tiny else (256, 60)), run.seed)
    both["lib"], times = repeated(both["lib"])
    seconds = in_turns(both, run.params.repetitions)
    yield LINE.of([times * ratio for ratio in ratios(seconds, of="naive", to="lib")])
