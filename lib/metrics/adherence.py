"""Whether generated and relaxed structures are as they were asked for (paper section 7), one row a request.

The column `status` says how far a request has come, from notebook 07 to 09: "invalid: " and why, "duplicate" of an
earlier structure of the same formula and method, "generated", after relaxation "relaxed" or "failed: " and why, beside
the hull "known" or "judged" (:mod:`lib.studies.table_3`). Energies are formation energies in eV/atom.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from lib.core.errors import BadInput
from lib.core.stats import cells, mean, share
from lib.core.workers import progress
from lib.crystals.table import CrystalTable
from lib.crystals.validity import reason_invalid, reason_unusable, space_groups
from lib.energies.hull import formation_energy
from lib.energies.potentials import energy_kind_of, potential_provenance
from lib.energies.relaxation import Relaxation, single_points
from lib.energies.saddles import Settled
from lib.metrics.duplicates import first_of_kind


def is_valid(requests: pd.DataFrame) -> pd.Series:
    """Whether each request has a structure that is a crystal, duplicates included."""
    return ~requests["status"].str.startswith("invalid")


def assess(requests: pd.DataFrame, structures: Sequence[Structure | None], volumes: np.ndarray) -> pd.DataFrame:
    """The requests with their status, same as (of a duplicate the id of the first request with that crystal, else ""),
    group_0.1 and group_0.01 (space groups at these symprec, 0 where invalid)."""
    reasons = [reason_invalid(structure, volumes) for structure in progress(structures, desc="checking")]
    valid = [None if reason else structure for structure, reason in zip(structures, reasons, strict=True)]
    first = first_of_kind(zip(requests["formula"], requests["method"], strict=True), valid)
    ids = requests["id"].to_numpy()
    twins = ["" if at in (-1, i) else ids[at] for i, at in enumerate(first.tolist())]
    status = [
        f"invalid: {reason}" if reason else "duplicate" if twin else "generated"
        for reason, twin in zip(reasons, twins, strict=True)
    ]
    return requests.assign(status=status, **{"same as": twins}, **space_groups(valid))


def funnel(requests: pd.DataFrame) -> pd.DataFrame:
    """Requests of each method by what came of them: asked, each reason against validity, valid, unique."""
    words = requests["status"].str.removeprefix("invalid: ").where(~is_valid(requests), "valid")
    reasons = pd.crosstab(requests["method"], words.rename("reason"))
    unique = requests["status"].eq("generated").groupby(requests["method"]).sum()
    counts = requests.groupby("method").agg(asked=("id", "size"))
    table = pd.concat([counts, reasons.drop(columns="valid", errors="ignore")], axis=1)
    return table.assign(valid=reasons.get("valid", 0), unique=unique).loc[requests["method"].unique()]


def adherence(requests: pd.DataFrame) -> pd.DataFrame:
    """Each method's share of valid, of unique, and how far structures keep to what was asked, with 95 % intervals, of
    requests as :func:`assess` returns them, with formation_energy (nan where there is none).

    Returns:
        One row a method and score: method, score, value, ci_low, ci_high, n. Space groups are counted among valid
        structures whose group was possible; the energy difference is the mean of |obtained - asked|. In the
        intervals, requests of one formula and group belong together.
    """
    tables = {}
    for method, asked in requests.groupby("method", sort=False):
        valid = asked[is_valid(asked)]
        possible = valid[valid["allowed"]]
        group = possible["space_group"]
        energies = valid[valid["formation_energy"].notna()]
        tables[method] = {
            "valid": (share, is_valid(asked)),
            "unique among valid": (share, valid["status"] == "generated"),
            "asked space group, symprec 0.1": (share, possible["group_0.1"] == group),
            "asked space group, symprec 0.01": (share, possible["group_0.01"] == group),
            "|energy - asked| (eV/atom)": (mean, (energies["formation_energy"] - energies["energy"]).abs()),
        }
    return _estimates(tables, requests["formula"] + requests["space_group"].astype(str))


def formation_energies(
    structures: Sequence[Structure | None], references: Mapping[str, float], potential: str, *, n_workers: int
) -> np.ndarray:
    """(n,) formation energies by the potential, without relaxation, eV/atom; nan for None or where it gives none.

    `references` are those of :func:`lib.energies.relaxation.element_energies`.
    """
    totals = single_points(structures, potential, n_workers=n_workers)
    pairs = zip(structures, totals, strict=True)
    return np.array([formation_energy(e, s.atomic_numbers, references) if s else np.nan for s, e in pairs], float)


def crystals_of(
    requests: pd.DataFrame, structures: Sequence[Structure], potential: str, *, relaxed: bool
) -> CrystalTable:
    """The structures of requests, one each, with what was asked; energies are those of the column formation_energy."""
    kind = energy_kind_of(potential) if relaxed else f"{potential} single-point formation energy"
    about = {"about": "pre-optimised structures" if relaxed else "valid structures as generated, not relaxed"}
    about |= {"relaxed_with": potential} if relaxed else {}
    asked = {"method": "method", "experiment": "experiment", "asked_formula": "formula"}
    asked |= {"asked_space_group": "space_group", "asked_energy": "energy"}
    return CrystalTable.from_structures(
        structures,
        id=requests["id"].to_list(),
        formation_energy=requests["formation_energy"].to_list(),
        space_group=requests["group_0.01"].to_list(),
        energy_kind=kind,
        extra={name: requests[column].to_numpy() for name, column in asked.items()},
        about=about | potential_provenance(potential),
    )


def check_potential(generated: CrystalTable, potential: str) -> None:
    """Refuse to relax by one potential what another has given energies.

    Raises:
        BadInput: energies of those that are relaxed and of those that are not would stand on two scales.
    """
    if generated.about["weights_sha256"] != potential_provenance(potential)["weights_sha256"]:
        raise BadInput(
            f"the generated structures have energies of {generated.about['potential']}, which do not compare with "
            f"those of {potential}; give notebooks 07 and 08 the same potential, and another one to 08 as finer"
        )


def modification_outcome(
    x_0: CrystalTable, x_1: CrystalTable, modified: Mapping[str, Sequence[Structure | None]], volumes: np.ndarray, **how
) -> pd.DataFrame:
    """What methods of modification made of polymorphs x_0, beside x_1, the lowest of each one's group.

    Args:
        volumes: as in :func:`lib.crystals.validity.reason_invalid`.
        how: references, potential and n_workers of :func:`formation_energies`.

    Returns:
        method, id (of x_0), formula (reduced), reason ("" where valid); before, target and after, formation energies
        of x_0, x_1 and the modified structure by the potential, eV/atom.
    """
    made = [structure for structures in modified.values() for structure in structures]
    reasons = [reason_invalid(structure, volumes) for structure in made]
    valid = [None if reason else structure for structure, reason in zip(made, reasons, strict=True)]
    energies = formation_energies([*x_0.structures(), *x_1.structures(), *valid], **how)
    before, target, after = np.split(energies, [len(x_0), 2 * len(x_0)])
    given = {"id": x_0.id, "formula": x_0.reduced_formula, "before": before, "target": target}
    columns = {name: np.tile(values, len(modified)) for name, values in given.items()}
    columns |= {"method": np.repeat(list(modified), len(x_0)), "reason": reasons, "after": after}
    return pd.DataFrame(columns)[["method", "id", "formula", "reason", "before", "target", "after"]]


def modification_scores(outcome: pd.DataFrame) -> pd.DataFrame:
    """What :func:`modification_outcome` says of modification, beside leaving polymorphs alone and beside the lowest.

    Columns are method, n, valid, lowered (shares of all) and change (mean energy after - before of valid ones,
    eV/atom), each with its 95 % interval.
    """
    rows = []
    one = outcome[outcome["method"] == outcome["method"].iloc[0]] if len(outcome) else outcome
    baselines = [
        one.assign(method="left as it is (baseline)", after=one["before"], reason=""),
        one.assign(method="lowest known polymorph (aim)", after=one["target"], reason=""),
    ]
    for method, part in pd.concat([outcome, *baselines]).groupby("method", sort=False):
        valid = part[part["after"].notna()]
        scores = {
            "valid": share((part["reason"] == "").to_numpy(), part["formula"]),
            "lowered": share((part["after"] < part["before"]).to_numpy(), part["formula"]),
            "change": mean((valid["after"] - valid["before"]).to_numpy(), valid["formula"]),
        }
        rows.append({"method": method, "n": len(part)} | cells(scores))
    return pd.DataFrame(rows)


def judge_relaxations(
    requests: pd.DataFrame, results: Sequence[Relaxation], references: Mapping[str, float], volumes: np.ndarray
) -> pd.DataFrame:
    """The requests with their pre-optimisation: what it did, and which results are no crystals to go on with.

    Returns:
        Their columns with status ("relaxed", or "failed: " and why), start_energy and formation_energy (eV/atom, before
        and after), total_energy (after, eV/atom), displacement (Å), volume_per_atom (Å^3), n_steps, max_force (eV/Å),
        and the space groups after relaxation, 0 where it failed.
    """
    reasons = [reason_unusable(result.failure, result.structure, volumes) for result in results]
    found = {
        "status": [f"failed: {reason}" if reason else "relaxed" for reason in reasons],
        "start_energy": [formation_energy(r.start_energy, r.structure.atomic_numbers, references) for r in results],
        "formation_energy": [formation_energy(r.energy, r.structure.atomic_numbers, references) for r in results],
        "total_energy": [result.energy for result in results],
        "displacement": [result.displacement for result in results],
        "volume_per_atom": [result.structure.volume / len(result.structure) for result in results],
        "n_steps": [result.n_steps for result in results],
        "max_force": [result.max_force for result in results],
    }
    usable = [None if reason else result.structure for result, reason in zip(results, reasons, strict=True)]
    return requests.assign(**found, **space_groups(usable))


def settled_as(results: Sequence[Settled]) -> list[str]:
    """What shaking said of each relaxed structure: "minimum", "saddle" where it left it for a minimum, or "no end"
    where it came to none."""
    return ["saddle" if one.saddle else "minimum" if np.isfinite(one.drop) else "no end" for one in results]


def relaxation_scores(relaxed: pd.DataFrame) -> pd.DataFrame:
    """Of each method: the usable share, and the means of what relaxation changed (eV/atom, Å), with 95 % intervals over
    formulas: method, score, value, ci_low, ci_high, n."""
    tables = {}
    for method, part in relaxed.groupby("method", sort=False):
        usable = part[part["status"] == "relaxed"]
        tables[method] = {
            "usable": (share, part["status"] == "relaxed"),
            "energy gained (eV/atom)": (mean, usable["start_energy"] - usable["formation_energy"]),
            "displacement (Å)": (mean, usable["displacement"]),
            "steps": (mean, usable["n_steps"]),
        }
    return _estimates(tables, relaxed["formula"])


def _estimates(tables: Mapping[str, Mapping[str, tuple]], groups: pd.Series) -> pd.DataFrame:
    """Method -> score -> estimator and values, whose index is that of the `groups` which depend on each other."""
    rows = [
        {"method": method, "score": score} | vars(estimate(values.to_numpy(), groups[values.index].to_numpy()))
        for method, scores in tables.items()
        for score, (estimate, values) in scores.items()
    ]
    return pd.DataFrame(rows, columns=["method", "score", "value", "ci_low", "ci_high", "n"])
