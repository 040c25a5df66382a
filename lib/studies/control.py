"""Whether crystals are as they were asked for: space group, energy, and an energy below that of a relaxed polymorph.

What was told to the model is compared with what came of it, beside negative controls: conditions of another crystal
(shuffled) and none at all (absent). Energies come from a potential, without DFT; each function says what of them
cancels. Intervals are those of :mod:`lib.core.stats`, with formulas as groups.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from lib.core.stats import Rate, bounded_mean, cells, direction, mean, paired_difference, rank_correlation, share, slope
from lib.crystals.table import CrystalTable
from lib.crystals.validity import SYMPRECS, reason_invalid, reason_unusable, space_groups
from lib.energies.relaxation import relax_many, single_points
from lib.symmetry.spacegroups import subgroups
from lib.symmetry.wyckoff import assignments

GENERATED, RELAXED = "as generated", "after free relaxation"
Case = tuple[CrystalTable, np.ndarray, Sequence[Structure | None]]
"""Targets, (n,) the space groups that a model was told of them (0: none), and one structure for each."""


def with_shuffled_groups(targets: CrystalTable, rng: np.random.Generator) -> CrystalTable:
    """The targets, each with a space group that is not its own but that of other targets, as often as it occurs there.

    Wyckoff positions of the group can hold the target's atoms; a target for which there is no such group is left out.
    """
    groups, frequency = np.unique(targets.space_group, return_counts=True)
    fits = functools.cache(lambda group, counts: next(assignments(group, counts), None) is not None)
    told = np.zeros(len(targets), dtype=int)
    for i, own in enumerate(targets.space_group):
        counts = tuple(sorted(np.unique(targets.species_of(i), return_counts=True)[1].tolist()))
        weight = frequency * [group != own and fits(group, counts) for group in groups.tolist()]
        if weight.any():
            told[i] = rng.choice(groups, p=weight / weight.sum())
    return replace(targets.take(told > 0), space_group=told[told > 0])


def obtained_groups(
    cases: Mapping[str, Case], own: Mapping[str, int], volumes: np.ndarray, n: int | None = None, **relaxation
) -> pd.DataFrame:
    """Space groups of structures fresh from a model, or after relaxation.

    Args:
        own: id -> the target's own group, whatever was told.
        volumes: (119,) of the elements, as in :func:`lib.crystals.validity.reason_invalid`.
        n: structures of each row, the first ones; None for all.
        relaxation: as in :func:`relaxed_crystals`; without any, structures are taken as they are.

    Returns:
        One line a row and target: row, when, target (id), formula, told, own, valid, and for each of SYMPRECS a column
        `group_<symprec>`, 0 where the structure is no crystal, or does not relax to one.
    """
    cases = {row: (table.take(np.arange(len(table))[:n]), told[:n], s[:n]) for row, (table, told, s) in cases.items()}
    made = [structure for _, _, structures in cases.values() for structure in structures]
    if relaxation:
        when, sound = RELAXED, [structure for structure, _, _ in relaxed_crystals(made, volumes, **relaxation)]
    else:
        when, sound = GENERATED, _sound(made, volumes)
    each = {r: {"target": table.id, "formula": table.formula, "told": told} for r, (table, told, _) in cases.items()}
    rows = [pd.DataFrame({"row": row, "when": when} | columns) for row, columns in each.items()]
    about, valid = pd.concat(rows, ignore_index=True), [structure is not None for structure in sound]
    return about.assign(own=about["target"].map(own), valid=valid, **space_groups(sound))


def _sound(structures: Sequence[Structure | None], volumes: np.ndarray) -> list[Structure | None]:
    return [None if reason_invalid(structure, volumes) else structure for structure in structures]


def relations(asked: Iterable[int], obtained: Iterable[int]) -> np.ndarray:
    """(n,) "as asked", "supergroup" of the asked group, "another", or "no crystal" where the obtained one is 0."""

    def relation(one: int, other: int) -> str:
        if other == 0:
            return "no crystal"
        return "as asked" if other == one else "supergroup" if one in subgroups(other) else "another"

    return np.array([relation(int(a), int(o)) for a, o in zip(asked, obtained, strict=True)], dtype=object)


def group_control(outcome: pd.DataFrame) -> pd.DataFrame:
    """Shares of all requests in lines of :func:`obtained_groups`, with 95 % intervals.

    Returns:
        One line a row, `when` and symprec (Å): n, valid; obtained, that of the told group, and supergroup, that of a
        supergroup of it (both nan where none was told); own, the share with the target's group, whatever was told;
        each with `<name>_low` and `<name>_high`.
    """
    lines = []
    for (row, when), part in outcome.groupby(["row", "when"], sort=False):
        for symprec in SYMPRECS:
            found = part[f"group_{symprec:g}"]
            told = relations(part["told"], found)
            shares = {"valid": part["valid"], "obtained": told == "as asked", "supergroup": told == "supergroup"}
            shares["own"] = found == part["own"]
            rates = {name: share(hits, part["formula"]) for name, hits in shares.items()}
            if not part["told"].any():
                rates |= dict.fromkeys(("obtained", "supergroup"), Rate(np.nan, np.nan, np.nan, len(part)))
            lines.append({"row": row, "when": when, "symprec": symprec, "n": len(part)} | cells(rates))
    return pd.DataFrame(lines)


def at_energies(targets: CrystalTable, offsets: Sequence[float]) -> CrystalTable:
    """Each target once for each offset (eV/atom), which is added to its formation energy; those of one together."""
    table = targets.take(np.repeat(np.arange(len(targets)), len(offsets)))
    return replace(table, formation_energy=table.formation_energy + np.tile(offsets, len(targets)))


def energies_of(
    structures: Sequence[Structure | None], volumes: np.ndarray, potential: str, *, n_workers: int
) -> np.ndarray:
    """(n,) total energies as they are, eV/atom; nan for what is no crystal
    (:func:`lib.crystals.validity.reason_invalid`)."""
    return single_points(_sound(structures, volumes), potential, n_workers=n_workers)


def across_compositions(asked: np.ndarray, obtained: np.ndarray, formulas: np.ndarray) -> dict[str, Rate]:
    """Slope and Spearman's rank correlation of obtained against asked formation energies of many compositions.

    They are high for any model whose energies follow the composition: compare with the negative controls. Pairs (n,),
    eV/atom, with nan are left out.
    """
    known = np.isfinite(asked) & np.isfinite(obtained)
    asked, obtained, formulas = asked[known], obtained[known], np.asarray(formulas)[known]
    return {"slope": slope(asked, obtained, formulas), "spearman": rank_correlation(asked, obtained, formulas)}


def within_compositions(asked: np.ndarray, obtained: np.ndarray, formulas: np.ndarray) -> dict[str, Rate]:
    """The same within each composition, of which several energies are asked; means over the compositions.

    Constants of a composition drop out, so that energies of another kind and without references do. The rates' n counts
    targets with two energies at least. A composition whose obtained energies are all equal has the correlation 0.
    Energies are (n, k), k requests of each of n targets, eV/atom, nan where there is none; formulas are the targets'.
    """
    values: dict[str, list[float]] = {"slope": [], "spearman": []}
    kept = []
    for row, (x, y) in enumerate(zip(asked, obtained, strict=True)):
        known = np.isfinite(x) & np.isfinite(y)
        if known.sum() < 2 or np.ptp(x[known]) == 0:
            continue
        kept.append(row)
        one = np.zeros(known.sum())  # no interval of a single composition is asked for
        values["slope"].append(slope(x[known], y[known], one).value)
        values["spearman"].append(rank_correlation(x[known], y[known], one).value if np.ptp(y[known]) > 0 else 0.0)
    groups = np.asarray(formulas)[kept]
    return {"slope": mean(values["slope"], groups), "spearman": bounded_mean(values["spearman"], groups, -1, 1)}


def mean_response(asked: np.ndarray, obtained: np.ndarray, formulas: np.ndarray) -> pd.DataFrame:
    """Means over targets of what was obtained for each of k asked energies, both less their target's mean, eV/atom.

    Arguments are as in :func:`within_compositions`, but the k energies of all targets are equally far apart, in any
    order. Targets that lack an obtained energy are left out. There is one line an energy, the lowest first: asked,
    obtained, obtained_low, obtained_high.
    """
    order = np.argsort(asked, axis=1)
    asked, obtained = (np.take_along_axis(values, order, axis=1) for values in (asked, obtained))
    complete = np.isfinite(obtained).all(axis=1)
    moved = obtained[complete] - obtained[complete].mean(axis=1, keepdims=True)
    lines = []
    for k, offset in enumerate((asked - asked.mean(axis=1, keepdims=True)).mean(axis=0)):
        lines.append({"asked": offset} | cells({"obtained": mean(moved[:, k], np.asarray(formulas)[complete])}))
    return pd.DataFrame(lines)


def response_lines(rates: Mapping[tuple[str, str], Mapping[str, Rate]]) -> pd.DataFrame:
    """(row, told) -> slope and spearman as a table: row, told, n, and both with their intervals."""
    each = rates.items()
    return pd.DataFrame([{"row": row, "told": told, "n": of["slope"].n} | cells(of) for (row, told), of in each])


def relaxed_crystals(
    structures: Sequence[Structure | None], volumes: np.ndarray, **settings
) -> list[tuple[Structure | None, float, str]]:
    """Relax what is a crystal: its structure, its energy (eV/atom) and why there is none, one a structure.

    `settings` are those of :func:`lib.energies.relaxation.relax_many`.
    """
    reasons = [reason_invalid(structure, volumes) for structure in structures]
    results = iter(relax_many([s for s, r in zip(structures, reasons, strict=True) if not r], **settings))
    found: list[tuple[Structure | None, float, str]] = []
    for reason in reasons:
        result = None if reason else next(results)
        reason = reason or reason_unusable(result.failure, result.structure, volumes)
        found.append((None, np.nan, reason) if reason else (result.structure, result.energy, ""))
    return found


def relaxed_energies(
    x_0: CrystalTable, answers: Mapping[str, Sequence[Structure | None]], volumes: np.ndarray, **settings
) -> pd.DataFrame:
    """Energies of relaxed answers beside those of the relaxed x_0, of the same atoms in the same potential.

    Volumes and settings are as in :func:`relaxed_crystals`; `finished` (a folder) makes it resumable.

    Returns:
        One line a row and crystal: row, init (id), formula, reason ("" where relaxed), change: energy of the relaxed
        answer less that of the relaxed x_0, eV/atom, nan where it did not relax. A crystal of x_0 that does not relax
        is left out everywhere.
    """
    several = [list(x_0.structures()), *(list(row) for row in answers.values())]
    relaxed = relaxed_crystals([structure for row in several for structure in row], volumes, **settings)
    energies = np.array([energy for _, energy, _ in relaxed]).reshape(len(several), len(x_0))
    reasons = np.array([reason for _, _, reason in relaxed], dtype=object).reshape(len(several), len(x_0))
    usable = reasons[0] == ""
    of_rows = zip(answers, reasons[1:], energies[1:] - energies[0], strict=True)
    about = {"init": x_0.id, "formula": x_0.formula}
    frames = [pd.DataFrame({"row": name, **about, "reason": why, "change": change}) for name, why, change in of_rows]
    return pd.concat([frame[usable] for frame in frames], ignore_index=True)


def improvement_table(outcome: pd.DataFrame, resolution: float, against: str) -> pd.DataFrame:
    """How often answers of :func:`relaxed_energies` lie below the relaxed x_0 by more than `resolution` (eV/atom).

    Those that did not relax count as no improvement. Every row is compared with `against`, pair by pair.

    Returns:
        One line a row: n; relaxed, lower, higher (shares of all), change_meV (mean over relaxed, meV/atom), each with
        `<name>_low` and `<name>_high`; difference (share of lower less that of `against`) likewise, and verdict:
        "more", "less" or "unresolved".
    """
    lower_of = {row: (part["change"] < -resolution).to_numpy() for row, part in outcome.groupby("row", sort=False)}
    lines = []
    for row, part in outcome.groupby("row", sort=False):
        relaxed, formulas = part["change"].notna(), part["formula"]
        rates = {
            "relaxed": share(relaxed, formulas),
            "lower": share(lower_of[row], formulas),
            "higher": share(part["change"] > resolution, formulas),
            "change_meV": mean(1000 * part["change"][relaxed], formulas[relaxed]),
        }
        line: dict[str, object] = {"row": row, "n": len(part)} | cells(rates)
        if row != against:
            difference = paired_difference(lower_of[row], lower_of[against], formulas)
            line |= cells({"difference": difference}) | {"verdict": direction(difference)}
        lines.append(line)
    names = [f"{name}{end}" for name in ("relaxed", "lower", "higher", "change_meV") for end in ("", "_low", "_high")]
    compared = ["difference", "difference_low", "difference_high", "verdict"]
    table = pd.DataFrame(lines, columns=["row", "n", *names, *compared])
    return table.astype(dict.fromkeys(names, float))  # also where there is no line


def group_relations(outcome: pd.DataFrame) -> pd.DataFrame:
    """Counts behind the picture: row, when, symprec, relation to the told group (or the target's, where none), n."""
    frames = []
    for symprec in SYMPRECS:
        asked = np.where(outcome["told"] > 0, outcome["told"], outcome["own"])
        relation = relations(asked, outcome[f"group_{symprec:g}"])
        frames.append(outcome[["row", "when"]].assign(symprec=symprec, relation=relation))
    return pd.concat(frames).value_counts(sort=False).rename("n").reset_index()
