"""The published network has the published number of parameters, and both networks keep what they promise."""

import pytest
import torch
from conftest import bare_periodic

from lib.tensors import Conditions, PaperTensors
from lib.unet import PaperNet, PeriodicNet, UNetSizes

SMALL = UNetSizes(16, (1, 2), 1, (1, 2), 16, 16)


@pytest.fixture
def no_initialisation(monkeypatch):
    """Building 300 million parameters is quick when nobody draws them."""
    for name in ("kaiming_uniform_", "uniform_", "zeros_", "normal_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.mark.parametrize(
    ("x_0_condition", "n_features", "expected"),
    [(False, 22, 304_781_763), (True, 22, 305_060_931), (False, 19, 304_781_187), (True, 19, 305_060_355)],
)
def test_parameter_counts_at_the_papers_sizes(no_initialisation, x_0_condition, n_features, expected):
    net = PaperNet(PaperTensors(), UNetSizes(), x_0_condition, torch.zeros(119, n_features))
    assert sum(p.numel() for p in net.parameters()) == expected


def conditions_of(species: list[list[int]], n_max: int) -> Conditions:
    padded = torch.tensor([s + [0] * (n_max - len(s)) for s in species])
    return Conditions(padded, torch.tensor([225] * len(species)), torch.zeros(len(species)))


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """Zero-initialised layers hide mistakes: give every parameter a value."""
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def test_an_untrained_paper_network_returns_zero():
    net = PaperNet(PaperTensors(), SMALL)
    output = net(torch.randn(2, 64, 3), torch.tensor([1.0, 2.0]), conditions_of([[29], [13, 28]], 60))
    assert output.shape == (2, 64, 3)
    assert (output == 0).all()


@pytest.mark.parametrize("condition", ["species", "space_group", "energy", "t", "x_0"])
def test_every_condition_reaches_the_output(condition):
    torch.manual_seed(0)
    for rep, net_class in ((PaperTensors(), PaperNet), (bare_periodic(8), PeriodicNet)):
        net = randomised(net_class(rep, SMALL, x_0_condition=True))
        x, x_0, t = torch.rand(1, rep.n_rows, 3), torch.rand(1, rep.n_rows, 3), torch.tensor([3.0])
        species = [13, 28, 28, 28]
        given = conditions_of([species], rep.n_sites)
        before = net(x, t, given, x_0)
        if condition == "species":
            given = conditions_of([[13, 28, 28, 29]], rep.n_sites)
        elif condition == "space_group":
            given = Conditions(given.species, torch.tensor([139]), given.energy)
        elif condition == "energy":
            given = Conditions(given.species, given.space_group, torch.tensor([-0.5]))
        elif condition == "t":
            t = torch.tensor([500.0])
        else:
            x_0 = torch.rand(1, rep.n_rows, 3)
        assert not torch.allclose(before, net(x, t, given, x_0)), f"{condition} is ignored by {net_class.__name__}"


def test_periodic_network_is_blind_to_padding_and_to_whole_translations():
    torch.manual_seed(0)
    rep = bare_periodic(8)
    net = randomised(PeriodicNet(rep, SMALL))
    given = conditions_of([[13, 28, 28]], 8)
    x, t = torch.rand(1, rep.n_rows, 3), torch.tensor([3.0])
    reference = net(x, t, given)
    assert (reference[:, 3:8] == 0).all()
    disturbed = x.clone()
    disturbed[:, 3:8] = 7.0
    assert torch.allclose(net(disturbed, t, given), reference)
    moved = x.clone()
    moved[:, :8] += torch.tensor([1.0, -2.0, 3.0])
    assert torch.allclose(net(moved, t, given), reference, atol=1e-4)
