"""Pictures of crystals: drawn (any figure), turnable with the mouse (report pages, offline), or live in JupyterLab."""

from __future__ import annotations

import html
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.crystals import SYMBOLS, wrap
from lib.figures.style import subplots

if TYPE_CHECKING:
    from IPython.display import HTML
    from pymatgen.core import Structure

# Jmol's colours, but tantalum in VESTA's gold: in Jmol's it cannot be told from tungsten.
ELEMENT_COLOURS = jmol_colors.copy()
ELEMENT_COLOURS[73] = (0.78, 0.62, 0.27)
ATOM_SCALE = 0.45  # of the covalent radius (Cordero et al., 10.1039/b801115j)
EDGE_RADIUS = 0.035  # Å
EDGE_COLOUR = np.array([0.35, 0.35, 0.35])
LIGHT = np.array([-0.45, 0.55, 0.70])  # from the upper left, towards the reader
TURN, TILT = np.radians(20), np.radians(14)  # the view: about the vertical, then towards the reader
ON_FACE = 0.02  # atoms this close to a cell face (fractional) are drawn on the opposite face too


@dataclass(frozen=True)
class Scene:
    """A cell as seen: x to the right, y up, z towards the reader, centred on the cell, in Å.

    Attributes:
        positions: (n, 3) atoms, periodic images on cell faces included.
        numbers: (n,) atomic numbers.
        edges: (12, 2, 3) the cell's edges.
    """

    positions: np.ndarray
    numbers: np.ndarray
    edges: np.ndarray

    @property
    def radii(self) -> np.ndarray:
        """(n,) drawn radii in Å."""
        return ATOM_SCALE * covalent_radii[self.numbers]


def scene(structure: Structure) -> Scene:
    """The unit cell of a structure, c upwards and a to the right, with the images of atoms on its faces."""
    numbers = np.array(structure.atomic_numbers)
    frac_coords, owner = _with_images(wrap(np.array(structure.frac_coords)))
    to_view = structure.lattice.matrix @ _axes_of(structure.lattice.matrix)
    corners = np.array(list(itertools.product((0, 1), repeat=3)))
    pairs = [(i, j) for i, j in itertools.combinations(range(8), 2) if np.abs(corners[i] - corners[j]).sum() == 1]
    return Scene(
        positions=(frac_coords - 0.5) @ to_view,
        numbers=numbers[owner],
        edges=((corners - 0.5) @ to_view)[np.array(pairs)],
    )


def draw_structure(structure: Structure, axes: Axes, *, title: str = "", legend: bool = True) -> None:
    """Draw a structure's unit cell into matplotlib axes, with its elements as legend."""
    view = scene(structure)
    image, (left, right, bottom, top) = _render(view)
    half = max(right - left, top - bottom) / 2
    axes.imshow(image, extent=(left, right, bottom, top), interpolation="antialiased")
    axes.set_xlim((left + right) / 2 - half, (left + right) / 2 + half)
    axes.set_ylim((bottom + top) / 2 - half, (bottom + top) / 2 + half)
    axes.axis("off")
    axes.set_title(title)
    if legend:
        handles = [
            Line2D([], [], ls="", marker="o", ms=7, mec="0.3", mew=0.5, mfc=ELEMENT_COLOURS[z], label=SYMBOLS[z])
            for z in np.unique(view.numbers)
        ]
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.02), "ncols": 4}
        axes.legend(handles=handles, handletextpad=0, columnspacing=0.8, **place)


def gallery(structures: Sequence[Structure], titles: Sequence[str], *, columns: int = 4) -> Figure:
    """Drawn pictures of several structures, side by side."""
    columns = min(columns, max(len(structures), 1))
    rows = max(-(-len(structures) // columns), 1)
    figure, axes = subplots(rows, columns, width=2.1 * columns, height=2.5 * rows, squeeze=False)
    for box in axes.flat:
        box.axis("off")
    for structure, title, box in zip(structures, titles, axes.flat, strict=False):
        draw_structure(structure, box, title=title)
    return figure


def interactive_view(structures: Sequence[Structure], titles: Sequence[str]) -> HTML:
    """The same pictures, turned by dragging; a few kB of canvas script that needs no network and no GPU."""
    from IPython.display import HTML

    boxes = "".join(
        f'<figure style="margin:0;text-align:center"><crystal-view role="img" aria-label="{html.escape(title)}" '
        f'scene="{html.escape(json.dumps(_as_json(scene(structure)), separators=(",", ":")))}"></crystal-view>'
        f"<figcaption>{html.escape(title)}</figcaption></figure>"
        for structure, title in zip(structures, titles, strict=True)
    )
    script = (Path(__file__).parent / "viewer.js").read_text()
    return HTML(f'<div style="display:flex;flex-wrap:wrap;gap:1em">{boxes}</div>\n<script>{script}</script>')


def live_view(structure: Structure, title: str = "") -> object:
    """crystal-toolkit's viewer in live JupyterLab; elsewhere :func:`interactive_view`.

    crystal-toolkit starts a web server and changes how every pymatgen object displays, so it is imported here only,
    and only in a kernel that a Jupyter server started.
    """
    if "JPY_SESSION_NAME" not in os.environ:
        return interactive_view([structure], [title or structure.composition.reduced_formula])
    import crystal_toolkit  # noqa: F401  gives structures their interactive display

    return structure


def _axes_of(lattice: np.ndarray) -> np.ndarray:
    """(3, 3) rotation, to the right of a row vector, that turns c up, a to the right, and then to the view."""
    up = lattice[2] / np.linalg.norm(lattice[2])
    right = lattice[0] - (lattice[0] @ up) * up
    right /= np.linalg.norm(right)
    upright = np.array([right, up, np.cross(right, up)]).T
    turn = np.array([[np.cos(TURN), 0, -np.sin(TURN)], [0, 1, 0], [np.sin(TURN), 0, np.cos(TURN)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(TILT), np.sin(TILT)], [0, -np.sin(TILT), np.cos(TILT)]])
    return upright @ turn @ tilt


def _with_images(frac_coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates with those on a face repeated on the opposite one, and the index of each one's atom."""
    owner = np.arange(len(frac_coords))
    for axis in np.eye(3, dtype=int):
        shift = (frac_coords @ axis < ON_FACE).astype(int) - (frac_coords @ axis > 1 - ON_FACE)
        images = (frac_coords + shift[:, None] * axis)[shift != 0]
        frac_coords, owner = np.concatenate([frac_coords, images]), np.concatenate([owner, owner[shift != 0]])
    return frac_coords, owner


def _as_json(view: Scene) -> dict:
    colours = (255 * ELEMENT_COLOURS[view.numbers]).round().astype(int)
    atoms = np.column_stack([view.positions, view.radii]).round(3).tolist()
    return {
        "atoms": [[*atom, *colour] for atom, colour in zip(atoms, colours.tolist(), strict=True)],
        "edges": view.edges.round(3).tolist(),
    }


def _render(view: Scene, pixels: int = 420, oversampling: int = 2) -> tuple[np.ndarray, tuple[float, ...]]:
    """Shaded spheres and edges with a depth buffer: (height, width, 4) image and its extent in Å."""
    low = np.minimum(view.edges.min((0, 1)), (view.positions - view.radii[:, None]).min(0, initial=0))[:2] - 0.1
    high = np.maximum(view.edges.max((0, 1)), (view.positions + view.radii[:, None]).max(0, initial=0))[:2] + 0.1
    step = (high - low).max() / (pixels * oversampling)
    n_x, n_y = (oversampling * np.ceil((high - low) / step / oversampling)).astype(int)
    x, y = low[0] + step * (np.arange(n_x) + 0.5), low[1] + step * (np.arange(n_y) + 0.5)
    depth = np.full((n_y, n_x), -np.inf)
    image = np.zeros((n_y, n_x, 4))
    for position, radius, number in zip(view.positions, view.radii, view.numbers, strict=True):
        _paint_sphere(image, depth, x, y, position, radius, ELEMENT_COLOURS[number])
    for start, end in view.edges:
        _paint_edge(image, depth, x, y, start, end, max(EDGE_RADIUS, 1.5 * step))
    coarse = image.reshape(n_y // oversampling, oversampling, n_x // oversampling, oversampling, 4).mean((1, 3))
    coarse[..., :3] /= np.maximum(coarse[..., 3:], 1e-9)
    return coarse[::-1].clip(0, 1), (low[0], low[0] + n_x * step, low[1], low[1] + n_y * step)


def _window(grid: np.ndarray, low: float, high: float) -> slice:
    return slice(int(np.searchsorted(grid, low)), int(np.searchsorted(grid, high)))


def _paint_sphere(image, depth, x, y, centre, radius, colour) -> None:
    columns, rows = (
        _window(x, centre[0] - radius, centre[0] + radius),
        _window(y, centre[1] - radius, centre[1] + radius),
    )
    n_x, n_y = (x[None, columns] - centre[0]) / radius, (y[rows, None] - centre[1]) / radius
    n_z = np.sqrt(np.clip(1 - n_x**2 - n_y**2, 0, None))
    seen = (n_x**2 + n_y**2 < 1) & (centre[2] + radius * n_z > depth[rows, columns])
    lambert = np.clip(n_x * LIGHT[0] + n_y * LIGHT[1] + n_z * LIGHT[2], 0, None)
    outline = np.clip(n_z / 0.35, 0.45, 1)
    shade = ((0.45 + 0.6 * lambert) * outline)[..., None] * colour + 0.45 * (lambert**24)[..., None]
    image[rows, columns][seen] = np.dstack([shade.clip(0, 1), np.ones(seen.shape)])[seen]
    depth[rows, columns][seen] = (centre[2] + radius * n_z)[seen]


def _paint_edge(image, depth, x, y, start, end, radius) -> None:
    columns = _window(x, min(start[0], end[0]) - radius, max(start[0], end[0]) + radius)
    rows = _window(y, min(start[1], end[1]) - radius, max(start[1], end[1]) + radius)
    d_x, d_y = x[None, columns] - start[0], y[rows, None] - start[1]
    along = end - start
    t = np.clip((d_x * along[0] + d_y * along[1]) / max(along[:2] @ along[:2], 1e-12), 0, 1)
    distance2 = (d_x - t * along[0]) ** 2 + (d_y - t * along[1]) ** 2
    height = start[2] + t * along[2]
    seen = (distance2 < radius**2) & (height > depth[rows, columns])
    image[rows, columns][seen] = (*EDGE_COLOUR, 1.0)
    depth[rows, columns][seen] = height[seen]
