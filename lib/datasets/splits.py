"""Sets to learn from, to choose by and to be judged by that share no formula, or neither formula nor prototype.

Formulas are weighed by their structures, of which they have between a few and hundreds, and balanced over tens of
thousands of chemical systems: iterative stratification, as libraries have it (Sechidis et al.,
10.1007/978-3-642-23808-6_10), takes samples of equal weight and a dense matrix of samples by labels, 19 GB for the
85,000 groups and 28,000 possible systems of the paper.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import pandas as pd

from lib.core.errors import BadInput
from lib.crystals.elements import SYMBOLS, parse_formula
from lib.crystals.table import CrystalTable
from lib.datasets.polymorphs import element_shares
from lib.datasets.prototypes import prototypes

Split = Callable[[CrystalTable, float, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def split_by_formula(
    table: CrystalTable, validation_fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and for validation that share no reduced formula (section 2.2).

    Balanced over elements and chemical systems, see :func:`_split`. Raises BadInput if there are too few reduced
    formulas to put one on each side.
    """
    numbers, _ = pd.factorize(table.reduced_formulas)
    codes = numbers[table.formulas[0]]
    systems: dict[bytes, int] = {}
    labels = []  # of each formula: its elements, then its chemical system
    for row in _first(codes):
        elements = np.unique(table.species_of(row))
        system = len(SYMBOLS) + systems.setdefault(elements.tobytes(), len(systems))
        labels.append(np.append(elements, system).astype(int))
    return _split(codes, labels, "reduced formulas", validation_fraction, rng)


def split_by_prototype(
    table: CrystalTable, validation_fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and for validation that share no prototype (:func:`lib.datasets.prototypes.prototypes`),
    balanced over space groups and anonymous formulas; raises as :func:`split_by_formula`."""
    codes, names = pd.factorize(prototypes(table))
    parts = pd.factorize(np.array([part for name in names for part in name.split(" ")[:2]]))[0].reshape(-1, 2)
    return _split(codes, list(parts), "prototypes", validation_fraction, rng)


def _first(codes: np.ndarray) -> np.ndarray:
    return np.unique(codes, return_index=True)[1]


def _split(
    codes: np.ndarray, labels: list[np.ndarray], what: str, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both sides, sorted, whole kinds `codes` (n,) on one, balanced over labels by error diffusion.

    Kinds are visited from the largest to the smallest, ties at random; each adds `fraction` of its structures to what
    its labels are owed, and goes to validation, which settles that much, where more than half of it is owed on average.
    """
    sizes = np.bincount(codes)
    owed = np.zeros(max((int(several.max()) for several in labels), default=0) + 1)
    in_validation = np.zeros(len(sizes), dtype=bool)
    for kind in np.lexsort((rng.random(len(sizes)), -sizes)):
        owed[labels[kind]] += fraction * sizes[kind]
        if owed[labels[kind]].mean() > sizes[kind] / 2:
            in_validation[kind] = True
            owed[labels[kind]] -= sizes[kind]
    if not in_validation.any() or in_validation.all():
        raise BadInput(
            f"{len(sizes)} {what} cannot be split with validation_fraction {fraction:g}; "
            "choose another fraction or keep more of them"
        )
    chosen = in_validation[codes]
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def three_way_split(
    table: CrystalTable,
    validation_fraction: float,
    test_fraction: float,
    rng: np.random.Generator,
    first: Literal["validation", "test"] = "test",
    by: Literal["formula", "prototype"] = "formula",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to learn from, to validate by and to be judged by.

    Crystals that their source marks as an official test split (column `split` is "test") are never learnt from; where
    there are some, they alone are the test set, whether or not their formulas occur elsewhere, and the other crystals
    are split as without them, so that a model trained before they were there can be judged by them.

    Args:
        validation_fraction, test_fraction: share of structures whose reduced formulas are kept for each set. Without a
            test_fraction the validation set is the test set too, as in the paper.
        first: the set that is drawn first; the share of the other is one of what is left.
        by: what no two sets share: reduced formulas, or moreover prototypes, the stricter: a decorated prototype, which
            AFLOW has of thousands of formulas, is else in all sets. Then each set is drawn by formula and by prototype,
            and has the crystals that both put there; the others are in none.

    Returns:
        Sorted row indices of the three sets; no reduced formula is in two of them, official test splits apart.

    Raises:
        BadInput: a set would be empty.
    """
    drawn = _three_ways(table, validation_fraction, test_fraction, rng, first, split_by_formula)
    if by == "formula":
        return drawn
    other = _three_ways(table, validation_fraction, test_fraction, rng, first, split_by_prototype)
    sets = tuple(np.intersect1d(rows, others) for rows, others in zip(drawn, other, strict=True))
    if not all(map(len, sets)):
        raise BadInput("a set without formulas and prototypes of the others is empty; use larger fractions, or formula")
    return sets


def _three_ways(
    table: CrystalTable,
    validation_fraction: float,
    test_fraction: float,
    rng: np.random.Generator,
    first: str,
    split: Split,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    official = table.extra.get("split", np.zeros(len(table), dtype="U1")) == "test"
    rest = np.flatnonzero(~official)
    fractions = {"validation": validation_fraction} | ({"test": test_fraction} if test_fraction else {})
    sets: dict[str, np.ndarray] = {}
    for name in sorted(fractions, key=lambda name: name != first):
        rest, sets[name] = (rest[rows] for rows in split(table.take(rest), fractions[name], rng))
    if official.any():
        sets["test"] = np.flatnonzero(official)
    return rest, sets["validation"], sets.get("test", sets["validation"])


def without_formulas(table: CrystalTable, formulas: Iterable[str]) -> CrystalTable:
    """The crystals of other compositions than these, each of which is meant in any number of formula units.

    Raises BadInput for what is no formula.
    """
    reduced = [parse_formula(formula).reduced_formula for formula in formulas]
    return table.take(~np.isin(table.reduced_formula, reduced))


def split_proof(first: CrystalTable, second: CrystalTable, by: str = "formula") -> pd.DataFrame:
    """What two sets share, and how evenly elements are spread over them: quantity, first, second, shared, difference.

    The first rows count distinct values, and how many of them stand on both sides, prototypes where sets were split
    `by` these; then comes the share of structures that contain each element, with the difference second - first.
    """
    columns = {
        "structures": (first.id, second.id),
        "polymorph groups (unreduced formulas)": (first.formula, second.formula),
        "reduced formulas": (first.reduced_formula, second.reduced_formula),
        "space groups": (first.space_group, second.space_group),
        "elements": (SYMBOLS[np.unique(first.species)], SYMBOLS[np.unique(second.species)]),
    }
    if by == "prototype":
        columns["prototypes"] = prototypes(first), prototypes(second)
    rows = []
    for quantity, sides in columns.items():
        left, right = (set(side.tolist()) for side in sides)
        rows.append((quantity, len(left), len(right), len(left & right), np.nan))
    shares = element_shares({"first": first, "second": second})
    for element, share in shares.iterrows():
        difference = share["second"] - share["first"]
        rows.append((f"share of structures with {element}", share["first"], share["second"], np.nan, difference))
    return pd.DataFrame(rows, columns=["quantity", "first", "second", "shared", "difference"])
