"""The score network: sizes as published, scores exact in symmetry, and the cell's strain found from its edges."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import spherical_jn
from test_multigraph import unit_of, without_symmetry

from lib.models import dimenet
from lib.models.batch import Batch
from lib.models.cell_state import CellStates
from lib.models.dimenet import PUBLISHED, PUBLISHED_EMBEDDED, DimeNetSizes, ScoreNet, SphericalBasis
from lib.symmetry.multigraph import multigraph
from lib.symmetry.orbits import along, rotations_of
from lib.symmetry.wyckoff import AsymmetricUnit

GROUPS = [2, 14, 15, 62, 63, 141, 194, 166, 36, 160, 198]
SIZES = DimeNetSizes(width=16, out=16, interaction=16, blocks=2, cutoff=4.0, most_edges=1000, most_near=1000)


def requested(rep: CellStates, units: list[AsymmetricUnit]) -> Batch:
    """Crystals as they are, in double precision."""
    species = [unit.species for unit in units]
    batch = rep.request(species, np.array([unit.symmetry for unit in units]), np.zeros(len(units)), units)
    batch = rep.trim(replace(batch, x_1=rep.encode_units(units)))
    orbits = replace(batch.orbits, **{k: v.double() for k, v in vars(batch.orbits).items() if v.is_floating_point()})
    return replace(batch, x_1=batch.x_1.double(), orbits=orbits)


@pytest.fixture(scope="module")
def units() -> list[AsymmetricUnit]:
    return [unit_of(group) for group in GROUPS]


@pytest.fixture(scope="module")
def rep(units) -> CellStates:
    n_sites = max(len(unit.species) for unit in units)
    return CellStates(n_sites, [0.0] + [12.0] * 118, np.zeros((2, 3)), np.ones((2, 3)))


@pytest.fixture(scope="module")
def net(rep) -> ScoreNet:
    torch.manual_seed(0)
    return ScoreNet(rep, SIZES).double().requires_grad_(False)


def levels(batch: Batch) -> torch.Tensor:
    return torch.full((len(batch),), 3.3, dtype=torch.float64)


@pytest.mark.parametrize(("name", "published"), [("materials project", 285_382), ("mp20", 514_058)])
def test_the_published_sizes_have_the_published_parameters(rep, name, published):
    """But for the rows of embedded elements, levels and kinds of edges, which are as many here as there are of each."""
    net = ScoreNet(rep, PUBLISHED[name])
    rows = sum(len(table.weight) for table in (net.element, net.level, net.kind)) - PUBLISHED_EMBEDDED
    assert sum(p.numel() for p in net.parameters()) - rows * PUBLISHED[name].width == published


def test_the_basis_is_that_of_scipy():
    basis = SphericalBasis(DimeNetSizes())
    x = torch.linspace(0.05, 1, 50, dtype=torch.float64)
    expected = spherical_jn(np.arange(7)[:, None], x.numpy()[:, None, None] * basis.zeros.numpy())
    torch.testing.assert_close(basis.radial(x) / basis.norms, torch.from_numpy(expected), atol=1e-7, rtol=0)
    assert np.abs(spherical_jn(np.arange(7)[:, None], basis.zeros.numpy())).max() < 1e-9
    cosine = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    values = basis.angular(cosine)
    gram = torch.trapezoid(values[:, :, None] * values[:, None], cosine, dim=0) * 2 * torch.pi
    torch.testing.assert_close(gram, torch.eye(7, dtype=torch.float64), atol=1e-4, rtol=0)


def test_scores_are_those_of_all_atoms_without_symmetry(rep, net, units, monkeypatch):
    """Each atom moves as the operation has it that makes it of its representative, and the cell keeps its symmetry.

    But for the kind of edges to own images by operations, which atoms without symmetry have none of.
    """
    monkeypatch.setattr(dimenet, "RIDGE", 1e-9)
    monkeypatch.setattr(net.kind.weight, "data", net.kind.weight[[0, 0, 2]])
    batch, free = requested(rep, units), requested(rep, [without_symmetry(unit) for unit in units])
    known, whole = (net(b.x_1, levels(b), b) for b in (batch, free))
    orbits = batch.orbits
    rotations = rotations_of().double()[orbits.symmetry[:, None], orbits.operation]
    moved = along(orbits.directions, known[:, :-2]).gather(1, orbits.of_atom[:, :, None].expand(-1, -1, 3))
    of_atoms = along(rotations, moved) * batch.conditions.mask[:, :, None]
    assert of_atoms.abs().max() > 1e-2
    torch.testing.assert_close(of_atoms, whole[:, :-2], atol=1e-4, rtol=1e-3)
    strained = [
        torch.einsum("bk,bkij->bij", noise[:, -2:].flatten(1), rep.cell(b.x_1, b)[1])
        for noise, b in ((known, batch), (whole, free))
    ]
    torch.testing.assert_close(*strained, atol=1e-3, rtol=1e-3)


def test_neither_padding_nor_the_other_crystals_matter(rep, net, units):
    batch = requested(rep, units)
    whole = net(batch.x_1, levels(batch), batch)
    for i in (0, 4):
        alone = requested(rep, units[i : i + 1])
        n = alone.x_1.shape[1] - 2
        found = net(alone.x_1, levels(alone), alone)
        torch.testing.assert_close(found[0, :n], whole[i, :n], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(found[0, n:], whole[i, -2:], atol=1e-6, rtol=1e-6)
    assert not whole[:, :-2][~batch.orbits.free].any() and not whole[:, -2:].flatten(1)[~rep.free(batch)].any()


def test_the_cell_is_found_from_exact_changes_of_length_and_the_papers_mean_is_biased(rep, units, monkeypatch):
    monkeypatch.setattr(dimenet, "RIDGE", 1e-9)
    batch = requested(rep, units)
    orbits, u, free = batch.orbits, batch.x_1[:, :-2], rep.free(batch)
    strain = torch.randn(len(batch), 6, generator=torch.Generator().manual_seed(1)).double() * free
    metric, slope = rep.cell(batch.x_1, batch)
    graph = multigraph(orbits, u, metric, 4.0)
    vector, crystal = graph.vector, graph.crystal
    change = torch.einsum("bk,bkij->bij", strain, slope)[crystal]
    stretch = torch.einsum("ei,eij,ej->e", vector, change, vector) / (2 * graph.distance**2)
    found = {}
    for cell in ("least squares", "mean"):
        net = ScoreNet(rep, replace(SIZES, cell=cell))
        found[cell] = net.of_cell(stretch, graph, orbits, slope, free)
    torch.testing.assert_close(found["least squares"], strain, atol=1e-4, rtol=1e-4)
    size = free.sum(1) == 3
    share = (found["mean"] * strain)[size].sum() / (strain**2)[size].sum()
    assert 0.2 < share < 0.6, "of an orthorhombic cell the mean gives about a third"


def test_no_number_of_one_crystal_harms_another(rep, net, units):
    batch = requested(rep, units)
    whole = net(batch.x_1, levels(batch), batch)
    x = batch.x_1.clone()
    x[0], x[1, -2:] = torch.nan, 1e9
    found = net(x, levels(batch), batch)
    torch.testing.assert_close(found[2:], whole[2:])
    assert rep.decode(x, batch)[0] is None
