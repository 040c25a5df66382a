"""The inference grid of paper section 7.1: what is asked of the models, and what comes of it.

Energies are formation energies in eV/atom. Tables are DataFrames with one row a request or candidate; their columns
`formula` (reduced), `experiment` and `method` say which cell of Table 3 a row belongs to.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from ase.data import covalent_radii
from pymatgen.core import Structure

from lib.cells import LOOSE_SYMPREC
from lib.crystals import SYMPREC, CrystalTable
from lib.elements import parse_formula
from lib.hull import (
    NO_EXPERIMENT,
    RANDOM,
    Hull,
    distance_errors,
    formation_energy,
    mean_absolute_error,
    says_of,
)
from lib.matching import MAX_VOLUME_RATIO, flaw, match_many
from lib.polymorphs import polymorph_groups
from lib.relaxation import Relaxation, energy_kind_of, potential_provenance, single_points
from lib.run import BadInput, progress
from lib.sources.files import energies, read_csv
from lib.spacegroups import checked_space_group
from lib.stability import Scale
from lib.stats import mean, share
from lib.structure_io import decoded, read_one
from lib.wyckoff import wyckoff_allows

MIN_DISTANCE_BEFORE = 0.6  # sums of two covalent radii; of a structure fresh from a model, which relaxation may mend
MIN_DISTANCE_AFTER = 0.7  # of a relaxed one; the embedded set's crystals have 0.7 at the very least
VOLUME_WINDOW = (0.6, 1.6)  # of the volume the elements take in the data


# -------------------------------------------------------------------------------------------------- what is asked


def elements_of(formulas: Iterable[str]) -> list[str]:
    """Symbols of the elements in any of the formulas, alphabetical."""
    return sorted({element.symbol for formula in formulas for element in parse_formula(formula)})


def experiment_name(gap: float, step: float) -> str:
    """An experiment as Table 3 calls it."""
    return f"step {step:g}, gap {gap:g}"


def asked_energies(hull_energy: float, gap: float, step: float, n_energies: int) -> np.ndarray:
    """(n_energies,) energies that start `gap` below the hull and go down by `step`, eV/atom.

    By integer count: `np.arange(start, stop, -step)` ends with one value too many for some starts.
    """
    return hull_energy - gap - step * np.arange(n_energies)


def request_grid(
    hull_energies: Mapping[str, float],
    space_groups: Iterable[int],
    *,
    experiments: Sequence[tuple[float, float]],
    methods: Sequence[str],
    n_energies: int,
) -> pd.DataFrame:
    """All combinations of paper section 7.1, step 1; requests of the same conditions stand together.

    Args:
        hull_energies: formula -> height of the convex hull there, eV/atom.
        space_groups: those of the training set.
        experiments: (gap, step) in eV/atom.
        methods: keys of :data:`lib.hull.METHODS`.
        n_energies: energies an experiment.

    Returns:
        id, formula (as given), species (atomic numbers sorted by symbol), space_group, energy (eV/atom), experiment,
        method, allowed (whether Wyckoff positions of the group can hold the atoms).

    Raises:
        BadInput: a formula that does not parse, or no such space group.
    """
    groups = [checked_space_group(int(group)) for group in space_groups]
    rows = []
    for formula, hull_energy in hull_energies.items():
        composition = parse_formula(formula)
        elements = sorted(composition, key=lambda element: element.symbol)
        counts = [int(composition[element]) for element in elements]
        species = np.repeat([element.Z for element in elements], counts)
        for (gap, step), group in product(experiments, groups):
            allowed = wyckoff_allows(group, counts)
            for i, energy in enumerate(asked_energies(hull_energy, gap, step, n_energies)):
                for method in methods:
                    name = f"{formula}_gap{gap:g}_step{step:g}_{i:02d}_sg{group}_{method}"
                    rows.append((name, formula, species, group, energy, experiment_name(gap, step), method, allowed))
    columns = ["id", "formula", "species", "space_group", "energy", "experiment", "method", "allowed"]
    return pd.DataFrame(rows, columns=columns)


def grid_size(requests: pd.DataFrame) -> pd.DataFrame:
    """Requests by formula, experiment and method, how many of them are possible, and in all."""
    by = ["formula", "experiment", "method"]
    sizes = requests.groupby(by, sort=False)["allowed"].agg(requests="size", possible="sum").reset_index()
    total = {"formula": "all", "requests": sizes["requests"].sum(), "possible": sizes["possible"].sum()}
    return pd.concat([sizes, pd.DataFrame([total])], ignore_index=True).fillna("")


def evenly(rows: pd.DataFrame, n: int | None, by: Sequence[str], order: np.ndarray) -> pd.DataFrame:
    """The first `n` rows by `order`, taken in turn from each group of the columns `by`; all rows where `n` is None."""
    ordered = rows.iloc[np.argsort(order, kind="stable")]
    turn = ordered.groupby(list(by), sort=False).cumcount()
    return rows.loc[turn.sort_values(kind="stable").index[:n]].sort_index()


def slice_requests(requests: pd.DataFrame, n: int | None, rng: np.random.Generator) -> pd.DataFrame:
    """A random slice of about `n` requests, even over formulas, experiments and methods; possible ones come first.

    All methods get the same conditions, so that they can be compared.
    """
    conditions = requests.groupby(["formula", "experiment", "space_group", "energy"], sort=False).ngroup().to_numpy()
    order = rng.permutation(conditions.max() + 1)[conditions] + len(requests) * ~requests["allowed"].to_numpy()
    return evenly(requests, n, ["formula", "experiment", "method"], order).reset_index(drop=True)


def random_requests(requests: pd.DataFrame) -> pd.DataFrame:
    """The same conditions once more, for the random baseline."""
    same = requests.drop_duplicates(["formula", "experiment", "space_group", "energy"])
    ids = [f"{formula}_random_{i:04d}" for i, formula in enumerate(same["formula"])]
    return same.assign(id=ids, method=RANDOM, experiment=NO_EXPERIMENT).reset_index(drop=True)


def as_targets(requests: pd.DataFrame) -> CrystalTable:
    """What a baseline may know of a request: its atoms and space group; cell and coordinates are left empty (nan)."""
    counts = [len(species) for species in requests["species"]]
    return CrystalTable(
        id=requests["id"].to_numpy(str),
        lattice=np.full((len(requests), 3, 3), np.nan),
        frac_coords=np.full((sum(counts), 3), np.nan),
        species=np.concatenate(requests["species"].to_list()),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        formation_energy=requests["energy"].to_numpy(float),
        space_group=requests["space_group"].to_numpy(int),
        energy_kind="asked",
    )


def modification_pairs(table: CrystalTable, n: int | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of crystals to modify and, for each, of its group's lowest; at most `n`, drawn evenly over formulas.

    The paper applies modification to no known polymorph (section 7.1).
    """
    groups = polymorph_groups(table)
    pairs = pd.DataFrame(
        [(formula, init, rows[0]) for formula, rows in groups.items() for init in rows[1:]],
        columns=["formula", "init", "target"],
    )
    chosen = evenly(pairs, n, ["formula"], rng.permutation(len(pairs)))
    return chosen["init"].to_numpy(int), chosen["target"].to_numpy(int)


# ------------------------------------------------------------------------------------------------- what comes of it


def reason_invalid(structure: Structure | None, volumes: np.ndarray, min_distance: float = MIN_DISTANCE_BEFORE) -> str:
    """Why a structure is no crystal to go on with, or "".

    Args:
        structure: None where the model's numbers make no cell.
        volumes: (119,) Å^3 an atom of each element takes (:func:`lib.crystals.atomic_volumes`).
        min_distance: in sums of two covalent radii (Cordero et al., 10.1039/b801115j).
    """
    if structure is None:
        return "no valid cell"
    numbers = np.array(structure.atomic_numbers)
    if not VOLUME_WINDOW[0] < structure.volume / volumes[numbers].sum() < VOLUME_WINDOW[1]:
        return "volume outside the window"  # asked first: the neighbour list of a crushed cell is endless
    if flaw(structure):
        return "atoms too close"
    radii = covalent_radii[numbers]
    one, other, _, distances = structure.get_neighbor_list(2 * min_distance * radii.max())
    return "atoms too close" if (distances < min_distance * (radii[one] + radii[other])).any() else ""


def obtained_space_group(structure: Structure, symprec: float) -> int:
    """Space group at a tolerance in Å; P1 where spglib finds none, as with a tolerance near the atoms' distances."""
    from pymatgen.symmetry.analyzer import SymmetryUndeterminedError

    if not (np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()):
        return 1  # spglib would end the process
    try:
        return structure.get_space_group_info(symprec)[1]
    except (SymmetryUndeterminedError, TypeError, ValueError):
        return 1


def assess(requests: pd.DataFrame, structures: Sequence[Structure | None], volumes: np.ndarray) -> pd.DataFrame:
    """The requests with what came of them.

    Returns:
        Their columns and reason ("" where valid), group_0.1 and group_0.01 (space groups at these symprec, 0 where
        invalid), unique (valid and the first of its kind for its formula and method).
    """
    reasons = [reason_invalid(structure, volumes) for structure in progress(structures, desc="checking")]
    valid = [None if reason else structure for structure, reason in zip(structures, reasons, strict=True)]
    groups = {
        f"group_{symprec:g}": [obtained_space_group(s, symprec) if s else 0 for s in progress(valid, desc="symmetry")]
        for symprec in (LOOSE_SYMPREC, SYMPREC)
    }
    kinds = zip(requests["formula"], requests["method"], strict=True)
    return requests.assign(reason=reasons, **groups, unique=first_of_kind(kinds, valid))


def first_of_kind(kinds: Iterable[Hashable], structures: Sequence[Structure | None]) -> np.ndarray:
    """(n,) whether no earlier structure of the same kind equals it (unscaled, volumes within 5 %); None never is."""
    kept: dict[Hashable, list[Structure]] = {}
    first = np.zeros(len(structures), bool)
    for i, (kind, structure) in enumerate(zip(kinds, progress(structures, desc="comparing"), strict=True)):
        if structure is None:
            continue
        others = kept.setdefault(kind, [])
        if not any(equal_structures(structure, other) for other in others):
            first[i] = True
            others.append(structure)
    return first


def equal_structures(one: Structure, other: Structure) -> bool:
    """Whether StructureMatcher finds them equal at its default tolerances, unscaled and with volumes within 5 %."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    ratio = one.volume / other.volume * len(other) / len(one)
    return 1 / MAX_VOLUME_RATIO <= ratio <= MAX_VOLUME_RATIO and StructureMatcher(scale=False).fit(one, other)


def formation_energies(
    structures: Sequence[Structure | None], references: Mapping[str, float], potential: str, *, n_workers: int
) -> np.ndarray:
    """(n,) formation energies by the potential, without relaxation, eV/atom; nan for None or where it gives none.

    Args:
        references: symbol -> the element's energy in the same potential (:func:`lib.relaxation.element_energies`).
    """
    present = [(i, structure) for i, structure in enumerate(structures) if structure is not None]
    totals = single_points([structure for _, structure in present], potential, n_workers=n_workers)
    found = np.full(len(structures), np.nan)
    for (i, structure), total in zip(present, totals, strict=True):
        found[i] = formation_energy(total, structure.atomic_numbers, references)
    return found


def generated_table(outcome: pd.DataFrame, structures: Sequence[Structure | None], potential: str) -> CrystalTable:
    """The valid structures, with what was asked of each; the energies are those before relaxation."""
    valid = outcome[outcome["reason"] == ""]
    about = {"about": "valid structures as generated, not relaxed", **potential_provenance(potential)}
    return _table(valid, [structures[i] for i in valid.index], f"{potential} single-point formation energy", about)


def preoptimised_table(relaxed: pd.DataFrame, results: Sequence[Relaxation], potential: str) -> CrystalTable:
    """The usable pre-optimised structures, with what was asked of each."""
    usable = (relaxed["failure"] == "").to_numpy()
    structures = [results[i].structure for i in np.flatnonzero(usable)]
    about = {"about": "pre-optimised structures", "relaxed_with": potential, **potential_provenance(potential)}
    return _table(relaxed[usable], structures, energy_kind_of(potential), about)


def _table(rows: pd.DataFrame, structures: list[Structure], energy_kind: str, about: dict) -> CrystalTable:
    asked = {"method": rows["method"], "experiment": rows["experiment"], "asked_formula": rows["formula"]}
    asked |= {"asked_space_group": rows["space_group"], "asked_energy": rows["energy"]}
    return CrystalTable.from_structures(
        structures,
        id=rows["id"].to_list(),
        formation_energy=rows["formation_energy"].to_list(),
        space_group=rows["group_0.01"].to_list(),
        energy_kind=energy_kind,
        extra={name: column.to_numpy() for name, column in asked.items()},
        about=about,
    )


def funnel(outcome: pd.DataFrame) -> pd.DataFrame:
    """Requests of each method by what came of them: asked, each reason, valid, unique."""
    reasons = pd.crosstab(outcome["method"], outcome["reason"].replace("", "valid"))
    counts = outcome.groupby("method").agg(asked=("id", "size"), unique=("unique", "sum"))
    table = pd.concat([counts[["asked"]], reasons.drop(columns="valid", errors="ignore")], axis=1)
    return table.assign(valid=reasons.get("valid", 0), unique=counts["unique"]).loc[outcome["method"].unique()]


def obedience(outcome: pd.DataFrame) -> pd.DataFrame:
    """Each method's share of valid, of unique, and how far structures keep to what was asked, with 95 % intervals.

    Args:
        outcome: as :func:`assess` returns it, with formation_energy (nan where there is none).

    Returns:
        One row a method and score: method, score, value, ci_low, ci_high, n. Space groups are counted among valid
        structures whose group was possible; the energy difference is the mean of |obtained - asked|. In the
        intervals, requests of one formula and group belong together.
    """
    rows = []
    clusters = outcome["formula"] + outcome["space_group"].astype(str)
    for method, asked in outcome.assign(cluster=clusters).groupby("method", sort=False):
        valid = asked[asked["reason"] == ""]
        possible = valid[valid["allowed"]]
        group = possible["space_group"]
        energies = valid[valid["formation_energy"].notna()]
        scores = {
            "valid": (asked["reason"] == "", asked, share),
            "unique among valid": (valid["unique"], valid, share),
            "asked space group, symprec 0.1": (possible["group_0.1"] == group, possible, share),
            "asked space group, symprec 0.01": (possible["group_0.01"] == group, possible, share),
            "|energy - asked| (eV/atom)": (_miss(energies), energies, mean),
        }
        rows += [(method, *score) for score in _estimates(scores, "cluster")]
    return pd.DataFrame(rows, columns=["method", "score", "value", "ci_low", "ci_high", "n"])


def _miss(energies: pd.DataFrame) -> pd.Series:
    return (energies["formation_energy"] - energies["energy"]).abs()


def modification_outcome(
    x_0: CrystalTable, x_1: CrystalTable, modified: Mapping[str, Sequence[Structure | None]], volumes: np.ndarray, **how
) -> pd.DataFrame:
    """What modification made of known polymorphs.

    Args:
        x_0: the polymorphs given; x_1: the lowest of each one's group.
        modified: method -> structures it made of x_0.
        volumes: as in :func:`reason_invalid`.
        **how: references, potential and n_workers of :func:`formation_energies`.

    Returns:
        method, id (of x_0), formula (reduced), reason ("" where valid); before, target and after, formation energies
        of x_0, x_1 and the modified structure by the potential, eV/atom.
    """
    made = [structure for structures in modified.values() for structure in structures]
    reasons = [reason_invalid(structure, volumes) for structure in made]
    valid = [None if reason else structure for structure, reason in zip(made, reasons, strict=True)]
    energies = formation_energies([*x_0.structures(), *x_1.structures(), *valid], **how)
    before, target, after = np.split(energies, [len(x_0), 2 * len(x_0)])
    times = len(modified)
    return pd.DataFrame(
        {
            "method": np.repeat(list(modified), len(x_0)),
            "id": np.tile(x_0.id, times),
            "formula": np.tile(x_0.reduced_formula, times),
            "reason": reasons,
            "before": np.tile(before, times),
            "target": np.tile(target, times),
            "after": after,
        }
    )


def modification_scores(outcome: pd.DataFrame) -> pd.DataFrame:
    """What modification does to known polymorphs, beside leaving them alone and beside the lowest known polymorph.

    Args:
        outcome: method, formula, reason, and the energies before, target and after (nan where invalid), eV/atom.

    Returns:
        method, n, valid, lowered (shares of all) and change (mean energy after - before of valid ones, eV/atom), each
        with its 95 % interval.
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
        row: dict[str, object] = {"method": method, "n": len(part)}
        for name, rate in scores.items():
            row |= rate.columns(name)
        rows.append(row)
    return pd.DataFrame(rows)


def reason_unusable(result: Relaxation, volumes: np.ndarray) -> str:
    """Why a relaxation gave no crystal to go on with, or ""; the volumes are those of :func:`reason_invalid`."""
    return result.failure or reason_invalid(result.structure, volumes, MIN_DISTANCE_AFTER)


def judge_relaxations(
    requests: pd.DataFrame, results: Sequence[Relaxation], references: Mapping[str, float], volumes: np.ndarray
) -> pd.DataFrame:
    """The requests with their pre-optimisation: what it did, and which results are no crystals to go on with.

    Returns:
        Their columns and failure ("" where usable), start_energy and formation_energy (eV/atom, before and after),
        total_energy (after, eV/atom), displacement (Å), volume_change (ratio), n_steps, max_force (eV/Å), and the space
        groups found after relaxation.
    """
    rows = []
    for result in results:
        numbers = result.structure.atomic_numbers
        failure = reason_unusable(result, volumes)
        rows.append(
            {
                "failure": failure,
                "start_energy": formation_energy(result.start_energy, numbers, references),
                "formation_energy": formation_energy(result.energy, numbers, references),
                "total_energy": result.energy,
                "displacement": result.displacement,
                "volume_per_atom": result.structure.volume / len(numbers),
                "n_steps": result.n_steps,
                "max_force": result.max_force,
                "group_0.1": 0 if failure else obtained_space_group(result.structure, LOOSE_SYMPREC),
                "group_0.01": 0 if failure else obtained_space_group(result.structure, SYMPREC),
            }
        )
    columns = ["failure", "start_energy", "formation_energy", "total_energy", "displacement", "volume_per_atom"]
    columns += ["n_steps", "max_force", "group_0.1", "group_0.01"]
    after = pd.DataFrame(rows, index=requests.index, columns=columns)
    return requests.drop(columns=after.columns, errors="ignore").join(after)


def relaxation_scores(relaxed: pd.DataFrame) -> pd.DataFrame:
    """Of each method: the usable share, and the means of what relaxation changed, with 95 % intervals over formulas.

    Returns:
        method, score, value, ci_low, ci_high, n; energies in eV/atom, displacements in Å.
    """
    rows = []
    for method, part in relaxed.groupby("method", sort=False):
        usable = part[part["failure"] == ""]
        scores = {
            "usable": (part["failure"] == "", part, share),
            "energy gained (eV/atom)": (usable["start_energy"] - usable["formation_energy"], usable, mean),
            "displacement (Å)": (usable["displacement"], usable, mean),
            "steps": (usable["n_steps"], usable, mean),
        }
        rows += [(method, *score) for score in _estimates(scores, "formula")]
    return pd.DataFrame(rows, columns=["method", "score", "value", "ci_low", "ci_high", "n"])


def _estimates(scores: Mapping[str, tuple], cluster: str) -> list[tuple]:
    """Name, value, interval and n of each (values, rows they belong to, estimator)."""
    found = []
    for name, (values, part, estimate) in scores.items():
        rate = estimate(values.to_numpy(), part[cluster].to_numpy())
        found.append((name, rate.value, rate.ci_low, rate.ci_high, rate.n))
    return found


def lowest_candidates(candidates: pd.DataFrame, n: int, hull: Hull, resolutions: Mapping[str, float]) -> pd.DataFrame:
    """The `n` usable candidates of smallest distance from the hull, each formula in turn.

    Args:
        candidates: pre-optimised requests with failure, distance (eV/atom), source and known as.
        resolutions: source -> smallest distance it resolves, eV/atom.

    Returns:
        id, formula, method, experiment, distance, source, known as, says, group_0.1, group_0.01, fractions (of the
        elements).
    """
    usable = candidates[candidates["failure"] == ""]
    best = evenly(usable, n, ["formula"], usable["distance"].to_numpy()).sort_values("distance", ignore_index=True)
    best["says"] = [says_of(row, resolutions) for _, row in best.iterrows()]
    columns = ["id", "formula", "method", "experiment", "distance", "source", "known as", "says"]
    fractions = [hull.fractions(formula) for formula in best["formula"]]
    return best[[*columns, "group_0.1", "group_0.01"]].assign(fractions=fractions)


def competing_crystals(hull: Hull, formulas: Sequence[str], table: CrystalTable) -> dict[str, Structure]:
    """The crystals that distances at these formulas rest on, by id; an element that the table lacks is left out."""
    needed = {name for formula in formulas for name in hull.competing(formula)["id"]}
    return {str(table.id[row]): table.structure(row) for row in np.flatnonzero(np.isin(table.id, sorted(needed)))}


def known_twins(structures: Sequence[Structure], table: CrystalTable, *, n_workers: int) -> list[str]:
    """For each structure the id of the table's crystal that it equals by the strict match, or ""."""
    pairs = []
    for i, structure in enumerate(structures):
        same = table.reduced_formula == structure.composition.reduced_formula
        ratio = table.volume_per_atom * len(structure) / structure.volume
        near = same & (ratio < MAX_VOLUME_RATIO) & (ratio > 1 / MAX_VOLUME_RATIO)
        pairs += [(i, row) for row in np.flatnonzero(near)]
    if not pairs:
        return [""] * len(structures)
    found = match_many(
        [table.structure(row) for _, row in pairs], [structures[i] for i, _ in pairs], n_workers=n_workers
    )
    twins = {i: table.id[row] for (i, row), same in zip(pairs, found["match_strict"], strict=True) if same}
    return [str(twins.get(i, "")) for i in range(len(structures))]


# ------------------------------------------------------------------------------------------ the potential's error


def read_reference_phases(path: Path, elements: Sequence[str]) -> CrystalTable:
    """Known compounds of a system with reference formation energies, to measure a potential's error on.

    Args:
        path: csv file with the columns material_id, formula and e_form (eV/atom), all of one reference; the folder
            `cifs` beside it holds `<material_id>.cif`. Rows without such a file are passed over.
        elements: of the system; other phases are passed over, and pure elements, whose energies are 0 by definition.

    Raises:
        BadInput: the file or a CIF does not read, or no row has a crystal.
    """
    frame = read_csv(path, ["material_id", "formula", "e_form"]).drop_duplicates("material_id")
    found = [set(elements_of([formula])) for formula in frame["formula"]]
    inside = [len(system) > 1 and system <= set(elements) for system in found]
    cifs = {name: path.parent / "cifs" / f"{name}.cif" for name in frame.loc[inside, "material_id"] if name}
    cifs = {name: cif for name, cif in cifs.items() if cif.is_file()}
    if not cifs:
        raise BadInput(f"no row of {path} has its crystal in {path.parent / 'cifs'}; put <material_id>.cif files there")
    rows = frame.set_index("material_id", drop=False).loc[list(cifs)]
    return CrystalTable.from_structures(
        [read_one(decoded(cif.read_bytes()), "cif", cif.name) for cif in cifs.values()],
        id=list(cifs),
        formation_energy=energies(rows["e_form"], rows["material_id"], path),
        energy_kind=f"formation energies of {path.name}",
    )


def potential_error(
    reference: Path | None, elements: Sequence[str], scale: Scale, potential: str, *, n_workers: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How far a potential's distances from the hull are off in a system.

    Args:
        reference: csv of :func:`read_reference_phases`; without one, what the scale has measured.
        elements: of the system.
        scale: the data in the potential's energies.

    Returns:
        One row with potential, error (mean absolute, eV/atom), ci_low, ci_high, n, source; and the compounds it is
        from, as :func:`lib.hull.distance_errors` returns them (none where it was measured before).
    """
    found, errors, source = scale.resolution, scale.errors, scale.measured_on
    if reference is not None:
        phases = read_reference_phases(reference, elements)
        totals = formation_energies(list(phases.structures()), scale.references, potential, n_workers=n_workers)
        errors = distance_errors(phases, replace(phases, formation_energy=totals), elements)
        found, source = mean_absolute_error(errors), f"computed from {reference.name}"
    row = (found.value, found.ci_low, found.ci_high, found.n, source)
    columns = ["error", "ci_low", "ci_high", "n", "source"]
    return pd.DataFrame([row], columns=columns, index=pd.Index([potential], name="potential")), errors


def on_hull(relaxed: pd.DataFrame, hull: Hull, scale: Scale, energy_kind: str) -> pd.DataFrame:
    """Pre-optimised requests with formation_energy and distance (eV/atom) on the scale of the hull.

    Args:
        relaxed: as :func:`judge_relaxations` returns it, with total_energy.
        energy_kind: of these energies.

    Raises:
        BadInput: they are of another kind than the hull's.
    """
    species = [[e.Z for e, n in parse_formula(f).items() for _ in range(round(n))] for f in relaxed["formula"]]
    energies = [formation_energy(*of, scale.references) for of in zip(relaxed["total_energy"], species, strict=True)]
    pairs = zip(relaxed["formula"], energies, strict=True)
    distances = [hull.energy_above_hull(formula, energy, energy_kind) for formula, energy in pairs]
    return relaxed.assign(formation_energy=energies, distance=distances)
