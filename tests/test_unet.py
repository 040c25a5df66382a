"""The published network has the published number of parameters, and both networks keep what they promise."""

from dataclasses import replace

import pytest
import torch
from conftest import bare_periodic

from lib.models.batch import Batch, Conditions
from lib.models.paper_state import PaperTensors
from lib.models.unet import PaperNet, PeriodicNet, RowNorm, UNetSizes

SMALL = UNetSizes(16, (1, 2), 1, (1, 2), 16, 16)


@pytest.fixture
def no_initialisation(monkeypatch):
    """Building 300 million parameters is quick when nobody draws them."""
    for name in ("kaiming_uniform_", "uniform_", "zeros_", "normal_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.mark.parametrize(("x_0_condition", "expected"), [(False, 304_781_763), (True, 305_060_931)])
def test_parameter_counts_at_the_papers_sizes(no_initialisation, x_0_condition, expected):
    net = PaperNet(PaperTensors(), UNetSizes(), x_0_condition)
    assert sum(p.numel() for p in net.parameters()) == expected


def batch_of(species: list[list[int]], n_max: int, group: int = 225, energy: float = 0.0) -> Batch:
    """What networks see of crystals, x_0 apart."""
    padded = torch.tensor([s + [0] * (n_max - len(s)) for s in species])
    n = len(species)
    return Batch(torch.zeros(n, 1, 3), Conditions(padded, torch.full((n,), group), torch.full((n,), energy)))


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """Zero-initialised layers hide mistakes: give every parameter a value."""
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def test_an_untrained_paper_network_returns_zero():
    net = PaperNet(PaperTensors(), SMALL)
    output = net(torch.randn(2, 64, 3), torch.tensor([1.0, 2.0]), batch_of([[29], [13, 28]], 60))
    assert output.shape == (2, 64, 3)
    assert (output == 0).all()


@pytest.mark.parametrize("condition", ["species", "space_group", "energy", "t", "x_0"])
def test_every_condition_reaches_the_output(condition):
    torch.manual_seed(0)
    for rep, net_class in ((PaperTensors(), PaperNet), (bare_periodic(8), PeriodicNet)):
        net = randomised(net_class(rep, SMALL, x_0_condition=True))
        x, x_0, t = torch.rand(1, rep.n_rows, 3), torch.rand(1, rep.n_rows, 3), torch.tensor([3.0])
        species = [13, 28, 28, 28]
        given = replace(batch_of([species], rep.n_sites), x_0=x_0)
        before = net(x, t, given)
        if condition == "species":
            given = replace(batch_of([[13, 28, 28, 29]], rep.n_sites), x_0=x_0)
        elif condition == "space_group":
            given = replace(batch_of([species], rep.n_sites, group=139), x_0=x_0)
        elif condition == "energy":
            given = replace(batch_of([species], rep.n_sites, energy=-0.5), x_0=x_0)
        elif condition == "t":
            t = torch.tensor([500.0])
        else:
            given = replace(given, x_0=torch.rand(1, rep.n_rows, 3))
        assert not torch.allclose(before, net(x, t, given)), f"{condition} is ignored by {net_class.__name__}"


@pytest.mark.parametrize("predicts_velocity", [False, True])
def test_padding_does_not_change_the_periodic_network(predicts_velocity):
    """Crystals of 3, 5 and 8 atoms, by networks of the same weights for at most 8, 12 and 20 atoms."""
    torch.manual_seed(0)
    sizes, x, t = UNetSizes(16, (1, 2, 2), 1, (1, 2), 16, 16), torch.rand(3, 10, 3), torch.tensor([3.0, 400.0, 900.0])
    nets = [PeriodicNet(bare_periodic(n), sizes, predicts_velocity=predicts_velocity) for n in (20, 12, 8)]
    weights = randomised(nets[0]).state_dict()
    outputs = []
    for net, n in zip(nets, (20, 12, 8), strict=True):
        own = net.state_dict()
        net.load_state_dict({name: value[: len(own[name])] for name, value in weights.items()})
        padded = torch.cat([x[:, :8], torch.zeros(3, n - 8, 3), x[:, 8:]], dim=1)
        out = net(padded, t, batch_of([[13, 28, 28], [13] * 5, [29] * 8], n))
        assert (out[:, 8:n] == 0).all()
        outputs.append(torch.cat([out[:, :8], out[:, n:]], dim=1))
    assert outputs[0].abs().mean() > 1e-2
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("channels", "mult"), [(48, (1, 2, 3)), (8, (1, 1)), (40, (1, 5))])
def test_any_widths_make_a_network(channels, mult):
    sizes = UNetSizes(channels, mult, 1, (1,), 16, 16)
    for rep, net_class in ((PaperTensors(), PaperNet), (bare_periodic(4), PeriodicNet)):
        out = net_class(rep, sizes)(torch.rand(1, rep.n_rows, 3), torch.ones(1), batch_of([[29]], rep.n_sites))
        assert out.isfinite().all()


def test_a_masked_norm_is_that_of_the_rows_alone():
    norm, x = randomised(RowNorm(16)), torch.randn(2, 16, 6)
    mask = torch.ones(2, 1, 6)
    torch.testing.assert_close(norm(x, mask), norm(x))
    mask[:, :, 4:] = 0
    torch.testing.assert_close(norm(x, mask)[:, :, :4], norm(x[:, :, :4]))
    assert (norm(x, mask)[:, :, 4:] == 0).all()


def test_periodic_network_is_blind_to_padding_and_to_whole_translations():
    torch.manual_seed(0)
    rep = bare_periodic(8)
    net = randomised(PeriodicNet(rep, SMALL))
    given = batch_of([[13, 28, 28]], 8)
    x, t = torch.rand(1, rep.n_rows, 3), torch.tensor([3.0])
    reference = net(x, t, given)
    assert (reference[:, 3:8] == 0).all()
    disturbed = x.clone()
    disturbed[:, 3:8] = 7.0
    assert torch.allclose(net(disturbed, t, given), reference)
    moved = x.clone()
    moved[:, :8] += torch.tensor([1.0, -2.0, 3.0])
    assert torch.allclose(net(moved, t, given), reference, atol=1e-4)
