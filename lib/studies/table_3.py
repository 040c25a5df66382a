"""Table 3 of the paper: how far above or below the convex hull the generated structures lie (section 7.2).

Energies are in eV/atom and count from the elements, unless a name says otherwise. Of a candidate, a request with a
relaxed structure, the column `status` says "known" where the data hold the same crystal, else "judged".
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from lib.core.published import PAPERS_HULL, TABLE_3
from lib.crystals.elements import parse_formula
from lib.crystals.table import CrystalTable
from lib.energies.hull import Hull, Resolution, formation_energy
from lib.metrics.stability import Scale
from lib.studies.grid import LABELS, NO_EXPERIMENT, evenly

FIND = "below the hull"


def known_distances(table: CrystalTable, hull: Hull, formulas: Sequence[str]) -> dict[str, float]:
    """Formula -> distance of the data's lowest crystal of that composition from the hull, eV/atom; where it has one."""
    phases = hull.phases.set_index("formula")["energy_above_hull"]
    reduced = {formula: parse_formula(formula).reduced_formula for formula in formulas}
    return {formula: float(phases[name]) for formula, name in reduced.items() if name in set(table.reduced_formula)}


def why_empty(asked: pd.DataFrame) -> str:
    """Why a cell of Table 3 has no candidate, from the states of its requests."""
    if asked.empty:
        return "not asked"
    if asked["status"].str.startswith("invalid").all():
        return f"no valid structure (n = {len(asked)})"
    failures = asked["status"][asked["status"].str.startswith("failed")].str.removeprefix("failed: ")
    if failures.empty:
        return "none pre-optimised"
    return f"none left after relaxation ({failures.mode()[0]}; n = {len(failures)})"


def best_distances(
    requests: pd.DataFrame, formulas: Sequence[str], resolutions: Mapping[str, Resolution]
) -> pd.DataFrame:
    """The cells of Table 3: the smallest distance from the hull in each experiment and formula, and all finds.

    Of requests of :func:`with_distances` what is known is no find, and says so. Resolutions are those of sources of
    energies. Where a cell has distances of several sources, the first of these counts.

    Returns:
        method, experiment, formula, distance, distance_low, distance_high (its 95 % interval; all eV/atom), finds (the
        distances of all candidates that are resolved to lie below the hull, meV/atom, in words), source, n
        (candidates), known as, says (what the cell says).
    """
    rows = []
    pairs = requests[["method", "experiment"]].drop_duplicates().itertuples(index=False)
    for (method, experiment), formula in itertools.product(pairs, formulas):
        cell = {"method": method, "experiment": experiment, "formula": formula}
        asked = requests[np.logical_and.reduce([requests[name] == value for name, value in cell.items()])]
        usable = candidates_of(asked)
        if usable.empty:
            rows.append(cell | {"n": 0, "says": why_empty(asked)})
            continue
        source = next(source for source in resolutions if (usable["source"] == source).any())
        usable = usable[usable["source"] == source]
        usable = usable.sort_values("distance", kind="stable")
        said = [says_of(row, resolutions) for _, row in usable.iterrows()]
        finds = [f"{1000 * d:+.1f}" for d, says in zip(usable["distance"], said, strict=True) if says == FIND]
        best = usable.iloc[0][["distance", "source", "known as"]]
        low, high = resolutions[source].interval(best["distance"])
        numbers = {"distance_low": low, "distance_high": high, "finds": " / ".join(finds), "n": len(usable)}
        rows.append(cell | best.to_dict() | numbers | {"says": said[0]})
    columns = ["method", "experiment", "formula", "distance", "distance_low", "distance_high", "finds", "source", "n"]
    return pd.DataFrame(rows, columns=[*columns, "known as", "says"])


def says_of(candidate: pd.Series, resolutions: Mapping[str, Resolution]) -> str:
    """The verdict on a candidate (distance, source, known as), or that it is known."""
    if candidate["known as"]:
        return f"known as {candidate['known as']}"
    return resolutions[candidate["source"]].verdict(candidate["distance"])


def limits(resolutions: Mapping[str, Resolution]) -> str:
    """Which distances from the hull are unresolved, in words."""
    said = []
    for source, resolution in resolutions.items():
        low, high = 1000 * resolution.single.ci_low, 1000 * resolution.single.ci_high
        reach = f"{low:+.0f} to {high:+.0f} meV/atom" if np.isfinite(low) else "all"
        said.append(f"{reach} with {source}")
    return ", ".join(said)


def table_3(cells: pd.DataFrame, known: Mapping[str, float]) -> pd.DataFrame:
    """Table 3 in the paper's layout, meV/atom, its numbers beside ours.

    The cells are those of :func:`best_distances`; `known` is what a find has to beat, :func:`known_distances`.
    """
    rows = []
    for (method, experiment), part in cells.groupby(["method", "experiment"], sort=False):
        row = {"method": LABELS[method], "experiment": experiment}
        for cell in part.itertuples():
            published = TABLE_3.get((method, experiment), {}).get(cell.formula, [])
            row[f"{cell.formula}, published ({PAPERS_HULL})"] = " / ".join(f"{value:g}" for value in published) or "-"
            row[f"{cell.formula}, ours"] = _cell_text(cell)
        rows.append(row)
    best = {f"{formula}, ours": f"{1000 * distance:+.1f}" for formula, distance in known.items()}
    rows.append({"method": "Lowest crystal of the data (baseline)", "experiment": NO_EXPERIMENT} | best)
    return pd.DataFrame(rows).fillna("-")


def _cell_text(cell) -> str:
    if not cell.n:
        return cell.says
    ends = [1000 * cell.distance_low, 1000 * cell.distance_high]
    interval = "({:+.0f} to {:+.0f})".format(*ends) if np.isfinite(ends).all() else "(error not known)"
    others = f", all below the hull: {cell.finds}" if "/" in cell.finds else ""
    return f"{1000 * cell.distance:+.1f} {interval}: {cell.says} ({cell.source}, n = {cell.n}{others})"


def candidates_of(requests: pd.DataFrame) -> pd.DataFrame:
    """The requests whose relaxed structure has a place above or below the hull."""
    return requests[requests["status"].isin(["known", "judged"])]


def with_distances(
    requests: pd.DataFrame, hull: Hull, scale: Scale, energy_kind: str, source: str, known_as: Mapping[str, str]
) -> pd.DataFrame:
    """The requests; the relaxed ones with formation_energy and distance (eV/atom) on the scale of the hull.

    Args:
        requests: as of :func:`lib.metrics.adherence.judge_relaxations`, with total_energy (eV/atom) of the relaxed
            ones.
        energy_kind: of these energies, which must be the hull's.
        source: what they are from, in words.
        known_as: id of a request -> id of the data's crystal that its relaxed structure equals, or "".

    Returns:
        Their columns with distance, source and known as; status "known" or "judged" in place of "relaxed".
    """
    found = requests.assign(distance=np.nan, source=source, **{"known as": requests["id"].map(known_as).fillna("")})
    for i, row in found[found["status"] == "relaxed"].iterrows():
        species = [e.Z for e, n in parse_formula(row["formula"]).items() for _ in range(round(n))]
        energy = formation_energy(row["total_energy"], species, scale.references)
        distance = hull.energy_above_hull(row["formula"], energy, energy_kind)
        state = "known" if row["known as"] else "judged"
        found.loc[i, ["formation_energy", "distance", "status"]] = energy, distance, state
    return found


def lowest_candidates(
    requests: pd.DataFrame, n: int, hull: Hull, resolutions: Mapping[str, Resolution]
) -> pd.DataFrame:
    """The `n` candidates of smallest distance from the hull, each formula in turn; arguments as :func:`best_distances`.

    Returns:
        id, formula, method, experiment, distance, source, known as, says, group_0.1, group_0.01, fractions (of the
        elements).
    """
    usable = candidates_of(requests)
    best = evenly(usable, n, ["formula"], usable["distance"].to_numpy()).sort_values("distance", ignore_index=True)
    best["says"] = [says_of(row, resolutions) for _, row in best.iterrows()]
    columns = ["id", "formula", "method", "experiment", "distance", "source", "known as", "says"]
    fractions = [hull.fractions(formula) for formula in best["formula"]]
    return best[[*columns, "group_0.1", "group_0.01"]].assign(fractions=fractions)


def competing_crystals(hull: Hull, formulas: Sequence[str], table: CrystalTable) -> dict[str, Structure]:
    """The crystals that distances at these formulas rest on, by id; an element that the table lacks is left out."""
    needed = {name for formula in formulas for name in hull.competing(formula)["id"]}
    return {str(table.id[row]): table.structure(row) for row in np.flatnonzero(np.isin(table.id, sorted(needed)))}
