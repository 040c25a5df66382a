"""Samplers against exact networks: data of two values are drawn in their proportions, whatever method draws them.

The best output that a network can give, the mean of its targets over all pairs of noise and data that lead through
x_t, is known in closed form where each number of the data takes one of two values by itself. No other output may have
a lower loss, and sampled with it each value must come as often as in the data, within four standard deviations.
"""

import math

import pytest
import torch
from conftest import bare_periodic

import lib.flow
import lib.wrapped
from lib.diffusion import Diffusion
from lib.flow import FlowMatching
from lib.losses import minimum_image
from lib.tensors import Conditions, PaperTensors

TWO_PLACES = [((0.0, 0.5), (0.75, 0.25)), ((0.0, 0.3), (0.8, 0.2))]  # and their weights
LATTICE = (-0.5, 1.0)
IMAGES = torch.arange(-4, 5)
NEVER = -1e4  # logarithm of a probability


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditions_of(rep, n: int) -> Conditions:
    return Conditions(torch.full((n, rep.n_sites), 29), torch.ones(n, dtype=int), torch.zeros(n))


class Target:
    """Coordinates at one of two places and lattice values that are one of two, each by itself, with these weights."""

    def __init__(self, rep, places, weights) -> None:
        self.rep, self.weights = rep, torch.tensor(weights)
        self.n_lattice = 3 if rep.name == "paper" else 2
        self.torus = 0 if rep.name == "paper" else rep.n_rows - 2  # so many rows, from the first, lie on it
        self.values = torch.stack([torch.full((rep.n_rows, 3), place) for place in places])
        self.values[:, -self.n_lattice :] = torch.tensor(LATTICE)[:, None, None]

    def draw(self, n: int) -> torch.Tensor:
        second = torch.rand(n, *self.values.shape[1:], generator=generator(1)) < self.weights[1]
        return torch.where(second, self.values[1], self.values[0])

    def ways(self, x):
        """(2, B, rows, 3) from x to either value, the shortest way on the torus."""
        return self.parts(lambda x: minimum_image(self.values[:, None] - x), lambda x: self.values[:, None] - x, x)

    def parts(self, on_torus, on_line, *values):
        """The one function's answer for rows on the torus, the other's for those on the line."""
        return torch.cat([on_torus(*values)[..., : self.torus, :], on_line(*values)[..., self.torus :, :]], dim=-2)

    def mean(self, logs, values):
        """Mean of two values whose probabilities are their weights times exp(logs)."""
        return ((logs + self.weights.log()[:, None, None, None]).softmax(0) * values).sum(0)

    def assert_shares(self, x, width: float) -> None:
        """Coordinates and lattice values lie near either value, and as often as they should."""
        ways = self.ways(x).abs()
        for name, part in [("place", ways[:, :, : -self.n_lattice]), ("lattice", ways[:, :, -self.n_lattice :])]:
            assert (part.amin(0) < width).float().mean() > 0.998, name
            share, p = (part[0] > part[1]).float().mean().item(), self.weights[1].item()
            assert share == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / part[0].numel())), name


def velocity(target: Target, source: str):
    """The mean velocity at x_t; x_0 is uniform on the torus, on the line "normal" or "uniform"."""
    mean_noise = 0.0 if source == "normal" else 0.5

    def net(x, t, *_):
        left = 1 - t[:, None, None] / target.rep.time_scale
        way = target.ways(x) / left.clamp(min=1e-6)

        def on_line(way):
            start = x - (1 - left) * way
            return -0.5 * start**2 if source == "normal" else NEVER * ((start - 0.5).abs() - 0.5).clamp(min=0)

        logs = target.parts(lambda way: NEVER * (way.abs() - 0.5).clamp(min=0), on_line, way)
        at_the_end = target.parts(
            torch.zeros_like, lambda way: (target.values[:, None] - mean_noise).expand_as(way), way
        )
        return target.mean(logs, torch.where(left > 0, way, at_the_end))

    return net


def denoised(target: Target, diffusion: Diffusion):
    """The mean data at z_t or the noise that they leave; of a coordinate on the circle, both numbers speak."""
    values = diffusion.representation.to_euclidean(target.values)[:, None]
    on_circle = values.shape[-1] == 6

    def net(z, t, *_):
        alpha_bar = diffusion.alpha_bar[t.long()].float()[:, None, None]
        logs = -0.5 * (z - alpha_bar.sqrt() * values) ** 2 / (1 - alpha_bar)
        z_1 = target.mean(logs + logs.roll(3, -1) if on_circle else logs, values)
        return z_1 if diffusion.prediction_type == "sample" else (z - alpha_bar.sqrt() * z_1) / (1 - alpha_bar).sqrt()

    return net


CASES = [(kind, *two) for kind in ("paper", "periodic") for two in TWO_PLACES]


def case(kind: str, places, weights) -> tuple[Target, torch.Tensor, Conditions]:
    """A target, a state of the shape to sample, and its conditions: some ten thousand numbers."""
    rep, n = (PaperTensors(), 200) if kind == "paper" else (bare_periodic(2), 1500)
    return Target(rep, places, weights), torch.zeros(n, rep.n_rows, 3), conditions_of(rep, n)


@pytest.mark.parametrize("sampler", lib.flow.SAMPLERS)
@pytest.mark.parametrize("source", ["normal", "uniform", "data"])
@pytest.mark.parametrize(("kind", "places", "weights"), CASES)
def test_flows(kind, places, weights, source, sampler):
    """Modification starts from crystals ("data"), here as many-valued as uniform noise."""
    target, like, conditions = case(kind, places, weights)
    x_0 = target.rep.noise("uniform", like, generator()) if source == "data" else None
    net = velocity(target, source.replace("data", "uniform"))
    x = FlowMatching(target.rep, source).sample(net, like, conditions, x_0, generator(), 60, sampler)
    target.assert_shares(x, width=0.05 if sampler == "heun" else 1e-3)  # its last step asks for a mean at the very end


@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 100), ("ddim", 40), ("ddim", 100)])
@pytest.mark.parametrize(("kind", "places", "weights"), CASES)
def test_diffusion(kind, places, weights, sampler, steps):
    target, like, conditions = case(kind, places, weights)
    diffusion = Diffusion(target.rep, prediction_type="epsilon" if kind == "paper" else "sample")
    net = denoised(target, diffusion)
    target.assert_shares(diffusion.sample(net, like, conditions, None, generator(), steps, sampler), width=1e-3)
