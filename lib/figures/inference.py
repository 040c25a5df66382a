"""Figures of the inference pipeline (paper section 7): what was asked, what was obtained, relaxation and the hull."""

import itertools
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from lib.core.published import PAPERS_HULL
from lib.crystals.elements import usual_formula
from lib.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    PALE,
    PURPLE,
    RED,
    SKY,
    Drawing,
    bars,
    colour_of,
    legend,
    subplots,
)
from lib.metrics.adherence import is_valid
from lib.studies.grid import LABELS

CORNERS = np.array([[0.5, np.sqrt(3) / 2], [0.0, 0.0], [1.0, 0.0]])  # of the composition triangle
CENTRE = CORNERS.mean(axis=0)
OBTAINED = {"as asked": GREEN, "another": SKY, "P1": PALE}
JUDGED = {"below the hull": GREEN, "above the hull": INK, "unresolved": GREY, "known": PURPLE}
GROUPS_A_LINE = 48
FAR = 200  # meV/atom above the hull, from which on colours are the same


def possible_requests(requests: pd.DataFrame) -> Figure:
    """Which space groups can hold the atoms of each formula."""
    allowed = requests.pivot_table(
        index="formula", columns="space_group", values="allowed", aggfunc="first", sort=False
    ).astype(float)
    lines = np.array_split(np.arange(allowed.shape[1]), -(-allowed.shape[1] // GROUPS_A_LINE))
    height = 0.6 + (0.5 + 0.26 * len(allowed)) * len(lines)
    figure, panels = subplots(len(lines), width=8.8, height=height, squeeze=False)
    for axes, line in zip(panels[:, 0], lines, strict=True):
        part, colours = allowed.iloc[:, line], ListedColormap(["#f2dcd0", BLUE])
        seaborn.heatmap(part, vmin=0, vmax=1, cmap=colours, cbar=False, linewidths=1, xticklabels=True, ax=axes)
        axes.tick_params(axis="x", rotation=90, labelsize=7)
        axes.tick_params(axis="y", rotation=0)
        axes.set(xlabel="", ylabel="")
    panels[-1, 0].set_xlabel("space group (blue: Wyckoff positions can hold the atoms of one primitive cell)")
    return figure


def energies_obtained(outcome: pd.DataFrame) -> Drawing:
    """Formation energy of each valid structure, before any relaxation, against the one asked for."""
    known = outcome.dropna(subset="formation_energy")
    if known.empty:
        return "No figure of the energies: no structure is valid."
    figure, axes = subplots(width=5.6, height=4.2)
    _points(axes, known, known["energy"], known["formation_energy"])
    axes.axline((0, 0), slope=1, color=INK, lw=0.8, ls="--", label="obtained = asked")
    axes.set_xlim(known["energy"].min() - 0.1, known["energy"].max() + 0.1)
    axes.set_ylim(min(known["energy"].min(), known["formation_energy"].min()) - 0.1, None)
    axes.set(xlabel="asked formation energy (eV/atom)", ylabel="obtained, unrelaxed (eV/atom)")
    legend(figure, axes, 2)
    return figure


def groups_obtained(outcome: pd.DataFrame) -> Drawing:
    """Of the valid structures of possible requests: the share with the asked space group, with another one, and P1."""
    valid = outcome[is_valid(outcome) & outcome["allowed"]]
    if valid.empty:
        return "No figure of the space groups: no structure is valid."
    figure, panels = subplots(1, 2, width=8.0, height=1.2 + 0.34 * valid["method"].nunique(), sharey=True)
    for axes, column in zip(panels, ("group_0.1", "group_0.01"), strict=True):
        obtained = np.select([valid[column] == valid["space_group"], valid[column] == 1], ["as asked", "P1"], "another")
        shares = 100 * pd.crosstab(valid["method"], obtained, normalize="index").loc[valid["method"].unique()]
        labels = [f"{LABELS[method]} (n = {(valid['method'] == method).sum()})" for method in shares.index]
        bars(axes, labels, shares.reindex(columns=list(OBTAINED), fill_value=0), OBTAINED)
        title = f"symprec {column.removeprefix('group_')} Å"
        axes.set(title=title, xlabel="share of valid structures (%)", xlim=(0, 100))
    panels[0].invert_yaxis()
    legend(figure, panels[0])
    return figure


def modified_energies(outcome: pd.DataFrame) -> Drawing:
    """Formation energy of known polymorphs after modification against before; below the line it went down."""
    valid = outcome[outcome["after"].notna()] if len(outcome) else outcome
    if valid.empty:
        return "No figure of the modified polymorphs: no known polymorph of these elements became a valid structure."
    parts = list(valid.groupby("method", sort=False))
    figure, panels = subplots(
        1, len(parts), width=min(9, 1.6 + 3.0 * len(parts)), height=3.6, sharey=True, squeeze=False
    )
    for axes, (method, part) in zip(panels[0], parts, strict=True):
        axes.plot(part["before"], part["target"], "_", ms=6, color=INK, label="lowest known polymorph")
        axes.plot(part["before"], part["after"], "o", ms=3.5, color=colour_of(method))
        axes.axline((0, 0), slope=1, color=INK, lw=0.8, ls="--", label="left as it is")
        axes.set(title=f"{method.replace('_', ' ')} (n = {len(part)})", xlabel="before (eV/atom)")
    panels[0][0].plot([], [], "o", ms=3.5, color=GREY, label="modified")
    panels[0][0].set_ylabel("formation energy after (eV/atom)")
    legend(figure, panels[0][0])
    return figure


def preoptimisation(relaxed: pd.DataFrame) -> Drawing:
    """Formation energies before and after relaxation, and how far the atoms went."""
    done = relaxed[relaxed["status"] == "relaxed"]
    if done.empty:
        return "No figure of the relaxations: none ended in a usable structure."
    figure, (left, right) = subplots(1, 2, width=8.2, height=3.6)
    _points(left, done, done["start_energy"], done["formation_energy"])
    _points(right, done, done["displacement"], done["start_energy"] - done["formation_energy"])
    left.axline((0, 0), slope=1, color=INK, lw=0.8, ls="--", label="unchanged")
    left.set_xlim(done["start_energy"].min() - 0.1, done["start_energy"].max() + 0.1)
    left.set_ylim(done["formation_energy"].min() - 0.1, done["formation_energy"].max() + 0.1)
    left.set(xlabel="formation energy before (eV/atom)", ylabel="after (eV/atom)")
    right.set(xlabel="mean displacement of the atoms (Å)", ylabel="energy gained (eV/atom)")
    legend(figure, left)
    return figure


def ternary_hull(
    elements: Sequence[str], phases: pd.DataFrame, tie_lines: np.ndarray, candidates: pd.DataFrame
) -> Drawing:
    """The composition triangle: stable phases and their tie lines, the other known phases, and the candidates.

    Args:
        elements: three symbols.
        phases: formula, energy_above_hull (eV/atom) and fractions (3,), as :class:`lib.energies.hull.Hull` has them.
        tie_lines: (n_lines, 2, 3) atomic fractions.
        candidates: formula, method, distance (eV/atom), says and fractions (3,), one row a formula.
    """
    if len(elements) != 3:
        return f"No composition triangle: {'-'.join(elements)} is no ternary system."
    figure, axes = subplots(width=7.2, height=5.8)
    axes.set(aspect="equal", xlim=(-0.14, 1.14), ylim=(-0.08, 0.93))
    axes.axis("off")
    axes.add_collection(LineCollection(tie_lines @ CORNERS, colors="#b8c4cc", linewidths=0.9, zorder=1))
    stable = phases["energy_above_hull"] < 1e-6
    places = np.stack(phases["fractions"]) @ CORNERS
    above = 1000 * phases.loc[~stable, "energy_above_hull"]
    points = axes.scatter(*places[~stable].T, c=above, s=16, cmap="viridis_r", vmin=0, vmax=FAR, zorder=2)
    axes.scatter(*places[stable].T, s=34, color=INK, zorder=3, label="on the hull")
    for row, colour in zip(candidates.itertuples(), itertools.cycle(seaborn.color_palette())):
        label = f"{row.formula}: {1000 * row.distance:+.0f} meV/atom, {row.says.split(' as ')[0]}; {LABELS[row.method]}"
        place = row.fractions @ CORNERS
        axes.scatter(*place, s=150, marker="*", color=colour, ec=INK, lw=0.5, zorder=5, label=label)
        places = np.vstack([places, place])
    _labels(axes, phases[stable], places)
    figure.colorbar(points, ax=axes, shrink=0.5, extend="max", label="other known phases: meV/atom above the hull")
    legend(figure, axes, 2)
    return figure


def _labels(axes: Axes, phases: pd.DataFrame, points: np.ndarray) -> None:
    """Formulas beside their phases, outside the triangle if there is room; none lies on another or on a point."""
    unit = 0.0031  # a typographic point, in units of the triangle
    taken = [np.array([*point, 3 * unit, 3 * unit]) for point in points]  # centre and half the size of boxes
    turns = [np.radians(degrees) for degrees in (0, 25, -25, 50, -50, 80, -80, 120, -120, 180)]
    for phase in sorted(phases.itertuples(), key=lambda phase: np.count_nonzero(phase.fractions)):
        formula, place = usual_formula(phase.formula), phase.fractions @ CORNERS
        half = unit * np.array([2.4 * len(formula), 4.5])
        out = (phase.fractions == 0) @ (CENTRE - CORNERS) if (phase.fractions == 0).any() else np.array([0, 1])
        for reach, turn in itertools.product((4, 11, 18, 26, 35, 45), turns):
            way = np.arctan2(*out[::-1]) + turn
            middle = place + np.array([np.cos(way), np.sin(way)]) * (unit * reach + half)
            if all((abs(middle - box[:2]) > half + box[2:]).any() for box in taken):
                break
        taken.append(np.array([*middle, *half]))
        line = {"arrowstyle": "-", "lw": 0.5, "color": GREY, "shrinkA": 0, "shrinkB": 2}
        text = re.sub(r"(\d+)", r"$_{\1}$", formula)
        style = {"ha": "center", "va": "center", "fontsize": 7.5, "zorder": 4}
        halo = {"boxstyle": "square,pad=0.02", "fc": "white", "ec": "none", "alpha": 0.75}
        axes.annotate(text, place, middle, arrowprops=line if reach > 4 else None, bbox=halo, **style)


def distances_from_hull(cells: pd.DataFrame, published: pd.DataFrame) -> Drawing:
    """The cells of Table 3 with their 95 % intervals, and the paper's numbers.

    Args:
        cells: method, experiment, formula, says, n, and distance, distance_low and distance_high (eV/atom).
        published: method, experiment, formula, distance (meV/atom).
    """
    if not cells["n"].any():
        return "No picture of Table 3: no candidate is left in any of its cells."
    formulas = list(dict.fromkeys(cells["formula"]))
    rows = list(dict.fromkeys(zip(cells["method"], cells["experiment"], strict=True)))
    figure, panels = subplots(
        1, len(formulas), width=9, height=1.5 + 0.4 * len(rows), sharey=True, sharex=True, squeeze=False
    )
    for axes, formula in zip(panels[0], formulas, strict=True):
        axes.axvline(0, color=INK, lw=0.8)
        for cell in cells[cells["formula"] == formula].itertuples():
            y = rows.index((cell.method, cell.experiment))
            if cell.n:
                colour = JUDGED[cell.says.split(" as ")[0]]  # known as ...
                axes.plot(1000 * np.array([cell.distance_low, cell.distance_high]), [y, y], "-|", color=colour)
                axes.plot(1000 * cell.distance, y, "o", ms=5, color=colour)
            else:
                place = {"transform": axes.get_yaxis_transform(), "ha": "center", "va": "bottom"}
                axes.text(0.5, y - 0.22, cell.says, fontsize=7, color=FAINT, style="italic", **place)
        theirs = published[published["formula"] == formula].itertuples()
        places = [(x.distance, rows.index(key)) for x in theirs if (key := (x.method, x.experiment)) in rows]
        axes.plot(*np.reshape(places, (-1, 2)).T, "|", ms=12, mew=1.6, color=RED)
        axes.set(title=formula, xlabel="meV/atom from the hull")
        axes.grid(axis="y", visible=False)
    names = [f"{LABELS[method]}\n{experiment}".removesuffix("\n-") for method, experiment in rows]
    panels[0][0].set_yticks(range(len(rows)), names)
    panels[0][0].set_ylim(len(rows) - 0.5, -0.5)  # rows without a number have their place, too
    shown = {says.split(" as ")[0] for says in cells.loc[cells["n"] > 0, "says"]}
    for says in (says for says in JUDGED if says in shown):
        panels[0][0].plot([], [], "o", ms=5, color=JUDGED[says], label=says)
    if len(published[published["formula"].isin(formulas)]):
        panels[0][0].plot([], [], "|", ms=12, mew=1.6, color=RED, label=f"published ({PAPERS_HULL})")
    legend(figure, panels[0][0], 5)
    return figure


def _points(axes: Axes, table: pd.DataFrame, x: pd.Series, y: pd.Series) -> None:
    """A point a structure, a colour a method, whose name says how many."""
    for method, part in table.groupby("method", sort=False):
        label = f"{LABELS[method]} (n = {len(part)})"
        axes.plot(x[part.index], y[part.index], "o", ms=3.5, alpha=0.8, color=colour_of(method), label=label)
