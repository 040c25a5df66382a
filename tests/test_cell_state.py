"""Charts of the cell: any coordinates give a cell of the asked symmetry, and derivatives are those of distances."""

import numpy as np
import pytest
import torch
from test_multigraph import unit_of

from lib.core.errors import BadInput
from lib.models.cell_state import LEVELS, POSITION_WIDTHS, CellStates, LengthStates, SiteStates, in_equal_ratios
from lib.symmetry.wyckoff import primitive_operations

GROUPS = torch.tensor([1, 2, 5, 14, 15, 16, 22, 44, 62, 65, 75, 82, 139, 146, 150, 166, 194, 196, 198, 204, 225, 230])
N_FREE = torch.tensor([6, 6, 4, 4, 4, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1])


def bare(kind: type[CellStates]) -> CellStates:
    return kind(8, [0.0] + [12.0] * 118, np.zeros((2, 3)), np.ones((2, 3)))


def drawn(kind: type[CellStates]) -> tuple[CellStates, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A chart, groups that it covers, coordinates of generic cells and volumes."""
    rep, groups = bare(kind), GROUPS[GROUPS > 15] if kind is LengthStates else GROUPS
    noise = torch.randn(len(groups), 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = noise * (2.0 if kind is LengthStates else 0.15) * rep.free_of(groups)
    return rep, groups, values, torch.linspace(30, 90, len(groups), dtype=torch.float64)


both = pytest.mark.parametrize("kind", [CellStates, LengthStates])


@both
def test_any_coordinates_give_a_cell_of_the_groups_symmetry(kind):
    rep, groups, values, volumes = drawn(kind)
    metric, _ = rep.metric(values, groups, volumes)
    for group, g in zip(groups.tolist(), metric.numpy(), strict=True):
        rotations, _ = primitive_operations(group)
        np.testing.assert_allclose(
            rotations.transpose(0, 2, 1) @ g @ rotations, np.tile(g, (len(rotations), 1, 1)), atol=1e-9
        )
    torch.testing.assert_close(rep.coordinates(metric, groups, volumes), values, atol=1e-9, rtol=0)


@both
def test_derivatives_are_those_of_finite_differences(kind):
    rep, groups, values, volumes = drawn(kind)
    _, slope = rep.metric(values, groups, volumes)
    for k in range(6):
        step = 1e-6 * torch.eye(6, dtype=torch.float64)[k] * rep.free_of(groups)
        up, down = (rep.metric(values + sign * step, groups, volumes)[0] for sign in (1, -1))
        expected = (up - down) / 2e-6
        torch.testing.assert_close(slope[:, k] * rep.free_of(groups)[:, k, None, None], expected, atol=1e-6, rtol=1e-6)


def test_strain_has_one_to_six_coordinates_the_first_of_which_is_the_size():
    rep, groups, values, volumes = drawn(CellStates)
    assert torch.equal(rep.free_of(GROUPS).sum(1), N_FREE)
    at_rest, _ = rep.metric(torch.zeros_like(values), groups, volumes)
    torch.testing.assert_close(torch.linalg.det(at_rest).sqrt(), volumes)
    larger = torch.linalg.det(rep.metric(values + 0.1 * torch.eye(6)[0], groups, volumes)[0])
    torch.testing.assert_close(larger.sqrt(), volumes * np.exp(3 * (values[:, 0] + 0.1)))


def test_the_papers_coordinates_are_its_softplus_of_lengths():
    rep, groups = bare(LengthStates), torch.tensor([225, 139, 194, 62])
    values = torch.zeros(4, 6, dtype=torch.float64)
    values[1, :2], values[2, :2], values[3, :3] = (
        torch.tensor([-12.0, 12]),
        torch.tensor([0.0, 5]),
        torch.tensor([1.0, 2, 3]),
    )
    metric, _ = rep.metric(values, groups, torch.ones(4))
    assert metric[0].diagonal().tolist() == pytest.approx([6.931**2 / 2] * 3, rel=1e-3), "primitive vectors of fcc"
    assert metric[2].diagonal()[:2].tolist() == pytest.approx([6.931**2] * 2, rel=1e-3)
    assert metric[2, 0, 1] == pytest.approx(-0.5 * metric[2, 0, 0])
    lengths = metric[3].diagonal().sqrt()
    assert lengths.tolist() == pytest.approx([10 * np.log1p(np.exp(v / 10)) for v in (1, 2, 3)])
    with pytest.raises(BadInput, match="group 14 has a cell with free angles.*dimenet"):
        rep.free_of(torch.tensor([225, 14]))


def test_levels_of_noise_are_the_published_ones():
    t = torch.arange(LEVELS, dtype=torch.float64)
    published = [0.0316, 0.0566, 0.102, 0.182, 0.326, 0.583, 1.04, 1.87, 3.35, 6.0]
    assert in_equal_ratios(POSITION_WIDTHS, t).tolist() == pytest.approx(published, rel=0.01)
    published = [0.316, 0.439, 0.608, 0.843, 1.17, 1.62, 2.25, 3.12, 4.33, 6.0]
    assert in_equal_ratios(LengthStates.cell_widths, t).tolist() == pytest.approx(published, rel=0.01)


def test_sites_without_positions_become_the_atoms_that_they_are():
    """A site that is put near a special position is one atom there; on a general one it has all its images."""
    units = [unit_of(group) for group in (62, 194, 225)]
    rep = SiteStates(300, [0.0] + [12.0] * 118, np.zeros((2, 3)), np.ones((2, 3)))
    batch = rep.trim(rep.request([u.species for u in units], np.array([62, 194, 225]), np.zeros(3), units))
    x = rep.encode_units(units)
    x = torch.cat([x[:, : batch.x_1.shape[1] - 2], x[:, -2:]], dim=1)
    n_images = [8 * len(units[0].sites), 24 * len(units[1].sites), 48 * len(units[2].sites)]
    assert batch.conditions.n_sites.tolist() == n_images
    off = 0.003 * torch.randn(x[:, :-2].shape, generator=torch.Generator().manual_seed(0))
    for moved in (x, x + torch.nn.functional.pad(off, (0, 0, 0, 2))):
        for structure, unit in zip(rep.decode(moved, batch), units, strict=True):
            assert sorted(structure.atomic_numbers) == sorted(unit.species.tolist())
            assert structure.volume == pytest.approx(np.linalg.det(unit.lattice), rel=1e-3)


@pytest.mark.parametrize("kind", [CellStates, SiteStates])
def test_crystals_larger_than_those_of_the_training_set_may_be_asked_for(kind):
    """Of 8 rows; a crystal of the test set may have more, and more still where positions are not told."""
    units = [unit_of(group) for group in (62, 2)]
    assert len(units[0].species) > 8
    batch = bare(kind).request([u.species for u in units], np.array([62, 2]), np.zeros(2), units)
    assert batch.conditions.n_sites[0] >= len(units[0].species) and batch.x_1.shape[1] > 10
    assert all(structure is not None for structure in bare(kind).decode(batch.x_1, batch))
