"""Annealed Langevin dynamics: noise wrapped round any lattice, and exact scores that lead to the data."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.methods.langevin import AnnealedLangevin, in_parameters, wrapped_noise
from lib.metrics.matching import compare
from lib.models.cell_state import LEVELS, CellStates, own_metrics
from lib.models.dimenet import DimeNetSizes
from lib.symmetry.orbits import along
from lib.training.spec import TrainSettings, make_spec
from lib.training.trainer import Trainer


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def packed():
    """Crystals that have free parameters."""
    embedded = CrystalTable.from_parquet(EMBEDDED)
    _, first = np.unique(embedded.space_group, return_index=True)
    table = embedded.take(first[(embedded.n_sites[first] <= 8)])
    table = table.take(range(0, len(table), max(1, len(table) // 12)))
    free = [any(len(site.parameters) for site in unit.sites) for unit in table.asymmetric_units]
    table = table.take(np.flatnonzero(free))
    rep = CellStates.fit(table)
    return table, rep, rep.trim(rep.pack(table))


@pytest.mark.parametrize("sigma", [0.05, 1.0, 2.2, 6.0])
def test_wrapped_noise_is_the_score_of_the_sum_over_the_lattice(sigma):
    """On an oblique lattice, by sums so long that they leave nothing out, whichever of the two short ones is taken."""
    lattice = torch.tensor([[3.0, 0, 0], [0.8, 3.5, 0], [-0.5, 1.0, 5.0]], dtype=torch.float64)
    metric = lattice @ lattice.T
    move = (2 * torch.rand(40, 3, generator=generator(), dtype=torch.float64)).requires_grad_()
    far = torch.cartesian_prod(*[torch.arange(-13.0, 14)] * 3).double()
    images = move[:, None] + far
    (-((images @ metric) * images).sum(-1) / (2 * sigma**2)).logsumexp(1).sum().backward()
    expected = -(sigma**2) * move.grad @ torch.linalg.inv(metric)
    found = wrapped_noise(
        move.detach(),
        torch.ones(40, 3, dtype=torch.bool),
        metric.expand(40, 3, 3),
        torch.full((40,), sigma, dtype=torch.float64),
    )
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_noise_in_a_flat_rhombohedral_cell_is_bounded():
    """Three axes of 8 Å almost in a plane, whose sum is a vector of 2.5 Å."""
    axes = torch.tensor([[0.0, 7.9, 0.84], [6.84, -3.95, 0.84], [-6.84, -3.95, 0.84]])
    metric = (axes @ axes.T).expand(300, 3, 3)
    for sigma in (0.3, 0.6, 1.0, 3.0):
        move = in_parameters(sigma * torch.randn(300, 1, 3, generator=generator()), metric)
        found = wrapped_noise(move[:, 0], torch.ones(300, 3, dtype=torch.bool), metric, torch.full((300,), sigma))
        assert ((found @ axes / sigma) ** 2).sum(-1).max() < 25


@pytest.mark.parametrize("sigma", [0.3, 0.9, 1.3, 2.0, 6.0])
def test_noise_in_a_long_rhombohedral_cell_is_no_more_than_it_was(sigma):
    """Three axes of 16 Å, all nearly along the threefold one; the lattice's shortest vectors are of 4 Å."""
    axes = torch.tensor([[0.0, 2.37, 15.8], [2.05, -1.18, 15.8], [-2.05, -1.18, 15.8]], dtype=torch.float64)
    metric = axes @ axes.T
    move = in_parameters(sigma * torch.randn(200, 1, 3, generator=generator()).double(), metric.expand(200, 1, 3, 3))
    whole = torch.tensor([[1.0, -1, 0], [0, 1, -1], [1, 0, 0]], dtype=torch.float64)  # short vectors of the lattice
    images = move + torch.cartesian_prod(*[torch.arange(-9.0, 10)] * 3).double() @ whole
    images = images - (move @ torch.linalg.inv(whole)).round() @ whole
    weights = (-((images @ metric) * images).sum(-1) / (2 * sigma**2)).softmax(-1)
    expected = (weights[..., None] * images).sum(-2)
    free, widths = torch.ones(200, 3, dtype=torch.bool), torch.full((200,), sigma)
    found = wrapped_noise(move[:, 0].float(), free, metric.float().expand(200, 3, 3), widths).double()
    error = (found - expected) @ axes / sigma
    assert error.norm(dim=-1).mean() < 0.02 and error.norm(dim=-1).max() < 0.2


def test_a_site_on_a_line_feels_its_own_axis_alone():
    metric = torch.diag(torch.tensor([16.0, 1.0, 1.0]))  # one free parameter, of an axis of 4 Å
    move = torch.tensor([[0.3, 0.0, 0.0]])
    for sigma in (0.3, 3.0):
        found = wrapped_noise(move, torch.tensor([[True, False, False]]), metric[None], torch.tensor([sigma]))
        images = 0.3 + torch.arange(-30, 31)
        expected = ((-((4 * images) ** 2) / (2 * sigma**2)).softmax(0) * images).sum()
        torch.testing.assert_close(found, torch.tensor([[expected, 0.0, 0.0]]), atol=1e-4, rtol=1e-3)


def test_noise_has_its_width_in_space(packed):
    _, rep, batch = packed
    metric = own_metrics(batch.orbits, rep.cell(batch.x_1, batch)[0])
    drawn = torch.stack(
        [in_parameters(torch.randn(*metric.shape[:3], generator=generator(i)), metric) for i in range(2000)]
    )
    square = (drawn * along(metric, drawn)).sum(-1).mean(0)
    torch.testing.assert_close(square, torch.full_like(square, 3.0), atol=0.5, rtol=0)


class Oracle:
    """The noise that the crystals themselves would explain, as if each were the only one there is."""

    def __init__(self, method: AnnealedLangevin, data: torch.Tensor) -> None:
        self.method, self.data, self.calls = method, data, 0

    def __call__(self, x, t, batch):
        self.calls += 1
        rep, width, cell_width = self.method.representation, *self.method.widths(t)
        metric = own_metrics(batch.orbits, rep.cell(x, batch)[0])
        move = (x - self.data)[:, :-2] * batch.orbits.free
        sigma = width[:, None].expand(move.shape[:2])
        noise = wrapped_noise(move, batch.orbits.free, metric, sigma) / sigma[..., None]
        cell = (rep.values(x) - rep.values(self.data)) / cell_width[:, None]
        return torch.cat([batch.orbits.without_drift(noise), cell.unflatten(1, (2, 3))], dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 2])
def test_the_loss_of_exact_scores_is_zero_and_that_of_none_is_one(packed, passes):
    _, rep, batch = packed
    method = AnnealedLangevin(rep, passes=passes)
    exact, draw = Oracle(method, batch.x_1), method.draw(batch, generator())
    assert method.losses(exact, batch, draw).max() < 1e-4
    assert exact.calls == passes
    draws = [method.draw(batch, generator(i)) for i in range(200)]
    silent = torch.stack([method.losses(lambda x, t, told: 0 * x, batch, one) for one in draws]).mean(0)
    assert ((silent > 0.4) & (silent < 1.1)).all(), "less than 1 where wide noise is uniform and says nothing"


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "steps"), [("langevin", 200), ("predictor_corrector", 100)])
def test_exact_scores_lead_to_the_crystals(packed, sampler, steps):
    table, rep, batch = packed
    method = AnnealedLangevin(rep)
    net = Oracle(method, batch.x_1)
    x = method.sample(net, replace(batch, x_1=torch.zeros_like(batch.x_1)), generator(1), steps, sampler)
    assert net.calls in (steps, steps - 1)
    torch.testing.assert_close(rep.values(x), rep.values(batch.x_1), atol=0.1, rtol=0)
    matches = [compare(s, table.structure(i))["match_default"] for i, s in enumerate(rep.decode(x, batch))]
    assert all(matches), "whose sites lie within a few times the least width, 0.03 Å"


def test_a_cell_that_does_not_move_stays(packed):
    _, rep, batch = packed
    method = AnnealedLangevin(rep, moves_cell=False)
    x = method.sample(Oracle(method, batch.x_1), batch, generator(), 20)
    torch.testing.assert_close(rep.values(x), rep.values(batch.x_1))


def test_levels_are_passed_from_the_widest_to_the_narrowest(packed):
    _, rep, batch = packed
    seen = []

    def net(x, t, told):
        seen.append(float(t[0]))
        return torch.zeros_like(x)

    AnnealedLangevin(rep).sample(net, batch, generator(), 80)
    assert seen == [float(level) for level in reversed(range(LEVELS)) for _ in range(8)]
    with pytest.raises(BadInput, match="one at least"):
        AnnealedLangevin(rep).sample(net, batch, generator(), 0)


@pytest.mark.slow
def test_a_network_learns_a_few_crystals_by_heart_and_finds_them_again(packed, tmp_path):
    """In 200 steps of 32 crystals; 60 steps of 12 leave the loss within a tenth of that of silence."""
    units = packed[0].asymmetric_units
    few = packed[0].take([i for i, unit in enumerate(units) if len(unit.sites) <= 3][-4:])
    crystals = few.take(list(range(len(few))) * 8)
    sizes = DimeNetSizes(interaction=8, blocks=2, cutoff=4.0, most_edges=24, most_near=8)
    settings = TrainSettings(200, 32, 1e-2, 10, 0.95, "fp32", validate_every=200, checkpoint_every=1000)
    spec = make_spec("generation", "dimenet", "langevin", crystals, sizes)
    trainer = Trainer(spec, crystals, crystals, settings, tmp_path / "net.safetensors", torch.device("cpu"))
    trainer.run()
    method, rep = trainer.method, trainer.rep
    batch = rep.trim(rep.pack(few.take(list(range(len(few))) * 2)))

    @torch.no_grad()
    def loss(net) -> float:
        return float(
            np.mean([float(method.losses(net, batch, method.draw(batch, generator(i))).mean()) for i in range(8)])
        )

    def found(net) -> int:
        x = method.sample(net, replace(batch, x_1=torch.zeros_like(batch.x_1)), generator(0), 200)
        answers = enumerate(rep.decode(x, batch))
        return sum(compare(s, few.structure(i % len(few)))["match_default"] for i, s in answers)

    def silent(x, t, told):
        return 0 * x

    assert loss(trainer.net) < 0.6 * loss(silent)
    assert found(trainer.net) >= max(3, found(silent) + 2), "of 8"
