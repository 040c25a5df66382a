"""The ordinary model of the modification task: x_1 = f(x_0) in one step (paper section 5.1, Algorithms 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.streams import Streams
from lib.tensors import Conditions, Representation, rows_of


@dataclass(frozen=True)
class Regression:
    """A network that maps x_0 to x_1.

    Attributes:
        representation: the geometry of states.
        loss_function: distance (prediction, target, conditions) -> scalar or (B,); the representation's own by default
            (section 3.3 trains with the PBC-aware loss instead).
    """

    representation: Representation
    loss_function: Callable[[Tensor, Tensor, Conditions], Tensor] | None = None

    def loss(
        self,
        net: nn.Module,
        x_1: Tensor,
        conditions: Conditions,
        x_0: Tensor,
        generator: torch.Generator,
        share: slice = slice(None),
    ) -> Tensor:
        """Algorithm 1, over the rows of `share`."""
        rep = self.representation
        x_1, conditions, x_0 = rows_of(share, x_1, conditions, x_0)
        output = net(x_0, x_0.new_zeros(len(x_0)), conditions, x_0)
        return (self.loss_function or rep.loss)(output, rep.to_euclidean(x_1), conditions).mean()

    @torch.no_grad()
    def sample(
        self,
        net: nn.Module,
        like: Tensor,
        conditions: Conditions,
        x_0: Tensor,
        streams: Streams,
        steps: int = 1,
        sampler: str | None = None,
    ) -> Tensor:
        """Algorithm 2; one step, whatever `steps` says."""
        return self.representation.from_euclidean(net(x_0, x_0.new_zeros(len(x_0)), conditions, x_0))
