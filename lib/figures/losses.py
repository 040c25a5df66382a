"""Figures of the periodic losses: images of atoms (paper Figure 1), loss landscapes and examples (paper Figure 4)."""

import itertools
from collections.abc import Mapping

import numpy as np
from ase.data import covalent_radii
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.core.stats import Rate
from lib.figures.structures import ELEMENT_COLOURS, element_marks
from lib.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY, colour_of, subplots

VIEW = {"elev": 18, "azim": -55}


def periodic_images(images: Mapping[str, np.ndarray], prediction: np.ndarray, nearest: Mapping[str, int]) -> Figure:
    """Figure 1: an atom and its images on vertices, edges and faces, and the one nearest to a prediction.

    Args:
        images: title -> (k, 3) fractional coordinates of the images, the atom itself first.
        prediction: (3,) fractional coordinates.
        nearest: title -> index of the image nearest to the prediction.
    """
    figure, axes = subplots(1, len(images), width=9, height=3.6, subplot_kw={"projection": "3d"})
    for (title, points), box in zip(images.items(), axes, strict=True):
        _draw_cell(box, np.eye(3))
        for i, point in enumerate(points):
            chosen = i == nearest[title]
            line = {"color": RED, "lw": 1.6} if chosen else {"color": GREY, "lw": 0.6, "ls": ":"}
            box.plot(*np.stack([prediction, point]).T, **line)
        box.scatter(*points[1:].T, s=90, color=SKY, edgecolor=INK, lw=0.5, depthshade=False)
        box.scatter(*points[0], s=90, color=BLUE, edgecolor=INK, lw=0.5, depthshade=False)
        box.scatter(*prediction, s=60, color=ORANGE, marker="D", edgecolor=INK, lw=0.5, depthshade=False)
        box.set_title(title)
    marks = [
        Line2D([], [], ls="", marker="o", color=BLUE, label="target"),
        Line2D([], [], ls="", marker="o", color=SKY, label="its periodic images"),
        Line2D([], [], ls="", marker="D", color=ORANGE, label="prediction"),
        Line2D([], [], color=RED, label="distance that counts"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=4)
    return figure


def landscapes(
    values: Mapping[str, Mapping[str, np.ndarray]], positions: np.ndarray, targets: Mapping[str, np.ndarray]
) -> Figure:
    """Losses while the predicted x and y vary: a row a target, a column a loss, one colour scale.

    Values are target's title -> loss's name -> (G, G), rows along x and columns along y; positions (G,) and targets,
    title -> (3,), are fractional coordinates.
    """
    names = list(next(iter(values.values())))
    figure, axes = subplots(
        len(values), len(names), width=9, height=1.9 * len(values) + 0.5, sharex=True, sharey=True, squeeze=False
    )
    top = max(v.max() for row in values.values() for v in row.values())
    extent = (positions[0], positions[-1]) * 2
    for (title, row), line in zip(values.items(), axes, strict=True):
        for name, box in zip(names, line, strict=True):
            image = box.imshow(row[name].T, origin="lower", extent=extent, vmin=0, vmax=top)
            box.plot([0, 1, 1, 0, 0], [0, 0, 1, 1, 0], color="white", lw=1)
            box.plot(*targets[title][:2], marker="o", ms=6, mfc=RED, mec="white", clip_on=False)
            box.grid(False)
            box.set_title(name if box in axes[0] else "")
        line[0].set_ylabel(f"{title}\n\npredicted y")
    for box in axes[-1]:
        box.set_xlabel("predicted x")
    figure.colorbar(image, ax=axes, label="loss (fractional)", shrink=0.8)
    return figure


def slices(curves: Mapping[str, Mapping[str, np.ndarray]], positions: np.ndarray) -> Figure:
    """Losses along one coordinate: a panel a title, a line a name; `positions` (G,) are the predicted x."""
    figure, axes = subplots(1, len(curves), width=9, height=3.4, sharey=True, squeeze=False)
    named = {name: None for lines in curves.values() for name in lines}
    colours = dict(zip(named, (INK, SKY, RED, BLUE, ORANGE, GREEN, PURPLE), strict=False))
    for (title, lines), box in zip(curves.items(), axes[0], strict=True):
        for i, (name, values) in enumerate(lines.items()):
            style = {"ls": ["-", "--", "-.", ":"][i % 4], "lw": 2.8 - 0.4 * i, "color": colours[name]}
            box.plot(positions, values, label=name, **style)
        box.axvspan(0, 1, color="#f0f0f0", zorder=0)
        box.set_title(title)
        box.set_xlabel("predicted x (the cell is shaded)")
        box.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    axes[0, 0].set_ylabel("loss (fractional)")
    return figure


def cells_side_by_side(lattice: np.ndarray, frac_coords: Mapping[str, np.ndarray], species: np.ndarray) -> Figure:
    """Figure 4: a cell with atoms exactly where their coordinates put them, without periodic images.

    Args:
        lattice: (3, 3) in Å, rows a, b, c.
        frac_coords: title -> (n, 3).
        species: (n,) atomic numbers.
    """
    figure, axes = subplots(1, len(frac_coords), width=8, height=4.2, subplot_kw={"projection": "3d"})
    for (title, coords), box in zip(frac_coords.items(), axes, strict=True):
        _draw_cell(box, lattice)
        sizes = 260 * covalent_radii[species] ** 2
        box.scatter(*(coords @ lattice).T, s=sizes, c=ELEMENT_COLOURS[species], edgecolor=INK, lw=0.5, depthshade=False)
        box.set_title(title)
    figure.legend(handles=element_marks(species), loc="outside lower center", ncols=8)
    return figure


def training_comparison(panels: Mapping[str, Mapping[str, Rate]]) -> Figure:
    """Values with 95 % intervals: a panel a quantity, a line a training loss."""
    figure, axes = subplots(1, len(panels), width=9, height=2.8, sharey=True, squeeze=False)
    for (title, rates), box in zip(panels.items(), axes[0], strict=True):
        for name, rate in rates.items():
            box.plot([rate.ci_low, rate.ci_high], [name, name], color=colour_of(name))
            box.plot(rate.value, name, "o", color=colour_of(name))
        box.set_xlim(left=min(0, box.get_xlim()[0]))
        box.set_title(title)
    axes[0, 0].invert_yaxis()
    return figure


def _draw_cell(box: Axes, lattice: np.ndarray) -> None:
    """The twelve edges of a cell in 3D axes of equal scale, and nothing else."""
    corners = np.array(list(itertools.product((0, 1), repeat=3)))
    for i, j in itertools.combinations(range(8), 2):
        if np.abs(corners[i] - corners[j]).sum() == 1:
            box.plot(*(corners[[i, j]] @ lattice).T, color=INK, lw=0.8)
    box.set_proj_type("ortho")
    box.view_init(**VIEW)
    low, high = (corners @ lattice).min(0), (corners @ lattice).max(0)
    box.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    box.set_box_aspect(high - low)
    box.set_axis_off()
