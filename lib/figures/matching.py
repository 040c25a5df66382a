"""Figures of notebook 06: match rates of Tables 1 and 2, by number of sites, space group and sampling steps; RMSD."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.core.published import ON_AFLOW
from lib.figures.style import GREY, INK, Drawing, colour_of, legend, marker_of, subplots

TITLES = {"default": "default (0.2, 0.3, 5°)", "csp": "CSP (0.3, 0.5, 10°)", "strict": "strict (volume, space group)"}


def match_rates(table: pd.DataFrame, baselines: Sequence[str] = ()) -> Figure:
    """Match rates of :func:`lib.metrics.matching.rate_table` by row, with 95 % intervals, one panel a verdict.

    The rates of the rows in `baselines` run through each panel as broken lines, for the others to be compared with. A
    column `published` adds the paper's values (default tolerances) as open diamonds.
    """
    figure, panels = subplots(1, 3, width=9, height=1.4 + 0.22 * len(table), sharex=True, sharey=True)
    places = np.arange(len(table))
    for axes, (name, title) in zip(panels, TITLES.items(), strict=True):
        for dashes, baseline in zip(((0, (1, 1.5)), (0, (4, 2)), "-."), baselines, strict=False):
            axes.axvline(table.loc[table.row == baseline, name].iloc[0], color=GREY, lw=1, ls=dashes, label=baseline)
        for place, (_, line) in zip(places, table.iterrows(), strict=True):
            style = {"color": colour_of(line.row), "zorder": 3}
            axes.plot([line[f"{name}_low"], line[f"{name}_high"]], [place, place], lw=1.6, **style)
            axes.plot(line[name], place, marker_of(line.row), markersize=5, **style)
        axes.set(title=title, xlabel="match rate", xlim=(-0.02, 1.02), xticks=np.linspace(0, 1, 6))
    if "published" in table and table.published.notna().any():
        panels[0].plot(table.published, places, "D", color=INK, fillstyle="none", label=ON_AFLOW)
    panels[0].set_yticks(places, table.row)
    panels[0].invert_yaxis()
    legend(figure, panels[0])
    return figure


def by_n_sites(table: pd.DataFrame) -> Drawing:
    """Default match rate of each row (columns row, n_sites ...) by atoms per cell; below, the number of targets."""
    sites = np.unique(table.n_sites)
    if len(sites) == 1:
        return f"No figure by number of atoms: all targets have {sites[0]}."
    figure, (axes, counts) = subplots(2, 1, height=4.4, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    _curves(axes, table, "row", np.searchsorted(sites, table.n_sites))
    targets = table.drop_duplicates("n_sites").set_index("n_sites").n[sites]
    counts.bar(range(len(sites)), targets, color=GREY)
    counts.set_xticks(range(len(sites)), sites)
    counts.set(xlabel="atoms in the target's cell", ylabel="targets")
    return figure


def by_steps(table: pd.DataFrame) -> Drawing:
    """Default match rate of each method (columns method, steps ...) against the number of sampling steps."""
    steps = np.unique(table.steps)
    if len(steps) == 1:
        return f"No figure by sampling steps: this run samples in {steps[0]} alone."
    figure, axes = subplots(height=3.6)
    _curves(axes, table, "method", table.steps.to_numpy(dtype=float))
    axes.set(xlabel="sampling steps", xscale="log")
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
    axes.set_xticks(range(len(shown)), [f"{group}\n{counts[group]}" for group in shown])
    axes.set_xlabel(f"space group, number of targets below ({len(shown)} of {len(counts)} groups)")
    axes.grid(axis="x", visible=False)
    return figure


def rmsd(distances: dict[str, np.ndarray]) -> Drawing:
    """Distribution of RMSDs (Å) of matched pairs, one line a row of the table."""
    matched = {name: values for name, values in distances.items() if len(values)}
    if not matched:
        return f"No figure of RMSDs: no structure of {', '.join(distances)} matches its target."
    figure, axes = subplots(height=3.0)
    edges = np.linspace(0, max(values.max() for values in matched.values()), 31)
    for name, values in matched.items():
        label = f"{name} (n = {len(values)})"
        axes.hist(values, bins=edges, histtype="step", linewidth=1.6, color=colour_of(name), label=label)
    axes.set(xlabel="RMSD of matched pairs (Å)", ylabel="pairs", yscale="log")
    legend(figure, axes)
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
        style = {"marker": marker_of(name), "color": colour_of(name), "markersize": 4.5, "elinewidth": 1}
        style["linestyle"] = "--" if line and ("DDIM" in name or "long" in name) else line
        axes.errorbar(places, curve.default, errors, label=name, **style)
    top = min(1.0, 1.1 * np.nanmax([table.default.max(), table.default_high.max(), 0.1]))
    axes.set(ylabel="match rate (default)", ylim=(-0.03 * top, 1.03 * top))
    axes.figure.legend(loc="outside upper left", ncols=min(3, len(names)))
