"""Structures for requests: a model fills the sites, a potential relaxes and ranks what came.

Structures that are no crystals (:func:`lib.crystals.validity.reason_invalid`) are dropped. Two are one where
StructureMatcher says so at its default tolerances without rescaling, their volumes are within 5 %, and they have the
same space group at 0.1 Å or energies within SAME_ENERGY; of these the lowest is kept, or what has higher symmetry
within SAME_ENERGY of it. In the ranking, too, symmetry counts between energies that near. And as the potential errs by
RESOLVED where it compares crystals of one composition, those of them that are reported go first where they lie that
near to the lowest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from lib.core.errors import BadInput
from lib.core.workers import progress
from lib.crystals.elements import SYMBOLS
from lib.crystals.table import CrystalTable
from lib.crystals.validity import SYMPRECS, obtained_space_group, reason_invalid, reason_unusable
from lib.datasets import references
from lib.energies.hull import formation_energy, lowest_elements
from lib.energies.potentials import potential_class, potential_provenance
from lib.energies.relaxation import FMAX, MAX_STEPS, relax_many
from lib.generation.known import loose_parts, prototype_of, twin_in
from lib.generation.proposals import Asked, checked, known_sites, proposals, structure_of
from lib.generation.requests import Request
from lib.generation.sampling import TrainedModel
from lib.generation.ship import Shipped
from lib.metrics.duplicates import equal_structures
from lib.metrics.stability import NOT_JUDGED, Stability, judge
from lib.retrieval.site_statistics import Candidate
from lib.retrieval.template_ranking import LearntRanking
from lib.symmetry.cells import LOOSE_SYMPREC, SYMPREC
from lib.symmetry.normaliser import unit_of
from lib.symmetry.wyckoff import AsymmetricUnit, primitive_operations

SAMPLING = {"steps": 50}
FROM_TEMPLATES = {"template_start": 0.7}  # where templates give coordinates
SAME_ENERGY = 0.001  # eV/atom
RESOLVED = 0.013
"""eV/atom: mean error of CHGNet's differences between two crystals of a formula, on 100 formulas of MP-20 with at most
eight atoms a cell (median 0.008); where the data's difference is below 0.02 it has the wrong sign in 41 % of 66."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What came of requests.

    Attributes:
        table: a row a structure, by request and rank: name, request, rank, formula; known ("crystal" and its id where
            it equals one of the given set, "reported" where AFLOW knows the compound so, "prototype" where it is one of
            AFLOW's in its own group, else "") and origin ("model", "crystal", "reported", "prototype": all that it came
            from); z, n_sites; asked_space_groups, space_group_0.01
            and space_group_0.1 (spglib, Å); sites_group and sites_share (the sites it was made on), template;
            asked_energy, formation_energy, energy_per_atom, energy_above_hull (eV/atom; nan where unknown) and says (of
            the last, see :mod:`lib.metrics.stability`); volume_per_atom (Å^3), a to gamma (conventional cell, Å and
            degrees), shortest_distance (Å), prototype (the most alike, and whether it is one or not).
        structures: in the same order.
        funnel: a row a request: asked, what was dropped and why, distinct.
        warnings: sentences.
    """

    table: pd.DataFrame
    structures: list[Structure]
    funnel: pd.DataFrame
    warnings: list[str]

    @property
    def titles(self) -> list[str]:
        """What stands above the picture of each: name, space group, origin, distance from the hull."""
        names = self.table["name"] + ", group " + self.table["space_group_0.1"].astype(str)
        above = self.table["energy_above_hull"].map(" {:+.3f} eV/atom".format, na_action="ignore").fillna("")
        return (names + "\n" + self.table["origin"] + above).tolist()


def answer(
    requests: Sequence[Request],
    model: TrainedModel,
    *,
    ranking: LearntRanking | None = None,
    known: bool = False,
    hull: CrystalTable | None = None,
    relax: str = "none",
    seed: int = 42,
    n_workers: int = 2,
    resume: Path | None = None,
    **sampling,
) -> Answers:
    """Structures for requests, ranked: by energy where there is a potential, else by the probability of their sites.

    Formation energies count from the energies of the elements that :mod:`lib.datasets.references` keeps; those of an
    element itself from its lowest structure here.

    Args:
        ranking: of the templates of a training set; else sites come from the statistics in the weights' file alone.
        known: whether known crystals, of `hull`, and prototypes are set beside what the model makes.
        hull: crystals above whose hull structures of its elements are judged (:func:`lib.metrics.stability.judge`).
        relax: a potential of :data:`lib.energies.potentials.POTENTIALS`, or "none".
        resume: folder that keeps what an interrupted call has done.
        sampling: options of :meth:`lib.generation.sampling.TrainedModel.generate`, before those that the weights name.

    Raises:
        BadInput: a request that the model cannot answer, or weights that were not exported.
    """
    shipped = Shipped.within(model.about)
    if {request.polymorph is not None for request in requests} != {model.spec.task == "modification"}:
        raise BadInput(f"{model.spec.name} is a {model.spec.task} model; crystals are improved by a modification model")
    if relax != "none":
        potential_class(relax)  # a name that is not known ends here
    warnings = [warning for request in requests for warning in checked(request, model, shipped)]
    asked = [
        one
        for number, request in enumerate(progress(requests, desc="choosing sites", unit="request"))
        for one in proposals(request, number, shipped, ranking, model.representation.n_sites)
    ]
    sampling = SAMPLING | (FROM_TEMPLATES if ranking else {}) | shipped.sampling | sampling
    structures = _sampled(requests, asked, model, **sampling, seed=seed, resume=resume)
    how = {"n_workers": n_workers, "finished": resume / "relaxed" if resume else None}
    if known and model.spec.task != "modification":
        beside = known_sites(requests, shipped, hull, relax, **how)
        asked, structures = asked + beside, structures + [structure_of(one.candidate.unit) for one in beside]
    given = {number: request.polymorph for number, request in enumerate(requests) if request.polymorph}
    asked += [Asked(number, 1, Candidate(unit_of(s), np.nan), np.nan, "given") for number, s in given.items()]
    structures += given.values()
    reasons = [reason_invalid(s, shipped.volumes) for s in progress(structures, desc="checking")]
    energy = np.full(len(asked), np.nan)
    if relax != "none":
        valid = [i for i, reason in enumerate(reasons) if not reason]
        results = relax_many([structures[i] for i in valid], relax, **how, fmax=FMAX, max_steps=MAX_STEPS)
        for i, result in zip(valid, results, strict=True):
            structures[i], energy[i] = result.structure, result.energy
            reasons[i] = reason_unusable("not relaxed" * bool(result.failure), result.structure, shipped.volumes)
    warnings += [
        f"the given {requests[one.request].formula} is left out ({reason}); its improvements stand alone"
        for one, reason in zip(asked, reasons, strict=True)
        if one.source == "given" and reason
    ]
    kept, came_from, outcome = distinct(asked, structures, reasons, energy)
    warnings += [
        f"of {request.formula} nothing is left but the given crystal: all that was made of it equals it or is no "
        "crystal; more structures (--n), another space group or energy may find others"
        for number, request in enumerate(requests)
        if {asked[i].source for i in kept if asked[i].request == number} == {"given"}
    ]
    elements = {} if relax == "none" else references.of_kind(shipped.energy_kind, relax)
    table = _table(requests, asked, structures, energy, kept, came_from, elements)
    structures = [structures[i] for i in kept]
    table["known"] = _marks(table, structures, came_from, hull if known else None)
    warnings += _lower_than_reported(table)
    if relax != "none" and hull is not None:
        warnings += _judged(table, structures, hull, relax, seed, how)
    parts = [loose_parts(structure) for structure in structures]
    for kind in sorted(set(parts) - {""}):
        names = [name for name, part in zip(table["name"], parts, strict=True) if part == kind]
        warnings.append(
            f"{', '.join(names)}: {kind} without bonds between them; no potential here knows the dispersion that holds "
            f"such together, so the distance between {kind} is not to be trusted, nor what follows from it"
        )
    return Answers(table, structures, _funnel(requests, asked, outcome), warnings)


def _sampled(requests, asked: list[Asked], model: TrainedModel, **sampling) -> list[Structure | None]:
    units: list[AsymmetricUnit] = [one.candidate.unit for one in asked]
    crystals, x_0 = [requests[one.request].polymorph for one in asked], None
    if all(crystals):  # they are to be improved on
        facts = {"id": [str(i) for i in range(len(asked))], "formation_energy": np.zeros(len(asked))}
        x_0 = CrystalTable.from_structures(crystals, **facts, energy_kind="unknown")
    species = [requests[one.request].species(one.z) for one in asked]
    groups, energies = np.array([unit.symmetry for unit in units]), np.array([one.energy for one in asked])
    return model.generate(species, groups, energies, units=units, x_0=x_0, **sampling)


def distinct(
    asked: Sequence[Asked], structures: Sequence[Structure | None], reasons: Sequence[str], energy: np.ndarray
) -> tuple[list[int], list[set[str]], list[str]]:
    """The valid structures without those that equal another, by request and rank; see the module for both rules.

    The given crystal of a request stands for all that equal it. Returned are their places; for each of them, in the
    same order, the sources of all that equal it; and what became of each structure, in words.
    """
    number = np.array([one.request for one in asked])
    share = np.array([one.candidate.score for one in asked])
    group = [
        0 if reason else obtained_space_group(s, LOOSE_SYMPREC) for s, reason in zip(structures, reasons, strict=True)
    ]
    operations = np.array([len(primitive_operations(g)[0]) if g else 0 for g in group])
    valid = [i for i in _in_order(number, energy, operations, share) if not reasons[i]]
    valid.sort(key=lambda i: asked[i].source != "given")
    classes: list[list[int]] = []

    def equal(i: int, j: int) -> bool:
        alike = group[i] == group[j] or abs(energy[i] - energy[j]) <= SAME_ENERGY
        return number[i] == number[j] and alike and equal_structures(structures[i], structures[j])

    for i in progress(valid, desc="comparing", unit="crystal"):
        found = next((members for members in classes if equal(i, members[0])), None)
        if found:
            found.append(i)
        else:
            classes.append([i])
    outcome = [reason or "equals another" for reason in reasons]
    came_from = {}
    for members in classes:
        lowest = min(energy[members])
        near = [i for i in members if not energy[i] > lowest + SAME_ENERGY]
        best = members[0] if asked[members[0]].source == "given" else max(near, key=lambda i: operations[i])
        outcome[best] = "given" if asked[best].source == "given" else "distinct"
        came_from[best] = {asked[i].source or "model" for i in members}
    reported = [any(s.startswith("reported") for s in came_from.get(i, ())) for i in range(len(asked))]
    kept = [i for i in _in_order(number, energy, operations, share, reported) if i in came_from]
    return kept, [came_from[i] for i in kept], outcome


def _in_order(number, energy: np.ndarray, operations: np.ndarray, share: np.ndarray, reported=None) -> list[int]:
    """Places by request and energy, within SAME_ENERGY of the first by symmetry; without energies by share.

    What is reported goes first within RESOLVED of its request's lowest.
    """
    by_energy = np.lexsort((np.arange(len(number)), -share, energy, number)).tolist()
    level, first = {}, None
    for i in by_energy:
        if first is None or number[i] != number[first] or not energy[i] <= energy[first] + SAME_ENERGY:
            first = i
        level[i] = len(level) if first == i else level[first]
    lowest = {n: np.nanmin(energy[number == n], initial=np.inf) for n in set(number.tolist())}

    def later(i: int) -> bool:
        return not (reported and reported[i] and not energy[i] > lowest[number[i]] + RESOLVED)

    return sorted(by_energy, key=lambda i: (number[i], later(i), level[i], -operations[i]))


COLUMNS = ["name", "request", "rank", "formula", "known", "origin", "z", "n_sites", "asked_space_groups", "sites_group"]
COLUMNS += ["sites_share", "template", "space_group_0.01", "space_group_0.1", "asked_energy", "formation_energy"]
COLUMNS += ["energy_per_atom", "energy_above_hull", "says", "volume_per_atom", "a", "b", "c", "alpha", "beta", "gamma"]
COLUMNS += ["shortest_distance", "prototype"]


def _table(requests, asked, structures, energy, kept, came_from, elements: Mapping[str, float]) -> pd.DataFrame:
    lowest = lowest_elements([structures[i].atomic_numbers for i in kept], energy[kept])
    rows = []
    for i in progress(kept, desc="comparing with prototypes", unit="crystal"):
        of = lowest if len(structures[i].composition) == 1 else elements
        rows.append(_row(requests[asked[i].request], asked[i], structures[i], energy[i], of))
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["origin"] = [", ".join(sorted({source.split()[0] for source in sources})) for sources in came_from]
    given = {asked[i].request + 1: energy[i] for i in kept if asked[i].source == "given"}
    if any(request.polymorph for request in requests):
        table["given"] = [asked[i].source == "given" for i in kept]
        table["below_given"] = (table["request"].map(given) - table["energy_per_atom"]).round(4)
    table["rank"] = table.groupby("request").cumcount() + 1
    table["name"] = _names(requests, table)
    return table


def _row(request: Request, asked: Asked, structure: Structure, energy: float, elements: Mapping[str, float]) -> dict:
    numbers = np.array(structure.atomic_numbers)
    known = np.isfinite(energy) and set(SYMBOLS[numbers]) <= set(elements)
    formed = formation_energy(energy, numbers, elements) if known else np.nan
    cell = SpacegroupAnalyzer(structure, SYMPREC).get_conventional_standard_structure().lattice
    edges = dict(zip("abc", np.round(cell.abc, 3).tolist(), strict=True))
    angles = dict(zip(("alpha", "beta", "gamma"), np.round(cell.angles, 2).tolist(), strict=True))
    reach = 1.2 * np.cbrt(structure.volume / len(structure))  # no packing keeps its atoms further than 1.13 times apart
    return {
        "request": asked.request + 1,
        "formula": request.label,
        "z": asked.z,
        "n_sites": len(structure),
        "asked_space_groups": "any" if request.space_groups is None else ",".join(map(str, request.space_groups)),
        "sites_group": asked.candidate.unit.symmetry,
        "sites_share": round(max(asked.candidate.score, 0.0), 4),  # a regression's score may lie below
        "template": asked.candidate.template or asked.source.removeprefix("given"),
        **{f"space_group_{s:g}": obtained_space_group(structure, s) for s in SYMPRECS},
        "asked_energy": round(asked.energy, 4),
        "formation_energy": round(float(formed), 4),
        "energy_per_atom": round(float(energy), 4),
        "says": "",
        "volume_per_atom": round(structure.volume / len(structure), 3),
        **edges,
        **angles,
        "shortest_distance": round(float(structure.get_neighbor_list(reach)[-1].min()), 3),
        "prototype": prototype_of(structure),
    }


def _names(requests: Sequence[Request], table: pd.DataFrame) -> list[str]:
    """Formula and rank; the number of the request, too, where several are for one formula.

    Capitals do not tell names apart (CO, Co), for there are disks on which they do not.
    """
    labels = [request.label.lower() for request in requests]
    return [
        f"{row.formula}_{f'{row.request}_' if labels.count(row.formula.lower()) > 1 else ''}{row.rank:03d}"
        for row in table.itertuples()
    ]


def _marks(table: pd.DataFrame, structures, came_from: Sequence[set[str]], crystals: CrystalTable | None) -> list[str]:
    """The column `known`."""
    marks = []
    for row, structure, sources in zip(table.to_dict("records"), structures, came_from, strict=True):
        twin = twin_in(crystals, structure) if crystals is not None else ""
        named = [s.removeprefix("crystal ") for s in sorted(sources) if s.startswith("crystal")] or [twin]
        named = [f"crystal {name}" for name in named if name]
        named += ["reported"] if any(source.startswith("reported") for source in sources) else []
        is_one = f"_{row['space_group_0.1']}_" in row["prototype"]
        marks.append(", ".join(named) or ("prototype" if is_one else ""))
    return marks


def _lower_than_reported(table: pd.DataFrame) -> list[str]:
    """A sentence for each request whose first crystal is reported and not the lowest."""
    first = table.groupby("request").head(1)
    above = first["energy_per_atom"] - first["request"].map(table.groupby("request")["energy_per_atom"].min())
    return [
        f"{name} comes first as it is reported, {1000 * gap:.1f} meV/atom above the lowest: "
        f"between crystals of one formula the potential errs by {1000 * RESOLVED:.0f}"
        for name, known, gap in zip(first["name"], first["known"], above, strict=True)
        if "reported" in known and gap > SAME_ENERGY
    ]


def _judged(
    table: pd.DataFrame, structures: list[Structure], hull: CrystalTable, potential: str, seed: int, how
) -> list[str]:
    """Fill in distances from the hull; what they are worth, in a sentence."""
    covered = set(np.unique(hull.species).tolist())
    asked = [structure if set(structure.atomic_numbers) <= covered else None for structure in structures]
    lacking = sorted({str(SYMBOLS[n]) for structure in structures for n in set(structure.atomic_numbers) - covered})
    unjudged = [
        f"no distance from the hull where there is {', '.join(lacking)}: the hull's data hold no such crystal; "
        "give a table of crystals (--hull) that does"
    ]
    if not any(asked):
        return unjudged if lacking else []
    own = hull.about.get("weights_sha256") == potential_provenance(potential)["weights_sha256"]
    found = judge(asked, hull, potential, relax=not own, rng=np.random.default_rng(seed), **how)
    table["energy_above_hull"] = found.judged["energy_above_hull"].round(4).to_numpy() + 0.0  # no -0
    table["says"] = found.judged["says"].replace(NOT_JUDGED, "").to_numpy()
    failed = found.judged["failure"][[structure is not None for structure in asked]]
    return [
        *(unjudged if lacking else []),
        *(f"no distance from the hull for some: {reason}" for reason in sorted(set(failed) - {""})),
        _resolved(found),
    ]


def _resolved(found: Stability) -> str:
    """From where on distances from the hull say something, in a sentence."""
    error, single = found.resolution.error, found.resolution.single
    if not np.isfinite(single.ci_high):
        return f"all distances from the hull are unresolved: {found.source}"
    return (
        f"distances from the hull between {1000 * single.ci_low:+.0f} and {1000 * single.ci_high:+.0f} meV/atom are "
        f"unresolved: as far may one be off by {found.source} (mean error {1000 * error.value:.0f}, n = {error.n})"
    )


def _funnel(requests: Sequence[Request], asked: Sequence[Asked], outcome: Sequence[str]) -> pd.DataFrame:
    number = np.array([one.request for one in asked])
    counts = pd.crosstab(number, np.array(outcome)).rename_axis(index=None, columns=None)
    known = pd.Series([one.source not in ("", "given") for one in asked]).groupby(number).sum()
    funnel = pd.DataFrame({"request": list(map(str, requests)), "asked": counts.sum(axis=1), "of them known": known})
    return funnel.join(counts.drop(columns="distinct", errors="ignore")).assign(distinct=counts.get("distinct", 0))
