"""Figures of the inference pipeline (paper section 7): what was asked, what was obtained, relaxation and the hull."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from lib.adherence import is_valid
from lib.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY, subplots
from lib.grid import LABELS

METHOD_COLOURS = {"ddim": BLUE, "cfm_uniform": ORANGE, "random": GREY}
CORNERS = np.array([[0.5, np.sqrt(3) / 2], [0.0, 0.0], [1.0, 0.0]])  # of the composition triangle
JUDGED = {"below the hull": GREEN, "above the hull": INK, "unresolved": GREY, "known": BLUE}


def _note(axes: Axes, text: str) -> None:
    """Say in the axes why there is nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_xticks([])
    axes.set_yticks([])


def possible_requests(requests: pd.DataFrame) -> Figure:
    """Which space groups can hold the atoms of each formula."""
    allowed = requests.pivot_table(
        index="formula", columns="space_group", values="allowed", aggfunc="first", sort=False
    )
    figure, axes = subplots(width=6.4, height=0.9 + 0.28 * len(allowed))
    axes.pcolormesh(allowed.to_numpy(float), cmap=ListedColormap(["#f2dcd0", BLUE]), vmin=0, vmax=1, ec="w", lw=1)
    axes.set_xticks(np.arange(allowed.shape[1]) + 0.5, allowed.columns, rotation=90, fontsize=7)
    axes.set_yticks(np.arange(len(allowed)) + 0.5, allowed.index)
    axes.set_xlabel("space group (blue: Wyckoff positions can hold the atoms of one primitive cell)")
    axes.invert_yaxis()
    axes.grid(False)
    return figure


def energies_obtained(outcome: pd.DataFrame) -> Figure:
    """Formation energy of each valid structure, before any relaxation, against the one asked for."""
    figure, axes = subplots(width=5.2, height=4.2)
    known = outcome.dropna(subset="formation_energy")
    for method, part in known.groupby("method", sort=False):
        label = f"{LABELS[method]} (n = {len(part)})"
        axes.plot(part["energy"], part["formation_energy"], ".", ms=5, color=METHOD_COLOURS[method], label=label)
    if known.empty:
        _note(axes, "no valid structure")
        return figure
    axes.axline((0, 0), slope=1, color=INK, lw=0.8, ls="--", label="obtained = asked")
    axes.set_xlim(known["energy"].min() - 0.1, known["energy"].max() + 0.1)
    axes.set_ylim(min(known["energy"].min(), known["formation_energy"].min()) - 0.1, None)
    axes.set_xlabel("asked formation energy (eV/atom)")
    axes.set_ylabel("obtained, unrelaxed (eV/atom)")
    axes.legend(fontsize=8)
    return figure


def groups_obtained(outcome: pd.DataFrame) -> Figure:
    """Of the valid structures of possible requests: the share with the asked space group, with another one, and P1."""
    valid = outcome[is_valid(outcome) & outcome["allowed"]]
    figure, panels = subplots(1, 2, width=8.0, height=0.9 + 0.4 * max(valid["method"].nunique(), 2), sharey=True)
    for axes, column in zip(panels, ("group_0.1", "group_0.01"), strict=True):
        axes.set_title(f"symprec {column.removeprefix('group_')} Å")
        axes.set_xlabel("share of valid structures (%)")
        if valid.empty:
            _note(axes, "no valid structure")
            continue
        obtained = np.select([valid[column] == valid["space_group"], valid[column] == 1], ["as asked", "P1"], "another")
        shares = 100 * pd.crosstab(valid["method"], obtained, normalize="index").loc[valid["method"].unique()]
        labels = [f"{LABELS[method]} (n = {(valid['method'] == method).sum()})" for method in shares.index]
        left = np.zeros(len(shares))
        for name, colour in (("as asked", GREEN), ("another", SKY), ("P1", "#d9d9d9")):
            width = shares.get(name, left * 0)
            axes.barh(labels, width, left=left, color=colour, height=0.7, label=name)
            left = left + width
        axes.set_xlim(0, 100)
    if not valid.empty:
        panels[0].invert_yaxis()
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def modified_energies(outcome: pd.DataFrame) -> Figure:
    """Formation energy of known polymorphs after modification against before; below the line it went down."""
    methods = outcome["method"].unique()
    figure, panels = subplots(1, len(methods), width=3.6 * len(methods), height=3.6, sharey=True, squeeze=False)
    for axes, method in zip(panels[0], methods, strict=True):
        part = outcome[(outcome["method"] == method) & outcome["after"].notna()]
        axes.set_title(f"{method.replace('_', ' ')} (n = {len(part)})")
        if part.empty:
            _note(axes, "no valid structure")
            continue
        axes.plot(part["before"], part["target"], "_", ms=6, color=GREEN, label="lowest known polymorph")
        axes.plot(part["before"], part["after"], ".", ms=5, color=BLUE, label="modified")
        axes.axline((0, 0), slope=1, color=INK, lw=0.8, ls="--", label="left as it is")
        axes.set_xlim(part["before"].min() - 0.05, part["before"].max() + 0.05)
        axes.set_xlabel("before (eV/atom)")
        axes.legend(fontsize=7)
    panels[0][0].set_ylabel("formation energy after (eV/atom)")
    return figure


def preoptimisation(relaxed: pd.DataFrame) -> Figure:
    """Formation energies before and after relaxation, and how far the atoms went."""
    figure, (left, right) = subplots(1, 2, width=7.6, height=3.4)
    done = relaxed[relaxed["status"] == "relaxed"]
    if done.empty:
        _note(left, "no structure relaxed")
        _note(right, "no structure relaxed")
        return figure
    for method, part in done.groupby("method", sort=False):
        label = f"{LABELS[method]} (n = {len(part)})"
        style = {"ls": "", "marker": ".", "ms": 5, "color": METHOD_COLOURS[method], "label": label}
        left.plot(part["start_energy"], part["formation_energy"], **style)
        right.plot(part["displacement"], part["start_energy"] - part["formation_energy"], **style)
    left.axline((0, 0), slope=1, color=INK, lw=0.8, ls="--", label="unchanged")
    left.set_xlim(done["start_energy"].min() - 0.1, done["start_energy"].max() + 0.1)
    left.set_ylim(done["formation_energy"].min() - 0.1, done["formation_energy"].max() + 0.1)
    left.set_xlabel("formation energy before (eV/atom)")
    left.set_ylabel("after (eV/atom)")
    right.set_xlabel("mean displacement of the atoms (Å)")
    right.set_ylabel("energy gained (eV/atom)")
    left.legend(fontsize=8)
    return figure


def ternary_hull(
    elements: Sequence[str], phases: pd.DataFrame, tie_lines: np.ndarray, candidates: pd.DataFrame
) -> Figure:
    """The composition triangle: stable phases and their tie lines, the other known phases, and the candidates.

    Args:
        elements: three symbols.
        phases: formula, energy_above_hull (eV/atom) and fractions (3,), as :class:`lib.hull.Hull` has them.
        tie_lines: (n_lines, 2, 3) atomic fractions.
        candidates: formula, method, distance (eV/atom), says and fractions (3,), one row a formula.
    """
    figure, axes = subplots(width=6.4, height=5.2)
    axes.axis("off")
    if len(elements) != 3:
        _note(axes, f"{'-'.join(elements)} is no ternary system")
        return figure
    axes.set_aspect("equal")
    for line in tie_lines @ CORNERS:
        axes.plot(*line.T, color="#b8c4cc", lw=0.9, zorder=1)
    stable = phases["energy_above_hull"] < 1e-6
    places = np.stack(phases["fractions"]) @ CORNERS
    shown = axes.scatter(
        *places[~stable].T, c=1000 * phases.loc[~stable, "energy_above_hull"], s=16, cmap="viridis_r", vmin=0, zorder=2
    )
    axes.scatter(*places[stable].T, s=34, color=BLUE, zorder=3, label="on the hull")
    for formula, place in zip(phases.loc[stable, "formula"], places[stable], strict=True):
        style = {"textcoords": "offset points", "fontsize": 6.5, "color": INK, "rotation": 35}
        axes.annotate(formula, place, (2, 4), **style)
    for row, colour in zip(candidates.itertuples(), (RED, PURPLE, GREEN, ORANGE, SKY), strict=False):
        label = f"{row.formula}: {1000 * row.distance:+.0f} meV/atom, {row.says} ({LABELS[row.method]})"
        axes.scatter(*(row.fractions @ CORNERS), s=130, marker="*", color=colour, ec="w", lw=0.6, zorder=4, label=label)
    figure.colorbar(shown, ax=axes, shrink=0.6, label="other known phases: meV/atom above the hull")
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    return figure


def distances_from_hull(cells: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """The cells of Table 3 with the potential's error as bars, and the paper's numbers.

    Args:
        cells: method, experiment, formula, distance, resolution (eV/atom; nan without candidate) and says.
        published: method, experiment, formula, distance (meV/atom).
    """
    formulas = list(dict.fromkeys(cells["formula"]))
    rows = list(dict.fromkeys(zip(cells["method"], cells["experiment"], strict=True)))
    place = {row: -i for i, row in enumerate(rows)}
    figure, panels = subplots(
        1, len(formulas), width=8.8, height=1.4 + 0.32 * len(rows), sharey=True, sharex=True, squeeze=False
    )
    for axes, formula in zip(panels[0], formulas, strict=True):
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_title(formula)
        for cell in cells[cells["formula"] == formula].itertuples():
            y = place[cell.method, cell.experiment]
            if cell.n:
                style = {"fmt": "o", "ms": 4, "capsize": 2, "color": JUDGED[cell.says.split(" as ")[0]]}  # known as ...
                axes.errorbar(1000 * cell.distance, y, xerr=1000 * cell.resolution, **style)
            else:
                style = {"fontsize": 6, "ha": "right", "va": "center", "color": GREY}
                axes.text(0.98, y, cell.says, transform=axes.get_yaxis_transform(), **style)
        theirs = published[published["formula"] == formula]
        y = [place.get(row) for row in zip(theirs["method"], theirs["experiment"], strict=True)]
        axes.plot(theirs["distance"], y, "|", ms=11, color=RED)
        axes.set_xlabel("meV/atom from the hull")
    names = [f"{LABELS[method]}\n{experiment}".removesuffix("\n-") for method, experiment in rows]
    panels[0][0].set_yticks(list(place.values()), names, fontsize=7)
    panels[0][0].set_ylim(0.5 - len(rows), 0.5)  # rows without a number have their place, too
    keys = [axes.plot([], [], "o", ms=4, color=colour, label=says)[0] for says, colour in JUDGED.items()]
    keys.append(axes.plot([], [], "|", ms=11, color=RED, label="published")[0])
    figure.legend(handles=keys, loc="outside lower center", ncols=5, fontsize=8)
    return figure
