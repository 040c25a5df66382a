"""What is left of the requests of section 7.1, from a structure to a candidate below the hull, by source and by asked
energy; and whether asking for a lower energy gives one.

What is new is judged after relaxation, for what relaxes into a known crystal is that crystal, and in two senses. In the
ordered sense a candidate is new where it equals no crystal of the data. In the disordered sense it is new where it is
neither an ordering of a known crystal's sites, with metals exchanged that mix on one site, nor a known prototype with
other elements: such "new" compounds are most often solid solutions of known ones when they are made (Leeman et al.,
10.1103/PRXEnergy.3.011002).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from pymatgen.core import Element, Structure

from lib.core.stats import Rate, cells, share, slope
from lib.core.workers import progress
from lib.crystals.elements import NUMBERS
from lib.crystals.table import CrystalTable
from lib.crystals.validity import obtained_space_group
from lib.energies.hull import made_of
from lib.generation.known import prototype_of
from lib.metrics.adherence import is_valid
from lib.metrics.duplicates import first_of_kind
from lib.studies.table_3 import candidates_of, within
from lib.symmetry.cells import LOOSE_SYMPREC

MIXING = 0.15  # of the larger metallic radius: metals that differ by no more can share a site (Hume-Rothery)
ASKED = {"0 to -0.1": -0.1, "-0.1 to -0.5": -0.5, "-0.5 to -1": -1.0, "below -1": -np.inf}  # eV/atom from the hull
WITHIN = {"within 100 meV": 0.1, "within 50 meV": 0.05, "within 0 meV": 0.0}  # eV/atom above the hull
SCORED = {"unique": "unique", "new": "new", "within_100_mev": "within 100 meV", "within_0_mev": "within 0 meV"}
ROUNDING = 1e-9


def mixed_as(symbols: Iterable[str]) -> dict[str, str]:
    """Each element's symbol -> that of the first element with which it can share a site, or its own."""
    found: dict[str, str] = {}
    for symbol in sorted(symbols, key=NUMBERS.get):
        own = Element(symbol)
        alike = (other for other in set(found.values()) if _mix(own, Element(other)))
        found[symbol] = min(alike, key=NUMBERS.get, default=symbol)
    return found


def _mix(one: Element, other: Element) -> bool:
    radii = [element.metallic_radius for element in (one, other) if element.is_metal and element.metallic_radius]
    return len(radii) == 2 and max(radii) - min(radii) <= MIXING * max(radii)


def disordered_twins(structures: Sequence[Structure], table: CrystalTable) -> list[str]:
    """What known crystal each structure is an ordering or a decoration of: "ordering of ID", "prototype LABEL" or "".

    Args:
        table: known crystals, of which those made of the structures' elements count.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    symbols = {element.symbol for structure in structures for element in structure.composition.elements}
    names, matcher = mixed_as(symbols), StructureMatcher()
    known = table.take(made_of(table, symbols))
    numbers = np.arange(119)
    numbers[[NUMBERS[symbol] for symbol in names]] = [NUMBERS[name] for name in names.values()]
    known = replace(known, species=numbers[known.species].astype(known.species.dtype))
    kinds: dict[int, tuple[int, int]] = {}
    found = []
    for structure in progress(structures, desc="looking for disordered parents", unit="crystal"):
        mixed = structure.copy().replace_species({s: names[s] for s in structure.symbol_set})
        twin = ""
        for row in np.flatnonzero(known.reduced_formula == mixed.composition.reduced_formula).tolist():
            if row not in kinds:
                kinds[row] = _kind(known.structure(row))
            if kinds[row] == _kind(mixed) and matcher.fit(mixed, known.structure(row)):
                twin = f"ordering of {known.id[row]}"
                break
        prototype = "" if twin else prototype_of(structure)
        found.append(twin or (f"prototype {prototype}" if prototype else ""))
    return found


def _kind(structure: Structure) -> tuple[int, int]:
    """Space group, and atoms in the primitive cell."""
    return obtained_space_group(structure, LOOSE_SYMPREC), len(structure.get_primitive_structure(LOOSE_SYMPREC))


def at_a_minimum(requests: pd.DataFrame) -> pd.Series:
    """Whether each request has a relaxed structure that came back when it was shaken, or whose minimum took its place
    (:mod:`lib.energies.saddles`)."""
    return requests["status"].isin(["known", "judged"]) & requests["settled"].isin(["minimum", "saddle"])


def relaxed_as(requests: pd.DataFrame, structures: Mapping[str, Structure]) -> list[str]:
    """The id of the first request at a minimum whose relaxed structure each one's equals, of the same source and
    formula, which may be its own; "" for what is not at a minimum. Structures are the relaxed ones by id."""
    ended = at_a_minimum(requests)
    ids = requests["id"].to_numpy()
    relaxed = [structures[name] if at_end else None for name, at_end in zip(ids, ended, strict=True)]
    first = first_of_kind(zip(requests["method"], requests["formula"], strict=True), relaxed)
    return ["" if at < 0 else ids[at] for at in first]


def stages(requests: pd.DataFrame, by: Iterable[pd.Series] = ()) -> pd.DataFrame:
    """How far each request has come: a column of bool a stage, each of which takes those before for granted.

    A crystal counts once for a source and a group of `by`, as generated ("unique") and as relaxed ("distinct").

    Args:
        requests: of :func:`lib.studies.table_3.with_distances`, with settled ("minimum", "saddle", "no end", or ""
            where it was not shaken), relaxed as (:func:`relaxed_as`) and disordered as (:func:`disordered_twins`).
        by: what else each request belongs to.
    """
    requests = _within(requests, by)
    new = requests["status"] == "judged"
    found = {
        "valid": is_valid(requests),
        "unique": requests["status"] != "duplicate",
        "sent to relaxation": requests["status"] != "generated",
        "relaxed": requests["status"].isin(["known", "judged"]),
        "shaken": requests["settled"] != "",
        "no saddle": at_a_minimum(requests),
        "distinct": ~requests["again"],
        "new": new,
        "new, disordered": new & (requests["disordered as"] == ""),
    }
    found |= {name: requests["distance"] <= most + ROUNDING for name, most in WITHIN.items()}
    return pd.DataFrame(found).cummin(axis=1)


def _within(requests: pd.DataFrame, by: Iterable[pd.Series]) -> pd.DataFrame:
    """Those of a source, a formula and a group of `by` taken for themselves, with the column again: whether an earlier
    one there relaxed to the same crystal."""
    groups = [requests["method"], requests["formula"], *by]
    found = within(requests, groups)
    return found.assign(
        again=pd.concat([*groups, found["relaxed as"]], axis=1, keys=range(len(groups) + 1)).duplicated()
    )


def asked_distance(requests: pd.DataFrame, heights: Mapping[str, float]) -> pd.Series:
    """Asked energies counted from the hull, eV/atom: 0 or below. `heights` are the hull's, by formula."""
    return requests["energy"] - requests["formula"].map(heights)


def asked_bins(asked: pd.Series) -> pd.Series:
    """The keys of :data:`ASKED` that asked distances belong to."""
    edges = np.array(list(ASKED.values()))
    places = [int(np.argmax(edges - ROUNDING <= distance)) for distance in asked]
    return pd.Series(pd.Categorical.from_codes(places, list(ASKED), ordered=True), asked.index)


def funnel(requests: pd.DataFrame, by: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Counts of :func:`stages`, by source and whatever else is given.

    Args:
        by: name of a column -> what each request belongs to.

    Returns:
        method and the columns of `by`, asked, each stage, and off a saddle: of those without a saddle, how many were
        on one before they were shaken.
    """
    came = stages(requests, by.values())
    left = came["no saddle"] & (_within(requests, by.values())["settled"] == "saddle")
    counts = pd.DataFrame({"asked": True} | dict(came)).assign(**{"off a saddle": left})
    methods = pd.Series(pd.Categorical(requests["method"], requests["method"].unique()), requests.index, name="method")
    return counts.groupby([methods, *(values.rename(name) for name, values in by.items())], observed=True).sum()


def shares(requests: pd.DataFrame) -> dict[tuple[str, str], Rate]:
    """(Source, one of SCORED) -> share of its requests that have come so far, with intervals over formula and space
    group."""
    came, groups = stages(requests), requests["formula"] + requests["space_group"].astype(str)
    return {
        (method, score): share(came.loc[rows, stage].to_numpy(), groups[rows].to_numpy())
        for method, rows in requests.groupby("method", sort=False).groups.items()
        for score, stage in SCORED.items()
    }


def unit_of(requests: pd.DataFrame, score: str) -> str:
    """What one of :func:`shares` is, in words."""
    came = stages(requests)
    whole = score == "unique" or (came["sent to relaxation"] == came["unique"]).all()
    return "share of requests" if whole else "share of requests, at least: not all unique structures were relaxed"


def energy_response(requests: pd.DataFrame, asked: pd.Series) -> pd.DataFrame:
    """How much lower a formation energy gets for each eV/atom that less was asked for, within a formula and a source of
    energies.

    Args:
        requests: valid ones have start_energy, or formation_energy where they were not relaxed; candidates distance
            and source.
        asked: :func:`asked_distance`.

    Returns:
        method, energies ("as generated", "relaxed": only the lowest of each cell of Table 3 may have been relaxed), n
        and slope with its 95 % interval over formulas and space groups. 1 is what obedience would give, 0 what a source
        gives that does not heed the energy.
    """
    rows = []
    relaxed = candidates_of(requests).index
    energies = {"as generated": requests["start_energy"].fillna(requests["formation_energy"])}
    energies["relaxed"] = requests["distance"].where(requests.index.isin(relaxed))
    for method, of in requests.groupby("method", sort=False).groups.items():
        for name, values in energies.items():
            y = values[of].dropna()
            formulas = requests.loc[y.index, "formula"]
            alike = formulas + (requests.loc[y.index, "source"] if name == "relaxed" else "")
            x, y = (v - v.groupby(alike).transform("mean") for v in (asked[y.index], y))
            groups = formulas + requests.loc[y.index, "space_group"].astype(str)
            rate = slope(x.to_numpy(), y.to_numpy(), groups.to_numpy())
            rows.append({"method": method, "energies": name, "n": rate.n} | cells({"slope": rate}))
    return pd.DataFrame(rows)
