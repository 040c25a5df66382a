"""Conditional flow matching (paper section 5.2, Algorithms 3-6; Lipman et al., arXiv:2210.02747)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.tensors import Conditions, Representation


@dataclass(frozen=True)
class FlowMatching:
    """x_t = t x_1 + (1 - t) x_0, and a network that predicts the velocity x_1 - x_0, or where it leads.

    The paper's network predicts the velocity. On the torus the velocity is a sawtooth of x_0, which a small network
    cannot draw; there it predicts the end x_1, and the velocity is the rest of the way over the rest of the time.

    Attributes:
        representation: the geometry of states and paths.
        source: where x_0 comes from: "normal" or "uniform" noise (generation) or "data" (modification).
    """

    representation: Representation
    source: str

    def start(self, like: Tensor, x_0: Tensor | None, generator: torch.Generator) -> Tensor:
        """x_0: the given structures, or noise in the shape of `like`."""
        return x_0 if self.source == "data" else self.representation.noise(self.source, like, generator)

    def loss(
        self, net: nn.Module, x_1: Tensor, conditions: Conditions, x_0: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """Algorithms 4 and 5: the distance of the predicted from the true velocity (or end) at a random time."""
        rep = self.representation
        start = self.start(x_1, x_0, generator)
        t = torch.rand(len(x_1), generator=generator, device=x_1.device)
        x_t = rep.interpolate(start, x_1, t)
        output = net(x_t, t * rep.time_scale, conditions, x_0)
        target = rep.to_euclidean(x_1) if rep.predicts_end else rep.velocity(start, x_1)
        return rep.loss(output, target, conditions)

    @torch.no_grad()
    def sample(
        self,
        net: nn.Module,
        like: Tensor,
        conditions: Conditions,
        x_0: Tensor | None,
        generator: torch.Generator,
        steps: int,
        sampler: str | None = None,
    ) -> Tensor:
        """Algorithm 6: Euler steps of dx = f(x, t, el, spg, E) dt from x_0 to x_1."""
        rep = self.representation
        x = self.start(like, x_0, generator)
        for i in range(steps):
            output = net(x, torch.full((len(x),), i / steps * rep.time_scale, device=x.device), conditions, x_0)
            if rep.predicts_end:
                x = rep.advance(x, rep.velocity(x, rep.from_euclidean(output)) / (steps - i))
            else:
                x = rep.advance(x, output / steps)
        return x
