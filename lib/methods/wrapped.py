"""Diffusion on the torus with the wrapped normal (Jiao et al., DiffCSP, arXiv:2309.04475), for orbits.

The free parameters u of the orbits take noise of width sigma_t, from 0.005 to 0.5 in equal ratios, at which the wrapped
normal is uniform to 1.5 %; the network predicts the score of the noised parameters. The lattice is noised as in
:mod:`lib.methods.diffusion`, with the cosine schedule, and kept to its symmetry; there the network predicts
sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) z_1, which leads to noise and data alike at every time (Salimans and Ho,
arXiv:2202.00512).
"""

import functools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from lib.core.streams import Streams, normal
from lib.methods.diffusion import Diffusion
from lib.methods.guidance import guided
from lib.models.batch import Batch
from lib.models.interfaces import Draw, Method, checked_sampler
from lib.models.losses import minimum_image
from lib.models.periodic_state import TorusStates
from lib.symmetry.spacegroups import into_cell

SIGMAS = (0.005, 0.5)
N_IMAGES = 5  # on either side; at the largest sigma the next weighs exp(-50) or less
CORRECTION = 0.4  # share of the noise that the corrector renews; DiffCSP's 1e-5 sigma^2 / 0.005^2 for MP-20
# velocity_loss expects coordinates that vary as shortest ways do, uniform in [-1/2, 1/2); scores are brought to that
SCALE = 12**-0.5


def wrapped_normal_score(x: Tensor, sigma: Tensor) -> Tensor:
    """d/dx log sum_k exp(-(x + k)^2 / 2 sigma^2) of a normal of width sigma wrapped round the circle of length 1.

    Displacements x have any shape, and sigma, up to 0.5, one that goes with it.
    """
    images = minimum_image(x)[..., None] + torch.arange(-N_IMAGES, N_IMAGES + 1, device=x.device)
    weights = (-0.5 * (images / sigma[..., None]) ** 2).softmax(-1)
    return -(weights * images).sum(-1) / sigma**2


def mean_square_score(sigma: Tensor) -> Tensor:
    """(T,) expectation of the squared score under the wrapped normals of widths sigma (T,), float64.

    The trapezoidal rule on a circle is exact to all digits once its points are closer than the narrowest width.
    """
    x = torch.arange(-1000, 1000, dtype=torch.float64) / 2000
    squares = []
    for width in sigma.double():
        images = x[:, None] + torch.arange(-N_IMAGES, N_IMAGES + 1)
        density = (-0.5 * (images / width) ** 2).exp().sum(-1)
        squares.append((density * wrapped_normal_score(x, width.expand_as(x)) ** 2).sum() / density.sum())
    return torch.stack(squares)


@dataclass(frozen=True)
class WrappedDiffusion(Method):
    """Score matching on the torus beside denoising diffusion of the lattice."""

    samplers: ClassVar[tuple[str, ...]] = ("ancestral", "predictor_corrector", "probability_flow")
    options: ClassVar[tuple[str, ...]] = ("guidance",)

    representation: TorusStates  # parameters of orbits, or the atoms of crystals of one cell, lie on the torus
    num_train_timesteps: int = 1000  # discretisation T of the process

    @cached_property
    def lattice(self) -> Diffusion:
        """The process of the lattice rows, its schedule and its steps."""
        return Diffusion(self.representation, self.num_train_timesteps, spacing="trailing")

    @property
    def sigma(self) -> Tensor:
        """(T,) widths of the coordinate noise, float64."""
        return _schedule(self.num_train_timesteps)[0]

    @property
    def typical_score(self) -> Tensor:
        """(T,) root mean square of the score at each time, which it is divided by before the network sees it."""
        return _schedule(self.num_train_timesteps)[1]

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        """Normal noise (B, R, 3) and times t (B,), integers below T."""
        x_1 = batch.x_1
        eps = torch.randn(x_1.shape, generator=generator, device=x_1.device)
        return Draw(torch.randint(self.num_train_timesteps, (len(x_1),), generator=generator, device=x_1.device), eps)

    def losses(self, net: nn.Module, batch: Batch, draw: Draw) -> Tensor:
        """The distance of the predicted from the true score, weighed by 1 / E|score|^2, plus that of the lattice."""
        rep, eps, t = self.representation, draw.noise, draw.t
        x_1 = rep.constrain(batch.x_1, batch)
        sigma, typical, alpha_bar = (
            values.to(x_1.device)[t].to(x_1.dtype)[:, None, None]
            for values in (self.sigma, self.typical_score, self.lattice.alpha_bar)
        )
        shift = sigma * eps[:, :-2]
        noised = self.lattice.add_noise(x_1[:, -2:], eps[:, -2:], t)
        x_t = rep.constrain(torch.cat([into_cell(x_1[:, :-2] + shift), noised], dim=1), batch)
        left = (x_t - alpha_bar.sqrt() * x_1)[:, -2:] / (1 - alpha_bar).sqrt()  # of the noise, by the symmetry
        towards = alpha_bar.sqrt() * left - (1 - alpha_bar).sqrt() * x_1[:, -2:]
        score = SCALE * wrapped_normal_score(shift, sigma.expand_as(shift)) / typical
        output = net(x_t, self._time(t), batch)
        return rep.velocity_loss(output, torch.cat([score, towards], dim=1), batch)

    @torch.no_grad()
    def sample(
        self,
        net: nn.Module,
        batch: Batch,
        streams: Streams,
        steps: int,
        sampler: str | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """From uniform parameters and a normal lattice to a crystal.

        Args:
            steps: levels of noise that are passed through.
            sampler: "ancestral" takes the predictor of the paper's Algorithm 2, "predictor_corrector" follows it by a
                step of Langevin dynamics, in a second evaluation; "probability_flow" is deterministic (Song et al.,
                arXiv:2011.13456; DDIM for the lattice). The Langevin step adds as much noise as it takes away: with
                the usual sqrt(2 step), right for short steps alone, the width would grow by an eighth.
            guidance: see :func:`lib.methods.guidance.guided`.

        Raises:
            BadInput: more steps than in training, or an unknown sampler.
        """
        rep, net, sampler = self.representation, guided(net, guidance), checked_sampler(self, sampler)
        x = rep.constrain(rep.noise("normal", batch.x_1, streams), batch)
        times = self.lattice.timesteps(steps)
        for t, t_next in zip(times, [*times[1:], -1], strict=True):
            sigma, sigma_next = self._sigma(t), self._sigma(t_next)
            score, eps = self._predicted(net(x, self._times(x, t), batch), x, t)
            if sampler == "probability_flow":
                change = sigma * (sigma - sigma_next) * score
                lattice = self.lattice.ddim_step(x[:, -2:], eps, t, t_next)
            else:
                noise = normal(x, streams)
                step = sigma**2 - sigma_next**2
                change = step * score + sigma_next * math.sqrt(step) / sigma * noise[:, :-2]
                lattice = self.lattice.ddpm_step(x[:, -2:], eps, t, t_next, noise[:, -2:])
            x = rep.constrain(torch.cat([into_cell(x[:, :-2] + change), lattice], dim=1), batch)
            if sampler == "predictor_corrector" and t_next >= 0:
                score, _ = self._predicted(net(x, self._times(x, t_next), batch), x, t_next)
                renewed = math.sqrt(CORRECTION * (2 - CORRECTION)) * sigma_next
                change = CORRECTION * sigma_next**2 * score + renewed * normal(x, streams)[:, :-2]
                x = torch.cat([into_cell(x[:, :-2] + change), x[:, -2:]], dim=1)
        return x

    def _predicted(self, output: Tensor, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Score of the parameters and noise of the lattice, from the network's output at time t."""
        alpha_bar = float(self.lattice.alpha_bar[t])
        eps = math.sqrt(1 - alpha_bar) * x[:, -2:] + math.sqrt(alpha_bar) * output[:, -2:]
        return output[:, :-2] * float(self.typical_score[t]) / SCALE, eps

    def _sigma(self, t: int) -> float:
        return 0.0 if t < 0 else float(self.sigma[t])

    def _times(self, x: Tensor, t: int) -> Tensor:
        return self._time(torch.full((len(x),), t, device=x.device))

    def _time(self, t: Tensor) -> Tensor:
        """Times as the network takes them."""
        return t * (self.representation.time_scale / self.num_train_timesteps)


@functools.cache
def _schedule(n: int) -> tuple[Tensor, Tensor]:
    """Widths in equal ratios, and the root mean square of the score at each."""
    low, high = (math.log(sigma) for sigma in SIGMAS)
    sigma = torch.linspace(low, high, n, dtype=torch.float64).exp()
    return sigma, mean_square_score(sigma).sqrt()
