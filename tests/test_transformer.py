"""The transformer sees neither the order of the atoms, nor the origin, nor padding."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import bare_periodic

from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.models.batch import Batch, Conditions
from lib.models.orbit_state import OrbitTensors
from lib.models.transformer import CrystalTransformer, TransformerSizes
from lib.symmetry.orbits import polar_projectors

SIZES = TransformerSizes(32, 2, 4)
N_SITES = 6


@pytest.fixture
def net() -> CrystalTransformer:
    """A network none of whose branches starts at zero."""
    torch.manual_seed(0)
    net = CrystalTransformer(bare_periodic(N_SITES), SIZES, x_0_condition=True)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


@pytest.fixture
def crystals() -> tuple:
    """x, t and a batch of two crystals with 5 and 3 atoms, and a polymorph of each to modify."""
    torch.manual_seed(1)
    species = torch.tensor([[5, 5, 73, 74, 74, 0], [13, 28, 28, 0, 0, 0]])
    x, x_0 = torch.rand(2, 2, N_SITES + 2, 3)
    asked = torch.tensor([191, 0]), torch.tensor([-0.5, torch.nan])
    return x, torch.tensor([100.0, 700.0]), Batch(x, Conditions(species, *asked), x_0, species)


def test_another_order_of_the_atoms_gives_the_same_in_that_order(net, crystals):
    x, t, batch = crystals
    atoms = torch.tensor([3, 0, 5, 2, 1, 4])
    rows = torch.cat([atoms, torch.tensor([6, 7])])
    out = net(x, t, batch)
    asked = replace(batch, conditions=replace(batch.conditions, species=batch.conditions.species[:, atoms]))
    torch.testing.assert_close(net(x[:, rows], t, asked), out[:, rows], atol=1e-4, rtol=1e-4)
    other = replace(batch, x_0=batch.x_0[:, rows], species_0=batch.species_0[:, atoms])
    torch.testing.assert_close(net(x, t, other), out, atol=1e-4, rtol=1e-4)


def test_origin_and_image_do_not_matter(net, crystals):
    x, t, batch = crystals
    out = net(x, t, batch)
    moved, x_0 = x.clone(), batch.x_0.clone()
    moved[:, :-2] += torch.tensor([0.3, -0.7, 1.9])
    moved[0, 2] += torch.tensor([1.0, -3.0, 0.0])
    torch.testing.assert_close(net(moved, t, batch), out, atol=1e-4, rtol=1e-4)
    x_0[:, :-2] += torch.tensor([0.1, 0.6, -2.3])
    x_0[0, 1] += torch.tensor([-1.0, 0.0, 2.0])
    torch.testing.assert_close(net(x, t, replace(batch, x_0=x_0)), out, atol=1e-4, rtol=1e-4)


def test_padding_is_not_seen_and_does_not_move(net, crystals):
    x, t, batch = crystals
    out = net(x, t, batch)
    other, x_0 = x.clone(), batch.x_0.clone()
    other[1, 3:6], x_0[1, 3:6] = 0.123, 0.9
    again = net(other, t, replace(batch, x_0=x_0))
    torch.testing.assert_close(again, out, atol=1e-4, rtol=1e-4)
    assert (out[:, :-2][~batch.conditions.mask] == 0).all()


def test_atoms_do_not_drift(net, crystals):
    out = net(*crystals)
    torch.testing.assert_close(out[:, :-2].sum(1), torch.zeros(2, 3), atol=1e-4, rtol=1e-4)
    assert out.abs().max() > 0.01


def test_every_condition_is_heard(net, crystals):
    x, t, batch = crystals
    out, conditions = net(x, t, batch), batch.conditions
    asked = {
        "species": replace(conditions, species=conditions.species.where(conditions.species != 74, 73)),
        "space group": replace(conditions, space_group=torch.tensor([0, 225])),
        "energy": replace(conditions, energy=torch.tensor([torch.nan, 0.1])),
    }
    others = {name: replace(batch, conditions=other) for name, other in asked.items()} | {
        "coordinates of x_0": replace(batch, x_0=batch.x_0.roll(1, 1)),
        "elements of x_0": replace(batch, species_0=batch.species_0.roll(1, 1)),
        "x_0 at all": replace(batch, x_0=None),
    }
    for name, other in others.items():
        changed = (net(x, t, other) - out).abs().amax((1, 2))
        assert changed[0] > 1e-3, name
    assert (net(x, t + 50, batch) - out).abs().max() > 1e-3
    energies = (torch.full_like(conditions.energy, energy) for energy in (torch.nan, 0.0))
    none, zero = (net(x, t, replace(batch, conditions=replace(conditions, energy=energy))) for energy in energies)
    assert (none - zero).abs().max() > 1e-3, "an energy that is not asked for is no energy of 0"


def test_size_is_as_documented():
    net = CrystalTransformer(bare_periodic(20), TransformerSizes())
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(2.07e6, rel=0.01)


@pytest.fixture(scope="module")
def with_templates():
    """Crystals, some of which have a template, their packed states and a network that has eyes for templates."""
    embedded = CrystalTable.from_parquet(EMBEDDED)
    table = embedded.take(np.random.default_rng(1).permutation(len(embedded))[:60])
    rep = OrbitTensors.fit(table)
    batch = rep.pack(table)
    lent = [
        replace(unit, sites=tuple(replace(s, lender=0 if i % 3 == 0 else 13) for s in unit.sites))
        for i, unit in enumerate(table.asymmetric_units)
    ]
    torch.manual_seed(0)
    net = CrystalTransformer(rep, replace(SIZES, templates=True))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return torch.rand_like(batch.x_1), replace(batch, template=rep.encode_templates(lent)), net.eval()


def test_a_crystal_without_a_template_sees_none(with_templates):
    x, batch, net = with_templates
    t = torch.full((len(x),), 500.0)
    seen, without = net(x, t, batch), net(x, t, replace(batch, template=None))
    given = batch.template.given
    assert given.sum() == 40
    torch.testing.assert_close(seen[~given], without[~given])
    assert ((seen - without)[given].abs().amax((1, 2)) > 1e-3).all()


def test_where_a_group_has_no_origin_that_of_the_template_does_not_matter(with_templates):
    x, batch, net = with_templates
    t = torch.full((len(x),), 500.0)
    orbits, template = batch.orbits, batch.template
    drift = torch.einsum("bij,j->bi", polar_projectors()[orbits.symmetry], torch.tensor([0.31, 0.17, 0.44]))
    change = torch.einsum("btij,bj->bti", orbits.inverse, drift)
    moved = replace(template, x=torch.cat([template.x[:, :-2] + change, template.x[:, -2:]], dim=1))
    assert (change.abs().amax((1, 2)) > 0).sum() >= 3
    out, again = net(x, t, batch), net(x, t, replace(batch, template=moved))
    torch.testing.assert_close(again, out, atol=1e-3, rtol=1e-3)
