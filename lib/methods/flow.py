"""Conditional flow matching (paper section 5.2, Algorithms 3-6; Lipman et al., arXiv:2210.02747)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lib.core.streams import Streams
from lib.methods.guidance import guided
from lib.models.batch import Batch
from lib.models.interfaces import Draw, Method, Representation, checked_sampler


@dataclass(frozen=True)
class FlowMatching(Method):
    """x_t = t x_1 + (1 - t) x_0, and a network that predicts the velocity x_1 - x_0.

    On the torus paths and velocities are those of the shortest way. The mean velocity of all paths through x_t carries
    the distribution of x_0 to that of x_1 (Chen and Lipman, arXiv:2302.03660); the mean of their ends,
    taken as a point on the circle, would not: half-way between two ends it points at neither.
    """

    samplers: ClassVar[tuple[str, ...]] = ("euler", "heun", "midpoint")
    options: ClassVar[tuple[str, ...]] = ("velocity_scale", "template_start", "guidance")
    predicts_velocity: ClassVar[bool] = True

    representation: Representation  # the geometry of states and paths
    source: str  # where x_0 comes from: "normal" or "uniform" noise (generation) or "data" (modification)

    def start(self, batch: Batch, streams: Streams) -> Tensor:
        """x_0 (B, R, 3): the given structures, or noise."""
        return batch.x_0 if self.source == "data" else self.representation.noise(self.source, batch.x_1, streams)

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        """Where the ways begin, x_0 (B, R, 3), and times t (B,) in [0, 1)."""
        start = self.start(batch, generator)
        return Draw(torch.rand(len(batch), generator=generator, device=batch.x_1.device), start)

    def losses(self, net: nn.Module, batch: Batch, draw: Draw) -> Tensor:
        """Algorithms 4 and 5: the distance of the predicted from the true velocity at times t on the ways to x_1."""
        rep, x_1 = self.representation, batch.x_1
        start = rep.constrain(draw.noise, batch)
        x_t = rep.constrain(rep.interpolate(start, x_1, draw.t), batch)
        output = net(x_t, draw.t * rep.time_scale, batch)
        return rep.velocity_loss(output, rep.velocity(start, x_1), batch)

    @torch.no_grad()
    def sample(
        self,
        net: nn.Module,
        batch: Batch,
        streams: Streams,
        steps: int,
        sampler: str | None = None,
        velocity_scale: float = 0.0,
        guidance: float = 1.0,
        template_start: float = 0.0,
    ) -> Tensor:
        """Algorithm 6: dx = f(x, t, el, spg, E) dt from x_0 to x_1, in equal steps.

        Args:
            steps: their number. "euler" evaluates the network once a step, "heun" and "midpoint" twice: at equal cost
                they take half as many.
            sampler: "euler", the default, as in the paper; "heun" and "midpoint" are the Runge-Kutta methods of second
                order.
            velocity_scale: s in (1 + s t) f, by which atoms move faster towards the end ("anti-annealing" in
                arXiv:2406.04713, 4.2); 0 in the paper.
            guidance: see :func:`lib.methods.guidance.guided`.
            template_start: time at which the crystals that have a template start, that far on the way from noise to
                the template (after SDEdit, Meng et al., arXiv:2108.01073); 0: from noise.

        Raises:
            BadInput: the sampler is not known.
        """
        rep, net, sampler = self.representation, guided(net, guidance), checked_sampler(self, sampler)
        x, begin = self.start(batch, streams), torch.zeros(len(batch), 1, 1, device=batch.x_1.device)
        if template_start and batch.template is not None:
            begin[batch.template.given] = template_start
            x = rep.interpolate(x, batch.template.x, begin[:, 0, 0])
        x = rep.constrain(x, batch)

        def velocity(x: Tensor, share: float) -> Tensor:
            """Velocity at the time begin + (1 - begin) share, for a share of the way done."""
            t = begin + (1 - begin) * share
            output = net(x, t[:, 0, 0] * rep.time_scale, batch)
            pace = torch.ones(len(x), x.shape[1], 1, device=x.device)
            pace[:, : rep.n_sites - rep.n_rows] += velocity_scale * t
            return (1 - begin) * pace * output

        def moved(x: Tensor, change: Tensor) -> Tensor:
            return rep.constrain(rep.advance(x, change), batch)

        for i in range(steps):
            v = velocity(x, i / steps)
            if sampler == "midpoint":
                v = velocity(moved(x, v / (2 * steps)), (i + 0.5) / steps)
            elif sampler == "heun":
                v = (v + velocity(moved(x, v / steps), (i + 1) / steps)) / 2
            x = moved(x, v / steps)
        return x
