"""The ordinary model of the modification task: x_1 = f(x_0) in one step (paper section 5.1, Algorithms 1 and 2)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.core.streams import Streams
from lib.models.batch import Batch, Conditions
from lib.models.interfaces import Draw, EuclideanRepresentation, Method


@dataclass(frozen=True)
class Regression(Method):
    """A network that maps x_0 to x_1."""

    representation: EuclideanRepresentation  # the geometry of states
    # distance (prediction, target, conditions) -> (B,), or a scalar, which stands for the mean over the batch; None for
    # the representation's own (section 3.3 trains with the PBC-aware loss instead)
    loss_function: Callable[[Tensor, Tensor, Conditions], Tensor] | None = None

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        """Nothing is random, and the time is 0."""
        return Draw(batch.x_1.new_zeros(len(batch)))

    def losses(self, net: nn.Module, batch: Batch, draw: Draw) -> Tensor:
        """Algorithm 1: the distance of the network's answer from x_1."""
        rep = self.representation
        output = net(batch.x_0, draw.t, batch)
        return (self.loss_function or rep.loss)(output, rep.to_euclidean(batch.x_1), batch.conditions)

    @torch.no_grad()
    def sample(self, net: nn.Module, batch: Batch, streams: Streams, steps: int, sampler: str | None = None) -> Tensor:
        """Algorithm 2; one step, whatever `steps` says."""
        return self.representation.from_euclidean(net(batch.x_0, batch.x_0.new_zeros(len(batch)), batch))
