"""How far structures lie above a convex hull by a potential, and which of these distances the potential resolves.

The hull is that of a reference table. Where the table's energies are the potential's own (it records the checksum of
the weights), they are used as they are. Energies of any other kind cannot stand beside the potential's: the reference
crystals of the systems in question get energies from the potential, too, and their known formation energies then
measure its error there (:mod:`lib.metrics.fitness`). A distance whose 95 % interval contains 0 is called unresolved. Of
crystals that the potential was trained on, as CHGNet was on the Materials Project's, the error is a lower bound for new
ones. And the hull is as complete as the table: what it has no competitor for lies low.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from pymatgen.core import Composition, Element, Structure

from lib.crystals.elements import SYMBOLS
from lib.crystals.table import CrystalTable
from lib.energies import hull, potentials, relaxation
from lib.metrics.fitness import before

AS_GIVEN = {"max_steps": 0, "relax_cell": False, "keep_symmetry": False}  # energies of structures as they are
FREELY = {"fmax": relaxation.FMAX, "max_steps": relaxation.MAX_STEPS, "relax_cell": True, "keep_symmetry": False}
MIN_COMPOUNDS = 30  # to measure the potential's error on; filled up with others of the same elements
MIN_DISTANCES = 5  # compounds of the systems at hand, whose distances measure the error
N_FITTED = 10  # compounds from which the energy of an element without a crystal of its own is found
SAYS = {"below the hull": "stable", "unresolved": "unresolved", "above the hull": "unstable"}
NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Scale:
    """Known crystals in the energies of one potential, to judge others by."""

    known: CrystalTable  # crystals with the potential's formation energies
    references: dict[str, float]  # symbol -> energy of the element that they are counted from, eV/atom
    # formation energies of all known phases beside the reference's (lib.energies.hull.formation_energy_errors); empty
    # where nothing is known of the error
    compared: pd.DataFrame
    resolution: hull.Resolution  # of distances from the hull
    measured_on: str  # what it was measured on, in words
    holds_for: frozenset[str] | None = None  # elements in whose systems it holds; None: wherever it is asked for

    def resolution_in(self, system: Iterable[str]) -> hull.Resolution:
        """The resolution, or that nothing is known of it in this system: one system's is not another's."""
        return self.resolution if self.holds_for is None or set(system) <= self.holds_for else hull.UNKNOWN


@dataclass(frozen=True)
class Stability:
    """Structures judged by a potential."""

    structures: list[Structure | None]  # those given, relaxed where that was asked for and reached an end
    # one row a structure: hull.formation_energy and energy_above_hull (eV/atom, nan where there is none), competitors
    # (compounds of its system in the reference), failure (why there is no energy) and says: "stable", "unresolved",
    # "unstable" or "not judged"
    judged: pd.DataFrame
    resolution: hull.Resolution  # of the potential, as in Scale
    source: str  # the potential and what its error was measured on, in words


def judge(
    structures: Sequence[Structure | None],
    table: CrystalTable,
    potential: str = potentials.DEFAULT_POTENTIAL,
    *,
    relax: bool,
    rng: np.random.Generator,
    **how,
) -> Stability:
    """Distances from the hull of `table`, which the structures themselves do not shape.

    Args:
        structures: None is not judged.
        table: reference crystals; a structure with an element of which it has next to none is not judged.
        relax: relax the structures freely, and the phases of the hull that they compete with; else all stay as given.
        rng: draws the compounds that fill up the error's sample.
        how: n_workers and finished of :func:`lib.energies.relaxation.relax_many`.
    """
    present = [i for i, structure in enumerate(structures) if structure is not None]
    given = [structures[i] for i in present]
    formulas = [structure.composition.reduced_formula for structure in given]
    systems = [frozenset(element.symbol for element in structure.composition) for structure in given]
    results = relaxation.relax_many(given, potential, **how, **(FREELY if relax else AS_GIVEN))
    energies = [result.energy if relax else result.start_energy for result in results]
    failures = [r.failure if relax or not np.isfinite(r.start_energy) else "" for r in results]

    wanted = [formula for formula, failure in zip(formulas, failures, strict=True) if not failure]
    scale = scale_of(table, wanted, potential, relax=relax, rng=rng, **how)
    known, references = scale.known, scale.references
    held = _held(scale.known, scale.references)
    for i, system in enumerate(systems):
        if not failures[i] and system - held:
            failures[i] = f"the reference says too little of {', '.join(sorted(system - held))}"
    usable = [i for i, failure in enumerate(failures) if not failure]
    hulls = {system: hull.Hull.from_table(known, system) for system in {systems[i] for i in usable}}
    judged = pd.DataFrame({"formation_energy": np.nan, "energy_above_hull": np.nan}, index=range(len(structures)))
    judged["competitors"], judged["failure"], judged["says"] = 0, "no structure", NOT_JUDGED
    compounds = known.take(~_pure(known))
    competitors = {system: int(hull.made_of(compounds, system).sum()) for system in hulls}
    judged.loc[present, "failure"] = failures
    kind = potentials.energy_kind_of(potential)
    for i in usable:
        energy = hull.formation_energy(energies[i], given[i].atomic_numbers, references)
        distance = hulls[systems[i]].energy_above_hull(formulas[i], energy, kind)
        says = SAYS[scale.resolution_in(systems[i]).verdict(distance)]
        judged.loc[present[i]] = energy, distance, competitors[systems[i]], "", says
    after = list(structures)
    for place, result in zip(present, results, strict=True):
        after[place] = result.structure if relax and not result.failure else structures[place]
    source = f"{potentials.potential_provenance(potential)['potential']} on {scale.measured_on}"
    return Stability(after, judged, scale.resolution_in(frozenset().union(*systems)), source)


def scale_of(
    table: CrystalTable,
    formulas: Sequence[str],
    potential: str = potentials.DEFAULT_POTENTIAL,
    *,
    relax: bool,
    rng: np.random.Generator,
    **how,
) -> Scale:
    """The crystals of a table that compete with structures of these formulas, in the energies of a potential.

    They are the table's own where these are the potential's already, else computed again. Arguments as of
    :func:`judge`.
    """
    if table.about.get("weights_sha256") == potentials.potential_provenance(potential)["weights_sha256"]:
        own = relaxation.element_energies(table.about["element_energies_eV_per_atom"], [table], potential)
        return Scale(table, own, *before(potential))
    system_of = {formula: frozenset(e.symbol for e in Composition(formula)) for formula in formulas}
    chosen = table.take(_needed(table, set(system_of.values()), rng))
    results = relaxation.relax_many(list(chosen.structures()), potential, **how, **AS_GIVEN)
    totals = np.array([result.start_energy for result in results])
    references = _references(chosen, totals)
    known = _by_potential(chosen, totals, references, potential)
    held = _held(known, references)
    hulls = {system: hull.Hull.from_table(known, system) for system in set(system_of.values()) if system <= held}
    compared, resolution, measured_on = _resolution(known, chosen, hulls)
    if relax:
        competing = {n for f, system in system_of.items() if system in hulls for n in _beside(hulls[system], f)}
        elements = [row for s, row in _ground_states(chosen, totals).items() if s in frozenset().union(*hulls)]
        totals = _relaxed(chosen, totals, competing | set(chosen.id[elements]), potential, how)
        references = references | _counted_from(chosen, totals)  # relaxed like what is counted from them
        known = _by_potential(chosen, totals, references, potential)
    return Scale(known, references, compared, resolution, measured_on)


def _beside(system: hull.Hull, formula: str) -> list[str]:
    """Ids of what a structure's distance rests on, and of the lowest known crystal of its own composition."""
    own = system.phases["formula"] == Composition(formula).reduced_formula
    return [*system.competing(formula)["id"], *system.phases.loc[own, "id"]]


def _held(known: CrystalTable, references: Mapping[str, float]) -> set[str]:
    """Elements of which there is a crystal and an energy."""
    return set(SYMBOLS[np.unique(known.species)]) & set(references)


def _needed(table: CrystalTable, systems: set[frozenset[str]], rng: np.random.Generator) -> np.ndarray:
    """(n,) which crystals stand in one of the systems, or are needed for the elements' energies and for the error."""
    pure = _pure(table)
    with_pure = set(SYMBOLS[np.unique(table.take(pure).species)])
    elements = frozenset().union(*systems)
    needed = np.zeros(len(table), bool)
    for system in systems:
        needed |= hull.made_of(table, system)

    def draw(candidates: np.ndarray, n: int) -> None:
        """Add compounds until `n` of the candidates are needed."""
        candidates = candidates & ~pure
        left = np.flatnonzero(candidates & ~needed)
        more = min(max(n - int((candidates & needed).sum()), 0), len(left))
        needed[rng.choice(left, more, replace=False)] = True

    for symbol in sorted(elements - with_pure):
        draw(hull.made_of(table, elements | with_pure) & table.has_element(Element(symbol).Z), N_FITTED)
    draw(hull.made_of(table, elements), MIN_COMPOUNDS)
    return needed | (pure & hull.made_of(table, SYMBOLS[np.unique(table.take(needed).species)]))


def _pure(table: CrystalTable) -> np.ndarray:
    """(n,) whether each crystal is of one element."""
    return np.array([len(np.unique(table.species_of(i))) == 1 for i in range(len(table))], dtype=bool)


def _references(table: CrystalTable, totals: np.ndarray) -> dict[str, float]:
    """What formation energies by the potential refer to, eV/atom: symbol -> energy of the element.

    That of its lowest crystal in the table, less the formation energy which the table gives it; fitted to the compounds
    where the table has no crystal of the element.
    """
    return hull.fitted_references(table, totals, _counted_from(table, totals))


def _counted_from(table: CrystalTable, totals: np.ndarray) -> dict[str, float]:
    """The same of the elements that have a crystal."""
    rows = _ground_states(table, totals)
    return {symbol: float(totals[row] - table.formation_energy[row]) for symbol, row in rows.items()}


def _ground_states(table: CrystalTable, totals: np.ndarray) -> dict[str, int]:
    """Symbol -> row of the element's lowest crystal in the table, of those with a total energy."""
    falling = np.argsort(-table.formation_energy, kind="stable")  # so that the lowest crystal has the last word
    usable = (_pure(table) & np.isfinite(totals - table.formation_energy))[falling]
    return {str(SYMBOLS[table.species_of(row)[0]]): int(row) for row in falling[usable]}


def _by_potential(
    table: CrystalTable, totals: np.ndarray, references: Mapping[str, float], potential: str
) -> CrystalTable:
    """The crystals with formation energies from total ones (eV/atom); what has none is left out."""
    energies = hull.referred(totals, table, references)
    kept = np.isfinite(energies)
    return replace(table.take(kept), formation_energy=energies[kept], energy_kind=potentials.energy_kind_of(potential))


def _resolution(
    known: CrystalTable, reference: CrystalTable, systems: Iterable[frozenset[str]]
) -> tuple[pd.DataFrame, hull.Resolution, str]:
    """The known phases in both energies, and what follows for distances, where there are enough of them."""
    place = {name: row for row, name in enumerate(reference.id.tolist())}
    same = reference.take([place[name] for name in known.id.tolist()])
    compared = hull.formation_energy_errors(same, known.formation_energy)
    several = [hull.distance_errors(compared, system) for system in systems]
    distances = pd.concat([compared.head(0), *several]).drop_duplicates("id", ignore_index=True)
    trained = "of the reference's compounds, which it may have been trained on"
    if len(distances) >= MIN_DISTANCES:
        return compared, hull.Resolution.of(distances), f"distances {trained}"
    compounds = compared[~_pure(known)]
    if len(compounds) > 1:
        return compared, hull.Resolution.of_formation_energies(compounds), f"formation energies {trained}"
    return compared.head(0), hull.UNKNOWN, "no compounds, so that its error is not known"


def _relaxed(
    table: CrystalTable, totals: np.ndarray, ids: set[str], potential: str, how: Mapping[str, object]
) -> np.ndarray:
    """Total energies of the crystals as given, those of `ids` relaxed as far as that came: a phase that lies too high
    would let all others lie too low."""
    rows = np.flatnonzero(np.isin(table.id, sorted(ids)))
    totals = totals.copy()
    results = relaxation.relax_many([table.structure(row) for row in rows], potential, **how, **FREELY)
    for row, result in zip(rows, results, strict=True):
        if not result.outcome.startswith("rejected"):
            totals[row] = np.fmin(result.energy, totals[row])
    return totals
