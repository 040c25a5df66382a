"""Figures of notebook 06: match rates of Tables 1 and 2, by number of sites, space group and sampling steps; RMSD."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.figures.style import COLOURS, GREY, subplots

TITLES = {
    "default": "default (0.2, 0.3, 5°)",
    "csp": "CSP (0.3, 0.5, 10°)",
    "strict": "strict (volume, space group)",
}
MARKERS = "osD^vP*X"


def match_rates(table: pd.DataFrame) -> Figure:
    """Match rates of :func:`lib.matching.rate_table` by row, with 95 % intervals, one panel a verdict.

    A column `published` adds the paper's values (default tolerances) as open diamonds.
    """
    figure, panels = subplots(1, 3, width=9, height=1.1 + 0.24 * len(table), sharex=True, sharey=True)
    places = np.arange(len(table))[::-1]
    for axes, (name, title) in zip(panels, TITLES.items(), strict=True):
        for place, (_, line) in zip(places, table.iterrows(), strict=True):
            _point(axes, line[name], place, line[f"{name}_low"], line[f"{name}_high"], colour=_colour(line.row))
        axes.set(title=title, xlabel="match rate", xlim=(-0.02, 1.02))
    if "published" in table:
        panels[0].plot(table.published, places, "D", color=COLOURS["published"], fillstyle="none", label="published")
        figure.legend(loc="outside lower left", fontsize=8)
    panels[0].set_yticks(places, table.row)
    return figure


def by_n_sites(table: pd.DataFrame) -> Figure:
    """Default match rate of each row (columns row, n_sites ...) by atoms per cell; below, the number of targets."""
    figure, (axes, counts) = subplots(2, 1, height=4.4, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    sites = np.unique(table.n_sites)
    _curves(axes, table, "row", np.searchsorted(sites, table.n_sites))
    targets = table.drop_duplicates("n_sites").set_index("n_sites").n[sites]
    counts.bar(range(len(sites)), targets, color=GREY)
    counts.set_xticks(range(len(sites)), sites)
    counts.set(xlabel="atoms in the target's cell", ylabel="targets")
    return figure


def by_steps(table: pd.DataFrame) -> Figure:
    """Default match rate of each method (columns method, steps ...) against the number of sampling steps."""
    figure, axes = subplots(height=3.4)
    _curves(axes, table, "method", table.steps.to_numpy(dtype=float))
    axes.set(xlabel="sampling steps", xscale="log")
    steps = np.unique(table.steps)
    axes.set_xticks(steps, steps)
    axes.minorticks_off()
    return figure


def by_space_group(table: pd.DataFrame, most: int = 20) -> Figure:
    """Default match rate of each row (columns row, space_group ...) in the space groups with most targets."""
    counts = table.drop_duplicates("space_group").set_index("space_group").n.sort_values(ascending=False, kind="stable")
    shown = counts.index[:most]
    chosen = table[table.space_group.isin(shown)]
    figure, axes = subplots(width=9, height=3.2)
    _curves(axes, chosen, "row", shown.get_indexer(chosen.space_group), line="")
    axes.set_xticks(range(len(shown)), [f"{group}\n{counts[group]}" for group in shown], fontsize=7)
    axes.set_xlabel(f"space group, number of targets below ({len(shown)} of {len(counts)} groups)")
    return figure


def rmsd(distances: dict[str, np.ndarray]) -> Figure:
    """Distribution of RMSDs (Å) of matched pairs, one line a row of the table."""
    figure, axes = subplots(height=3.0)
    largest = max((values.max() for values in distances.values() if len(values)), default=1.0)
    for name, values in distances.items():
        label = f"{name} (n = {len(values)})"
        axes.hist(values, bins=np.linspace(0, largest, 31), histtype="step", linewidth=1.4, label=label)
    axes.set(xlabel="RMSD of matched pairs (Å)", ylabel="pairs")
    figure.legend(loc="outside upper left", ncols=len(distances), fontsize=8)
    return figure


def _curves(axes: Axes, table: pd.DataFrame, column: str, x: np.ndarray, line: str = "-") -> None:
    """One curve with intervals for each value of a column; curves a little apart, for their bars to be seen."""
    names = table[column].drop_duplicates().tolist()
    apart = 0.5 / max(len(names), 4)
    for k, name in enumerate(names):
        rows = (table[column] == name).to_numpy()
        order = np.argsort(x[rows], kind="stable")
        curve, places = table[rows].iloc[order], x[rows][order]
        offset = (k - (len(names) - 1) / 2) * apart
        places = places * (1 + 0.15 * offset) if column == "method" else places + offset  # steps stand on a log axis
        errors = np.abs(curve[["default_low", "default_high"]].to_numpy().T - curve.default.to_numpy())
        style = {"marker": MARKERS[k % len(MARKERS)], "markersize": 4, "elinewidth": 0.8}
        axes.errorbar(places, curve.default, errors, linestyle=line, label=name, **style)
    top = min(1.0, 1.1 * np.nanmax([table.default.max(), table.default_high.max()]))
    axes.set(ylabel="match rate (default)", ylim=(-0.03 * top, 1.03 * top))
    axes.figure.legend(loc="outside upper left", ncols=min(3, len(names)), fontsize=8)


def _point(axes: Axes, value: float, place: float, low: float, high: float, *, colour: str) -> None:
    axes.plot([low, high], [place, place], color=colour, linewidth=1.2)
    axes.plot(value, place, "o", color=colour, markersize=5)


def _colour(row: str) -> str:
    """The network's colour for a model, grey for a baseline; a row named by its conditions is of the transformer."""
    model = "transformer" if row.startswith("composition") else row.removesuffix(", long")
    return next((colour for name, colour in COLOURS.items() if model.endswith(name)), COLOURS["baseline"])
