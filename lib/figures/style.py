"""One look for every figure: sizes, fonts, and colours that mean the same thing everywhere.

Colours are Okabe and Ito's, which colour-blind readers tell apart (https://jfly.uni-koeln.de/color/).
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
PURPLE, SKY, YELLOW, GREY = "#cc79a7", "#56b4e9", "#f0e442", "#8c8c8c"
INK = "#222222"

COLOURS = {"periodic": BLUE, "paper": ORANGE, "transformer": GREEN, "published": INK, "baseline": GREY}

STYLE = {
    "figure.figsize": (6.4, 3.6),
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "mathtext.fontset": "stix",
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY, YELLOW]),
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "image.cmap": "viridis",
    "svg.hashsalt": "figure",  # the same figure gives the same file
}


def subplots(
    n_rows: int = 1, n_columns: int = 1, *, width: float = 6.4, height: float = 3.6, **options
) -> tuple[Figure, Axes]:
    """A figure in the project's style; `width` and `height` in inches, `options` as in `plt.subplots`.

    More than 9 inches are wider than a page of the report.
    """
    plt.rcParams.update(STYLE)
    return plt.subplots(n_rows, n_columns, figsize=(width, height), **options)
