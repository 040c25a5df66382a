"""How far structures lie above a convex hull by a potential, and which of these distances the potential resolves.

The hull is that of a reference table. Where the table's energies are the potential's own (it records the checksum of
the weights), they are used as they are. Energies of any other kind cannot stand beside the potential's: the reference
crystals of the systems in question get energies from the potential, too, and their known formation energies then
measure its error there. A distance smaller than that mean absolute error is called unresolved. Of crystals that the
potential was trained on, as CHGNet was on the Materials Project's, the error is a lower bound for new ones. And the
hull is as complete as the table: what it has no competitor for lies low.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Composition, Element, Structure

from lib.core.errors import BadInput
from lib.core.stats import Rate
from lib.crystals.elements import SYMBOLS, parse_formula
from lib.crystals.structure_io import decoded, read_one
from lib.crystals.table import CrystalTable
from lib.datasets.sources.files import energies, read_csv
from lib.energies import hull, potentials, relaxation

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
    # of the potential's distances from the hull (lib.energies.hull.distance_errors), or, where the systems hold
    # too few compounds, of its formation energies; empty where the data's energies are its own
    errors: pd.DataFrame
    resolution: Rate  # their mean absolute error, eV/atom; n counts compounds
    measured_on: str  # what it was measured on, in words


@dataclass(frozen=True)
class Stability:
    """Structures judged by a potential."""

    structures: list[Structure | None]  # those given, relaxed where that was asked for and reached an end
    # one row a structure: hull.formation_energy and energy_above_hull (eV/atom, nan where there is none), competitors
    # (compounds of its system in the reference), failure (why there is no energy) and says: "stable", "unresolved",
    # "unstable" or "not judged"
    judged: pd.DataFrame
    resolution: Rate  # error of the potential, as in Scale; a distance is resolved beyond its upper end
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
    known, references, resolution = scale.known, scale.references, scale.resolution
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
    for i in usable:
        energy = hull.formation_energy(energies[i], given[i].atomic_numbers, references)
        distance = hulls[systems[i]].energy_above_hull(formulas[i], energy)
        says = SAYS[hull.verdict(distance, resolution.ci_high)]
        judged.loc[present[i]] = energy, distance, competitors[systems[i]], "", says
    after = list(structures)
    for place, result in zip(present, results, strict=True):
        after[place] = result.structure if relax and not result.failure else structures[place]
    source = f"{potentials.potential_provenance(potential)['potential']} on {scale.measured_on}"
    return Stability(after, judged, resolution, source)


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
        return Scale(table, own, pd.DataFrame(), hull.CHGNET_ERROR, "Ta-W-B compounds, measured before")
    system_of = {formula: frozenset(e.symbol for e in Composition(formula)) for formula in formulas}
    chosen = table.take(_needed(table, set(system_of.values()), rng))
    results = relaxation.relax_many(list(chosen.structures()), potential, **how, **AS_GIVEN)
    totals = np.array([result.start_energy for result in results])
    references = _references(chosen, totals)
    known = _by_potential(chosen, totals, references, potential)
    held = _held(known, references)
    hulls = {system: hull.Hull.from_table(known, system) for system in set(system_of.values()) if system <= held}
    errors, measured_on = _errors(known, chosen, hulls)
    if relax:
        competing = {n for f, system in system_of.items() if system in hulls for n in hulls[system].competing(f)["id"]}
        totals = _relaxed(chosen, totals, competing, potential, how)
        known = _by_potential(chosen, totals, references, potential)
    resolution = hull.mean_absolute_error(errors) if len(errors) > 1 else hull.CHGNET_ERROR
    return Scale(known, references, errors, resolution, measured_on)


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
    lowest: dict[str, float] = {}
    rest = totals - table.formation_energy
    falling = np.argsort(-table.formation_energy, kind="stable")  # so that the lowest crystal has the last word
    for row in falling[(_pure(table) & np.isfinite(rest))[falling]]:
        lowest[str(SYMBOLS[table.species_of(row)[0]])] = float(rest[row])
    return hull.fitted_references(table, totals, lowest)


def _by_potential(
    table: CrystalTable, totals: np.ndarray, references: Mapping[str, float], potential: str
) -> CrystalTable:
    """The crystals with formation energies from total ones (eV/atom); what has none is left out."""
    energies = hull.referred(totals, table, references)
    kept = np.isfinite(energies)
    return replace(table.take(kept), formation_energy=energies[kept], energy_kind=potentials.energy_kind_of(potential))


def _errors(
    known: CrystalTable, reference: CrystalTable, systems: Iterable[frozenset[str]]
) -> tuple[pd.DataFrame, str]:
    """The potential's errors, of distances where there are enough of them, and what they were measured on."""
    several = [hull.distance_errors(reference, known, system) for system in systems]
    found = pd.concat([pd.DataFrame({"id": []}), *several]).drop_duplicates("id", ignore_index=True)
    if len(found) >= MIN_DISTANCES:
        return found, "distances of the reference's compounds, which it may have been trained on"
    compounds = known.take(~_pure(known))
    place = {name: row for row, name in enumerate(reference.id.tolist())}
    same = reference.take([place[n] for n in compounds.id.tolist()])
    found = hull.formation_energy_errors(same, compounds.formation_energy)
    if len(found) > 1:
        return found, "formation energies of the reference's compounds, which it may have been trained on"
    return found, "Ta-W-B compounds, measured before"


def _relaxed(
    table: CrystalTable, totals: np.ndarray, ids: set[str], potential: str, how: Mapping[str, object]
) -> np.ndarray:
    """Total energies of the crystals as given, those of `ids` relaxed where a relaxation came to an end."""
    rows = np.flatnonzero(np.isin(table.id, sorted(ids)))
    totals = totals.copy()
    results = relaxation.relax_many([table.structure(row) for row in rows], potential, **how, **FREELY)
    for row, result in zip(rows, results, strict=True):
        if not result.failure:
            totals[row] = min(result.energy, totals[row])
    return totals


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
    found = [{element.symbol for element in parse_formula(formula)} for formula in frame["formula"]]
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

    The reference is a csv file of :func:`read_reference_phases`; without one it is what the scale has measured.

    Returns:
        One row with potential, error (mean absolute, eV/atom), ci_low, ci_high, n, source; and the compounds it is
        from, as :func:`lib.energies.hull.distance_errors` returns them (none where it was measured before).
    """
    found, errors, source = scale.resolution, scale.errors, scale.measured_on
    if reference is not None:
        phases = read_reference_phases(reference, elements)
        totals = relaxation.single_points(list(phases.structures()), potential, n_workers=n_workers)
        pairs = zip(totals, (phases.species_of(i) for i in range(len(phases))), strict=True)
        ours = np.array([hull.formation_energy(*pair, scale.references) for pair in pairs])
        errors = hull.distance_errors(phases, replace(phases, formation_energy=ours), elements)
        found, source = hull.mean_absolute_error(errors), f"computed from {reference.name}"
    row = (found.value, found.ci_low, found.ci_high, found.n, source)
    columns = ["error", "ci_low", "ci_high", "n", "source"]
    return pd.DataFrame([row], columns=columns, index=pd.Index([potential], name="potential")), errors
