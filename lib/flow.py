"""Conditional flow matching (paper section 5.2, Algorithms 3-6; Lipman et al., arXiv:2210.02747)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.guidance import guided
from lib.run import BadInput
from lib.streams import Streams
from lib.tensors import Conditions, Representation, rows_of

SAMPLERS = ("euler", "heun", "midpoint")


@dataclass(frozen=True)
class FlowMatching:
    """x_t = t x_1 + (1 - t) x_0, and a network that predicts the velocity x_1 - x_0.

    On the torus paths and velocities are those of the shortest way. The mean velocity of all paths through x_t carries
    the distribution of x_0 to that of x_1 (Chen and Lipman, arXiv:2302.03660); the mean of their ends,
    taken as a point on the circle, would not: half-way between two ends it points at neither.

    Attributes:
        representation: the geometry of states and paths.
        source: where x_0 comes from: "normal" or "uniform" noise (generation) or "data" (modification).
    """

    representation: Representation
    source: str

    def start(self, like: Tensor, x_0: Tensor | None, streams: Streams) -> Tensor:
        """x_0: the given structures, or noise in the shape of `like`."""
        return x_0 if self.source == "data" else self.representation.noise(self.source, like, streams)

    def loss(
        self,
        net: nn.Module,
        x_1: Tensor,
        conditions: Conditions,
        x_0: Tensor | None,
        generator: torch.Generator,
        share: slice = slice(None),
    ) -> Tensor:
        """Algorithms 4 and 5: the distance of the predicted from the true velocity at a random time.

        Args:
            share: the rows whose loss is asked for. Random numbers are drawn for all, so that they do not depend on
                how many processes divide a batch among them.
        """
        start = self.start(x_1, x_0, generator)
        t = torch.rand(len(x_1), generator=generator, device=x_1.device)
        start, t, x_1, conditions, x_0 = rows_of(share, start, t, x_1, conditions, x_0)
        return self.losses(net, x_1, conditions, x_0, start, t).mean()

    def losses(
        self, net: nn.Module, x_1: Tensor, conditions: Conditions, x_0: Tensor | None, start: Tensor, t: Tensor
    ) -> Tensor:
        """(B,) losses of the crystals at times t (B,) on their ways from the states `start`."""
        rep = self.representation
        start = rep.constrain(start, conditions)
        x_t = rep.constrain(rep.interpolate(start, x_1, t), conditions)
        output = net(x_t, t * rep.time_scale, conditions, x_0)
        return rep.velocity_loss(output, rep.velocity(start, x_1), conditions)

    @torch.no_grad()
    def sample(
        self,
        net: nn.Module,
        like: Tensor,
        conditions: Conditions,
        x_0: Tensor | None,
        streams: Streams,
        steps: int,
        sampler: str = "euler",
        velocity_scale: float = 0.0,
        guidance: float = 1.0,
        template_start: float = 0.0,
    ) -> Tensor:
        """Algorithm 6: dx = f(x, t, el, spg, E) dt from x_0 to x_1, in equal steps.

        Args:
            steps: their number. "euler" evaluates the network once a step, "heun" and "midpoint" twice: at equal cost
                they take half as many.
            sampler: "euler" as in the paper; "heun" and "midpoint" are the Runge-Kutta methods of second order.
            velocity_scale: s in (1 + s t) f, which atoms hurry by towards the end ("anti-annealing" in
                arXiv:2406.04713, 4.2); 0 in the paper.
            guidance: see :func:`lib.guidance.guided`.
            template_start: time at which the crystals that have a template start, that far on the way from noise to
                the template (after SDEdit, Meng et al., arXiv:2108.01073); 0: from noise.

        Raises:
            BadInput: the sampler is not known.
        """
        if sampler not in SAMPLERS:
            raise BadInput(f"sampler {sampler!r} is not known; choose one of {', '.join(SAMPLERS)}")
        rep, net = self.representation, guided(net, guidance)

        x, begin = self.start(like, x_0, streams), torch.zeros(len(like), 1, 1, device=like.device)
        if template_start and conditions.template is not None:
            begin[conditions.template.given] = template_start
            x = rep.interpolate(x, conditions.template.x, begin[:, 0, 0])
        x = rep.constrain(x, conditions)

        def velocity(x: Tensor, share: float) -> Tensor:
            """At a time that lies so far between the beginning and 1."""
            t = begin + (1 - begin) * share
            output = net(x, t[:, 0, 0] * rep.time_scale, conditions, x_0)
            pace = torch.ones(len(x), x.shape[1], 1, device=x.device)
            pace[:, : rep.n_sites - rep.n_rows] += velocity_scale * t
            return (1 - begin) * pace * output

        def moved(x: Tensor, change: Tensor) -> Tensor:
            return rep.constrain(rep.advance(x, change), conditions)

        for i in range(steps):
            v = velocity(x, i / steps)
            if sampler == "midpoint":
                v = velocity(moved(x, v / (2 * steps)), (i + 0.5) / steps)
            elif sampler == "heun":
                v = (v + velocity(moved(x, v / steps), (i + 1) / steps)) / 2
            x = moved(x, v / steps)
        return x
