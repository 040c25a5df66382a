"""The schedule and the steps agree with diffusers, and DDIM with the true noise returns the data."""

import numpy as np
import pytest
import torch
from conftest import bare_periodic
from diffusers import DDIMScheduler, DDPMScheduler

from lib.core.errors import BadInput
from lib.methods.diffusion import Diffusion
from lib.models.batch import Batch
from lib.models.paper_state import PaperTensors

SETTINGS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": False,
}


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [10, 100])
def test_timesteps_agree_with_diffusers(spacing, steps):
    scheduler = DDPMScheduler(**SETTINGS, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    assert Diffusion(PaperTensors(), spacing=spacing).timesteps(steps) == scheduler.timesteps.tolist()


def test_add_noise_agrees_with_diffusers():
    x, eps, t = torch.randn(4, 64, 3), torch.randn(4, 64, 3), torch.tensor([0, 10, 500, 999])
    expected = DDPMScheduler(**SETTINGS).add_noise(x, eps, t)
    torch.testing.assert_close(Diffusion(PaperTensors()).add_noise(x, eps, t), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_a_whole_ddpm_trajectory_agrees_with_diffusers(variance):
    ours = Diffusion(PaperTensors(), variance=variance)
    theirs = DDPMScheduler(**SETTINGS, variance_type=f"fixed_{variance}", timestep_spacing="leading")
    theirs.set_timesteps(20)
    torch.manual_seed(0)
    z = z_theirs = torch.randn(2, 64, 3, dtype=torch.float64)
    times = ours.timesteps(20)
    for t, t_next in zip(times, [*times[1:], -1], strict=True):
        eps = torch.tanh(z)
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(t), dtype=z.dtype)
        z_theirs = theirs.step(
            torch.tanh(z_theirs), t, z_theirs, generator=torch.Generator().manual_seed(t)
        ).prev_sample
        z = ours.ddpm_step(z, eps, t, t_next, noise)
        torch.testing.assert_close(z, z_theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_whole_ddim_trajectory_agrees_with_diffusers(spacing):
    ours = Diffusion(PaperTensors(), spacing=spacing)
    theirs = DDIMScheduler(**SETTINGS, timestep_spacing=spacing, set_alpha_to_one=True)
    theirs.set_timesteps(20)
    z = z_theirs = torch.randn(2, 64, 3, dtype=torch.float64)
    times = ours.timesteps(20)
    for t, t_next in zip(times, [*times[1:], -1], strict=True):
        z_theirs = theirs.step(torch.tanh(z_theirs), t, z_theirs, eta=0.0).prev_sample
        z = ours.ddim_step(z, torch.tanh(z), t, t_next)
        # their alpha-bar is float32, and trailing spacing starts by dividing by its root at t = 999, 5e-5
        torch.testing.assert_close(z, z_theirs, atol=1e-5, rtol=3e-5)


def test_a_sample_is_the_end_of_diffusers_trajectory():
    theirs = DDIMScheduler(**SETTINGS, timestep_spacing="leading", set_alpha_to_one=True)
    theirs.set_timesteps(20)
    z = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0))
    for t in theirs.timesteps:
        z = theirs.step(torch.tanh(z), t, z, eta=0.0).prev_sample
    given = Batch(torch.zeros(2, 64, 3), None), torch.Generator().manual_seed(0)
    x = Diffusion(PaperTensors()).sample(lambda z, *_: torch.tanh(z), *given, 20, "ddim")
    torch.testing.assert_close(x, z, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_sampling_recovers_the_data_when_the_end_is_known(sampler):
    """The periodic network predicts the data; a small error of it stays small, from the first step at t = 999 on."""
    rep = bare_periodic(4)
    data = torch.rand(1, 6, 3, generator=torch.Generator().manual_seed(0))
    diffusion = Diffusion(rep, prediction_type="sample")
    assert diffusion.timesteps(50)[0] == 999

    def oracle(z, t, batch):
        return rep.to_euclidean(data).expand(len(z), -1, -1) + 0.01 * torch.sin(z)

    x = diffusion.sample(oracle, Batch(torch.zeros(3, 6, 3), None), torch.Generator().manual_seed(0), 50, sampler)
    off = x - data
    off[:, :-2] -= off[:, :-2].round()
    assert off.abs().max() < 0.03


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_sampling_recovers_the_data_when_the_noise_is_known(sampler):
    data = torch.rand(1, 64, 3)
    diffusion = Diffusion(PaperTensors())

    def oracle(z, t, batch):
        alpha_bar = diffusion.alpha_bar[t.long()].float()[:, None, None]
        return (z - alpha_bar.sqrt() * data) / (1 - alpha_bar).sqrt()

    x = diffusion.sample(oracle, Batch(torch.zeros(3, 64, 3), None), torch.Generator().manual_seed(0), 100, sampler)
    np.testing.assert_allclose(x.numpy(), data.expand(3, -1, -1).numpy(), atol=2e-3)


def test_impossible_requests_are_refused():
    diffusion = Diffusion(PaperTensors(), num_train_timesteps=50)
    with pytest.raises(BadInput, match="51 inference steps"):
        diffusion.timesteps(51)
    with pytest.raises(BadInput, match="sampler 'euler'"):
        diffusion.sample(None, Batch(torch.zeros(1, 64, 3), None), torch.Generator(), 5, "euler")
