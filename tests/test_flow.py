"""Flow matching recovers a toy distribution, and paths follow the geometry of their representation."""

import pytest
import torch
from conftest import bare_periodic, loss_of

from lib.core.errors import BadInput
from lib.methods.flow import FlowMatching
from lib.methods.regression import Regression
from lib.models.batch import Batch, Conditions
from lib.models.paper_state import PaperTensors

ONE_ATOM = Conditions(torch.tensor([[29]]), torch.tensor([225]), torch.zeros(1))


class Toy(torch.nn.Module):
    """A velocity of the whole matrix, given matrix and time."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        sizes = [3 * rows + 1, 128, 128, 3 * rows]
        layers = [(torch.nn.Linear(n, m), torch.nn.SiLU()) for n, m in zip(sizes, sizes[1:], strict=False)]
        self.layers = torch.nn.Sequential(*[layer for pair in layers for layer in pair][:-1])

    def forward(self, x, t, batch):
        return self.layers(torch.cat([x.flatten(1), t[:, None]], dim=1)).view(x.shape)


class OneRow(PaperTensors):
    """A matrix of one row, with the squared norm of section 5.2."""

    n_rows = 1

    def loss(self, prediction, target, conditions):
        return ((prediction - target) ** 2).mean()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["normal", "uniform"])
def test_flow_recovers_two_wells(source):
    """Data: a row at 0.2 or 0.8, with width 0.02, in proportion 1 to 3."""
    torch.manual_seed(0)
    flow, net, generator = FlowMatching(OneRow(), source), Toy(1), torch.Generator().manual_seed(0)

    def draw(n):
        centre = torch.where(torch.rand(n, 1, 1, generator=generator) < 0.25, 0.2, 0.8)
        return centre + 0.02 * torch.randn(n, 1, 3, generator=generator)

    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(1200):
        optimiser.zero_grad()
        loss_of(flow, net, Batch(draw(512), None), generator).backward()
        optimiser.step()
    x = flow.sample(net, Batch(torch.zeros(1000, 1, 3), None), generator, steps=50)[:, 0]
    assert 0.18 < (x[:, 0] < 0.5).float().mean() < 0.32
    to_well = torch.minimum((x - 0.2).norm(dim=1), (x - 0.8).norm(dim=1))
    assert (to_well < 0.15).float().mean() > 0.8, to_well.mean()


def test_the_paper_follows_straight_lines_and_ends_on_the_data():
    rep = PaperTensors()
    x_0, x_1 = torch.rand(2, 64, 3), torch.rand(2, 64, 3)
    middle = rep.interpolate(x_0, x_1, torch.tensor([0.5, 0.25]))
    torch.testing.assert_close(middle[0], (x_0[0] + x_1[0]) / 2)
    torch.testing.assert_close(middle[1], 0.75 * x_0[1] + 0.25 * x_1[1])


def test_the_torus_takes_the_short_way():
    rep = bare_periodic(1)
    x_0, x_1 = torch.zeros(1, 3, 3), torch.zeros(1, 3, 3)
    x_0[0, 0], x_1[0, 0] = torch.tensor([0.9, 0.1, 0.4]), torch.tensor([0.1, 0.9, 0.6])
    torch.testing.assert_close(rep.velocity(x_0, x_1)[0, 0], torch.tensor([0.2, -0.2, 0.2]))
    middle = rep.interpolate(x_0, x_1, torch.tensor([0.5]))[0, 0]
    off = middle - torch.tensor([0.0, 0.0, 0.5])
    torch.testing.assert_close(off - off.round(), torch.zeros(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rep", [PaperTensors(), bare_periodic(1)])
def test_a_true_velocity_carries_x_0_to_x_1(rep):
    torch.manual_seed(0)
    x_0, x_1 = torch.rand(1, rep.n_rows, 3), torch.rand(1, rep.n_rows, 3)
    flow = FlowMatching(rep, "data")
    perfect = rep.velocity(x_0, x_1)
    x = flow.sample(lambda *_: perfect, Batch(x_1, ONE_ATOM, x_0), torch.Generator(), steps=7)
    torch.testing.assert_close(x, x_1, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2)])
def test_samplers_converge_in_their_order(sampler, order):
    """du/dt = (1 + 0.7 t) sin(2 pi u) / 2 pi is solved by tan(pi u) ~ exp(t + 0.35 t^2), the lattice by exp(t^2)."""
    rep, calls = bare_periodic(2), []
    x_0 = torch.linspace(0.02, 0.95, 12, dtype=torch.float64).reshape(1, 4, 3)

    def field(x, t, batch):
        calls.append(t)
        t = (t / rep.time_scale).double()
        return torch.cat([(2 * torch.pi * x[:, :2]).sin() / (2 * torch.pi), 2 * t * x[:, 2:]], dim=1)

    expected = torch.cat([(x_0[:, :2] * torch.pi).tan() * 2.718281828459045**1.35, x_0[:, 2:] * 2.718281828459045], 1)
    expected[:, :2] = torch.atan(expected[:, :2]) / torch.pi
    flow, errors = FlowMatching(rep, "data"), []
    for steps in (16, 32, 64):
        calls.clear()
        x = flow.sample(field, Batch(x_0, ONE_ATOM, x_0), torch.Generator(), steps, sampler, velocity_scale=0.7)
        off = x - expected
        off[:, :2] -= off[:, :2].round()
        errors.append(off.abs().amax((0, 2)))
        assert len(calls) == order * steps
    for rough, fine in zip(errors, errors[1:], strict=False):
        ratio = rough / fine
        assert (0.8 * 2**order < ratio).all() and (ratio < 1.25 * 2**order).all(), ratio


def test_unknown_samplers_are_refused():
    with pytest.raises(BadInput, match="'rk4' .*euler, heun, midpoint"):
        FlowMatching(bare_periodic(1), "data").sample(None, Batch(None, ONE_ATOM), torch.Generator(), 4, "rk4")


@pytest.mark.parametrize("rep", [PaperTensors(), bare_periodic(1)])
def test_regression_with_a_perfect_network_has_no_loss_and_returns_x_1(rep):
    torch.manual_seed(0)
    x_0, x_1 = torch.rand(1, rep.n_rows, 3), torch.rand(1, rep.n_rows, 3)
    regression = Regression(rep)

    def perfect(x, t, batch):
        assert (t == 0).all() and x is x_0
        return rep.to_euclidean(x_1)

    batch = Batch(x_1, ONE_ATOM, x_0)
    assert loss_of(regression, perfect, batch, torch.Generator()) < 1e-10
    torch.testing.assert_close(regression.sample(perfect, batch, torch.Generator(), 1), x_1)
