"""Samplers against exact networks: data of two values are drawn in their proportions, whatever method draws them.

The best output that a network can give, the mean of its targets over all pairs of noise and data that lead through
x_t, is known in closed form where each number of the data takes one of two values by itself. No other output may have
a lower loss, and sampled with it each value must come as often as in the data, within four standard deviations.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import bare_periodic, loss_of

from lib.methods.diffusion import Diffusion
from lib.methods.flow import FlowMatching
from lib.methods.regression import Regression
from lib.methods.wrapped import SCALE, WrappedDiffusion, wrapped_normal_score
from lib.models.batch import Batch, Conditions
from lib.models.losses import minimum_image
from lib.models.orbit_state import OrbitTensors
from lib.models.paper_state import PaperTensors
from lib.symmetry.wyckoff import AsymmetricUnit, Site, positions

TWO_PLACES = [((0.0, 0.5), (0.75, 0.25)), ((0.0, 0.3), (0.8, 0.2))]  # and their weights
LATTICE = (-0.5, 1.0)
IMAGES = torch.arange(-4, 5)
NEVER = -1e4  # logarithm of a probability


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(rep, n: int) -> Batch:
    conditions = Conditions(torch.full((n, rep.n_sites), 29), torch.ones(n, dtype=int), torch.zeros(n))
    return Batch(torch.zeros(n, rep.n_rows, 3), conditions)


class Target:
    """Coordinates at one of two places and lattice values that are one of two, each by itself, with these weights."""

    def __init__(self, rep, places, weights) -> None:
        self.rep, self.weights = rep, torch.tensor(weights)
        on_line = isinstance(rep, PaperTensors)
        self.n_lattice = 3 if on_line else 2
        self.torus = 0 if on_line else rep.n_rows - 2  # so many rows, from the first, lie on it
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
            assert (part.amin(0) < width).float().mean() > 0.995, name  # the last step leaves a few undecided
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
        straight = target.values[:, None] - mean_noise
        at_the_end = target.parts(torch.zeros_like, straight.expand_as, way)
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
        return z_1 if diffusion.predicts_data else (z - alpha_bar.sqrt() * z_1) / (1 - alpha_bar).sqrt()

    return net


CASES = [(kind, *two) for kind in ("paper", "periodic") for two in TWO_PLACES]


def case(kind: str, places, weights) -> tuple[Target, Batch]:
    """A target, and a batch of the shape to sample: some ten thousand numbers."""
    rep, n = (PaperTensors(), 60) if kind == "paper" else (bare_periodic(2), 1000)
    return Target(rep, places, weights), batch_of(rep, n)


@pytest.mark.parametrize("sampler", FlowMatching.samplers)
@pytest.mark.parametrize("source", ["normal", "uniform", "data"])
@pytest.mark.parametrize(("kind", "places", "weights"), CASES)
def test_flows(kind, places, weights, source, sampler):
    """Modification starts from crystals ("data"), here as many-valued as uniform noise."""
    target, batch = case(kind, places, weights)
    batch = replace(batch, x_0=target.rep.noise("uniform", batch.x_1, generator()) if source == "data" else None)
    net = velocity(target, source.replace("data", "uniform"))
    x = FlowMatching(target.rep, source).sample(net, batch, generator(), 40, sampler)
    target.assert_shares(x, width=0.08 if sampler == "heun" else 1e-3)  # its last step asks for a mean at the very end


@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 250), ("ddim", 50), ("ddim", 250)])
@pytest.mark.parametrize(("kind", "places", "weights"), CASES)
def test_diffusion(kind, places, weights, sampler, steps):
    target, batch = case(kind, places, weights)
    diffusion = Diffusion(target.rep)
    net = denoised(target, diffusion)
    target.assert_shares(diffusion.sample(net, batch, generator(), steps, sampler), width=1e-3)


# ------------------------------------------------------------------------------------------------------- orbits


def orbits_of(group: int, n_sites: int, n: int) -> tuple[OrbitTensors, Batch]:
    """Crystals of so many atoms on the general position of a triclinic group, whose lattice is bound by nothing."""
    free = next(i for i, position in enumerate(positions(group)) if position.n_free == 3)
    unit = AsymmetricUnit(np.eye(3) * 4, group, tuple(Site(29, free, np.zeros(3)) for _ in range(n_sites)))
    rep = OrbitTensors(len(unit.species), [0.0] + [12.0] * 118, np.zeros((2, 3)), np.full((2, 3), 0.1))
    return rep, rep.trim(rep.request([unit.species] * n, np.full(n, group), np.zeros(n), [unit] * n))


def scored(target: Target, diffusion: WrappedDiffusion):
    """The mean score of the coordinates' noise, and what the lattice's network is to say at the mean of its data."""

    def net(x, t, *_):
        step = int(t[0].round())
        sigma, alpha_bar = diffusion.sigma[step].float(), diffusion.lattice.alpha_bar[step].float()
        ways = target.ways(x)
        coords = (-0.5 * ((ways[..., None] + IMAGES) / sigma) ** 2).logsumexp(-1)
        line = -0.5 * (x - alpha_bar.sqrt() * target.values[:, None]) ** 2 / (1 - alpha_bar)
        logs = target.parts(lambda: coords, lambda: line)
        score = target.mean(logs, wrapped_normal_score(-ways, sigma.expand_as(ways)))
        z_1 = target.mean(logs, target.values[:, None])
        eps = (x - alpha_bar.sqrt() * z_1) / (1 - alpha_bar).sqrt()
        towards = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * z_1
        return target.parts(lambda: SCALE * score / diffusion.typical_score[step].float(), lambda: towards)

    return net


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [*FlowMatching.samplers, *WrappedDiffusion.samplers])
@pytest.mark.parametrize(("places", "weights"), TWO_PLACES)
def test_orbits(places, weights, sampler):
    """In P-1 a position says where it is, by itself."""
    rep, batch = orbits_of(2, 1, 600)
    target = Target(rep, places, weights)
    target.values, target.torus = target.values[:, [0, -2, -1]], 1  # the rows of one orbit
    if sampler in FlowMatching.samplers:
        method, net = FlowMatching(rep, "normal"), velocity(target, "normal")
    else:
        method = WrappedDiffusion(rep)
        net = scored(target, method)
    x = method.sample(net, batch, generator(), 50, sampler)
    target.assert_shares(x, width=0.05)


def apart(places, weights, method):
    """What is best said of two atoms by a network that sees and moves the second against the first alone."""
    places, weights = torch.tensor(places)[:, None, None], torch.tensor(weights)[:, None, None, None]
    flows = isinstance(method, FlowMatching)

    def net(x, t, *_):
        ways = (places - (x[:, 1] - x[:, 0]))[..., None] + IMAGES
        if flows:
            ways = ways / (1 - t / method.representation.time_scale)[:, None, None]
            density = 1 - ways.abs()  # of the difference of two shortest ways
            logs = density.clamp(min=1e-9).log() - NEVER * density.clamp(max=0)
        else:
            step = int(t[0].round())
            sigma, typical = method.sigma[step].float(), method.typical_score[step].float()
            logs = -0.25 * (ways / sigma) ** 2  # the noise of both
        share = (logs + weights.log()).transpose(0, 2).flatten(2).softmax(-1)
        mean = (share * ways.transpose(0, 2).flatten(2)).sum(-1).T / 2
        second = mean if flows else SCALE * mean / sigma**2 / typical
        return torch.stack([-second, second, 0 * second, 0 * second], dim=1)

    return net


@pytest.mark.parametrize("sampler", ["euler", *WrappedDiffusion.samplers])
@pytest.mark.parametrize(("places", "weights"), TWO_PLACES)
def test_two_atoms_whose_drift_is_nobodys(places, weights, sampler):
    """In P1 the second atom is at one of two places from the first, wherever that is."""
    rep, batch = orbits_of(1, 2, 600)
    method = FlowMatching(rep, "uniform") if sampler == "euler" else WrappedDiffusion(rep)
    net = apart(places, weights, method)
    x = method.sample(net, batch, generator(), 50, sampler)
    off = minimum_image(x[:, 1] - x[:, 0] - torch.tensor(places)[:, None, None]).abs()
    share, p = (off[0] > off[1]).float().mean().item(), weights[1]
    assert (off.amin(0) < 0.05).float().mean() > 0.995
    assert share == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / off[0].numel()))


# ------------------------------------------------------------------------------------------------------- losses


def assert_least(method, net, batch) -> None:
    """The exact network has a lower loss than any that says a little more or less, or the same larger or smaller."""

    def loss(change):
        return loss_of(method, lambda *given: change(net(*given)), batch, generator(2)).item()

    changes = [lambda y: y + 0.2, lambda y: y - 0.2, lambda y: 1.3 * y, lambda y: 0.7 * y]
    assert loss(lambda y: y) < min(map(loss, changes))


@pytest.mark.parametrize("name", ["normal", "uniform", "diffusion"])
@pytest.mark.parametrize(("places", "weights"), TWO_PLACES)
def test_the_losses_teach_what_the_samplers_need(places, weights, name):
    target, batch = case("periodic", places, weights)
    if name == "diffusion":
        method = Diffusion(target.rep, prediction_type="sample")
        net = denoised(target, method)
    else:
        method, net = FlowMatching(target.rep, name), velocity(target, name)
    assert_least(method, net, replace(batch, x_1=target.draw(len(batch))))


@pytest.mark.parametrize("method", ["flow", "wrapped"])
def test_the_losses_of_orbits_teach_what_the_samplers_need(method):
    places, weights = TWO_PLACES[1]
    rep, batch = orbits_of(1, 2, 400)
    method = FlowMatching(rep, "uniform") if method == "flow" else WrappedDiffusion(rep)
    second = torch.rand(400, 3, generator=generator(1)) < weights[1]
    x_1 = torch.zeros(400, 4, 3)
    x_1[:, 0] = torch.rand(400, 3, generator=generator(3))
    x_1[:, 1] = x_1[:, 0] + torch.where(second, *places[::-1])
    net = apart(places, weights, method)

    def each(x, t, *_):
        """Wrapped diffusion's exact network knows one time; the lattice is left out."""
        if isinstance(method, FlowMatching):
            return net(x, t)
        return torch.cat([net(one[None], time[None]) for one, time in zip(x, t, strict=True)])

    def loss(factor):
        silent = torch.tensor([factor, factor, 0.0, 0.0])[:, None]
        return loss_of(method, lambda *given: silent * each(*given), replace(batch, x_1=x_1), generator(2)).item()

    assert loss(1.0) < min(loss(1.3), loss(0.7))


class Likelier(Target):
    """In place of the mean the likelier of the two values: the median, which an absolute error teaches."""

    def mean(self, logs, values):
        """See the base class."""
        likelier = (logs + self.weights.log()[:, None, None, None]).argmax(0, keepdim=True)
        return values.expand(2, *logs.shape[1:]).gather(0, likelier)[0]


@pytest.mark.parametrize(("places", "weights"), TWO_PLACES)
def test_the_published_l1_teaches_the_likelier_value(places, weights):
    """A perfect network of the paper's own loss samples the other value less than half as often as it should."""
    target, batch = case("paper", places, weights)
    flow, taught = FlowMatching(target.rep, "normal"), velocity(Likelier(target.rep, places, weights), "normal")
    data = replace(batch, x_1=target.draw(len(batch)))
    losses = [loss_of(flow, net, data, generator(2)) for net in (taught, velocity(target, "normal"))]
    assert losses[0] < losses[1]
    ways = target.ways(flow.sample(taught, batch, generator(), 60)).abs()
    assert (ways[0] > ways[1]).float().mean() < weights[1] / 2


@pytest.mark.parametrize("kind", ["paper", "periodic"])
def test_regression_answers_with_one_value(kind):
    """It cannot draw. Of the same answer to all, the best is the likelier value (L1), or the mean on the circle."""
    (places, weights), angle = TWO_PLACES[1], 2 * math.pi
    target, batch = case(kind, places, weights)
    rep, x_1 = target.rep, target.draw(len(batch))
    mean = sum(w * complex(math.cos(angle * u), math.sin(angle * u)) for u, w in zip(places, weights, strict=True))
    best, length = (places[0], 1.0) if kind == "paper" else (math.atan2(mean.imag, mean.real) / angle, abs(mean))

    def loss(place):
        answer = length * rep.to_euclidean(torch.full_like(x_1, place))
        return loss_of(Regression(rep), lambda *_: answer, replace(batch, x_1=x_1, x_0=x_1), generator()).item()

    below, least, above = (sorted(loss(best + off) for off in side) for side in ((-0.1, -0.05), (0.0,), (0.05, 0.1)))
    assert least[0] < min(below[0], above[0])
