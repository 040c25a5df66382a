"""Figures of notebooks 10 to 13: groups and energies asked and obtained, energies after relaxation, the ablation."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PALE, RED, SKY, Drawing, bars, legend, subplots

RELATIONS = {"as asked": GREEN, "supergroup": SKY, "another": PALE, "no crystal": RED}
TOLD = {"asked": GREEN, "shuffled": ORANGE, "absent": GREY}


def groups_obtained(counts: pd.DataFrame) -> Figure:
    """Shares of requests by what the obtained group is to the asked one; columns row, when, symprec, relation, n."""
    rows = counts.row.drop_duplicates().tolist()
    panels = counts[["when", "symprec"]].drop_duplicates().to_numpy().tolist()
    figure, axes = subplots(
        1, len(panels), width=9, height=1.5 + 0.28 * len(rows), sharex=True, sharey=True, squeeze=False
    )
    for place, (when, symprec) in zip(axes[0], panels, strict=True):
        part = counts[(counts.when == when) & (counts.symprec == symprec)].pivot(index="row", columns="relation")["n"]
        table = part.reindex(index=rows, columns=list(RELATIONS)).fillna(0)
        total = table.sum(axis=1)
        bars(place, range(len(rows)), (100 * table).div(total, axis=0).fillna(0), RELATIONS)
        for y in np.flatnonzero(total == 0):
            place.text(50, y, "not relaxed", ha="center", va="center", color=GREY, fontsize=7)
        place.set(title=f"{when},\nsymprec {symprec:g} Å", xlabel="requests (%)", xlim=(0, 100), xticks=(0, 50, 100))
    axes[0, 0].set_yticks(range(len(rows)), rows)
    axes[0, 0].invert_yaxis()
    legend(figure, axes[0, 0], len(RELATIONS))
    return figure


def energy_response(means: pd.DataFrame) -> Figure:
    """Mean obtained against asked energies within compositions, by row (:func:`lib.studies.control.mean_response`)."""
    rows = means.row.drop_duplicates().tolist()
    figure, axes = subplots(1, len(rows), width=9, height=3.3, sharex=True, sharey=True, squeeze=False)
    for place, row in zip(axes[0], rows, strict=True):
        place.axline((0, 0), slope=1, color=INK, lw=0.8, ls="--", label="obtained = asked")
        for told, part in means[means.row == row].groupby("told", sort=False):
            errors = np.abs(part[["obtained_low", "obtained_high"]].to_numpy().T - part.obtained.to_numpy())
            place.errorbar(part.asked, part.obtained, errors, marker="o", ms=4, color=TOLD[told], label=told, lw=1.2)
        place.set_title(row.replace("; ", ";\n"))
        place.set_xlabel("asked minus its mean\n(eV/atom)")
    axes[0, 0].set_ylabel("obtained minus its mean (eV/atom)")
    legend(figure, axes[0, 0], 4)
    return figure


def improvements(table: pd.DataFrame, resolution: float) -> Drawing:
    """Shares of pairs by where the relaxed answer lies to the relaxed x_0
    (:func:`lib.studies.control.improvement_table`)."""
    if table.empty:
        return "No figure of relaxed answers: no pair was relaxed in this run."
    figure, axes = subplots(width=8, height=1.5 + 0.28 * len(table))
    places, lower = np.arange(len(table)), f"lower by more than {1000 * resolution:g} meV/atom"
    shares = pd.DataFrame({lower: table.lower, "neither": table.relaxed - table.lower - table.higher})
    shares = 100 * shares.assign(higher=table.higher, **{"not relaxed": 1 - table.relaxed})
    bars(axes, places, shares, {lower: GREEN, "neither": PALE, "higher": ORANGE, "not relaxed": RED})
    errors = np.abs(table[["lower_low", "lower_high"]].to_numpy().T - table.lower.to_numpy())
    axes.errorbar(100 * table.lower, places, xerr=100 * errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    axes.set_yticks(places, table.row)
    axes.set(xlabel="pairs (%); bar: 95 % interval of the lower ones", xlim=(0, 100))
    axes.invert_yaxis()
    legend(figure, axes, 4)
    return figure


def settings(table: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """CSP match rate and METRe of each row with 95 % intervals; `published` rates (row, published) as open diamonds."""
    names = [*table.row, *published.row]
    figure, axes = subplots(width=8, height=1.2 + 0.26 * len(names))
    places = np.arange(len(table))
    measures = (("csp", "match, CSP tolerances", BLUE), ("metre", "METRe, CSP tolerances", SKY))
    for shift, (name, label, colour) in zip((-0.12, 0.12), measures, strict=True):
        errors = np.abs(table[[f"{name}_low", f"{name}_high"]].to_numpy(float).T - table[name].to_numpy(float))
        axes.errorbar(table[name], places + shift, xerr=errors, fmt="o", ms=4, color=colour, label=label, lw=1.2)
    if len(published):
        places = len(table) + np.arange(len(published))
        axes.plot(published.published, places, "D", color=INK, fillstyle="none", label="published")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="share of targets", xlim=(-0.02, 1.02))
    axes.invert_yaxis()
    legend(figure, axes)
    return figure


def ablation(table: pd.DataFrame) -> Drawing:
    """Paired difference of each line from the one it stands against (:func:`lib.studies.study.ablation_table`)."""
    known = table[table.difference.notna()].reset_index(drop=True)
    if known.empty:
        return "No figure of the ablation: no line stands against another in this run."
    figure, axes = subplots(width=8, height=1.2 + 0.26 * len(known))
    colours = {"more": GREEN, "less": RED, "unresolved": GREY}
    for place, line in known.iterrows():
        colour = colours[line.verdict]
        interval = [100 * line.difference_low, 100 * line.difference_high]
        axes.plot(interval, [place, place], color=colour, lw=1.4)
        axes.plot(100 * line.difference, place, "o", color=colour, ms=5)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(known)), [f"{line.row}  (against {line.against})" for line in known.itertuples()])
    axes.set_xlabel("difference in match rate at CSP tolerances (points); grey: unresolved")
    axes.invert_yaxis()
    return figure
