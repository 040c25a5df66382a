"""The score is the wrapped normal's, and an exact one leads noise to the data, whichever the sampler."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import loss_of

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.methods.wrapped import SCALE, WrappedDiffusion, mean_square_score, wrapped_normal_score
from lib.models.losses import minimum_image
from lib.models.orbit_state import OrbitTensors
from lib.models.transformer import TransformerSizes
from lib.training.spec import TrainSettings, make_spec
from lib.training.trainer import Trainer

EVALUATIONS = {"ancestral": 1, "predictor_corrector": 2, "probability_flow": 1}


@pytest.mark.parametrize("sigma", [0.005, 0.05, 0.2, 0.5])
def test_the_score_is_the_gradient_of_the_log_density(sigma):
    x = torch.linspace(-1.3, 1.3, 401, dtype=torch.float64, requires_grad=True)
    images = x[:, None] + torch.arange(-30, 31)
    (-0.5 * (images / sigma) ** 2).logsumexp(1).sum().backward()
    found = wrapped_normal_score(x.detach(), torch.full_like(x, sigma))
    between = (x.detach() - x.detach().floor() - 0.5).abs() > 1e-9  # half-way the narrow one jumps
    torch.testing.assert_close(found[between], x.grad[between], atol=1e-9, rtol=1e-9)


def test_the_score_in_its_limits():
    """That of a normal where the circle is wide; that of 1 + 2 exp(-2 pi^2 sigma^2) cos(2 pi x) where it is narrow."""
    x = torch.linspace(-0.1, 0.1, 21, dtype=torch.float64)
    narrow = torch.full_like(x, 0.01)
    torch.testing.assert_close(wrapped_normal_score(x, narrow), -x / 1e-4)
    x = torch.linspace(-2, 2, 101, dtype=torch.float64)
    fade = 2 * math.exp(-2 * math.pi**2 * 0.25)
    density = 1 + fade * (2 * math.pi * x).cos()
    expected = -2 * math.pi * fade * (2 * math.pi * x).sin() / density
    torch.testing.assert_close(wrapped_normal_score(x, torch.full_like(x, 0.5)), expected, atol=1e-7, rtol=1e-6)
    far = wrapped_normal_score(torch.tensor([0.4999, -0.4999]), torch.tensor([0.005, 0.005]))
    assert torch.isfinite(far).all(), "in single precision, too"


def test_the_mean_square_is_that_of_samples():
    sigma = torch.tensor([0.005, 0.05, 0.15, 0.3, 0.5])
    found = mean_square_score(sigma)
    assert found[0].item() == pytest.approx(1 / 0.005**2, rel=1e-6)
    fade = 2 * math.exp(-2 * math.pi**2 * 0.25)
    assert found[-1].item() == pytest.approx((2 * math.pi * fade) ** 2 / 2, rel=1e-3)
    x = torch.randn(5, 200_000, generator=torch.Generator().manual_seed(0)) * sigma[:, None]
    sampled = (wrapped_normal_score(x, sigma[:, None].expand_as(x)) ** 2).mean(1)
    torch.testing.assert_close(found.float(), sampled, rtol=0.02, atol=0)


def test_noise_grows_in_equal_ratios_between_the_papers_bounds():
    sigma = WrappedDiffusion(None, 100).sigma
    assert sigma[0].item() == pytest.approx(0.005) and sigma[-1].item() == pytest.approx(0.5)
    ratios = sigma[1:] / sigma[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand(99))


# ------------------------------------------------------------------ on crystals


@pytest.fixture(scope="module")
def table() -> CrystalTable:
    """Crystals that have free parameters, from groups with and without an origin."""
    embedded = CrystalTable.from_parquet(EMBEDDED)
    _, first = np.unique(embedded.space_group, return_index=True)
    table = embedded.take(first[embedded.n_sites[first] <= 12])
    free = [any(len(site.parameters) for site in unit.sites) for unit in table.asymmetric_units]
    return table.take(np.flatnonzero(free)[:12])


@pytest.fixture(scope="module")
def packed(table):
    rep = OrbitTensors.fit(table)
    return rep, rep.trim(rep.pack(table))


def oracle(diffusion, data, weights, seen):
    """The exact output for data (M, B, rows, 3) of these weights, as far as each coordinate goes by itself."""

    def net(x, t, batch):
        seen.append(t)
        step = int(t[0].round())
        sigma, alpha_bar = diffusion.sigma[step].to(x), float(diffusion.lattice.alpha_bar[step])
        away = x[:, :-2] - data[:, :, :-2]
        images = away[..., None] + torch.arange(-8, 8)
        logs = (-0.5 * (images / sigma) ** 2).logsumexp(-1)
        share = (logs + weights.log()[:, None, None, None]).softmax(0)
        score = (share * wrapped_normal_score(away, sigma.expand_as(away))).sum(0)
        z_1 = data[0, :, -2:]
        eps = (x[:, -2:] - math.sqrt(alpha_bar) * z_1) / math.sqrt(1 - alpha_bar)
        towards = math.sqrt(alpha_bar) * eps - math.sqrt(1 - alpha_bar) * z_1
        return torch.cat([SCALE * score / float(diffusion.typical_score[step]), towards], dim=1)

    return net


@pytest.mark.parametrize("sampler", WrappedDiffusion.samplers)
def test_an_exact_score_leads_to_the_crystals(packed, sampler):
    rep, batch = packed
    x_1, diffusion, seen = batch.x_1, WrappedDiffusion(rep), []
    net = oracle(diffusion, x_1[None], torch.ones(1), seen)
    found = diffusion.sample(net, batch, torch.Generator().manual_seed(0), 100, sampler)
    off = found - x_1
    off[:, :-2] -= off[:, :-2].round()
    assert off.abs().max() < 0.02, "a few of the smallest widths"
    assert len(seen) == EVALUATIONS[sampler] * 100 - (sampler == "predictor_corrector")
    assert seen[0][0] == 999 and seen[0][0] > seen[-1][0]


@pytest.mark.parametrize("sampler", WrappedDiffusion.samplers)
def test_an_exact_score_draws_from_two_wells_in_proportion(packed, sampler):
    """Wells at 0.2 and 0.7 of weights 1 and 3, for every free parameter of a crystal by itself."""
    rep, batch = packed
    diffusion = WrappedDiffusion(rep)
    data = torch.stack([batch.x_1, batch.x_1])
    data[0, :, :-2], data[1, :, :-2] = 0.2, 0.7
    net = oracle(diffusion, data, torch.tensor([0.25, 0.75]), [])
    draws = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        draws.append(diffusion.sample(net, batch, generator, 50, sampler)[:, :-2])
    u = torch.stack(draws).flatten()
    first = (u - 0.2).abs() < 0.05
    assert (first | ((u - 0.7).abs() < 0.05)).float().mean() > 0.97
    assert first.float().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("sampler", ["ancestral", "predictor_corrector"])
def test_noise_has_the_width_of_its_time(packed, sampler):
    """What a network is shown on the way is as far from the crystals as the noise of that time."""
    rep, batch = packed
    batch, diffusion, widths = batch[torch.arange(len(batch)).repeat(60)], WrappedDiffusion(rep), []
    exact = oracle(diffusion, batch.x_1[None], torch.ones(1), [])

    def net(x, t, told):
        sigma = diffusion.sigma[int(t[0].round())].item()
        if sigma < 0.03:  # before, some have not come from the other side of the circle yet
            widths.append(minimum_image((x - batch.x_1)[:, :-2]).std().item() / sigma)
        return exact(x, t, told)

    diffusion.sample(net, batch, torch.Generator().manual_seed(0), 20, sampler)
    assert len(widths) > 5 and widths == pytest.approx([1] * len(widths), abs=0.03)


def test_the_exact_score_has_no_loss(packed):
    """All of the target follows from x_t and the crystal, whatever its symmetry; drift apart."""
    rep, batch = packed
    x_1 = rep.constrain(batch.x_1, batch)
    batch, diffusion = replace(batch, x_1=x_1), WrappedDiffusion(rep)

    def each(x, t, given):
        exact = [
            oracle(diffusion, x_1[None, i : i + 1], torch.ones(1), [])(x[i : i + 1], t[i : i + 1], None)
            for i in range(len(x))
        ]
        return torch.cat(exact)

    for seed in range(5):
        assert loss_of(diffusion, each, batch, torch.Generator().manual_seed(seed)) < 1e-3
    silent = [
        loss_of(diffusion, lambda x, *_: 0 * x, batch, torch.Generator().manual_seed(seed)).item() for seed in range(20)
    ]
    assert 0.7 < np.mean(silent) < 3, "coordinates count 1 or less, lattices about 1"


@pytest.mark.slow
def test_training_lowers_the_loss(table, tmp_path):
    spec = make_spec("generation", "transformer", "wrapped", table, TransformerSizes(32, 2, 4))
    settings = TrainSettings(160, 12, 5e-3, 10, 0.9, "fp32", validate_every=40, checkpoint_every=200)
    history = Trainer(spec, table, table, settings, tmp_path / "m.safetensors", torch.device("cpu")).run()
    assert history["training"].iloc[-1] < 0.85 * history["training"].iloc[0]


def test_impossible_requests_are_refused(packed):
    rep, batch = packed
    diffusion = WrappedDiffusion(rep, num_train_timesteps=50)
    with pytest.raises(BadInput, match="51 inference steps"):
        diffusion.sample(None, batch, torch.Generator(), 51)
    with pytest.raises(BadInput, match="'ddpm' .*ancestral"):
        diffusion.sample(None, batch, torch.Generator(), 5, "ddpm")
