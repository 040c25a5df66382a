"""Figures of the data: the funnel, what the crystals are made of, the split, the pairs, and the paper's Figure 3."""

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lib.datasets.checkup import Measure
from lib.figures.style import BLUE, GREEN, ORANGE, PALE, RED, Drawing, subplots

COLOURS = {"ingested": "#a6a6a6", "validation": ORANGE, "test": GREEN}  # of sets; the one learnt from is blue
COORDINATE_BINS = (np.arange(50) - 0.5) / 48  # 1/2, 1/3, 1/4 and their multiples lie amid a bin, not on an edge
SPECIAL = {0: "0", 1 / 4: "¼", 1 / 3: "⅓", 1 / 2: "½", 2 / 3: "⅔", 3 / 4: "¾", 1: "1"}  # coordinates
ELEMENTS_A_LINE = 45


def funnel(steps: pd.DataFrame) -> Drawing:
    """How many structures and groups each step of the funnel leaves (columns step, structures, groups)."""
    if steps.structures.nunique() == 1:
        return f"No figure of the funnel: no filter takes any of the {steps.structures.iloc[0]:,} structures out."
    figure, axes = subplots(width=7.2, height=0.7 + 0.3 * len(steps))
    seaborn.barplot(steps, x="structures", y=range(len(steps)), orient="y", color=BLUE, saturation=1, ax=axes)
    for place, step in enumerate(steps.itertuples()):
        axes.annotate(f" {step.structures:,} in {step.groups:,} groups", (step.structures, place), va="center")
    axes.set_yticks(range(len(steps)), steps.step)
    axes.set(xlabel="structures left", xlim=(0, 1.4 * steps.structures.max()))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y", visible=False)
    return figure


def group_sizes(sizes: np.ndarray, published: tuple[int, int]) -> Drawing:
    """Number of groups of each size, with the paper's range shaded."""
    if np.median(sizes) == 1:
        alone = (sizes == 1).sum()
        return f"No figure of the polymorph groups: {alone:,} of {len(sizes):,} hold a single structure."
    figure, axes = subplots(height=2.8)
    low, high = published
    axes.axvspan(low - 0.5, high + 0.5, color=PALE, alpha=0.45, linewidth=0, label="range of the paper")
    _bars(axes, np.bincount(sizes), color=BLUE)
    axes.set(xlabel="structures in a polymorph group", ylabel="groups", xscale="log")
    ticks = [n for n in (1, 2, 4, 7, 10, 20, 40, 71, 100, 200, 400) if min(low, sizes.min()) <= n <= sizes.max()]
    axes.set_xticks(ticks, ticks)
    axes.minorticks_off()
    axes.legend()
    return figure


def site_numbers(tables: dict[str, np.ndarray]) -> Figure:
    """Number of structures with each number of atoms per cell; one colour a set ("ingested", "training")."""
    figure, axes = subplots(height=2.8)
    for name, n_sites in _distinct(tables).items():
        _bars(axes, np.bincount(n_sites), color=COLOURS.get(name, BLUE), label=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="x", visible=False)
    axes.set(xlabel="atoms in a cell", ylabel="structures")
    axes.legend()
    return figure


def element_shares(shares: pd.DataFrame) -> Figure:
    """Share of the structures that contain each element (rows), one colour a column."""
    lines = np.array_split(np.arange(len(shares)), -(-len(shares) // ELEMENTS_A_LINE))
    figure, panels = subplots(
        len(lines), width=9, height=0.9 + 1.9 * len(lines), sharey=True, squeeze=False, gridspec_kw={"hspace": 0.05}
    )
    columns = _distinct(dict(shares.items()))
    width = 0.8 / len(columns)
    for axes, line in zip(panels[:, 0], lines, strict=True):
        for i, (name, values) in enumerate(columns.items()):
            left = np.arange(len(line)) + (i + 0.5) * width - 0.4
            axes.bar(left, 100 * values.iloc[line], width, color=COLOURS.get(name, BLUE), label=name)
        axes.set_xticks(range(len(line)), shares.index[line], fontsize=7.5)
        axes.set(ylabel="structures (%)", xlim=(-0.7, len(line) - 0.3))
        axes.grid(axis="x", visible=False)
    panels[0, 0].legend(ncols=len(columns))
    return figure


def space_groups(counts: pd.DataFrame) -> Figure:
    """Structures in each space group (index: number), one colour a column, the most frequent of the first left."""
    figure, axes = subplots(width=9, height=2.8)
    shown = counts.sort_values(counts.columns[0], ascending=False, kind="stable").iloc[:60]
    for name, values in _distinct(dict(shown.items())).items():
        axes.bar(np.arange(len(shown)), values, color=COLOURS.get(name, BLUE), label=name)
    axes.set_xticks(np.arange(len(shown)), shown.index, rotation=90, fontsize=7)
    which = f"the {len(shown)} most frequent of {len(counts)}" if len(shown) < len(counts) else f"all {len(counts)}"
    axes.set(xlabel=f"space group ({which})", ylabel="structures", yscale="log", xlim=(-0.7, len(shown) - 0.3))
    axes.grid(axis="x", visible=False)
    axes.legend()
    return figure


def formation_energies(tables: dict[str, np.ndarray]) -> Figure:
    """Distribution of formation energies (eV/atom), one colour a set."""
    figure, axes = subplots(height=2.8)
    edges = np.histogram_bin_edges(np.concatenate(list(tables.values())), bins=60)
    for name, energies in _distinct(tables).items():
        axes.hist(energies, bins=edges, color=COLOURS.get(name, BLUE), label=name)
    axes.set(xlabel="formation energy (eV/atom)", ylabel="structures")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend()
    return figure


def check_up(measures: dict[str, Measure]) -> Figure:
    """Distribution of each measure of the crystals; dashed lines are the limits beyond which they are outliers."""
    figure, panels = subplots(1, len(measures), width=9, height=2.8, sharey=True)
    for axes, (name, measure) in zip(panels, measures.items(), strict=True):
        axes.hist(measure.values, bins=60, color=BLUE)
        for limit in (measure.low, measure.high):
            if np.isfinite(limit):
                axes.axvline(limit, color=RED, linestyle="--")
        axes.set(xlabel=name, yscale="log")
    panels[0].set_ylabel("crystals")
    return figure


def energy_drops(drops: dict[str, np.ndarray]) -> Drawing:
    """Distribution of E(x_0) - E(x_1) (eV/atom) of pairs, one line a kind of pair."""
    if not sum(map(len, drops.values())):
        return "No figure of the pairs: no polymorph group has two structures to make one of."
    figure, axes = subplots(height=2.8)
    edges = np.histogram_bin_edges(np.concatenate(list(drops.values())), bins=40)
    for (name, values), colour in zip(drops.items(), (BLUE, ORANGE), strict=True):
        label = f"{name} (n = {len(values):,})"
        axes.hist(values, bins=edges, histtype="step", linewidth=1.6, color=colour, label=label)
    axes.set(xlabel=r"$E(x_0) - E(x_1)$ (eV/atom)", ylabel="pairs", yscale="log")
    axes.legend()
    return figure


def model_inputs(matrices: dict[str, np.ndarray]) -> Figure:
    """The matrices that a model sees of one crystal, each as an image with its name and shape."""
    widths = [max(20, min(matrix.shape[1], 50)) for matrix in matrices.values()]
    figure, panels = subplots(1, len(matrices), width=9, height=4.4, gridspec_kw={"width_ratios": widths})
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        image = axes.imshow(matrix, aspect="auto", interpolation="nearest")
        axes.set_title(f"{name}\n{' × '.join(map(str, matrix.shape))}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=False)
        figure.colorbar(image, ax=axes, location="bottom", aspect=12, ticks=MaxNLocator(3))
    panels[0].set_ylabel("row")
    return figure


def coordinates(frac_coords: np.ndarray) -> Figure:
    """Figure 3: distribution of the components x, y, z (atoms, 3) of fractional coordinates."""
    figure, panels = subplots(1, 3, width=9, height=2.8, sharey=True)
    for axes, name, values in zip(panels, "xyz", frac_coords.T, strict=True):
        axes.hist(values, bins=COORDINATE_BINS, color=BLUE)
        axes.set(title=name, xlabel="fractional coordinate", yscale="log")
        axes.set_xticks(list(SPECIAL), SPECIAL.values())
    panels[0].set_ylabel("atoms")
    return figure


def _bars(axes: Axes, counts: np.ndarray, **style) -> None:
    places = np.flatnonzero(counts)
    axes.bar(places, counts[places], width=0.9, **style)


def _distinct(sets: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sets or, where all of them are the same, one that bears all their names."""
    first, *others = sets.values()
    return {" = ".join(sets): first} if all(np.array_equal(first, other) for other in others) else sets


def growth(table: pd.DataFrame) -> Figure:
    """Seconds and GiB of each job (column what) by number of crystals, both axes logarithmic."""
    figure, both = subplots(1, 2, width=7.2, height=2.8)
    for axes, column in zip(both, ("seconds", "GiB"), strict=True):
        for colour, (what, lines) in zip((BLUE, ORANGE), table.groupby("what", sort=False), strict=False):
            axes.loglog(lines.crystals, lines[column], marker="o", color=colour, label=what)
        axes.set(xlabel="crystals", ylabel=column)
        low, high = axes.get_ylim()
        axes.set_yticks([n for n in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low < n < high])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    both[0].legend()
    return figure
