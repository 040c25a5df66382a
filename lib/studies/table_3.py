"""Table 3 of the paper: how far above or below the convex hull the generated structures lie (section 7.2).

Energies are in eV/atom and count from the elements, unless a name says otherwise. Of a candidate, a request with a
relaxed structure, the column `status` says "known" where the data hold the same crystal, else "judged".
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from lib.core.published import PAPERS_HULL, TABLE_3
from lib.crystals.elements import atoms_of, parse_formula
from lib.crystals.table import CrystalTable
from lib.energies.hull import Hull, Resolution, formation_energy
from lib.metrics.duplicates import known_twins
from lib.metrics.fitness import measured
from lib.metrics.stability import Scale, scale_of
from lib.studies.grid import LABELS, METHODS, NO_EXPERIMENT, elements_of, evenly, row_labels

FIND = "below the hull"
OF_CRYSTAL = [  # columns of requests that say what came of their structure
    *["status", "formation_energy", "distance", "source", "known as", "settled", "disordered as"],
    *["relaxed as", "group_0.1", "group_0.01"],
]


@dataclass(frozen=True)
class Level:
    """What one potential says of known crystals: their hull in its energies, and how far these are to be trusted."""

    potential: str  # its name in the registry
    source: str  # and in words
    scale: Scale
    hull: Hull
    compared: pd.DataFrame  # known phases beside a reference, :func:`lib.energies.hull.formation_energy_errors`
    resolution: Resolution  # what a distance is off by
    measured_on: str  # what that was measured on, in words


def level_of(
    relaxed: CrystalTable, crystals: CrystalTable, formulas: Sequence[str], reference: Path | None, **how
) -> Level:
    """The hull of known crystals by the potential that relaxed candidates.

    Args:
        relaxed: the candidates, as :func:`lib.metrics.adherence.crystals_of` makes their table.
        crystals: known ones.
        reference: a file of :func:`lib.metrics.fitness.measured`; None for the crystals, or what is on record.
        how: of :func:`lib.metrics.stability.scale_of`, but not relax: the phases that matter are relaxed.
    """
    elements, potential = elements_of(formulas), relaxed.about["relaxed_with"]
    whole_system = [*formulas, "".join(elements)]  # so that no part of it is missing
    scale = scale_of(crystals, whole_system, potential, relax=True, **how)
    fit = scale.compared, scale.resolution_in(elements), scale.measured_on
    if reference:
        fit = measured(reference, elements, scale.references, potential, n_workers=how["n_workers"])
    return Level(potential, relaxed.about["potential"], scale, Hull.from_table(scale.known, elements), *fit)


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


def within(requests: pd.DataFrame, groups: Sequence[pd.Series]) -> pd.DataFrame:
    """The requests, those of each group taken for themselves: of each crystal the first request there counts, with what
    came of the crystal, and only the others there are duplicates. What came first in another group takes nothing away.

    Args:
        groups: what each request belongs to; the same in all of them is the same group.
    """
    first = requests["same as"].where(requests["same as"] != "", requests["id"])
    again = pd.concat([*groups, first], axis=1, keys=range(len(groups) + 1)).duplicated()
    of_crystal = [name for name in OF_CRYSTAL if name in requests]
    came = requests.set_index("id").loc[first, of_crystal].set_axis(requests.index)
    found = requests.assign(**came)
    return found.assign(status=found["status"].mask(again, "duplicate"))


def best_distances(
    requests: pd.DataFrame, formulas: Sequence[str], resolutions: Mapping[str, Resolution]
) -> pd.DataFrame:
    """The cells of Table 3: the smallest distance from the hull in each experiment and formula, and all finds.

    Of requests of :func:`with_distances` what is known is no find, and says so. A crystal that several experiments gave
    counts in each of them. Resolutions are those of sources of
    energies. Where a cell has distances of several sources, the first of these counts.

    Returns:
        method, experiment, formula, distance, distance_low, distance_high (its 95 % interval; all eV/atom), finds (the
        distances of all candidates that are resolved to lie below the hull, meV/atom, in words), source, n
        (candidates), known as, says (what the cell says).
    """
    rows = []
    requests = within(requests, [requests[name] for name in ("method", "experiment", "formula")])
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


def table_3(cells: pd.DataFrame, known: Mapping[str, float], source: str) -> pd.DataFrame:
    """Table 3 in the paper's layout, meV/atom, its numbers beside ours.

    The cells are those of :func:`best_distances`; `known` is what a find has to beat, :func:`known_distances`, and
    `source` what that is from.
    """
    rows = []
    for (method, experiment), part in cells.groupby(["method", "experiment"], sort=False):
        row = {"method": LABELS[method], "experiment": experiment}
        for cell in part.itertuples():
            published = TABLE_3.get((method, experiment), {}).get(cell.formula, [])
            row[f"{cell.formula}, published ({PAPERS_HULL})"] = " / ".join(f"{value:g}" for value in published) or "-"
            row[f"{cell.formula}, ours"] = _cell_text(cell)
        rows.append(row)
    best = {f"{formula}, ours": f"{1000 * distance:+.1f} ({source})" for formula, distance in known.items()}
    rows.append({"method": "Lowest crystal of the data (baseline)", "experiment": NO_EXPERIMENT} | best)
    return pd.DataFrame(rows).fillna("-")


def networks(requests: pd.DataFrame) -> str:
    """Which model each method's requests went to, in words."""
    pairs = requests.loc[requests["method"].isin(METHODS), ["method", "model"]].drop_duplicates()
    return ", ".join(row_labels(dict(pairs.itertuples(index=False)))[method] for method in pairs["method"])


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
        species = atoms_of(parse_formula(row["formula"]))
        energy = formation_energy(row["total_energy"], species, scale.references)
        distance = hull.energy_above_hull(row["formula"], energy, energy_kind)
        state = "known" if row["known as"] else "judged"
        found.loc[i, ["formation_energy", "distance", "status"]] = energy, distance, state
    return found


def judged_by(
    level: Level, requests: pd.DataFrame, relaxed: CrystalTable, crystals: CrystalTable, *, n_workers: int
) -> pd.DataFrame:
    """:func:`with_distances` of a level, with the twins of the relaxed structures among known crystals."""
    twins = known_twins(list(relaxed.structures()), crystals, n_workers=n_workers)
    known_as = dict(zip(relaxed.id.tolist(), twins, strict=True))
    return with_distances(requests, level.hull, level.scale, relaxed.energy_kind, level.source, known_as)


def in_place(requests: pd.DataFrame, finer: pd.DataFrame) -> pd.DataFrame:
    """The requests with what a finer potential says of those that it relaxed to an end; both have distances."""
    columns = ["formation_energy", "distance", "source", "known as", "status", "group_0.1", "group_0.01"]
    done = candidates_of(finer).set_index("id")[columns]
    replaced = requests.copy()
    rows = replaced["id"].isin(done.index)
    for name in columns:
        theirs = replaced["id"].map(done[name])
        replaced[name] = replaced[name].where(~rows, theirs).astype(requests[name].dtype)
    return replaced


def beyond_known(cells: pd.DataFrame, known: Mapping[str, float], source: str) -> float:
    """How far the best structure of a model lies above (below: negative) the lowest known one of its composition,
    eV/atom; nan where no cell has energies of this source and no composition a known crystal.

    The cells are those of :func:`best_distances`, `known` is :func:`known_distances` by the same source.
    """
    own = cells[(cells["source"] == source) & cells["method"].isin(METHODS) & cells["formula"].isin(list(known))]
    return float((own["distance"] - own["formula"].map(known).astype(float)).min())


def lowest_candidates(
    requests: pd.DataFrame, n: int, hull: Hull, resolutions: Mapping[str, Resolution]
) -> pd.DataFrame:
    """The `n` candidates of smallest distance from the hull, each formula in turn; arguments as :func:`best_distances`.

    Of a formula's candidates those count whose distance is of the first source that there is.

    Returns:
        id, formula, method, experiment, distance, source, known as, says, group_0.1, group_0.01, fractions (of the
        elements).
    """
    usable = candidates_of(requests)
    place = usable["source"].map({source: i for i, source in enumerate(resolutions)})
    usable = usable[place == place.groupby(usable["formula"]).transform("min")]
    best = evenly(usable, n, ["formula"], usable["distance"].to_numpy()).sort_values("distance", ignore_index=True)
    best["says"] = [says_of(row, resolutions) for _, row in best.iterrows()]
    columns = ["id", "formula", "method", "experiment", "distance", "source", "known as", "says"]
    fractions = [hull.fractions(formula) for formula in best["formula"]]
    return best[[*columns, "group_0.1", "group_0.01"]].assign(fractions=fractions)


def competing_crystals(hull: Hull, formulas: Sequence[str], table: CrystalTable) -> dict[str, Structure]:
    """The crystals that distances at these formulas rest on, by id; an element that the table lacks is left out."""
    needed = {name for formula in formulas for name in hull.competing(formula)["id"]}
    return {str(table.id[row]): table.structure(row) for row in np.flatnonzero(np.isin(table.id, sorted(needed)))}
