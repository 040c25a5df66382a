"""Pictures of crystals: drawn (any figure), turnable with the mouse (report pages, offline), or live in JupyterLab."""

from __future__ import annotations

import html
import itertools
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from pymatgen.core import Element

from lib.crystals.elements import SYMBOLS
from lib.crystals.table import wrap
from lib.figures.style import BLUE, GREEN, INK, RED, Drawing, subplots

if TYPE_CHECKING:
    from IPython.display import HTML
    from pymatgen.core import Structure

# Jmol's colours, but tantalum in VESTA's gold: in Jmol's it cannot be told from tungsten.
ELEMENT_COLOURS = jmol_colors.copy()
ELEMENT_COLOURS[73] = (0.78, 0.62, 0.27)
ATOM_SCALE = 0.45  # of the covalent radius (Cordero et al., 10.1039/b801115j)
BOND = 1.15  # times the sum of the covalent radii is the longest one drawn
BOND_RADIUS, EDGE_RADIUS = 0.09, 0.035  # Å
INCHES, PIXELS, OVERSAMPLING = 0.26, 300, 2  # the largest scale of a gallery, inches per Å; pixels per inch
COMPASS = 2.8  # Å that the axes' directions take
EDGE_COLOUR = np.array([0.35, 0.35, 0.35])
LIGHT = np.array([-0.45, 0.55, 0.70])  # from the upper left, towards the reader
TURN, TILT = np.radians(20), np.radians(14)  # the view: about the vertical, then towards the reader
ON_FACE = 0.02  # atoms this close to a cell face (fractional) are drawn on the opposite face too


@dataclass(frozen=True)
class Scene:
    """A cell as seen: x to the right, y up, z towards the reader, centred on the cell, in Å."""

    positions: np.ndarray  # (n, 3) atoms, periodic images on cell faces included
    numbers: np.ndarray  # (n,) atomic numbers
    edges: np.ndarray  # (12, 2, 3) the cell's edges
    lattice: np.ndarray  # (3, 3) the cell's vectors, rows a, b, c

    @property
    def radii(self) -> np.ndarray:
        """(n,) drawn radii in Å."""
        return ATOM_SCALE * covalent_radii[self.numbers]

    @property
    def sticks(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Halves of the bonds: from, to, and the colour of the atom that each begins at."""
        pairs = [(i, j) for bond in _bonds(self.positions, self.numbers) for i, j in (bond, bond[::-1])]
        ends = self.positions
        return [(ends[i], (ends[i] + ends[j]) / 2, ELEMENT_COLOURS[self.numbers[i]]) for i, j in pairs]

    @property
    def bounds(self) -> np.ndarray:
        """(2, 2) the lower left and the upper right corner of the picture."""
        low = np.minimum(self.edges.min((0, 1)), (self.positions - self.radii[:, None]).min(0, initial=0))[:2] - 0.1
        high = np.maximum(self.edges.max((0, 1)), (self.positions + self.radii[:, None]).max(0, initial=0))[:2] + 0.1
        return np.stack([low, high])


def scene(structure: Structure) -> Scene:
    """The unit cell of a structure, c upwards and a to the right, with the images of atoms on its faces."""
    numbers = np.array(structure.atomic_numbers)
    frac_coords, owner = _with_images(wrap(np.array(structure.frac_coords)))
    to_view = structure.lattice.matrix @ _axes_of(structure.lattice.matrix)
    corners = np.array(list(itertools.product((0, 1), repeat=3)))
    pairs = [(i, j) for i, j in itertools.combinations(range(8), 2) if np.abs(corners[i] - corners[j]).sum() == 1]
    edges = ((corners - 0.5) @ to_view)[np.array(pairs)]
    return Scene((frac_coords - 0.5) @ to_view, numbers[owner], edges, to_view)


def gallery(structures: Sequence[Structure], titles: Sequence[str], *, columns: int = 4) -> Drawing:
    """Drawn pictures of several structures, side by side at one scale, with their cells, axes and bonds."""
    if not structures:
        return "No pictures of structures: none is left to draw."
    views = [scene(structure) for structure in structures]
    columns = min(columns, len(views))
    lines = [views[i : i + columns] for i in range(0, len(views), columns)]
    sizes = [[np.ptp(view.bounds, axis=0) for view in line] for line in lines]
    width = max(size[0] for line in sizes for size in line) + COMPASS
    heights = [max(size[1] for size in line) for line in sizes]
    inches = min(9 / columns / width, INCHES)  # of an ångström
    size = {"width": max(columns * width * inches, 2.4), "height": inches * sum(heights) + 0.55 * len(lines) + 0.3}
    figure, axes = subplots(len(lines), columns, **size, squeeze=False, height_ratios=heights)
    for box in axes.flat:
        box.axis("off")
    for i, (view, title) in enumerate(zip(views, titles, strict=True)):
        _draw(view, axes.flat[i], 1 / (PIXELS * inches), width, heights[i // columns])
        axes.flat[i].set_title(title)
    numbers = np.unique(np.concatenate([view.numbers for view in views]))
    figure.legend(handles=element_marks(numbers), loc="outside lower center", ncols=8, handletextpad=0)
    bar, (left, _), (low, _) = axes[0, 0], axes[0, 0].get_xlim(), axes[0, 0].get_ylim()
    bar.plot([left, left + 2], [low, low], color=INK, lw=1.5, clip_on=False)
    bar.annotate("2 Å", (left + 1, low), (0, -2.5), textcoords="offset points", ha="center", va="top", fontsize=7)
    return figure


def element_marks(numbers: Sequence[int]) -> list[Line2D]:
    """Handles of a legend of elements."""
    style = {"ls": "", "marker": "o", "ms": 7, "mec": "0.3", "mew": 0.5}
    return [Line2D([], [], mfc=ELEMENT_COLOURS[z], label=SYMBOLS[z], **style) for z in np.unique(numbers)]


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


def live_view(structures: Sequence[Structure], titles: Sequence[str]) -> HTML | None:
    """crystal-toolkit's viewer in live JupyterLab, without a network; elsewhere :func:`interactive_view`.

    crystal-toolkit changes how every pymatgen object displays, and its viewer is a page of a web server in the kernel:
    it is imported here only, and only in a kernel that a Jupyter server started.
    """
    if "JPY_SESSION_NAME" not in os.environ:
        return interactive_view(structures, titles)
    from crystal_toolkit.components import StructureMoleculeComponent
    from crystal_toolkit.core.plugin import CrystalToolkitPlugin
    from dash import Dash, html

    views = [StructureMoleculeComponent(s, id=f"crystal-{i}").layout() for i, s in enumerate(structures)]
    boxes = [html.Figure([html.Figcaption(title), view]) for title, view in zip(titles, views, strict=True)]
    page = html.Div(boxes, style={"display": "flex", "flexWrap": "wrap", "fontFamily": "sans-serif"})
    # its style sheets would come from the net
    app = Dash(plugins=[CrystalToolkitPlugin(layout=page, use_default_css=False)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app.run(port=port, jupyter_mode="inline", jupyter_height=520)


def _draw(view: Scene, axes: Axes, step: float, width: float, height: float) -> None:
    """Draw a scene with pixels of `step` Å into axes of `width` and `height` Å, its axes' directions at the left."""
    image, (left, right, low, high) = _render(view, step)
    axes.imshow(image, extent=(left, right, low, high), interpolation="antialiased")
    middle, bottom = (left + right - COMPASS) / 2, (low + high - height) / 2
    axes.set(xlim=(middle - width / 2, middle + width / 2), ylim=(bottom, bottom + height))
    axes.set_aspect("equal")
    origin = np.array([left - COMPASS + 0.9, low + 0.7])
    for direction, name, colour in zip(view.lattice, "abc", (RED, GREEN, BLUE), strict=True):
        tip = origin + 1.1 * direction[:2] / np.linalg.norm(direction)
        arrow = {"arrowstyle": "-|>", "color": colour, "lw": 1, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6}
        axes.annotate("", tip, origin, arrowprops=arrow, annotation_clip=False)
        beyond = 0.4 * (tip - origin) / max(np.linalg.norm(tip - origin), 1e-9)  # also of an arrow towards the reader
        axes.text(*(tip + beyond), name, color=colour, fontsize=7, ha="center", va="center")


def _bonds(positions: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """(n_bonds, 2) drawn atoms no further apart than their covalent radii allow; of two metals only in metals."""
    metals = np.array([Element.from_Z(z).is_metal for z in numbers.tolist()])
    first, second = np.triu_indices(len(numbers), 1)
    distance = np.linalg.norm(positions[first] - positions[second], axis=1)
    bonded = distance < BOND * (covalent_radii[numbers[first]] + covalent_radii[numbers[second]])
    bonded &= metals.all() | ~(metals[first] & metals[second])
    return np.stack([first, second], axis=1)[bonded]


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
    sticks = [[*np.round(ends, 3).tolist(), (255 * colour).round().tolist()] for *ends, colour in view.sticks]
    return {
        "atoms": [[*atom, *colour] for atom, colour in zip(atoms, colours.tolist(), strict=True)],
        "edges": view.edges.round(3).tolist(),
        "bonds": sticks,
    }


def _render(view: Scene, pixel: float) -> tuple[np.ndarray, tuple[float, ...]]:
    """Shaded spheres, bonds and edges with a depth buffer: (height, width, 4) image and its extent, both in Å."""
    low, high = view.bounds
    step = pixel / OVERSAMPLING
    n_x, n_y = (OVERSAMPLING * np.ceil((high - low) / pixel)).astype(int)
    x, y = low[0] + step * (np.arange(n_x) + 0.5), low[1] + step * (np.arange(n_y) + 0.5)
    depth = np.full((n_y, n_x), -np.inf)
    image = np.zeros((n_y, n_x, 4))
    for position, radius, number in zip(view.positions, view.radii, view.numbers, strict=True):
        _paint_sphere(image, depth, x, y, position, radius, ELEMENT_COLOURS[number])
    for start, end in view.edges:
        _paint_edge(image, depth, x, y, start, end, max(EDGE_RADIUS, 1.5 * step), EDGE_COLOUR)
    for start, end, colour in view.sticks:
        _paint_edge(image, depth, x, y, start, end, BOND_RADIUS, 0.8 * colour)
    shape = (n_y // OVERSAMPLING, OVERSAMPLING, n_x // OVERSAMPLING, OVERSAMPLING, 4)
    coarse = image.reshape(shape).mean((1, 3))
    coarse[..., :3] /= np.maximum(coarse[..., 3:], 1e-9)
    return coarse[::-1].clip(0, 1), (low[0], low[0] + n_x * step, low[1], low[1] + n_y * step)


def _window(grid: np.ndarray, low: float, high: float) -> slice:
    return slice(int(np.searchsorted(grid, low)), int(np.searchsorted(grid, high)))


def _paint_sphere(image, depth, x, y, centre, radius, colour) -> None:
    columns, rows = (_window(grid, at - radius, at + radius) for grid, at in zip((x, y), centre, strict=False))
    n_x, n_y = (x[None, columns] - centre[0]) / radius, (y[rows, None] - centre[1]) / radius
    n_z = np.sqrt(np.clip(1 - n_x**2 - n_y**2, 0, None))
    seen = (n_x**2 + n_y**2 < 1) & (centre[2] + radius * n_z > depth[rows, columns])
    lambert = np.clip(n_x * LIGHT[0] + n_y * LIGHT[1] + n_z * LIGHT[2], 0, None)
    outline = np.clip(n_z / 0.35, 0.45, 1)
    shade = ((0.45 + 0.6 * lambert) * outline)[..., None] * colour + 0.45 * (lambert**24)[..., None]
    image[rows, columns][seen] = np.dstack([shade.clip(0, 1), np.ones(seen.shape)])[seen]
    depth[rows, columns][seen] = (centre[2] + radius * n_z)[seen]


def _paint_edge(image, depth, x, y, start, end, radius, colour) -> None:
    columns = _window(x, min(start[0], end[0]) - radius, max(start[0], end[0]) + radius)
    rows = _window(y, min(start[1], end[1]) - radius, max(start[1], end[1]) + radius)
    d_x, d_y = x[None, columns] - start[0], y[rows, None] - start[1]
    along = end - start
    t = np.clip((d_x * along[0] + d_y * along[1]) / max(along[:2] @ along[:2], 1e-12), 0, 1)
    distance2 = (d_x - t * along[0]) ** 2 + (d_y - t * along[1]) ** 2
    height = start[2] + t * along[2]
    seen = (distance2 < radius**2) & (height > depth[rows, columns])
    image[rows, columns][seen] = (*colour, 1.0)
    depth[rows, columns][seen] = height[seen]
