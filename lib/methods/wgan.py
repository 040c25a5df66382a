"""A Wasserstein GAN with gradient penalty (Gulrajani et al., arXiv:1704.00028) and one critic or two, as in CryinGAN
(10.1039/D4DD00100A, equations 2 to 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lib.core.streams import Streams, normal
from lib.models.batch import Batch
from lib.models.cryingan import CRITICS, FEATURES, GENERATOR, LATENT
from lib.models.interfaces import Draw, Method
from lib.models.one_cell_state import CellTensors

PENALTY = 10.0  # mu of equation 2


@dataclass(frozen=True)
class WassersteinGan(Method):
    """A step is the critics' or the generator's, by lot; one optimiser serves both, since it leaves alone parameters
    without a gradient. (The published code trains the generator with every fifth batch, in the same step.)

    Attributes:
        representation: of crystals of one cell.
        bond_weight: lambda, the weight of the second critic, where there is one.
        critic_steps: of the critics for each of the generator, on average.
        repaired: whether the penalty is on the critic's answer, the mean of its outputs. The published code has it on
            their sum, so that the mean is held to a slope of 1 / outputs.
    """

    samplers: ClassVar[tuple[str, ...]] = ("generator",)

    representation: CellTensors
    bond_weight: float
    critic_steps: int = 5
    repaired: bool = False

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        """Whose step it is, one number for all crystals (B,); and for each 64 normal numbers and the place of its point
        on the way from the generated to the true crystal, uniform, (B, 2, 64)."""
        x_1, n = batch.x_1, len(batch)
        turn = torch.rand(1, generator=generator, device=x_1.device)
        latent = torch.randn(n, 1, LATENT, generator=generator, device=x_1.device)
        place = torch.rand(n, 1, 1, generator=generator, device=x_1.device)
        return Draw(turn.expand(n), torch.cat([latent, place.expand(n, 1, LATENT)], dim=1))

    def losses(self, net: nn.Module, batch: Batch, draw: Draw) -> Tensor:
        """Of the critics D(fake) - D(true) + penalty, or of the generator -D(fake), critics added up by their weights.

        The generator's gradient comes through the critics, which must not learn from it: it is taken at the features,
        and only from there on back to the generator. Where nothing learns, as in validation, it is the critics' turn.
        """
        learns = torch.is_grad_enabled()
        with torch.enable_grad():  # also in validation: the penalty is a gradient
            latent = draw.noise[:, 0]
            if learns and bool(draw.t[0] * (self.critic_steps + 1) < 1):
                features = net(net(latent, GENERATOR, batch)[:, :-2], FEATURES, batch)
                seen = features.detach().requires_grad_()
                answer = self._answer(net(seen, CRITICS, batch))
                (slope,) = torch.autograd.grad(answer.sum(), seen)
                through = -(slope * features).flatten(1).sum(1)
                return through + (-answer - through).detach()
            with torch.no_grad():
                fake = net(net(latent, GENERATOR, batch)[:, :-2], FEATURES, batch)
                true = net(batch.x_1[:, :-2], FEATURES, batch)
            place = draw.noise[:, 1, :1, None]
            between = (place * true + (1 - place) * fake).requires_grad_()
            judged = net(between, CRITICS, batch)
            penalty = torch.stack([self._penalty(judged[:, i], between) for i in range(judged.shape[1])], dim=1)
            answers = self._answer(net(fake, CRITICS, batch)) - self._answer(net(true, CRITICS, batch))
            return answers + penalty @ self._weights(judged)

    def _weights(self, outputs: Tensor) -> Tensor:
        """(critics,) what each counts in the total (equations 3 and 5)."""
        return torch.tensor([1.0, self.bond_weight], device=outputs.device)[: outputs.shape[1]]

    def _answer(self, outputs: Tensor) -> Tensor:
        """(B,) D, the critics' mean outputs (B, critics, outputs), added up by their weights."""
        return outputs.mean(2) @ self._weights(outputs)

    def _penalty(self, outputs: Tensor, between: Tensor) -> Tensor:
        """(B,) mu (|gradient| - 1)^2 of one critic, which sees a part of the features alone."""
        answer = outputs.mean(1) if self.repaired else outputs.sum(1)
        (slope,) = torch.autograd.grad(answer.sum(), between, create_graph=True)
        return PENALTY * (slope.flatten(1).norm(dim=1) - 1) ** 2

    @torch.no_grad()
    def sample(self, net: nn.Module, batch: Batch, streams: Streams, steps: int, sampler: str | None = None) -> Tensor:
        """States of the generator, in one step, whatever `steps` says."""
        x_1 = batch.x_1
        numbers = normal(x_1.new_zeros(len(batch), x_1.shape[1], -(-LATENT // x_1.shape[1])), streams)
        return net(numbers.flatten(1)[:, :LATENT], GENERATOR, batch)
