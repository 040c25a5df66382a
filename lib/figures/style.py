"""One look for every figure: sizes, fonts, and colours that mean the same thing everywhere.

Colours are Okabe and Ito's, which colour-blind readers tell apart (https://jfly.uni-koeln.de/color/).
"""

import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
PURPLE, SKY, GREY = "#cc79a7", "#56b4e9", "#8c8c8c"
INK, PALE = "#222222", "#d9d9d9"
FAINT = "#666666"  # of text that steps back: 5.7 to 1 on white

METHODS = {  # what the name of a row, a model or a method says -> its colour; the first that fits
    "^random": "#bdbdbd",
    "substitution|choice|unchanged|template as it is|lookup|the aim": "#6b6b6b",
    "wrapped": SKY,
    "dd[ip]m|diffusion": BLUE,
    r"n\(0,1\)|normal|noise": RED,
    "cfm|flow": ORANGE,
    "regression|l1|image|^a.4": GREEN,  # and the losses that it is trained by in notebook 03
}
NETWORKS = {"paper": "s", "periodic": "^", "transformer": "o"}

Drawing = Figure | str
"""A figure or, where there is nothing to draw, the sentence that says why; :meth:`lib.core.run.Run.figure` takes
either."""

RC = {
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.edgecolor": "#555555",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "patch.linewidth": 0,
    "image.cmap": "viridis",
    "svg.hashsalt": "figure",  # the same figure gives the same file
}


def subplots(
    n_rows: int = 1, n_columns: int = 1, *, width: float = 6.4, height: float = 3.6, **options
) -> tuple[Figure, Axes]:
    """A figure in the project's style; `width` and `height` in inches, `options` as in `plt.subplots`.

    More than 9 inches are wider than a page of the report.
    """
    # DejaVu Sans comes with matplotlib, so that every machine draws the same
    seaborn.set_theme("paper", "whitegrid", [BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY], "DejaVu Sans", rc=RC)
    return plt.subplots(n_rows, n_columns, figsize=(width, height), **options)


def bars(axes: Axes, places: Sequence, shares: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Horizontal bars of shares (%): a row a place, a column a colour, one after the other."""
    left = np.zeros(len(places))
    for name, colour in colours.items():
        axes.barh(places, shares[name], left=left, color=colour, height=0.7, label=name)
        left = left + shares[name].to_numpy()
    axes.grid(axis="y", visible=False)


def colour_of(name: str) -> str:
    """The colour of a method, by the name of a row, a model or a method; purple for any other."""
    return next((colour for words, colour in METHODS.items() if re.search(words, name.lower())), PURPLE)


def marker_of(name: str) -> str:
    """The marker of a network, by the name of a row or a model; a circle for any other."""
    return next((marker for network, marker in NETWORKS.items() if network in name), "o")


def legend(figure: Figure, axes: Axes, n_columns: int = 3, **options) -> None:
    """One legend for the whole figure, below it, of what stands in one of its axes."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=n_columns, **options)
