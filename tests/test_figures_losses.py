"""Figures of the periodic losses show the numbers they are given, where they are."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lib.core.stats import Rate
from lib.figures.losses import cells_side_by_side, landscapes, periodic_images, slices, training_comparison


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def points(box) -> np.ndarray:
    """(n, 3) all markers in 3D axes."""
    return np.concatenate([np.stack(c._offsets3d, axis=1) for c in box.collections])


def test_figure_1_shows_every_image_and_marks_the_nearest():
    images = {"edge": np.array([[0, 0, 0.3], [1, 0, 0.3], [0, 1, 0.3], [1, 1, 0.3]])}
    images["face"] = np.array([[0, 0.5, 0.3], [1, 0.5, 0.3]])
    prediction = np.array([0.8, 0.7, 0.6])
    figure = periodic_images(images, prediction, {"edge": 3, "face": 1})
    for (title, expected), box in zip(images.items(), figure.axes, strict=True):
        assert box.get_title() == title
        assert sorted(points(box).tolist()) == sorted([*expected.tolist(), prediction.tolist()])
        widest = max(box.lines, key=lambda line: line.get_linewidth())
        assert np.allclose(
            np.stack(widest.get_data_3d(), axis=1), [prediction, [1, 1, 0.3] if title == "edge" else expected[1]]
        )


def test_figure_4_draws_atoms_where_they_are_and_not_where_they_belong():
    lattice = np.array([[4.0, 0, 0], [1.0, 3, 0], [0, 0, 5]])
    coords = {
        "target": np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]),
        "prediction": np.array([[1.02, 0, 1], [0.5, 0.5, 0.5]]),
    }
    figure = cells_side_by_side(lattice, coords, np.array([73, 5]))
    for expected, box in zip(coords.values(), figure.axes, strict=True):
        assert np.allclose(points(box), expected @ lattice)
        assert box.get_xlim() == (0, 5) and box.get_zlim() == (0, 5)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["B", "Ta"]


def test_landscapes_put_x_to_the_right_and_share_one_scale():
    positions = np.linspace(-1, 2, 7)
    along_x = np.repeat(np.arange(7.0)[:, None], 7, axis=1)
    target = {"one": np.array([0.2, 0.3, 0.4]), "two": np.array([0.0, 0.0, 0.0])}
    figure = landscapes({title: {"loss": along_x, "twice": 2 * along_x} for title in target}, positions, target)
    for i, box in enumerate(figure.axes[:4]):
        (image,) = box.images
        assert np.array_equal(image.get_array()[0], along_x[:, 0] * (1 + i % 2))  # lowest row: y = -1, x from -1 to 2
        assert image.origin == "lower" and image.get_extent() == [-1, 2, -1, 2] and image.get_clim() == (0, 12)


def test_slices_and_comparison_hold_their_values():
    x = np.linspace(-1, 2, 5)
    (box,) = slices({"face": {"A.4": x**2, "k = -4": x}}, x).axes
    assert np.array_equal(box.lines[0].get_ydata(), x**2) and box.lines[1].get_label() == "k = -4"
    (box,) = training_comparison({"distance": {"A.4": Rate(0.4, 0.3, 0.6, 20)}}).axes
    assert list(box.lines[0].get_xdata()) == [0.3, 0.6] and list(box.lines[1].get_xdata()) == [0.4]
