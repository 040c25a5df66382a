"""States of orbits: their atoms, their symmetry, what may drift, and structures that keep the asked group."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.crystals.table import CrystalTable
from lib.crystals.validity import obtained_space_group
from lib.datasets.sources.embedded import EMBEDDED
from lib.methods.flow import FlowMatching
from lib.methods.wrapped import WrappedDiffusion
from lib.metrics.matching import compare
from lib.models.orbit_state import OrbitTensors
from lib.models.transformer import CrystalTransformer, TransformerSizes
from lib.symmetry.orbits import Orbits, polar_projectors
from lib.symmetry.wyckoff import primitive_operations
from lib.training.spec import ModelSpec


@pytest.fixture(scope="module")
def table() -> CrystalTable:
    """Crystals of 30 space groups."""
    embedded = CrystalTable.from_parquet(EMBEDDED)
    _, first = np.unique(embedded.space_group, return_index=True)
    return embedded.take(first[np.linspace(0, len(first) - 1, 30).astype(int)])


@pytest.fixture(scope="module")
def rep(table) -> OrbitTensors:
    return OrbitTensors.fit(table)


@pytest.fixture(scope="module")
def packed(table, rep):
    return rep.pack(table)


def test_states_come_back_as_the_same_crystals(table, rep, packed):
    for i, structure in enumerate(rep.decode(packed.x_1, packed)):
        assert compare(structure, table.structure(i))["match_strict"], table.id[i]


def test_a_trimmed_batch_is_the_same_batch(rep, packed):
    batch = rep.trim(packed)
    assert batch.x_1.shape[1] < packed.x_1.shape[1]
    assert batch.conditions.mask.any(0).all() and batch.orbits.mask.any(0).all()
    for one, other in zip(rep.decode(batch.x_1, batch), rep.decode(packed.x_1, packed), strict=True):
        assert one == other


def test_lattices_of_crystals_are_symmetric_and_others_become_so(rep, packed):
    torch.testing.assert_close(rep.constrain(packed.x_1, packed), packed.x_1, atol=2e-3, rtol=0)
    noise = rep.noise("normal", packed.x_1, torch.Generator().manual_seed(0))
    structures = rep.decode(rep.constrain(noise, packed), packed)
    for group, structure in zip(packed.orbits.symmetry, structures, strict=True):
        metric = structure.lattice.matrix @ structure.lattice.matrix.T
        for rotation in primitive_operations(int(group))[0]:
            np.testing.assert_allclose(rotation.T @ metric @ rotation, metric, atol=1e-3 * metric.max())


def test_only_axes_without_an_origin_may_drift():
    polar = polar_projectors()
    torch.testing.assert_close(polar[1], torch.eye(3))
    assert not polar[225].any() and not polar[2].any()
    torch.testing.assert_close(polar[99], torch.diag(torch.tensor([0.0, 0.0, 1.0])))


def test_a_drift_is_taken_out_and_nothing_else(packed):
    orbits = packed.orbits
    change = torch.randn(len(orbits), orbits.species.shape[1], 3) * orbits.free
    still = orbits.without_drift(change)
    moved = torch.einsum("btij,btj->bti", orbits.directions, still) * orbits.multiplicity[:, :, None]
    polar = polar_projectors()[orbits.symmetry]
    assert torch.einsum("bij,btj->bi", polar, moved).abs().max() < 1e-4
    torch.testing.assert_close(orbits.without_drift(still), still, atol=1e-5, rtol=1e-5)
    fixed = polar.abs().amax((1, 2)) == 0
    assert fixed.any() and not fixed.all()
    torch.testing.assert_close(still[fixed], change[fixed])


def test_crystals_told_of_no_symmetry_keep_their_atoms(rep, packed):
    free = rep.forget(packed, 1.0, torch.Generator().manual_seed(0))
    assert (free.orbits.symmetry == 1).all()
    apart = free.orbits.atoms(free.x_1[:, :-2]) - packed.orbits.atoms(packed.x_1[:, :-2])
    assert (apart - apart.round())[packed.conditions.mask].abs().max() < 1e-5
    assert (free.conditions.space_group == 0).any() and free.conditions.energy.isnan().any()
    assert rep.forget(packed, 0.0, torch.Generator()).x_1 is packed.x_1


def test_the_loss_of_the_true_velocity_is_zero_whatever_the_padding(rep, packed):
    x = packed.x_1
    truth = rep.velocity(rep.noise("normal", x, torch.Generator().manual_seed(0)), x)
    guess = truth.clone()
    guess[:, :-2][~packed.orbits.free] += 1.0
    assert (rep.velocity_loss(guess, truth, packed) == 0).all()
    guess[:, -1] += 1.0
    torch.testing.assert_close(rep.velocity_loss(guess, truth, packed), torch.full((len(x),), 0.5))


@pytest.mark.parametrize(
    ("method", "sampler"),
    [("cfm_normal", s) for s in FlowMatching.samplers] + [("wrapped", s) for s in WrappedDiffusion.samplers],
)
def test_whatever_the_network_says_the_structure_has_the_asked_symmetry(table, rep, packed, method, sampler):
    """A network of random weights: its structures are no crystals anyone wants, but they keep to their group."""
    torch.manual_seed(0)
    spec = ModelSpec("generation", "transformer", method, TransformerSizes(32, 2, 4), state=rep.state())
    _, method, net = spec.build()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    batch = rep.trim(packed)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        x = method.sample(net, batch, generator, steps=4, sampler=sampler, guidance=1.5)
    kept = 0
    for group, structure in zip(batch.orbits.symmetry.tolist(), rep.decode(x, batch), strict=True):
        if structure is None:
            continue
        rotations, translations = primitive_operations(group)
        images = np.einsum("gij,aj->gai", rotations, structure.frac_coords) + translations[:, None]
        apart = images[:, :, None] - structure.frac_coords
        assert (np.abs(apart - np.round(apart)).max(-1).min(-1) < 1e-4).all(), group
        kept += obtained_space_group(structure, 0.01) == group
    assert kept > len(table) / 2, "higher symmetry is rare"


def test_atoms_without_symmetry_see_what_single_orbits_see(rep, packed):
    """The transformer takes a batch without orbits for one in which every atom is its own."""
    torch.manual_seed(0)
    net = CrystalTransformer(rep, TransformerSizes(32, 2, 4))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    given = packed.x_1, torch.full((len(packed),), 500.0)
    single = replace(packed, orbits=Orbits.single(packed.conditions.species))
    torch.testing.assert_close(net(*given, replace(packed, orbits=None)), net(*given, single))


def test_a_path_may_start_on_its_way_to_the_template(table, rep, packed):
    given = [
        unit if i % 2 else replace(unit, sites=tuple(replace(s, lender=9) for s in unit.sites))
        for i, unit in enumerate(table.asymmetric_units)
    ]
    batch, seen = replace(packed, template=rep.encode_templates(given)), []

    def still(x, t, *_):
        seen.append(t)
        return torch.zeros_like(x)

    flow = FlowMatching(rep, "normal")
    nearly = flow.sample(still, batch, torch.Generator().manual_seed(0), 4, template_start=0.999)
    noise = flow.sample(still, batch, torch.Generator().manual_seed(0), 4)
    lent = batch.template.given
    assert lent.sum() == 15 and torch.equal(nearly[~lent], noise[~lent])
    off = (nearly - batch.x_1)[lent, :-2] * batch.orbits.free[lent]
    assert (off - off.round()).abs().max() < 2e-3
    assert torch.equal(seen[0], 999.0 * lent) and seen[3][lent].min() > 999 and seen[3][~lent].max() == 750

    def steady(x, t, *_):
        return torch.cat([torch.full_like(x[:, :-2], 0.1), torch.zeros_like(x[:, -2:])], dim=1)

    both = (flow.sample(net, batch, torch.Generator().manual_seed(0), 4, template_start=0.5) for net in (steady, still))
    gone = torch.sub(*both)[:, :-2]
    expected = torch.where(lent, 0.05, 0.1)[:, None, None].expand_as(gone)
    torch.testing.assert_close(gone - gone.round(), expected, atol=1e-5, rtol=0)
