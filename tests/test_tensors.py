"""Structure -> tensors -> Structure returns the same crystal, for every structure of the embedded set."""

import numpy as np
import pytest
import torch
from conftest import bare_periodic
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from scipy.linalg import expm

from lib.core.errors import BadInput
from lib.crystals.lattices import lattice_of_values, lattice_values
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.models.batch import Batch, Conditions
from lib.models.paper_state import PaperTensors
from lib.models.periodic_state import PeriodicTensors
from lib.symmetry.cells import cell_parameters, lattice_from_parameters
from lib.symmetry.spacegroups import into_cell


@pytest.fixture(scope="module")
def embedded() -> CrystalTable:
    return CrystalTable.from_parquet(EMBEDDED)


def representations(table: CrystalTable) -> list:
    return [PaperTensors(), PeriodicTensors.fit(table)]


@pytest.mark.slow
def test_every_embedded_structure_survives_both_representations(embedded):
    """A sample goes through the matcher; all go through an exact comparison of distances, which is stricter."""
    structures = list(embedded.structures())
    for rep in representations(embedded):
        batch = rep.pack(embedded)
        decoded = rep.decode(batch.x_1, batch)
        assert all(s is not None for s in decoded)
        for structure, expected in zip(decoded, structures, strict=True):
            assert structure.species == expected.species
            np.testing.assert_allclose(structure.lattice.parameters, expected.lattice.parameters, atol=2e-3)
            shift = structure.frac_coords - expected.frac_coords
            np.testing.assert_allclose(shift - np.round(shift), 0, atol=1e-5)
        matcher = StructureMatcher(scale=False)
        for i in range(0, len(embedded), max(1, len(embedded) // 100)):
            assert matcher.fit(decoded[i], structures[i])


def test_the_papers_matrix_has_the_papers_rows():
    structure = Structure(
        Lattice.hexagonal(3.1, 3.3), ["B", "B", "Ta"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5], [0, 0, 0]]
    )
    table = CrystalTable.from_structures(
        [structure], id=["TaB2"], formation_energy=[-0.7], space_group=[191], energy_kind="test"
    )
    x = PaperTensors().pack(table).x_1[0]
    assert x.shape == (64, 3)
    np.testing.assert_allclose(x[:3], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5], [0, 0, 0]], atol=1e-6)
    assert (x[3:61] == 0).all()
    np.testing.assert_allclose(x[61:], [[3.1, 0, 0], [-1.55, 3.1 * 3**0.5 / 2, 0], [0, 0, 3.3]], atol=1e-5)


def test_cell_parameters_invert():
    rng = np.random.default_rng(0)
    lattices = rng.normal(size=(50, 3, 3)) + 4 * np.eye(3)
    lengths, angles = cell_parameters(lattices)
    for lattice, length, angle in zip(lattices, lengths, angles, strict=True):
        expected = Lattice(lattice)
        np.testing.assert_allclose(length, expected.abc)
        np.testing.assert_allclose(np.degrees(angle), expected.angles)
    again = cell_parameters(lattice_from_parameters(lengths, angles))
    np.testing.assert_allclose(again[0], lengths)
    np.testing.assert_allclose(again[1], angles)


def test_lattice_values_are_half_the_logarithm_of_the_metric():
    rng = np.random.default_rng(0)
    lattices = rng.normal(size=(50, 3, 3)) + 4 * np.eye(3)
    volumes = rng.uniform(20, 200, 50)
    values = lattice_values(lattices, volumes)
    for lattice, volume, (diagonal, off) in zip(lattices, volumes, values, strict=True):
        s = np.diag(diagonal) + np.array([[0, off[2], off[1]], [off[2], 0, off[0]], [off[1], off[0], 0]])
        np.testing.assert_allclose(expm(2 * s) * volume ** (2 / 3), lattice @ lattice.T)
        assert np.exp(diagonal.sum()) * volume == pytest.approx(abs(np.linalg.det(lattice)))
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    np.testing.assert_allclose(lattice_values(lattices @ turned, volumes), values, atol=1e-10)
    np.testing.assert_allclose(lattice_values(3 * np.eye(3)[None], np.array([27.0])), 0, atol=1e-12)
    again = lattice_of_values(values, volumes)
    for found, expected in zip(cell_parameters(again), cell_parameters(lattices), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_any_finite_lattice_values_are_a_cell():
    values = np.random.default_rng(0).normal(size=(200, 2, 3))
    assert np.isfinite(lattice_of_values(values, np.full(200, 30.0))).all()
    values[3, 0, 0], values[5, 1, 1] = np.nan, np.inf
    broken = np.isnan(lattice_of_values(values, np.full(200, 30.0))).any((1, 2))
    assert np.flatnonzero(broken).tolist() == [3, 5]


def test_impossible_cells_decode_to_nothing():
    conditions = Conditions.pack([np.array([29, 29])] * 4, [225] * 4, [0.0] * 4, 60)
    x = torch.zeros(4, 64, 3)
    x[0, 61:] = 3 * torch.eye(3)
    x[1, 61:] = torch.tensor([[3.0, 0, 0], [3.0, 0.001, 0], [0, 0, 3.0]])  # flat
    x[2, 61:] = 0.5 * torch.eye(3)  # collapsed
    x[3, 61:] = float("nan") * torch.eye(3)
    decoded = PaperTensors().decode(x, Batch(x, conditions))
    assert decoded[0] is not None
    assert decoded[1:] == [None, None, None]


def test_the_circle_inverts_and_ignores_the_radius(embedded):
    rep = PeriodicTensors.fit(embedded)
    x = rep.pack(embedded.take(range(20))).x_1
    z = rep.to_euclidean(x)
    z[:, :-2] *= 1.7
    difference = rep.from_euclidean(z) - x
    torch.testing.assert_close(
        difference[:, :-2] - difference[:, :-2].round(), torch.zeros(20, rep.n_sites, 3), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(difference[:, -2:], torch.zeros(20, 2, 3))


def test_alignment_finds_a_permutation_within_elements():
    torch.manual_seed(0)
    rep = bare_periodic(4)
    conditions = Conditions.pack([np.array([13, 28, 28, 28])], [1], [0.0], 4)
    x_0 = torch.rand(1, 6, 3)
    x_1 = (x_0 + 0.01) % 1.0
    shuffled = x_1[:, [0, 3, 1, 2, 4, 5]]
    torch.testing.assert_close(rep.align(Batch(shuffled, conditions, x_0)).x_1[:, :4], x_1[:, :4])


def test_conditions_are_copies_also_of_what_must_not_be_written(recwarn):
    group, energy = np.array([225]), np.array([-1.0])
    for array in (group, energy):
        array.setflags(write=False)
    torch.set_warn_always(True)
    try:
        conditions = Conditions.pack([np.array([29])], group, energy, 4)
    finally:
        torch.set_warn_always(False)
    conditions.space_group[0] = 1
    assert group[0] == 225 and not recwarn.list


def test_padding_costs_nothing_in_periodic_and_something_in_paper():
    conditions = Conditions.pack([np.array([29, 29])], [225], [0.0], 60)
    target = torch.zeros(1, 64, 3)
    off = target.clone()
    off[0, 30] = 1.0
    assert PaperTensors().loss(off, target, conditions) == pytest.approx(0.5 * 3 / 2)
    rep = bare_periodic(8)
    conditions = Conditions.pack([np.array([29, 29])], [225], [0.0], 8)
    target = torch.zeros(1, 10, 3)
    off = target.clone()
    off[0, 5] = 1.0
    assert rep.loss(off, target, conditions) == 0


def test_a_drift_costs_as_much_as_any_other_error_where_a_row_is_an_atom():
    """The UNet sees where atoms are, so that it has to say where all of them go."""
    rep, truth = bare_periodic(8), torch.zeros(1, 10, 3)
    drifting, apart = truth.clone(), truth.clone()
    drifting[0, :2], apart[0, :2] = 0.1, torch.tensor([[0.1], [-0.1]])
    batch = Batch(truth, Conditions.pack([np.array([29, 29])], [225], [0.0], 8))
    for guess in (drifting, apart):
        assert rep.velocity_loss(guess, truth, batch).item() == pytest.approx(12 * 0.01)


def test_requests_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="space group 231"):
        Conditions.pack([np.array([29])], [231], [0.0], 60)
    with pytest.raises(BadInput, match="9 atoms"):
        Conditions.pack([np.full(9, 29)], [225], [0.0], 8)


@pytest.mark.parametrize("just_below", [torch.tensor([-1e-9, -3e-8, 2.0]), np.array([-1e-17, 1.0, -2.0])])
def test_coordinates_end_below_one(just_below):
    """A remainder by 1 rounds to 1 where a number lies below 0 by less than its digits can say."""
    assert (into_cell(just_below) < 1).all() and (into_cell(just_below) >= 0).all()
    assert into_cell(torch.tensor([0.25, -0.25])).tolist() == [0.25, 0.75]


def test_no_step_leaves_the_cell():
    rep = bare_periodic(1)
    x, back = torch.zeros(1, 3, 3), torch.full((1, 3, 3), -1e-9)
    assert rep.advance(x, back)[:, :-2].max() < 1
    assert rep.interpolate(x, x + back, torch.ones(1))[:, :-2].max() < 1
    circle = rep.to_euclidean(back)
    assert rep.from_euclidean(circle)[:, :-2].max() < 1
