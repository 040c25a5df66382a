"""Figures of notebooks 30 to 33: short-range order, chains, distributions, and scores with floors and baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, SymmetricalLogLocator

from lib.figures.style import BLUE, FAINT, GREY, INK, ORANGE, PALE, RED, Drawing, legend, subplots

SIDES = (BLUE, ORANGE)


def short_range_order(alpha: Mapping[str, np.ndarray], pairs: Sequence[str], shells: Sequence[int] = (1, 2)) -> Figure:
    """Distributions of the Warren-Cowley parameters of each pair (equation 1), a panel a shell; at most two sets.

    Args:
        alpha: set -> (S, 7, pairs).
    """
    figure, axes = subplots(1, len(shells), width=9, height=3.4, squeeze=False)
    places = np.arange(len(pairs))
    for panel, shell in zip(axes[0], shells, strict=True):
        panel.axhline(0, color=INK, lw=0.8, ls="--")
        for shift, colour, (name, values) in zip((-0.18, 0.18), SIDES, alpha.items(), strict=False):
            drawn = panel.violinplot(list(values[:, shell - 1].T), places + shift, widths=0.34, showextrema=False)
            for body in drawn["bodies"]:
                body.set(facecolor=colour, alpha=0.6)
            panel.plot(places + shift, values[:, shell - 1].mean(0), "o", ms=3, color=colour, label=name)
        panel.set_xticks(places, pairs, rotation=30)
        panel.set(title=f"shell {shell}", ylabel="Warren-Cowley parameter")
    legend(figure, axes[0, 0])
    return figure


def chain_energies(energies: Mapping[str, Sequence[np.ndarray]], every: int) -> Figure:
    """Energy (meV/atom) of each chain along its passes, a panel a temperature; means of 1/50 of a chain at a time."""
    figure, axes = subplots(1, len(energies), width=9, height=3, squeeze=False)
    for panel, (name, chains) in zip(axes[0], energies.items(), strict=True):
        for energy in chains:
            parts = np.array_split(1000 * energy, min(50, len(energy)))
            at = np.cumsum([len(part) for part in parts]) * every
            panel.plot(at, [part.mean() for part in parts], lw=1, alpha=0.8)
        panel.set(title=name, xlabel="passes", ylabel="energy (meV/atom)")
    return figure


def distributions(curves: Mapping[str, np.ndarray], ends: tuple[float, float], x: str, y: str) -> Drawing:
    """Mean histograms of several sets over equal bins from one end to the other."""
    if not curves:
        return f"No figure of {y}: there is no such data set in this run."
    figure, axes = subplots(height=3)
    for name, values in curves.items():
        edges = np.linspace(*ends, len(values) + 1)
        axes.plot((edges[1:] + edges[:-1]) / 2, values, lw=1.1, label=name)
    axes.set(xlabel=x, ylabel=y)
    legend(figure, axes)
    return figure


def critic_losses(histories: Mapping[str, pd.DataFrame]) -> Drawing:
    """Figure S17: validation loss of the critics along the training, each in units of its first."""
    shown = {name: history for name, history in histories.items() if history.validation.notna().any()}
    if not shown:
        return "No figure of losses: no training came to a validation."
    figure, axes = subplots(height=3)
    n_colours = len(plt.rcParams["axes.prop_cycle"])
    for i, (name, history) in enumerate(shown.items()):
        style = {"lw": 1.1, "ls": ("-", "--", ":")[i // n_colours % 3], "label": name}  # no two alike
        axes.plot(history.step, history.validation / abs(history.validation.iloc[0]), **style)
    axes.set(xlabel="step", ylabel="critics' loss / its first", yscale="symlog")
    axes.yaxis.set_major_locator(SymmetricalLogLocator(linthresh=1, base=10, subs=(1, 2, 5)))
    if max(abs(y) for y in axes.get_ylim()) < 10:  # linear up to 1, so that few powers of ten stand on the axis
        axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    legend(figure, axes, 3)
    return figure


def scores(table: pd.DataFrame, metric: str, published: pd.DataFrame, training_free: Sequence[str]) -> Drawing:
    """Distances of each entrant with 95 % intervals, the floor as a line, published numbers as open diamonds; an
    entrant without a distance has a line that says so.

    Args:
        table: of :func:`lib.dismai.score.score`, of one data set and state.
        published: entrant, value, low, high of that data set, measured on larger cells.
        training_free: entrants that learn nothing, drawn in grey.
    """
    rows = table[table.metric == metric].sort_values("value")
    if rows.value.isna().all():
        return f"No figure of {metric}: nothing was measured in this run."
    names = [*rows.entrant, *(f"{name}, published" for name in published.entrant)]
    figure, axes = subplots(width=8, height=1.3 + 0.27 * len(names))
    colours = [GREY if entrant in training_free else BLUE for entrant in rows.entrant]
    for y, (row, colour) in enumerate(zip(rows.itertuples(), colours, strict=True)):
        if np.isnan(row.value):
            where = {"transform": axes.get_yaxis_transform(), "va": "center"}
            axes.text(0.01, y, "every structure failed", color=FAINT, style="italic", backgroundcolor="white", **where)
            continue
        axes.plot([row.low, row.high], [y, y], color=colour, lw=1.4)
        axes.plot([row.value], [y], "o", color=colour, ms=4)
    if len(published):
        places = len(rows) + np.arange(len(published))
        axes.plot(published.value, places, "D", color=INK, fillstyle="none", ms=4, label="published, 256 atoms")
    axes.axvline(rows.floor.median(), color=RED, lw=1, ls="--", label="floor: further training structures")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=f"{metric} (distance of means; log scale)", xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", visible=False)
    axes.axhspan(len(rows) - 0.5, len(names) - 0.5, color=PALE, alpha=0.4, lw=0)
    axes.invert_yaxis()
    legend(figure, axes)
    return figure


def spider(ranks: pd.DataFrame) -> Drawing:
    """Figure 10: ranks (entrant x data set) as distances from the rim, an entrant a line."""
    if ranks.empty:
        return "No figure of ranks: no entrant was scored in this run."
    ranks = ranks.dropna(axis=1, how="all")
    if ranks.shape[1] < 3:
        return f"No figure of ranks: it needs three data sets with a scored entrant, and here are {ranks.shape[1]}."
    figure, axes = subplots(width=6, height=4.2, subplot_kw={"projection": "polar"})
    angles = 2 * np.pi * np.arange(ranks.shape[1]) / ranks.shape[1]
    ranks = ranks.astype(float)
    last = max(int(ranks.max(axis=None)), len(ranks))
    for name, row in ranks.iterrows():
        inward = last + 1 - row.to_numpy()
        axes.plot([*angles, angles[0]], [*inward, inward[0]], marker="o", ms=4, label=name)
    axes.set_xticks(angles, ranks.columns)
    axes.set_yticks(range(1, last + 1), [str(last + 1 - y) for y in range(1, last + 1)])
    axes.set_ylim(0, last + 0.3)
    legend(figure, axes, 2)
    return figure
