"""Networks for one cell: sizes of CryinGAN, what its critics see, whose step it is, how it trains; and the graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from test_dismai_alloy import shuffled

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.dismai.alloy import FccSites, to_table
from lib.generation.sampling import load_model
from lib.methods.wgan import PENALTY, WassersteinGan
from lib.models.cryingan import CRITICS, FEATURES, GENERATOR, CryinGan, GanSizes, RepairedCryinGan, neighbour_distances
from lib.models.graph import CrystalGraph, GraphSizes
from lib.models.one_cell_state import CellTensors
from lib.training.spec import TrainSettings, make_spec
from lib.training.trainer import Trainer, learning_rate

SMALL = GanSizes(channels=8, critic=16)
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def alloys() -> CrystalTable:
    sites = FccSites.of(32)
    return to_table(shuffled(sites, 24), sites, "alloy")


def of_cell(counts: dict[int, int]) -> CellTensors:
    return CellTensors((np.eye(3) * 10).tolist(), [number for number, n in counts.items() for _ in range(n)])


def n_learnt(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "counts, generated, critics",
    [
        ({17: 72, 27: 36, 3: 72, 8: 72, 21: 12}, 2_560_257, (1_879_242, 1_880_778)),
        ({24: 51, 26: 154, 28: 51}, 2_493_697, (1_367_242, 1_368_778)),
        ({14: 256}, 2_493_697, (855_242, 856_778)),
    ],
    ids=["interface", "alloy", "silicon"],
)
def test_sizes_are_the_published_ones(counts, generated, critics):
    net = CryinGan(of_cell(counts), GanSizes())
    assert n_learnt(net.generator) == generated and tuple(map(n_learnt, net.critics)) == critics


def test_distances_are_those_of_the_nearest_images():
    cell = Structure(Lattice([[5, 0, 0], [1, 6, 0], [0, 1, 4]]), ["Fe"] * 6, np.random.default_rng(0).random((6, 3)))
    coords = torch.tensor(cell.frac_coords, dtype=torch.float32)[None]
    found = neighbour_distances(coords, torch.tensor(cell.lattice.matrix, dtype=torch.float32), 6)[0]
    for i, site in enumerate(cell):
        plain = sorted(neighbour.nn_distance for neighbour in cell.get_neighbors(site, 8))[:6]
        assert found[i].tolist() == pytest.approx(plain, abs=1e-3)
    together = torch.zeros(1, 6, 3, requires_grad=True)
    neighbour_distances(together, torch.eye(3) * 5, 3).sum().backward()
    assert together.grad.isfinite().all(), "atoms at one place"


@pytest.mark.parametrize("network, kind", [(CryinGan, "separate"), (CryinGan, "graph"), (RepairedCryinGan, "separate")])
def test_critics_do_not_see_the_order_of_atoms_of_one_element(alloys, network, kind):
    rep = CellTensors.fit(alloys)
    net = network(rep, replace(SMALL, critics=kind))
    x = rep.pack(alloys).x_1[:3, :-2] + 0.01 * torch.randn(3, 32, 3, generator=generator())
    order = torch.cat([torch.randperm(6), 6 + torch.randperm(20), 26 + torch.randperm(6)])
    exchanged = torch.arange(32)
    exchanged[[0, 31]] = exchanged[[31, 0]]
    answer, same, other, shifted = (
        net(net(y, FEATURES, None), CRITICS, None) for y in (x, x[:, order], x[:, exchanged], x + 1)
    )
    torch.testing.assert_close(same, answer, atol=1e-5, rtol=1e-4)
    assert (other - answer).abs().max() > 1e-5
    wrapped = (shifted - answer).abs().max() < 1e-4
    assert wrapped == (network is RepairedCryinGan or kind == "graph"), "the published critic sees raw coordinates"


@pytest.mark.parametrize("sizes, critics", [("separate", 2), ("combined", 1), ("coordinates", 1), ("graph", 1)])
def test_a_step_is_of_one_player(alloys, sizes, critics):
    rep = CellTensors.fit(alloys)
    net, method, batch = CryinGan(rep, replace(SMALL, critics=sizes)), WassersteinGan(rep, 0.1), rep.pack(alloys)
    draw, players = method.draw(batch, generator()), {"generator": 0.0, "critics": 1.0}
    for player, turn in players.items():
        net.zero_grad()
        method.losses(net, batch, replace(draw, t=torch.full_like(draw.t, turn))).mean().backward()
        moved = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None}
        assert moved == {player}
    with torch.no_grad():
        same = [method.losses(net.eval(), batch, replace(draw, t=torch.full_like(draw.t, x))) for x in (0.0, 1.0)]
    assert torch.equal(*same), "validation is the critics' turn"
    assert net(net(batch.x_1[:, :-2], FEATURES, batch), CRITICS, batch).shape == (24, critics, 10)
    turns = [bool(method.draw(batch, generator(i)).t[0] * 6 < 1) for i in range(600)]
    assert 60 < sum(turns) < 140, "five of the critics to one of the generator"


def test_losses_are_equations_2_to_5(alloys):
    """For critics that are linear in the features the penalty is known: their slope is the same everywhere."""
    rep = CellTensors.fit(alloys)
    slope, batch = torch.randn(32, 9, generator=generator(1)), rep.pack(alloys)
    parts = slope.clone(), slope.clone()
    parts[0][:, 3:], parts[1][:, :3] = 0, 0

    def linear(x, part, told):
        if part == CRITICS:
            return torch.stack([(x * w).sum((1, 2))[:, None].expand(-1, 10) for w in parts], dim=1)
        return net(x, part, told)

    net = CryinGan(rep, SMALL).eval()
    draw = WassersteinGan(rep, 0.3).draw(batch, generator())
    fake = net(net(draw.noise[:, 0], GENERATOR, batch)[:, :-2], FEATURES, batch)
    true = net(batch.x_1[:, :-2], FEATURES, batch)
    for repaired, factor in ((False, 10), (True, 1)):
        method = WassersteinGan(rep, 0.3, repaired=repaired)
        expected, total = 0, 0
        for weight, w in zip((1, 0.3), parts, strict=True):
            difference = ((fake - true) * w).sum((1, 2))
            expected = expected + weight * (difference + PENALTY * (factor * w.norm() - 1) ** 2)
            total = total - weight * (fake * w).sum((1, 2))
        critic, player = (method.losses(linear, batch, replace(draw, t=torch.full_like(draw.t, x))) for x in (1.0, 0.0))
        torch.testing.assert_close(critic, expected, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(player, total, rtol=1e-4, atol=1e-3)


def test_training_resumes_keeps_running_means_and_samples(alloys, tmp_path):
    settings = TrainSettings(
        12, 8, 1e-3, 0, precision="fp32", validate_every=6, checkpoint_every=5, keep_raw=True, betas=(0.5, 0.999),
        constant_rate=True, max_gradient_norm=None,
    )  # fmt: skip
    assert learning_rate(0, settings) == learning_rate(11, settings) == 1e-3
    spec = make_spec("one_cell", "cryingan", "wgan", alloys, SMALL)
    whole = Trainer(spec, alloys, alloys, settings, tmp_path / "whole.safetensors", CPU)
    whole.run()
    stopped = Trainer(spec, alloys, alloys, settings, tmp_path / "stopped.safetensors", CPU)
    stopped.on_validation = lambda history: 1 / 0 if len(history) == 2 else None
    with pytest.raises(ZeroDivisionError):
        stopped.run()
    Trainer(spec, alloys, alloys, settings, tmp_path / "stopped.safetensors", CPU).run()
    one, other = (load_model(tmp_path / f"{name}_raw.safetensors") for name in ("whole", "stopped"))
    for (name, a), b in zip(one.net.named_parameters(), other.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert (one.net.generator.norms[0].mean != 0).any(), "running means are kept"
    species = [alloys.species_of(i) for i in range(3)]
    made = one.generate(species, np.ones(3, int), alloys.formation_energy[:3], steps=1)
    assert made[0] != made[1] and all(s.lattice == alloys.structure(0).lattice for s in made)
    with pytest.raises(BadInput, match="composition that it learnt from"):
        one.generate([species[0][:-1]], np.ones(1, int), np.zeros(1), steps=1)


def test_the_graph_knows_neither_origin_nor_order(alloys):
    rep = CellTensors.fit(alloys)
    net, batch, t = CrystalGraph(rep, GraphSizes(16, 2, 3)), rep.pack(alloys)[:3], torch.tensor([5.0, 300.0, 900.0])
    x = batch.x_1 + 0.05 * torch.randn(batch.x_1.shape, generator=generator())
    order = torch.cat([torch.randperm(6), 6 + torch.randperm(20), 26 + torch.randperm(6), torch.tensor([32, 33])])
    answer = net(x, t, batch)
    torch.testing.assert_close(net(x + torch.tensor([0.3, 1.2, -0.7]), t, batch), answer, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(net(x[:, order], t, batch), answer[:, order], atol=1e-5, rtol=1e-4)
    assert (answer[:, -2:] == 0).all() and answer[:, :-2].std(1).min() > 1e-4


def test_other_cells_are_refused(alloys):
    wider = replace(alloys, lattice=alloys.lattice * np.where(np.arange(len(alloys)) == 3, 1.1, 1)[:, None, None])
    with pytest.raises(BadInput, match="crystal alloy_3 has another cell"):
        CellTensors.fit(wider)
    with pytest.raises(BadInput, match="no crystals to learn from"):
        CellTensors.fit(alloys.take([]))
