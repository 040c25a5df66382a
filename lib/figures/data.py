"""Figures of the data: the funnel, what the crystals are made of, the split, the pairs, and the paper's Figure 3."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.checkup import Measure
from lib.figures.style import BLUE, GREEN, GREY, ORANGE, subplots

COLOURS = {"ingested": GREY, "training": BLUE, "train": BLUE, "validation": ORANGE, "test": GREEN}
COORDINATE_BINS = (np.arange(50) - 0.5) / 48  # 1/2, 1/3, 1/4 and their multiples lie amid a bin, not on an edge


def funnel(steps: pd.DataFrame) -> Figure:
    """How many structures and groups each step of the funnel leaves (columns step, structures, groups)."""
    figure, axes = subplots(height=0.6 + 0.3 * len(steps))
    places = np.arange(len(steps))[::-1]
    axes.barh(places, steps.structures, color=BLUE)
    for place, structures, groups in zip(places, steps.structures, steps.groups, strict=True):
        axes.annotate(f" {structures:,} in {groups:,} groups", (structures, place), va="center", fontsize=8)
    axes.set_yticks(places, steps.step)
    axes.set_xlabel("structures left")
    axes.set_xlim(0, 1.45 * steps.structures.max())
    axes.grid(axis="y", visible=False)
    return figure


def group_sizes(sizes: np.ndarray, published: tuple[int, int]) -> Figure:
    """Number of groups of each size, with the paper's range shaded."""
    figure, axes = subplots(height=2.8)
    axes.axvspan(published[0] - 0.5, published[1] + 0.5, color=GREY, alpha=0.15, linewidth=0)
    _bars(axes, np.bincount(sizes))
    beside = {"xy": (published[1], 0.96), "xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate("range of the paper", xytext=(6, 0), ha="left", va="top", color=GREY, **beside)
    axes.set(xlabel="structures in a polymorph group", ylabel="groups")
    return figure


def site_numbers(tables: dict[str, np.ndarray]) -> Figure:
    """Number of structures with each number of atoms per cell; one colour a set ("ingested", "training")."""
    figure, axes = subplots(height=2.8)
    for name, n_sites in tables.items():
        _bars(axes, np.bincount(n_sites), color=COLOURS[name], label=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="atoms in a cell", ylabel="structures")
    axes.legend()
    return figure


def element_shares(shares: pd.DataFrame) -> Figure:
    """Share of the structures that contain each element (rows), one colour a column."""
    figure, axes = subplots(width=9 if len(shares) > 30 else 6.4, height=2.8)
    width = 0.8 / len(shares.columns)
    for i, (name, values) in enumerate(shares.items()):
        axes.bar(np.arange(len(shares)) + (i + 0.5) * width - 0.4, values, width, color=COLOURS[name], label=name)
    many, size = len(shares) > 40, min(7.0, 480 / max(1, len(shares)))  # points; 87 elements on 9 inches stay apart
    axes.set_xticks(np.arange(len(shares)), shares.index, fontsize=size, rotation=90 if many else 0)
    axes.set_ylabel("share of structures")
    axes.grid(axis="x", visible=False)
    axes.legend()
    return figure


def space_groups(counts: pd.DataFrame) -> Figure:
    """Structures in each space group (index: number), one colour a column, the most frequent of the first left."""
    figure, axes = subplots(width=9, height=2.8)
    shown = counts.sort_values(counts.columns[0], ascending=False, kind="stable").iloc[:60]
    for name, values in shown.items():
        axes.bar(np.arange(len(shown)), values, color=COLOURS[name], label=name)
    axes.set_xticks(np.arange(len(shown)), shown.index, rotation=90, fontsize=7)
    axes.set(xlabel=f"space group (the {len(shown)} most frequent of {len(counts)})", ylabel="structures", yscale="log")
    axes.grid(axis="x", visible=False)
    axes.legend()
    return figure


def formation_energies(tables: dict[str, np.ndarray]) -> Figure:
    """Distribution of formation energies (eV/atom), one colour a set."""
    figure, axes = subplots(height=2.8)
    edges = np.histogram_bin_edges(np.concatenate(list(tables.values())), bins=60)
    for name, energies in tables.items():
        axes.hist(energies, bins=edges, color=COLOURS[name], label=name)
    axes.set(xlabel="formation energy (eV/atom)", ylabel="structures")
    axes.legend()
    return figure


def check_up(measures: dict[str, Measure]) -> Figure:
    """Distribution of each measure of the crystals; dashed lines are the limits beyond which they are outliers."""
    figure, panels = subplots(1, len(measures), width=9, height=2.8, sharey=True)
    for axes, (name, measure) in zip(panels, measures.items(), strict=True):
        axes.hist(measure.values, bins=60, color=BLUE)
        for limit in (measure.low, measure.high):
            if np.isfinite(limit):
                axes.axvline(limit, color=ORANGE, linestyle="--")
        axes.set(xlabel=name, yscale="log")
    panels[0].set_ylabel("crystals")
    return figure


def energy_drops(drops: dict[str, np.ndarray]) -> Figure:
    """Distribution of E(x_0) - E(x_1) (eV/atom) of pairs, one line a kind of pair."""
    figure, axes = subplots(height=2.8)
    edges = np.histogram_bin_edges(np.concatenate(list(drops.values())), bins=40)
    for name, values in drops.items():
        axes.hist(values, bins=edges, histtype="step", linewidth=1.4, label=f"{name} (n = {len(values):,})")
    axes.set(xlabel=r"$E_{x_0} - E_{x_1}$ (eV/atom)", ylabel="pairs", yscale="log")
    axes.legend()
    return figure


def model_inputs(matrices: dict[str, np.ndarray]) -> Figure:
    """The matrices that a model sees of one crystal, each as an image with its name and shape."""
    widths = [max(20, min(matrix.shape[1], 50)) for matrix in matrices.values()]
    figure, panels = subplots(1, len(matrices), width=9, height=4.6, gridspec_kw={"width_ratios": widths})
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        image = axes.imshow(matrix, aspect="auto", interpolation="nearest")
        axes.set_title(f"{name}\n{' x '.join(map(str, matrix.shape))}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=False)
        figure.colorbar(image, ax=axes, location="bottom", aspect=10).ax.tick_params(labelsize=6, rotation=45)
    panels[0].set_ylabel("row")
    return figure


def coordinates(frac_coords: np.ndarray) -> Figure:
    """Figure 3: distribution of the components x, y, z (atoms, 3) of fractional coordinates."""
    figure, panels = subplots(1, 3, width=9, height=2.8, sharey=True)
    for axes, name, values in zip(panels, "XYZ", frac_coords.T, strict=True):
        axes.hist(values, bins=COORDINATE_BINS, color=BLUE)
        axes.set(title=name, xlabel="fractional coordinate", yscale="log")
    panels[0].set_ylabel("atoms")
    return figure


def _bars(axes: Axes, counts: np.ndarray, **style) -> None:
    places = np.flatnonzero(counts)
    axes.bar(places, counts[places], width=0.9, **style)
