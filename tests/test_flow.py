"""Flow matching recovers a toy distribution, and paths follow the geometry of their representation."""

import pytest
import torch

from lib.flow import FlowMatching
from lib.regression import Regression
from lib.tensors import Conditions, PaperTensors, PeriodicTensors

ONE_ATOM = Conditions(torch.tensor([[29]]), torch.tensor([225]), torch.zeros(1))


class Toy(torch.nn.Module):
    """A velocity for one coordinate row, given time."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3 * rows + 1, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU(),
            torch.nn.Linear(64, 3 * rows),
        )  # fmt: skip

    def forward(self, x, t, conditions, x_0):
        features = torch.cat([x.flatten(1), t[:, None] / 1000], dim=1)
        return self.layers(features).view(x.shape)


@pytest.mark.parametrize("source", ["normal", "uniform"])
def test_flow_recovers_two_wells(source):
    """Data: every value of a row is 0.2 or 0.8 together, with width 0.02, in proportion 1 to 3."""
    torch.manual_seed(0)
    rep = PeriodicTensors(1)
    flow, net, generator = FlowMatching(rep, source), Toy(3), torch.Generator().manual_seed(0)
    conditions = Conditions(torch.full((512, 1), 29), torch.full((512,), 225), torch.zeros(512))

    def draw(n):
        centre = torch.where(torch.rand(n, 1, 1, generator=generator) < 0.25, 0.2, 0.8)
        return centre + 0.02 * torch.randn(n, 3, 3, generator=generator)

    class LineFlow(PeriodicTensors):
        """The same loss and noise on the line, so that a plain network can learn it."""

        velocity, advance = PaperTensors.velocity, PaperTensors.advance

    flow = FlowMatching(LineFlow(1), source)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(600):
        optimiser.zero_grad()
        flow.loss(net, draw(512), conditions, None, generator).backward()
        optimiser.step()
    x = flow.sample(net, torch.zeros(512, 3, 3), conditions, None, generator, steps=50)[:, 0, 0]
    low = (x < 0.5).float().mean()
    assert 0.15 < low < 0.35
    assert abs(x[x > 0.5].median() - 0.8) < 0.04
    assert abs(x[x < 0.5].median() - 0.2) < 0.04


def test_the_paper_follows_straight_lines_and_ends_on_the_data():
    rep = PaperTensors()
    x_0, x_1 = torch.rand(2, 64, 3), torch.rand(2, 64, 3)
    middle = rep.interpolate(x_0, x_1, torch.tensor([0.5, 0.25]))
    torch.testing.assert_close(middle[0], (x_0[0] + x_1[0]) / 2)
    torch.testing.assert_close(middle[1], 0.75 * x_0[1] + 0.25 * x_1[1])


def test_the_torus_takes_the_short_way():
    rep = PeriodicTensors(1)
    x_0, x_1 = torch.zeros(1, 3, 3), torch.zeros(1, 3, 3)
    x_0[0, 0], x_1[0, 0] = torch.tensor([0.9, 0.1, 0.4]), torch.tensor([0.1, 0.9, 0.6])
    torch.testing.assert_close(rep.velocity(x_0, x_1)[0, 0], torch.tensor([0.2, -0.2, 0.2]))
    middle = rep.interpolate(x_0, x_1, torch.tensor([0.5]))[0, 0]
    torch.testing.assert_close(middle, torch.tensor([0.0, 0.0, 0.5]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rep", [PaperTensors(), PeriodicTensors(1)])
def test_a_true_velocity_carries_x_0_to_x_1(rep):
    torch.manual_seed(0)
    x_0, x_1 = torch.rand(1, rep.n_rows, 3), torch.rand(1, rep.n_rows, 3)
    flow = FlowMatching(rep, "data")
    x = flow.sample(lambda *_: rep.velocity(x_0, x_1), x_0, ONE_ATOM, x_0, torch.Generator(), steps=7)
    torch.testing.assert_close(x, x_1, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rep", [PaperTensors(), PeriodicTensors(1)])
def test_regression_with_a_perfect_network_has_no_loss_and_returns_x_1(rep):
    torch.manual_seed(0)
    x_0, x_1 = torch.rand(1, rep.n_rows, 3), torch.rand(1, rep.n_rows, 3)
    regression = Regression(rep)

    def perfect(x, t, conditions, given):
        assert (t == 0).all() and given is x_0
        return rep.velocity(x_0, x_1) if rep.name == "periodic" else x_1

    assert regression.loss(perfect, x_1, ONE_ATOM, x_0, torch.Generator()) < 1e-10
    torch.testing.assert_close(regression.sample(perfect, x_0, ONE_ATOM, x_0, torch.Generator()), x_1)
