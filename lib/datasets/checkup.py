"""A check-up of crystals before a model learns from them: duplicates, outliers, small groups, rare elements.

Nothing is removed: the findings name crystals and say what can be done. The funnel of paper section 2.1 follows later.
"""

import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd
import spglib
from ase.data import covalent_radii
from pymatgen.core import Lattice, Structure
from pymatgen.optimization.neighbors import find_points_in_spheres

from lib.core.workers import progress
from lib.crystals.elements import SYMBOLS
from lib.crystals.table import CrystalTable, atomic_volumes, predicted_volumes
from lib.crystals.validity import MIN_DISTANCE_AFTER, VOLUME_WINDOW
from lib.datasets.polymorphs import element_counts, polymorph_groups
from lib.symmetry.cells import SYMPREC

DUPLICATE_ENERGY = 0.002  # eV/atom, between crystals that may be one
FENCES = 3.0  # interquartile ranges beyond the quartiles: Tukey's outer fences (Exploratory Data Analysis, 1977)
LEAST_SPREAD = 0.1  # eV/atom, of an interquartile range: alike energies make no outlier of the next one
CONTACT_RANGE = 1.2  # sums of covalent radii; how far contacts are looked for
CRUSHED = 0.1  # of the predicted volume; neighbours in such a cell are endless
FORMULAS_TO_SPLIT = 10  # with fewer, a fifth of them is one or two formulas
NAMES_SHOWN = 5  # names in a finding


@dataclass(frozen=True)
class Measure:
    """One number of each crystal, and between which limits it is ordinary."""

    values: np.ndarray
    low: float
    high: float

    @property
    def outside(self) -> np.ndarray:
        """Rows of the crystals beyond the limits, the farthest first."""
        excess = np.maximum(self.low - self.values, self.values - self.high)
        rows = np.flatnonzero(excess > 0)
        return rows[np.argsort(-excess[rows], kind="stable")]


@dataclass(frozen=True)
class CheckUp:
    """What was found."""

    # one row a check: check, found (how many), of (among how many), unit, first (names of a few), remedy
    findings: pd.DataFrame
    measures: dict[str, Measure]  # name -> the numbers that outliers are judged by; the name has the unit


def check_up(
    table: CrystalTable, *, pairs: int, crystals: int, min_group_size: int, rng: np.random.Generator
) -> CheckUp:
    """Look through a table.

    Args:
        pairs: most pairs of crystals compared for duplicates; of more, a random sample by `rng` is.
        crystals: an element in fewer crystals is rare.
        min_group_size: of the funnel, which leaves smaller polymorph groups out.
    """
    measures = measure(table)
    compared, alike, n_pairs = duplicates(table, pairs, rng)
    sampled = "all of them" if compared == n_pairs else f"a sample of {n_pairs:,}"
    groups = polymorph_groups(table)
    small = [formula for formula, rows in groups.items() if len(rows) < min_group_size]
    spread = (np.ptp(table.formation_energy[rows]) for rows in groups.values())
    without_pair = [formula for formula, gap in zip(groups, spread, strict=True) if not gap > 0]
    counts = element_counts(table)
    rare = np.flatnonzero((counts > 0) & (counts < crystals))
    formulas = np.unique(table.reduced_formula).tolist()
    too_few = formulas if len(formulas) < FORMULAS_TO_SPLIT else []
    rows = [
        (
            "duplicates",
            len(alike),
            compared,
            f"pairs of one formula, space group and energy within {1000 * DUPLICATE_ENERGY:g} meV/atom ({sampled})",
            [f"{table.id[i]} = {table.id[j]}" for i, j in alike],
            "keep one of each: the other counts twice in training and in scores",
        ),
        *(
            (name, len(m.outside), len(table), f"crystals {beyond(m)}", table.id[m.outside], remedy)
            for (name, m), remedy in zip(measures.items(), _REMEDIES, strict=True)
        ),
        (
            "groups without a pair",
            len(without_pair),
            len(groups),
            "polymorph groups of one energy",
            without_pair,
            "they teach generation alone; modification needs two polymorphs of one formula, different in energy",
        ),
        (
            "groups too small",
            len(small),
            len(groups),
            f"polymorph groups of fewer than {min_group_size}",
            small,
            "the funnel leaves them out; lower min_group_size to keep them",
        ),
        (
            "formulas too few",
            len(too_few),
            len(formulas),
            f"reduced formulas, at least {FORMULAS_TO_SPLIT} wanted",
            too_few,
            "whole formulas go to training or validation: with so few, scores say little; add compositions",
        ),
        (
            "rare elements",
            len(rare),
            np.count_nonzero(counts),
            f"elements in fewer than {crystals} crystals",
            SYMBOLS[rare],
            "a model learns little of them; add crystals, or raise rare_fraction to leave them out",
        ),
    ]
    findings = pd.DataFrame(rows, columns=["check", "found", "of", "unit", "first", "remedy"])
    several = findings["first"]
    findings["first"] = [", ".join(few[:NAMES_SHOWN]) + ", ..." * (len(few) > NAMES_SHOWN) for few in several]
    return CheckUp(findings, measures)


_REMEDIES = [
    "look for a wrong unit, cell or reference; energy_window leaves out what lies beyond it",
    "look for a wrong cell or unit; a layered or hollow crystal may be right",
    "look for a wrong setting or a doubled atom; relax it or take it out",
]


def beyond(m: Measure) -> str:
    """Which values are out of the ordinary, in words."""
    return f"not within {m.low:.2f} to {m.high:.2f}" if np.isfinite(m.high) else f"below {m.low:.2f}"


def measure(table: CrystalTable) -> dict[str, Measure]:
    """Formation energy, volume and closest contact of each crystal, with their limits."""
    volume = np.abs(np.linalg.det(table.lattice)) / predicted_volumes(table, atomic_volumes(table))
    contacts = np.zeros(len(table))
    contacts[volume > CRUSHED] = closest_contacts(table.take(volume > CRUSHED))
    low, high = np.quantile(table.formation_energy, [0.25, 0.75])
    reach = FENCES * max(high - low, LEAST_SPREAD)
    return {
        "formation energy (eV/atom)": Measure(table.formation_energy, float(low - reach), float(high + reach)),
        "volume (of what its elements take)": Measure(volume, *VOLUME_WINDOW),
        "closest atoms (sums of covalent radii)": Measure(contacts, MIN_DISTANCE_AFTER, np.inf),
    }


def closest_contacts(table: CrystalTable) -> np.ndarray:
    """(n,) smallest distance of atoms, or of one and its image, in sums of covalent radii; at most CONTACT_RANGE.

    Radii: Cordero et al., 10.1039/b801115j.
    """
    found = np.full(len(table), CONTACT_RANGE)
    periodic = np.ones(3, np.int64)
    for i in progress(range(len(table)), desc="measuring distances", unit="crystal"):
        radii, lattice = covalent_radii[table.species_of(i)], np.ascontiguousarray(table.lattice[i])
        atoms = np.ascontiguousarray(table.frac_coords_of(i) @ lattice)
        reach = 2 * CONTACT_RANGE * radii.max()
        one, other, image, distance = find_points_in_spheres(atoms, atoms, reach, periodic, lattice)
        itself = (one == other) & (image == 0).all(axis=1)
        relative = (distance / (radii[one] + radii[other]))[~itself]
        found[i] = min(CONTACT_RANGE, relative.min(initial=CONTACT_RANGE))
    return found


def same_crystal(one: Structure, other: Structure) -> bool:
    """Whether two primitive cells are one crystal.

    The matcher's defaults ignore the volume and merge distinct superstructures, hence scale=False and narrow
    tolerances. Ask it only of crystals of one space group whose energies are within DUPLICATE_ENERGY.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(ltol=0.05, stol=0.1, angle_tol=3, scale=False, primitive_cell=False).fit(one, other)


def duplicates(table: CrystalTable, limit: int, rng: np.random.Generator) -> tuple[int, list[tuple[int, int]], int]:
    """Crystals that stand in a table twice, in whatever cell; of more than `limit` pairs a random sample is compared.

    Returns how many pairs were compared, those found equal (rows), and how many pairs there are to compare: of one
    reduced formula and space group, with energies within DUPLICATE_ENERGY.
    """

    @functools.cache
    def primitive(row: int) -> Structure:
        cell = (table.lattice[row], table.frac_coords_of(row), table.species_of(row))
        lattice, frac_coords, species = spglib.find_primitive(cell, symprec=SYMPREC) or cell
        return Structure(Lattice(lattice), species.tolist(), frac_coords)

    close, n_pairs = close_pairs(table, limit, rng)
    compared = progress(close.tolist(), desc="comparing crystals", unit="pair")
    alike = [(i, j) for i, j in compared if same_crystal(primitive(i), primitive(j))]
    return len(close), alike, n_pairs


def close_pairs(table: CrystalTable, limit: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """(m, 2) rows of crystals of one formula, group and energy, at most `limit`, and how many there are in all.

    They are counted and drawn without a list of all: many crystals of equal energy make more pairs than memory holds.
    """
    kinds = pd.DataFrame({"formula": table.reduced_formula, "group": table.space_group})
    code = kinds.groupby(["formula", "group"], sort=False).ngroup().to_numpy()
    order = np.lexsort((table.formation_energy, code))
    step = 1 + np.ptp(table.formation_energy) + DUPLICATE_ENERGY if len(table) else 1.0  # between two kinds
    place = code[order] * step + table.formation_energy[order]
    partners = np.searchsorted(place, place + DUPLICATE_ENERGY) - np.arange(len(place)) - 1  # above each, near enough
    before = np.concatenate([[0], np.cumsum(partners.clip(0))])
    n_pairs = int(before[-1])
    chosen = np.sort(rng.choice(n_pairs, min(limit, n_pairs), replace=False)) if n_pairs else np.zeros(0, int)
    first = np.searchsorted(before, chosen, side="right") - 1
    second = first + 1 + chosen - before[first]
    return np.sort(np.stack([order[first], order[second]], axis=1), axis=1), n_pairs
