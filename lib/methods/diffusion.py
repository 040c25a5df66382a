"""Denoising diffusion with DDPM and DDIM samplers (paper section 5.3, Algorithms 7-11, A.3).

In the paper's letters x_1 is data and the noise is eps (x_0 for generation); alpha in Algorithm 11 is read as
alpha-bar, without which the step is not the inverse of the forward process. Ho et al., arXiv:2006.11239; Song et al.,
arXiv:2010.02502; Nichol and Dhariwal, arXiv:2102.09672.
"""

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lib.core.errors import BadInput
from lib.core.streams import Streams, normal
from lib.models.batch import Batch
from lib.models.interfaces import Draw, EuclideanRepresentation, Method, checked_sampler

MAX_BETA = 0.999


@dataclass(frozen=True)
class Diffusion(Method):
    """Noise prediction with the cosine schedule.

    The paper's network predicts the noise. One that predicts the data leaves the noise to follow from it: at
    t = T - 1, where trailing spacing starts, noise says nothing of the data (alpha-bar is 2e-9), and the errors of its
    prediction come back multiplied by 20,000 (Lin et al., arXiv:2305.08891).
    """

    samplers: ClassVar[tuple[str, ...]] = ("ddpm", "ddim")
    few_steps: ClassVar[str | None] = "ddim"
    euclidean: ClassVar[bool] = True

    representation: EuclideanRepresentation  # states; noise is added in its Euclidean space
    num_train_timesteps: int = 1000  # discretisation T of the process
    variance: str = "small"  # DDPM noise, "small" (the posterior's) or "large" (beta_t)
    # inference times, "leading" (0, T/S, ...; as published) or "trailing" (which starts at T - 1, where the state
    # really is pure noise). None: the representation's own
    spacing: str | None = None
    # what the network predicts, "epsilon" (the noise) or "sample" (the data x_1). None: the representation's own
    prediction_type: str | None = None

    @property
    def predicts_data(self) -> bool:
        """Whether the network predicts the data x_1, not the noise."""
        return (self.prediction_type or self.representation.prediction_type) == "sample"

    @property
    def alpha_bar(self) -> Tensor:
        """(T,) products of alpha_t for the cosine schedule `squaredcos_cap_v2`, float64."""
        return _cosine_schedule(self.num_train_timesteps)

    def timesteps(self, steps: int) -> list[int]:
        """The inference times, from noise to data. Raises BadInput if they are more than the training steps."""
        total = self.num_train_timesteps
        if not 1 <= steps <= total:
            raise BadInput(f"{steps} inference steps were asked of a process of {total}; use 1 to {total}")
        if (self.spacing or self.representation.spacing) == "leading":
            return [i * (total // steps) for i in reversed(range(steps))]
        return [round(total - i * total / steps) - 1 for i in range(steps)]

    def add_noise(self, x_1: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """sqrt(alpha_bar_t) x_1 + sqrt(1 - alpha_bar_t) eps, times t (B,) integers."""
        alpha_bar = _cosine_schedule(self.num_train_timesteps, x_1.device)[t].to(x_1.dtype)[:, None, None]
        return alpha_bar.sqrt() * x_1 + (1 - alpha_bar).sqrt() * eps

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        """The noise eps (B, R, C) and times t (B,), integers below T."""
        z_1 = self.representation.to_euclidean(batch.x_1)
        eps = torch.randn(z_1.shape, generator=generator, device=z_1.device)
        t = torch.randint(self.num_train_timesteps, (len(z_1),), generator=generator, device=z_1.device)
        return Draw(t, eps)

    def losses(self, net: nn.Module, batch: Batch, draw: Draw) -> Tensor:
        """Algorithms 7 and 9: the distance of the predicted from the true noise (or data)."""
        rep = self.representation
        z_1 = rep.to_euclidean(batch.x_1)
        output = net(self.add_noise(z_1, draw.noise, draw.t), draw.t.float(), batch)
        return rep.loss(output, z_1 if self.predicts_data else draw.noise, batch.conditions)

    def ddpm_step(self, z: Tensor, eps: Tensor, t: int, t_next: int, noise: Tensor) -> Tensor:
        """Algorithms 8 and 10 from time t to t_next (-1: data), for any distance between them."""
        alpha_bar, alpha_bar_next = self._alpha_bar(t), self._alpha_bar(t_next)
        alpha = alpha_bar / alpha_bar_next
        mean = (z - (1 - alpha) / math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha)
        if t_next < 0:
            return mean
        variance = 1 - alpha
        if self.variance == "small":
            variance *= (1 - alpha_bar_next) / (1 - alpha_bar)
        return mean + math.sqrt(variance) * noise

    def ddim_step(self, z: Tensor, eps: Tensor, t: int, t_next: int) -> Tensor:
        """Algorithm 11 with sigma = 0 (eta 0): deterministic."""
        alpha_bar, alpha_bar_next = self._alpha_bar(t), self._alpha_bar(t_next)
        z_1 = (z - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)
        return math.sqrt(alpha_bar_next) * z_1 + math.sqrt(1 - alpha_bar_next) * eps

    def _alpha_bar(self, t: int) -> float:
        return 1.0 if t < 0 else float(self.alpha_bar[t])

    @torch.no_grad()
    def sample(self, net: nn.Module, batch: Batch, streams: Streams, steps: int, sampler: str | None = None) -> Tensor:
        """Denoise N(0, 1) with `sampler` "ddpm" or "ddim"; samples are not clipped."""
        rep, sampler = self.representation, checked_sampler(self, sampler)
        z = normal(rep.to_euclidean(batch.x_1), streams)
        times = self.timesteps(steps)
        for t, t_next in zip(times, [*times[1:], -1], strict=True):
            eps = net(z, torch.full((len(z),), float(t), device=z.device), batch)
            if self.predicts_data:
                alpha_bar = self._alpha_bar(t)
                eps = (z - math.sqrt(alpha_bar) * eps) / math.sqrt(1 - alpha_bar)
            if sampler == "ddpm":
                z = self.ddpm_step(z, eps, t, t_next, normal(z, streams))
            else:
                z = self.ddim_step(z, eps, t, t_next)
        return rep.from_euclidean(z)


@functools.cache
def _cosine_schedule(n: int, device: torch.device | None = None) -> Tensor:
    """alpha-bar on a device, sent there once: sending it at every step would be waiting for the device each time."""

    def signal(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - signal((i + 1) / n) / signal(i / n), MAX_BETA) for i in range(n)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), dim=0).to(device)
