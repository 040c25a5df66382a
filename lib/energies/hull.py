"""Formation energies and the convex hull of a chemical system (paper section 7.1).

All energies are formation energies in eV/atom unless a name says otherwise. The hull is pymatgen's phase diagram
(Ong et al., 10.1021/cm702327g) over the lowest crystal of each composition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd
from pymatgen.core import Composition, Element

from lib.core.errors import BadInput
from lib.core.stats import Rate, mean
from lib.crystals.elements import SYMBOLS, parse_formula
from lib.crystals.table import CrystalTable, element_shares

CHGNET_ERROR = Rate(0.047, 0.012, 0.082, 10)
"""Mean absolute error of CHGNet 0.3.0's distances from the hull, eV/atom (:func:`distance_errors`), of the Ta-W-B
compounds of the Materials Project at its geometries. Its formation energies of them are 0.100 (0.063 to 0.138) too low;
part of that is the same for neighbouring phases. It stands in where there are no reference energies to compute it from.
"""

MIN_FITTED = 3  # crystals at least, that the energy of an element is fitted to


def formation_energy(energy: float, species: Iterable[int], element_energies: Mapping[str, float]) -> float:
    """Formation energy in eV/atom from a total energy in eV/atom.

    Args:
        energy: total energy, eV/atom.
        species: (n_sites,) atomic numbers.
        element_energies: symbol -> energy of the element's ground state by the same method, eV/atom.

    Raises:
        BadInput: an element has no reference.
    """
    symbols = SYMBOLS[np.asarray(species, dtype=int)]
    missing = sorted(set(symbols) - set(element_energies))
    if missing:
        raise BadInput(f"no reference energy for {', '.join(missing)}; ingest a crystal of the pure element")
    return energy - float(np.mean([element_energies[symbol] for symbol in symbols]))


def referred(energies: np.ndarray, table: CrystalTable, references: Mapping[str, float]) -> np.ndarray:
    """(n,) formation energies of a table's crystals from total ones, eV/atom; nan where an element has no reference."""
    by_number = np.array([references.get(symbol, np.nan) for symbol in SYMBOLS.tolist()])
    return energies - np.add.reduceat(by_number[table.species], table.offsets[:-1]) / table.n_sites


def fitted_references(
    table: CrystalTable, totals: np.ndarray, known: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Energies of the elements by which total energies give a table's formation energies best, eV/atom.

    Least squares over the crystals, as in Stevanović et al., 10.1103/PhysRevB.85.115104. No pure element need be among
    them, and what the method of the totals and the table's differ by, as far as it goes by element, is taken out.

    Args:
        totals: (n,) eV/atom; crystals of which this or the formation energy is nan are left out.
        known: energies of elements that are not fitted.

    Returns:
        Symbol -> energy, with those known; an element that the crystals do not determine, or of which fewer than
        MIN_FITTED have any, is left out.
    """
    known = known or {}
    shares = element_shares(table)
    given = np.flatnonzero(np.isin(SYMBOLS, list(known)))
    wanted = np.setdiff1d(np.unique(table.species), given)
    rest = totals - table.formation_energy
    rows = np.isfinite(rest) & (shares[:, wanted] > 0).any(axis=1)
    matrix = shares[rows][:, wanted]
    target = rest[rows] - shares[rows][:, given] @ [known[s] for s in SYMBOLS[given]]
    values, _, rank, _ = np.linalg.lstsq(matrix, target, rcond=None)
    loose = np.abs(np.linalg.svd(matrix)[2][rank:]).max(axis=0, initial=0) > 1e-6  # moves without a change of the fit
    few = (matrix > 0).sum(axis=0) < MIN_FITTED
    fitted = zip(SYMBOLS[wanted].tolist(), values.tolist(), loose | few, strict=True)
    return dict(known) | {symbol: value for symbol, value, no in fitted if not no}


def lowest_elements(compositions: Sequence[Iterable[int]], energies: Sequence[float]) -> dict[str, float]:
    """Symbol -> energy of the lowest crystal of that pure element, for the elements that have one.

    Args:
        compositions: atomic numbers of each crystal's atoms.
        energies: total energies, eV/atom.
    """
    found: dict[str, float] = {}
    for species, energy in zip(compositions, energies, strict=True):
        symbols = set(SYMBOLS[np.asarray(species, dtype=int)])
        if len(symbols) == 1:
            symbol = str(symbols.pop())
            found[symbol] = min(float(energy), found.get(symbol, np.inf))
    return found


def made_of(table: CrystalTable, elements: Iterable[str]) -> np.ndarray:
    """(n,) whether each crystal contains no other elements."""
    inside = np.isin(table.species, [Element(symbol).Z for symbol in elements])
    return np.logical_and.reduceat(inside, table.offsets[:-1]) if len(table) else inside


def crystals_in_system(table: CrystalTable, elements: Iterable[str]) -> CrystalTable:
    """The crystals that contain no other elements."""
    return table.take(made_of(table, elements))


class Hull:
    """The convex hull of a chemical system.

    Attributes:
        elements: symbols of the system, alphabetical.
        energy_kind: whose formation energies they are, as tables of crystals name it. One hull has one.
        phases: one row per composition, its lowest crystal: formula (reduced), id, formation_energy,
            energy_above_hull (eV/atom) and fractions (of each element).
    """

    def __init__(
        self,
        elements: Iterable[str],
        formulas: Sequence[str],
        energies: Sequence[float],
        ids: Sequence[str],
        energy_kind: str = "unknown",
    ):
        """Build the hull from formation energies in eV/atom; the pure elements stand at 0 unless lower ones are given.

        Raises:
            BadInput: a formula lies outside the system.
        """
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

        self.elements, self.energy_kind = sorted(elements), energy_kind
        lowest = {  # 0 by definition of the energies
            Composition(symbol).reduced_formula: (0.0, f"{symbol} (reference)") for symbol in self.elements
        }
        for formula, energy, name in zip(formulas, energies, ids, strict=True):
            reduced = parse_formula(formula).reduced_formula
            outside = sorted({str(e) for e in Composition(reduced)} - set(self.elements))
            if outside:
                raise BadInput(f"{formula} contains {', '.join(outside)}, outside the system {self.system}")
            if reduced not in lowest or energy <= lowest[reduced][0]:
                lowest[reduced] = float(energy), str(name)
        entries = [PDEntry(Composition(f), e * Composition(f).num_atoms, name=f) for f, (e, _) in lowest.items()]
        self._diagram = PhaseDiagram(entries, [Element(symbol) for symbol in self.elements])
        self.phases = pd.DataFrame(
            {
                "formula": list(lowest),
                "id": [name for _, name in lowest.values()],
                "formation_energy": [energy for energy, _ in lowest.values()],
                "energy_above_hull": [self.energy_above_hull(f, energy) for f, (energy, _) in lowest.items()],
                "fractions": [self.fractions(f) for f in lowest],
            }
        )

    @classmethod
    def from_table(cls, table: CrystalTable, elements: Iterable[str]) -> Hull:
        """The hull of the table's crystals in the system of `elements`.

        Raises:
            BadInput: the table holds no crystal with one of the elements, so its hull would be that of another system.
        """
        elements = sorted(elements)
        missing = [symbol for symbol in elements if not table.has_element(Element(symbol).Z).any()]
        if missing:
            known = ", ".join(SYMBOLS[np.unique(table.species)])
            raise BadInput(f"the data hold no crystal with {', '.join(missing)}; choose formulas of {known}")
        inside = crystals_in_system(table, elements)
        return cls(elements, inside.reduced_formula, inside.formation_energy, inside.id, table.energy_kind)

    @property
    def system(self) -> str:
        """The system in words, such as B-Ta-W."""
        return "-".join(self.elements)

    def fractions(self, formula: str) -> np.ndarray:
        """(n_elements,) atomic fractions of a composition, in the order of :attr:`elements`."""
        composition = parse_formula(formula)
        return np.array([composition.get_atomic_fraction(Element(symbol)) for symbol in self.elements])

    def hull_energy(self, formula: str) -> float:
        """Height of the hull at a composition, eV/atom.

        Raises:
            BadInput: the formula does not parse.
        """
        return float(self._diagram.get_hull_energy_per_atom(parse_formula(formula)))

    def energy_above_hull(self, formula: str, formation_energy: float, energy_kind: str | None = None) -> float:
        """Distance of a crystal from the hull without it, eV/atom; negative below the hull.

        Raises:
            BadInput: the energy is said to be of another kind than the hull's; their difference would mean nothing.
        """
        if energy_kind not in (None, self.energy_kind):
            raise BadInput(
                f"the energy of {formula} is a {energy_kind}, the hull of {self.system} is made of {self.energy_kind}; "
                "compute both with one method"
            )
        return float(formation_energy) - self.hull_energy(formula)

    def decomposition(self, formula: str) -> dict[str, float]:
        """Ids of the stable phases that a composition decomposes into, with their fractions of its atoms."""
        found = self._diagram.get_decomposition(parse_formula(formula))
        ids = dict(zip(self.phases["formula"], self.phases["id"], strict=True))
        return {ids[entry.name]: float(fraction) for entry, fraction in found.items()}

    def competing(self, formula: str) -> pd.DataFrame:
        """The :attr:`phases` that a distance at a composition rests on: the elements and what it decomposes into."""
        needed = self.phases["id"].isin(self.decomposition(formula))
        pure = self.phases["formula"].isin({Composition(str(e)).reduced_formula for e in parse_formula(formula)})
        return self.phases[needed | pure]

    def at(self, formulas: Sequence[str]) -> pd.DataFrame:
        """Height of the hull (eV/atom) at compositions, and what they decompose into there."""
        mixtures = [
            " + ".join(f"{fraction:.2f} {name}" for name, fraction in self.decomposition(formula).items())
            for formula in formulas
        ]
        heights = [self.hull_energy(formula) for formula in formulas]
        return pd.DataFrame({"formula": formulas, "hull_energy": heights, "decomposes into": mixtures})

    @cached_property
    def tie_lines(self) -> np.ndarray:
        """(n_lines, 2, n_elements) atomic fractions of the stable phases that coexist."""
        corners = [self.fractions(entry.name) for entry in self._diagram.qhull_entries]
        pairs = {tuple(sorted((a, b))) for facet in self._diagram.facets for a in facet for b in facet if a < b}
        return np.array([(corners[a], corners[b]) for a, b in sorted(pairs)]).reshape(-1, 2, len(self.elements))


def formation_energy_errors(phases: CrystalTable, energies: np.ndarray) -> pd.DataFrame:
    """How a potential's formation energies differ from those of known compounds.

    Args:
        phases: crystals with reference formation energies.
        energies: (n,) the potential's, of the same crystals, eV/atom.

    Returns:
        id, formula (reduced), reference, ours and error (ours - reference), eV/atom.
    """
    columns = {"id": phases.id, "formula": phases.reduced_formula, "reference": phases.formation_energy}
    return pd.DataFrame(columns).assign(ours=energies, error=energies - phases.formation_energy)


def distance_errors(reference: CrystalTable, ours: CrystalTable, elements: Iterable[str]) -> pd.DataFrame:
    """How a potential's distances from the hull differ from the reference's, of the known compounds of a system.

    Each is measured from the hull of the other compositions, by the reference's energies alone and by the potential's
    alone: what a candidate's distance would be off by, were it that compound.

    Args:
        reference: crystals with reference formation energies.
        ours: some of the same (by id), with the potential's.

    Returns:
        As :func:`formation_energy_errors`, of distances; no line for a system without compounds.
    """
    elements = sorted(elements)
    inside = crystals_in_system(ours, elements)
    place = {name: row for row, name in enumerate(reference.id.tolist())}
    sides = reference.take([place[name] for name in inside.id.tolist()]), inside
    formulas = inside.reduced_formula
    compounds = np.array([len(np.unique(inside.species_of(i))) > 1 for i in range(len(inside))], dtype=bool)
    found = np.full((2, len(inside)), np.nan)
    for formula in np.unique(formulas[compounds]):
        others = formulas != formula
        for distances, side in zip(found, sides, strict=True):
            hull = Hull(elements, formulas[others], side.formation_energy[others], inside.id[others])
            distances[~others] = side.formation_energy[~others] - hull.hull_energy(formula)
    table = pd.DataFrame({"id": inside.id, "formula": formulas, "reference": found[0], "ours": found[1]})
    return table.assign(error=found[1] - found[0])[compounds].reset_index(drop=True)


def mean_absolute_error(errors: pd.DataFrame) -> Rate:
    """Of :func:`formation_energy_errors` or :func:`distance_errors`, with its 95 % interval over compounds, eV/atom."""
    found = mean(errors["error"].abs())
    return replace(found, ci_low=max(found.ci_low, 0.0)) if np.isfinite(found.ci_low) else found


def verdict(distance: float, resolution: float) -> str:
    """What a distance from the hull says (both eV/atom): "below the hull", "above the hull", or "unresolved".

    Args:
        resolution: smallest distance that the energies tell from 0: the upper end of their distances' mean error.
    """
    if abs(distance) < resolution:
        return "unresolved"
    return "below the hull" if distance < 0 else "above the hull"
