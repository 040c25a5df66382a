"""Losses against values worked out by hand, identities where they hold, and gradients that are finite everywhere."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from lib.models.losses import (
    boundary_images,
    direct_loss,
    image_loss,
    l1_paper,
    minimum_image,
    minimum_image_loss,
    of_each_structure,
    on_slice,
    pbc_loss,
    training_losses,
    with_lattice,
)

COORDINATE_LOSSES = {
    "direct": direct_loss,
    "pbc": pbc_loss,
    "pbc_soft": lambda *a, **k: pbc_loss(*a, order=-32.0, **k),
    "image": image_loss,
    "image_soft": lambda *a, **k: image_loss(*a, order=-32.0, **k),
    "minimum_image": minimum_image_loss,
}
VERTEX, EDGE, FACE, USUAL = (0.0, 1.0, 0.0), (0.0, 1.0, 0.3), (0.0, 0.5, 0.3), (0.2, 0.5, 0.3)


def one_atom(loss, prediction, target, **options):
    """A loss for a single atom, in double precision."""
    prediction, target = (torch.tensor([[v]], dtype=torch.float64) for v in (prediction, target))
    return loss(prediction, target, torch.ones(1, 1, dtype=torch.bool), **options).item()


def random_atoms(batch=7, n=5, seed=0, boundary=0.4):
    """(prediction, target, mask): targets with many coordinates exactly 0 or 1, predictions within the cell."""
    generator = torch.Generator().manual_seed(seed)
    prediction, target = torch.rand(2, batch, n, 3, generator=generator, dtype=torch.float64)
    on_boundary = torch.rand(target.shape, generator=generator) < boundary
    target = torch.where(on_boundary, target.round(), target)
    n_sites = torch.randint(1, n + 1, (batch, 1), generator=generator)
    return prediction, target, torch.arange(n) < n_sites


# ------------------------------------------------------------------ the paper's L1


def test_l1_paper_by_hand():
    prediction, target = torch.zeros(2, 64, 3), torch.zeros(2, 64, 3)
    target[0, 0] = torch.tensor([0.1, -0.2, 0.3])  # an atom
    target[0, 61] = torch.tensor([3.0, 0.0, 0.0])  # a lattice row
    target[1, 5, 2] = 0.8  # an atom of the second crystal
    expected = [0.5 * 0.6 / 2 + 0.5 * 3.0 / 3, 0.5 * 0.8 / 8]
    assert l1_paper(prediction, target, torch.tensor([2, 8])).tolist() == pytest.approx(expected)


def test_l1_paper_counts_padding_rows_but_not_row_60():
    prediction, target = torch.zeros(1, 64, 3), torch.zeros(1, 64, 3)
    prediction[0, 4:60] = 0.5  # 56 empty rows of a crystal of 4 atoms
    assert l1_paper(prediction, target, torch.tensor([4])).item() == pytest.approx(0.5 * 56 * 1.5 / 4)
    prediction[0, 4:60], prediction[0, 60] = 0, 7
    assert l1_paper(prediction, target, torch.tensor([4])).item() == 0


def test_l1_paper_of_a_silent_model_is_mostly_padding_for_small_cells():
    """With noise of unit variance as target and four atoms, 56/60 of the coordinate loss is padding."""
    noise = torch.randn(20000, 64, 3, generator=torch.Generator().manual_seed(0))
    noise[:, 61:] = 0
    whole = 2 * l1_paper(torch.zeros_like(noise), noise, torch.full((20000,), 4)).mean()
    assert whole.item() == pytest.approx(60 / 4 * 3 * np.sqrt(2 / np.pi), rel=0.01)
    atoms = direct_loss(torch.zeros_like(noise[:, :4]), noise[:, :4], torch.ones(20000, 4).bool(), norm="l1")
    assert atoms.item() == pytest.approx(3 * np.sqrt(2 / np.pi), rel=0.01)


# ------------------------------------------------------------------ A.4 by hand


@pytest.mark.parametrize(
    ("prediction", "target", "l1", "l2"),
    [
        ((0.9, 0.1, 0.8), VERTEX, 0.1 + 0.1 + 0.2, np.sqrt(0.01 + 0.01 + 0.04)),
        ((0.9, 0.1, 0.4), EDGE, 0.1 + 0.1 + 0.1, np.sqrt(0.03)),
        ((0.9, 0.1, 0.4), FACE, 0.1 + 0.4 + 0.1, np.sqrt(0.01 + 0.16 + 0.01)),
        ((0.9, 0.1, 0.4), USUAL, 0.7 + 0.4 + 0.1, np.sqrt(0.49 + 0.16 + 0.01)),
        ((1.0, 0.0, 1.0), VERTEX, 0.0, 0.0),
    ],
)
def test_pbc_loss_by_hand(prediction, target, l1, l2):
    assert one_atom(pbc_loss, prediction, target, norm="l1") == pytest.approx(l1, abs=1e-12)
    assert one_atom(pbc_loss, prediction, target) == pytest.approx(l2, abs=1e-12)


def test_pbc_loss_against_the_sets_of_images_that_a4_lists():
    prediction, target, mask = random_atoms()
    for norm, order in (("l1", 1), ("l2", 2)):
        expected = []
        for b in range(len(target)):
            distances = []
            for i in np.flatnonzero(mask[b]):
                choices = [(0.0, 1.0) if c in (0.0, 1.0) else (c,) for c in target[b, i].tolist()]
                images = np.array(list(itertools.product(*choices)))
                points, distinct = boundary_images(target[b, i])
                assert sorted(points[distinct].tolist()) == sorted(images.tolist())
                distances.append(np.linalg.norm(prediction[b, i].numpy() - images, ord=order, axis=1).min())
            expected.append(np.mean(distances))
        assert pbc_loss(prediction, target, mask, norm=norm).item() == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    ("prediction", "target", "a4", "truth"),
    [
        ((-0.04, 0.5, 0.5), (0.95, 0.5, 0.5), 0.99, 0.01),  # across a face, target not on it
        ((1.98, 0.0, 0.0), (0.0, 0.0, 0.0), 0.98, 0.02),  # a vertex two cells away
        ((0.0, -0.01, 0.5), (0.0, 0.99, 0.5), 1.0, 0.0),  # on a face, but across another
    ],
)
def test_what_a4_gets_wrong(prediction, target, a4, truth):
    assert one_atom(pbc_loss, prediction, target) == pytest.approx(a4)
    assert one_atom(minimum_image_loss, prediction, target) == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize(("target", "count"), [(VERTEX, 8), (EDGE, 4), (FACE, 2), (USUAL, 1), ((0.0, 1e-7, 1.0), 4)])
def test_number_of_images_by_class(target, count):
    """The last target misses a vertex by 1e-7 and counts as one on an edge."""
    assert boundary_images(torch.tensor(target))[1].sum().item() == count


# ------------------------------------------------------------------ identities


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_usual_targets_have_the_plain_distance(norm):
    prediction, target, mask = random_atoms(boundary=0.0)
    assert pbc_loss(prediction, target, mask, norm=norm) == direct_loss(prediction, target, mask, norm=norm)
    soft = pbc_loss(prediction, target, mask, norm=norm, order=-8.0)
    assert soft.item() == pytest.approx(direct_loss(prediction, target, mask, norm=norm).item())


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_27_images_are_the_minimum_image_up_to_a_cell_and_a_half(norm):
    prediction, target, mask = random_atoms()
    prediction = target + 2.98 * (prediction - 0.5)  # up to 1.49 away
    closed = minimum_image_loss(prediction, target, mask, norm=norm)
    assert image_loss(prediction, target, mask, norm=norm).item() == pytest.approx(closed.item())
    far = target + torch.tensor([1.9, 0.0, 0.0], dtype=torch.float64)
    assert image_loss(far, target, mask).item() == pytest.approx(0.9)
    assert minimum_image_loss(far, target, mask).item() == pytest.approx(0.1)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a4_is_the_minimum_image_when_every_target_is_a_vertex(norm):
    prediction, target, mask = random_atoms(boundary=1.0)
    a4 = pbc_loss(prediction, target, mask, norm=norm)
    assert a4.item() == pytest.approx(minimum_image_loss(prediction, target, mask, norm=norm).item())


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_losses_are_ordered(norm):
    """More images can only bring the nearest one closer."""
    prediction, target, mask = random_atoms(batch=50)
    losses = [f(prediction, target, mask, norm=norm) for f in (minimum_image_loss, image_loss, pbc_loss, direct_loss)]
    values = [loss.item() for loss in losses]
    assert values[0] == pytest.approx(values[1]) and values[1] < values[2] < values[3]


@pytest.mark.parametrize("loss", [pbc_loss, image_loss])
def test_soft_minimum_goes_to_the_exact_one_from_below(loss):
    prediction, target, mask = random_atoms()
    exact = loss(prediction, target, mask).item()
    soft = [loss(prediction, target, mask, order=k).item() for k in (-2.0, -8.0, -32.0, -2000.0)]
    assert soft == sorted(soft) and soft[-1] <= exact + 1e-12
    assert soft[-1] == pytest.approx(exact, rel=2e-3)
    images = {pbc_loss: 8, image_loss: 27}[loss]
    assert all(s >= exact * images ** (1 / k) for s, k in zip(soft, (-2.0, -8.0, -32.0, -2000.0), strict=True))


def test_soft_minimum_is_the_printed_formula():
    """(sum_i d_i^k)^(1/k) over the two images of a face."""
    expected = (0.3**-4 + 0.7**-4) ** (-1 / 4)
    assert one_atom(pbc_loss, (0.3, 0.5, 0.5), (0.0, 0.5, 0.5), order=-4.0) == pytest.approx(expected)


def test_order_must_be_negative():
    with pytest.raises(ValueError, match="must be negative"):
        one_atom(pbc_loss, USUAL, USUAL, order=2.0)


def test_minimum_image_range_symmetry_and_period():
    d = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    assert minimum_image(d).abs().max() <= 0.5
    assert torch.allclose(minimum_image(-d), -minimum_image(d))
    off_tie = (d % 1 - 0.5).abs() > 1e-6
    assert torch.allclose(minimum_image(d + 4)[off_tie], minimum_image(d)[off_tie])


@pytest.mark.parametrize("loss", [image_loss, minimum_image_loss])
def test_true_periodic_losses_do_not_see_a_lattice_translation_of_the_target(loss):
    prediction, target, mask = random_atoms()
    shift = torch.randint(-1, 1, target.shape, generator=torch.Generator().manual_seed(1))
    near = target + 0.9 * (prediction - 0.5)
    assert loss(near + shift, target, mask).item() == pytest.approx(minimum_image_loss(near, target, mask).item())


# ------------------------------------------------------------------ batches and masks


@pytest.mark.parametrize("name", COORDINATE_LOSSES)
def test_padding_has_no_say(name):
    loss = COORDINATE_LOSSES[name]
    prediction, target, mask = random_atoms()
    changed = torch.where(mask[..., None], prediction, 5.0), torch.where(mask[..., None], target, -3.0)
    assert loss(*changed, mask) == loss(prediction, target, mask)
    wider = [pad(x, (0, 0, 0, 9)) for x in (prediction, target)]
    assert loss(*wider, pad(mask, (0, 9))).item() == pytest.approx(loss(prediction, target, mask).item())
    leaf = prediction.clone().requires_grad_()
    loss(leaf, target, mask).backward()
    assert not leaf.grad[~mask].any()


@pytest.mark.parametrize("name", COORDINATE_LOSSES)
def test_each_structure_weighs_the_same_whatever_its_size(name):
    loss = COORDINATE_LOSSES[name]
    prediction, target, mask = random_atoms()
    singly = [loss(prediction[i : i + 1], target[i : i + 1], mask[i : i + 1]).item() for i in range(len(mask))]
    assert loss(prediction, target, mask).item() == pytest.approx(np.mean(singly))


@pytest.mark.parametrize("name", COORDINATE_LOSSES)
def test_of_each_structure_is_the_loss_of_batches_of_one(name):
    loss = COORDINATE_LOSSES[name]
    prediction, target, mask = random_atoms()
    singly = [loss(prediction[i : i + 1], target[i : i + 1], mask[i : i + 1]).item() for i in range(len(mask))]
    assert of_each_structure(loss, prediction, target, mask).tolist() == pytest.approx(singly)


def test_training_losses_differ_only_in_padding_and_images():
    rows = type("Rows", (), {"mask": torch.arange(60)[None] < 2, "n_sites": torch.tensor([2])})
    prediction, target = torch.zeros(1, 64, 3), torch.zeros(1, 64, 3)
    target[0, 0] = torch.tensor([0.0, 0.0, 0.9])
    prediction[0, 0] = torch.tensor([1.0, 0.0, 0.0])
    values = {name: loss(prediction, target, rows).item() for name, loss in training_losses("l1").items()}
    assert values == pytest.approx(
        {
            "published L1": 0.5 * 1.9 / 2,
            "no images": 0.5 * 1.9 / 2,
            "A.4": 0.5 * 0.9 / 2,
            "minimum image": 0.5 * 0.1 / 2,
        }
    )
    prediction[0, 40] = 1.0  # padding
    assert training_losses("l1")["published L1"](prediction, target, rows).item() == pytest.approx(0.5 * 4.9 / 2)
    assert training_losses("l1")["A.4"](prediction, target, rows).item() == pytest.approx(values["A.4"])
    assert training_losses("l2")["no images"](prediction, target, rows).item() == pytest.approx(0.5 * 1.81**0.5 / 2)


def test_with_lattice_halves_coordinates_and_lattice():
    prediction, target = torch.zeros(1, 64, 3), torch.zeros(1, 64, 3)
    prediction[0, 0] = torch.tensor([0.9, 0.0, 0.0])
    prediction[0, 7] = 0.5  # padding
    prediction[0, 62] = torch.tensor([0.0, -6.0, 0.0])
    conditions = type("Conditions", (), {"mask": torch.arange(60)[None] < 2})
    value = with_lattice(minimum_image_loss)(prediction, target, conditions).item()
    assert value == pytest.approx(0.5 * 0.1 / 2 + 0.5 * 6 / 3)
    everything = type("Conditions", (), {"mask": torch.ones(1, 60, dtype=torch.bool)})
    as_published = l1_paper(prediction, target, torch.tensor([60]))
    l1 = with_lattice(lambda *a: direct_loss(*a, norm="l1"))(prediction, target, everything)
    assert l1.item() == pytest.approx(as_published.item())


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("name", COORDINATE_LOSSES)
def test_gradients_are_finite_at_exact_matches_ties_and_far_away(name, norm):
    targets = [VERTEX, EDGE, FACE, USUAL, (1.0, 1.0, 1.0), (0.0, 0.0, 0.5)]
    predictions = [*targets, (0.5, 0.5, 0.5), (0.0, 0.5, 0.5), (1.5, -0.5, 0.5), (40.0, -60.0, 1e4), (1e-30, 0.0, 0.3)]
    for dtype in (torch.float32, torch.float64):
        pairs = torch.tensor(list(itertools.product(predictions, targets)), dtype=dtype)
        prediction, target = pairs[:, :1].clone().requires_grad_(), pairs[:, 1:]
        value = COORDINATE_LOSSES[name](prediction, target, torch.ones(len(pairs), 1, dtype=torch.bool), norm=norm)
        value.backward()
        assert value.isfinite() and prediction.grad.isfinite().all()


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("name", COORDINATE_LOSSES)
def test_gradients_are_those_of_finite_differences(name, norm):
    prediction, target, mask = random_atoms(batch=3, n=3)
    prediction = (prediction * 0.9 + 0.013).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: COORDINATE_LOSSES[name](p, target, mask, norm=norm), prediction)


@pytest.mark.parametrize("name", ["pbc", "image", "minimum_image"])
def test_a_tie_between_images_still_has_a_slope(name):
    """Half-way between two images the mean of both slopes would be zero, and the atom would stay there."""
    prediction = torch.tensor([[[0.5, 0.2, 0.2]]], requires_grad=True)
    COORDINATE_LOSSES[name](prediction, torch.zeros(1, 1, 3), torch.ones(1, 1, dtype=torch.bool)).backward()
    assert prediction.grad[0, 0, 0].abs() > 0.5


# ------------------------------------------------------------------ devices and size


def devices():
    """`meta` holds no numbers but refuses to mix devices, as a GPU does; it runs where there is no GPU."""
    gpu = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible"))
    return ["meta", gpu]


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("name", COORDINATE_LOSSES)
def test_losses_stay_on_the_device_of_their_arguments(name, device):
    prediction, target, mask = random_atoms()
    leaf = prediction.to(device).requires_grad_()
    value = COORDINATE_LOSSES[name](leaf, target.to(device), mask.to(device))
    value.backward()
    assert value.device.type == leaf.grad.device.type == device
    if device == "cuda":
        assert value.item() == pytest.approx(COORDINATE_LOSSES[name](prediction, target, mask).item())


@pytest.mark.parametrize("name", COORDINATE_LOSSES)
def test_number_of_operations_does_not_grow_with_atoms(name):
    """No Python loop over atoms: the graph of 60 atoms is as deep as that of one."""
    assert graph_size(COORDINATE_LOSSES[name], 60) == graph_size(COORDINATE_LOSSES[name], 1)


def graph_size(loss, n):
    value = loss(torch.rand(2, n, 3, requires_grad=True), torch.rand(2, n, 3), torch.ones(2, n, dtype=torch.bool))
    seen, todo = set(), [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return len(seen)


# ------------------------------------------------------------------ slices


@pytest.mark.parametrize("loss", [direct_loss, pbc_loss, image_loss, minimum_image_loss])
def test_slice_is_the_loss_at_each_point(loss):
    target, positions = torch.tensor([0.0, 0.3, 0.4]), torch.tensor([-0.2, 0.3, 0.9])
    values = on_slice(loss, target, positions)
    assert values.shape == (3, 3)
    for (i, x), (j, y) in itertools.product(enumerate(positions.tolist()), repeat=2):
        assert values[i, j].item() == pytest.approx(one_atom(loss, (x, y, 0.4), target.tolist()), abs=1e-6)
