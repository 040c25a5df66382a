"""Formation energies and the convex hull of a chemical system (paper section 7.1).

All energies are formation energies in eV/atom unless a name says otherwise. The hull is pymatgen's phase diagram
(Ong et al., 10.1021/cm702327g) over the lowest crystal of each composition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from pymatgen.core import Composition, Element

from lib.core.errors import BadInput
from lib.core.stats import Rate, mean, next_value
from lib.crystals.elements import SYMBOLS, parse_formula
from lib.crystals.table import CrystalTable, element_shares

FLAT = 1e-9  # determinant of the fractions of phases that lie on one line: no facet, but rounding
GROUND_STATE = 0.01  # eV/atom above 0, up to which an element's crystal is its ground state, calculated once more
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
        energy_kind: the scale of its formation energies, as tables of crystals name it. One hull has one.
        phases: one row per composition, its lowest crystal: formula (reduced), id, formation_energy,
            energy_above_hull (eV/atom) and fractions (of each element). An element's crystal no more than GROUND_STATE
            above 0 stands at 0.
    """

    def __init__(
        self,
        elements: Iterable[str],
        formulas: Sequence[str],
        energies: Sequence[float],
        ids: Sequence[str],
        energy_kind: str,
        *,
        pinned: bool = True,
    ):
        """Build the hull from formation energies in eV/atom.

        Args:
            pinned: pure elements stand at 0 whatever their lowest crystal has, as in AFLOW's hulls (Oses et al.,
                10.1021/acs.jcim.8b00393); otherwise a crystal below 0 takes its element's place, as in pymatgen's,
                and draws down all that decomposes into it.

        Raises:
            BadInput: a formula lies outside the system.
        """
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

        self.elements, self.energy_kind = sorted(elements), energy_kind
        pure = {Composition(symbol).reduced_formula: symbol for symbol in self.elements}
        lowest = {formula: (0.0, f"{symbol} (reference)") for formula, symbol in pure.items()}  # 0 by definition
        reduced = {formula: parse_formula(formula).reduced_formula for formula in set(formulas)}
        falling = sorted(zip(formulas, energies, ids, strict=True), key=lambda crystal: -crystal[1])
        for formula, energy, name in falling:
            if reduced[formula] in pure and 0 < energy <= GROUND_STATE:
                energy = 0.0
            outside = sorted({str(e) for e in Composition(reduced[formula])} - set(self.elements))
            if outside:
                raise BadInput(f"{formula} contains {', '.join(outside)}, outside the system {self.system}")
            if reduced[formula] not in lowest or energy <= lowest[reduced[formula]][0]:
                lowest[reduced[formula]] = float(energy), str(name)
        heights = [0.0 if pinned and formula in pure else energy for formula, (energy, _) in lowest.items()]
        entries = [
            PDEntry(Composition(f), e * Composition(f).num_atoms, name=f) for f, e in zip(lowest, heights, strict=True)
        ]
        self._diagram = PhaseDiagram(entries, [Element(symbol) for symbol in self.elements])
        self._potentials = self._chemical_potentials()
        fractions = np.array([self.fractions(formula) for formula in lowest])
        found = np.array([energy for energy, _ in lowest.values()])
        self.phases = pd.DataFrame(
            {
                "formula": list(lowest),
                "id": [name for _, name in lowest.values()],
                "formation_energy": found,
                "energy_above_hull": found - self.heights(fractions),
                "fractions": list(fractions),
            }
        )

    def _chemical_potentials(self) -> np.ndarray:
        """(n_facets, n_elements) chemical potentials, eV/atom, of the elements where the phases of a facet coexist."""
        stable = self._diagram.qhull_entries
        if len(self.elements) == 1:
            return np.array([[min(entry.energy_per_atom for entry in stable)]])
        fractions = np.array([self.fractions(entry.name) for entry in stable])
        energies = np.array([entry.energy_per_atom for entry in stable])
        facets = [facet for facet in self._diagram.facets if abs(np.linalg.det(fractions[facet])) > FLAT]
        return np.array([np.linalg.solve(fractions[facet], energies[facet]) for facet in facets])

    def heights(self, fractions: np.ndarray) -> np.ndarray:
        """(n,) height of the hull at atomic fractions (n, n_elements), eV/atom.

        A convex function of planes is the highest of them.
        """
        return (fractions @ self._potentials.T).max(axis=1)

    def distances(self, table: CrystalTable) -> np.ndarray:
        """(n,) distances of a table's crystals from the hull without them, eV/atom.

        Raises:
            BadInput: the table's energies are of another kind, or a crystal lies outside the system.
        """
        self.check_kind(table.energy_kind, f"the {len(table)} crystals")
        if not made_of(table, self.elements).all():
            raise BadInput(f"some of the {len(table)} crystals lie outside the system {self.system}; take those inside")
        shares = element_shares(table)[:, [Element(symbol).Z for symbol in self.elements]]
        return table.formation_energy - self.heights(shares)

    def check_kind(self, energy_kind: str, of: str) -> None:
        """Refuse energies of another scale.

        Raises:
            BadInput: their difference from the hull would mean nothing.
        """
        if energy_kind != self.energy_kind:
            raise BadInput(
                f"the energy of {of} is a {energy_kind}, the hull of {self.system} is made of {self.energy_kind}; "
                "compute both with one method"
            )

    @classmethod
    def from_table(cls, table: CrystalTable, elements: Iterable[str], *, pinned: bool = True) -> Hull:
        """The hull of the table's crystals in the system of `elements`; see the constructor for `pinned`.

        Raises:
            BadInput: the table holds no crystal with one of the elements, so its hull would be that of another system.
        """
        elements = sorted(elements)
        missing = [symbol for symbol in elements if not table.has_element(Element(symbol).Z).any()]
        if missing:
            known = ", ".join(SYMBOLS[np.unique(table.species)])
            raise BadInput(f"the data hold no crystal with {', '.join(missing)}; choose formulas of {known}")
        inside = crystals_in_system(table, elements)
        return cls(
            elements, inside.reduced_formula, inside.formation_energy, inside.id, table.energy_kind, pinned=pinned
        )

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
        return float(self.heights(self.fractions(formula)[None])[0])

    def energy_above_hull(self, formula: str, formation_energy: float, energy_kind: str) -> float:
        """Distance of a crystal from the hull without it, eV/atom; negative below the hull.

        Raises:
            BadInput: the energy is of another kind than the hull's; their difference would mean nothing.
        """
        self.check_kind(energy_kind, formula)
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


def distance_errors(compared: pd.DataFrame, elements: Iterable[str]) -> pd.DataFrame:
    """How a potential's distances from the hull differ from the reference's, of the known compounds of a system.

    Each is measured from the hull of the other compositions, by the reference's energies alone and by the potential's
    alone: what a candidate's distance would be off by, were it that compound.

    Args:
        compared: of all known phases, as :func:`formation_energy_errors` returns them.

    Returns:
        As that, of distances; no line for a system without compounds.
    """
    elements = sorted(elements)
    parts = [{str(element) for element in Composition(formula)} for formula in compared["formula"]]
    inside = compared[np.array([part <= set(elements) for part in parts], dtype=bool)]
    compounds = inside["formula"].map(lambda formula: len(Composition(formula)) > 1).astype(bool)
    found = inside[compounds].astype({"reference": float, "ours": float})
    for formula in found["formula"].unique():
        own, others = found["formula"] == formula, inside[inside["formula"] != formula]
        for side in ("reference", "ours"):
            hull = Hull(elements, others["formula"], others[side], others["id"], side)
            found.loc[own, side] -= hull.hull_energy(formula)
    return found.assign(error=found["ours"] - found["reference"]).reset_index(drop=True)


def mean_absolute_error(errors: pd.DataFrame) -> Rate:
    """Of :func:`formation_energy_errors` or :func:`distance_errors`, with its 95 % interval over compounds, eV/atom."""
    found = mean(errors["error"].abs())
    return replace(found, ci_low=max(found.ci_low, 0.0)) if np.isfinite(found.ci_low) else found


@dataclass(frozen=True)
class Resolution:
    """How far off one distance from the hull may be, eV/atom.

    Attributes:
        error: mean absolute error with its 95 % interval.
        single: mean error, which is the bias, and the 95 % interval in which the error of one more distance lies; nan
            where nothing is known of it, so that every distance is unresolved.
    """

    error: Rate
    single: Rate

    @classmethod
    def of(cls, errors: pd.DataFrame) -> Resolution:
        """From :func:`distance_errors`."""
        return cls(mean_absolute_error(errors), next_value(errors["error"].to_numpy()))

    @classmethod
    def of_formation_energies(cls, errors: pd.DataFrame) -> Resolution:
        """From :func:`formation_energy_errors`, whose bias is none of distances: neighbouring phases share it."""
        single = next_value(errors["error"].to_numpy())
        half = max(abs(single.ci_low), abs(single.ci_high))
        return cls(mean_absolute_error(errors), Rate(0.0, -half, half, single.n))

    @classmethod
    def of_scatter(cls, scatter: float) -> Resolution:
        """From a standard deviation about 0."""
        half, mean_error = 1.96 * scatter, scatter * np.sqrt(2 / np.pi)
        return cls(Rate(mean_error, np.nan, np.nan, 0), Rate(0.0, -half, half, 0))

    def interval(self, distance: float) -> tuple[float, float]:
        """Where the true distance lies, in 95 % of all cases."""
        return distance - self.single.ci_high, distance - self.single.ci_low

    def verdict(self, distance: float) -> str:
        """:func:`verdict` on a distance."""
        return verdict(*self.interval(distance))


UNKNOWN = Resolution(Rate(np.nan, np.nan, np.nan, 0), Rate(np.nan, np.nan, np.nan, 0))


def verdict(low: float, high: float) -> str:
    """What the interval of a distance from the hull says: "below the hull", "above the hull", or "unresolved"."""
    return "below the hull" if high < 0 else "above the hull" if low > 0 else "unresolved"
