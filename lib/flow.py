"""Conditional flow matching (paper section 5.2, Algorithms 3-6; Lipman et al., arXiv:2210.02747)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.guidance import guided
from lib.run import BadInput
from lib.tensors import Conditions, Representation, rows_of

SAMPLERS = ("euler", "heun", "midpoint")


@dataclass(frozen=True)
class FlowMatching:
    """x_t = t x_1 + (1 - t) x_0, and a network that predicts the velocity x_1 - x_0, or where it leads.

    The paper's network predicts the velocity. On the torus the velocity is a sawtooth of x_0, which a small network
    cannot draw; there it predicts the end x_1, and the velocity is the rest of the way over the rest of the time.

    Attributes:
        representation: the geometry of states and paths.
        source: where x_0 comes from: "normal" or "uniform" noise (generation) or "data" (modification).
        predicts_end: whether the network predicts x_1 instead of the velocity.
    """

    representation: Representation
    source: str
    predicts_end: bool = False

    def start(self, like: Tensor, x_0: Tensor | None, generator: torch.Generator) -> Tensor:
        """x_0: the given structures, or noise in the shape of `like`."""
        return x_0 if self.source == "data" else self.representation.noise(self.source, like, generator)

    def loss(
        self,
        net: nn.Module,
        x_1: Tensor,
        conditions: Conditions,
        x_0: Tensor | None,
        generator: torch.Generator,
        share: slice = slice(None),
    ) -> Tensor:
        """Algorithms 4 and 5: the distance of the predicted from the true velocity (or end) at a random time.

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
        if self.predicts_end:
            return rep.loss(output, rep.to_euclidean(x_1), conditions)
        return rep.velocity_loss(output, rep.velocity(start, x_1), conditions)

    @torch.no_grad()
    def sample(
        self,
        net: nn.Module,
        like: Tensor,
        conditions: Conditions,
        x_0: Tensor | None,
        generator: torch.Generator,
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
            sampler: "euler" as in the paper; "heun" and "midpoint" are the Runge-Kutta methods of second order. Where
                the network predicts the end, Heun's last step is Euler's: the velocity has no value at t = 1 (Karras
                et al., arXiv:2206.00364).
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

        x, begin = self.start(like, x_0, generator), torch.zeros(len(like), 1, 1, device=like.device)
        if template_start and conditions.template is not None:
            begin[conditions.template.given] = template_start
            x = rep.interpolate(x, conditions.template.x, begin[:, 0, 0])
        x = rep.constrain(x, conditions)

        def velocity(x: Tensor, share: float) -> Tensor:
            """At a time that lies so far between the beginning and 1."""
            t = begin + (1 - begin) * share
            output = net(x, t[:, 0, 0] * rep.time_scale, conditions, x_0)
            if self.predicts_end:
                output = rep.velocity(x, rep.from_euclidean(output)) / (1 - t)
            pace = torch.ones(len(x), x.shape[1], 1, device=x.device)
            pace[:, : rep.n_sites - rep.n_rows] += velocity_scale * t
            return (1 - begin) * pace * output

        def moved(x: Tensor, change: Tensor) -> Tensor:
            return rep.constrain(rep.advance(x, change), conditions)

        for i in range(steps):
            v = velocity(x, i / steps)
            if sampler == "midpoint":
                v = velocity(moved(x, v / (2 * steps)), (i + 0.5) / steps)
            elif sampler == "heun" and not (self.predicts_end and i + 1 == steps):
                v = (v + velocity(moved(x, v / steps), (i + 1) / steps)) / 2
            x = moved(x, v / steps)
        return x
