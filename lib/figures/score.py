"""Figures of the score model: its crystals, its graph, noise and walks (Sultanov et al., 10.1021/acs.jcim.3c00969)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures.style import BLUE, ORANGE, PALE, subplots


def edges(panels: Mapping[str, pd.DataFrame], sizes: pd.DataFrame) -> Figure:
    """Figure 3: the edges of some crystals by length and pair of elements, and the size of graphs with symmetry and
    without (columns graph, nodes, edges, triplets).

    Args:
        panels: title -> columns pair, length (Å) and edges.
    """
    figure, axes = subplots(1, len(panels) + 1, width=9, height=2.9)
    for axis, (title, table) in zip(axes, panels.items(), strict=False):
        below = dict.fromkeys(table.length, 0)
        for pair, lines in table.groupby("pair", sort=False):
            axis.bar(lines.length, lines.edges, 0.06, [below[length] for length in lines.length], label=pair)
            below |= {line.length: below[line.length] + line.edges for line in lines.itertuples()}
        axis.set(title=title, xlabel="length (Å)", ylabel="edges")
        axis.set_ylim(bottom=0)
        axis.legend()
    parts = ["nodes", "edges", "triplets"]
    for i, (line, colour) in enumerate(zip(sizes.itertuples(), (BLUE, PALE), strict=True)):
        values = [getattr(line, part) for part in parts]
        axes[-1].bar(np.arange(3) + 0.4 * i - 0.2, values, 0.4, color=colour, label=line.graph)
    axes[-1].set(yscale="log", title="a crystal, on average", ylabel="number")
    axes[-1].set_xticks(range(3), parts)
    axes[-1].legend()
    return figure


def families(table: pd.DataFrame, published_share: float) -> Figure:
    """Figure 4: crystals of each family (columns family and share); the line is the paper's share of the first two."""
    figure, axes = subplots(height=2.6)
    axes.bar(table.family, 100 * table.share, color=BLUE)
    together = 100 * table.share[:2].sum()
    axes.hlines(100 * published_share, -0.4, 1.4, color=ORANGE, label="both together, published")
    axes.hlines(together, -0.4, 1.4, color=BLUE, linestyle=":", label="both together, here")
    axes.set(ylabel="crystals (%)")
    axes.legend()
    return figure


def sites_per_element(sites: pd.Series) -> Figure:
    """Figure 7: how often an element has so many inequivalent sites in a crystal."""
    figure, axes = subplots(height=2.6)
    counts = np.bincount(sites)
    axes.bar(np.arange(len(counts)), counts, color=BLUE)
    axes.set(xlabel="inequivalent sites of an element in a crystal", ylabel="crystals and elements", xlim=(0.4, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def walk(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Figure 2: distances from the end of walks (columns call, atoms in Å, cell), a colour a sampler."""
    figure, axes = subplots(1, 2, width=9, height=2.8)
    for name, table in tables.items():
        for axis, column in zip(axes, ("atoms", "cell"), strict=True):
            axis.plot(table.call, table[column], label=name)
    axes[0].set(xlabel="calls of the network", ylabel="atoms from where they end (Å)", yscale="log")
    axes[1].set(xlabel="calls of the network", ylabel="strain from where it ends", yscale="log")
    axes[0].legend()
    return figure
