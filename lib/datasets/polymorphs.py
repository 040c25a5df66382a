"""Polymorph groups: the funnel of paper section 2.1 and the leak-free split of section 2.2."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from lib.core.errors import BadInput
from lib.core.published import DATA_SET
from lib.crystals.elements import SYMBOLS
from lib.crystals.table import CrystalTable
from lib.symmetry.spacegroups import N_SPACE_GROUPS


def funnel(
    table: CrystalTable,
    *,
    min_sites: int,
    max_sites: int,
    energy_window: tuple[float, float],
    min_group_size: int,
    rare_fraction: float,
) -> tuple[CrystalTable, pd.DataFrame]:
    """The training set of section 2.1 and how it came about.

    In the paper's order: number of atoms, (the reference's energy window,) polymorph groups, rare elements, rare space
    groups. Shares are of all structures that are left. Each of the last three filters can undo what another made
    true, so they are repeated until none removes anything: the result meets all of them at once, as the paper says
    of its own set.

    Args:
        min_sites, max_sites: fewest and most atoms per cell.
        energy_window: formation energies strictly between these stay, eV/atom.
        min_group_size: fewest structures of one unreduced formula.
        rare_fraction: structures with an element, or in a space group, found in less than this share are removed.

    Returns:
        The remaining crystals, and a frame with a row a step: step, structures, groups (distinct unreduced formulas).

    Raises:
        BadInput: a filter leaves nothing; the message names it.
    """
    low, high = energy_window
    common = f"in at least {100 * rare_fraction:.3g} % of structures"
    steps: dict[str, tuple[str, Callable[[CrystalTable], np.ndarray]]] = {  # name -> parameter, and which stay
        f"{min_sites} to {max_sites} atoms": (
            "min_sites and max_sites",
            lambda t: (t.n_sites >= min_sites) & (t.n_sites <= max_sites),
        ),
        f"formation energy between {low:g} and {high:g} eV/atom": (
            "energy_window",
            lambda t: (t.formation_energy > low) & (t.formation_energy < high),
        ),
        f"polymorph groups of {min_group_size} or more": (
            "min_group_size",
            lambda t: _group_sizes_of(t) >= min_group_size,
        ),
        f"elements {common}": (
            "rare_fraction",
            lambda t: ~np.logical_or.reduceat((element_counts(t) / len(t) < rare_fraction)[t.species], t.offsets[:-1]),
        ),
        f"space groups {common}": (
            "rare_fraction",
            lambda t: (space_group_counts(t) / len(t) >= rare_fraction)[t.space_group],
        ),
    }
    rows, again, first = [("all", len(table), len(group_sizes(table)))], "", 0
    for round_number in itertools.count(2):
        before = len(table)
        for step, (parameter, keeps) in list(steps.items())[first:]:
            keep = keeps(table)
            if not keep.any():
                n = len(table)
                raise BadInput(f"the filter '{step}' left none of {n} structures; widen the parameter {parameter}")
            if not (again and keep.all()):
                table = table if keep.all() else table.take(keep)
                rows.append((step + again, len(table), len(group_sizes(table))))
        if len(table) == before:
            return table, pd.DataFrame(rows, columns=["step", "structures", "groups"])
        again, first = f" (round {round_number})", 2  # the first two are true for good


def element_counts(table: CrystalTable) -> np.ndarray:
    """(119,) structures that contain each element, by atomic number."""
    first = np.ones(len(table.species), dtype=bool)  # atoms of one element follow each other
    first[1:] = table.species[1:] != table.species[:-1]
    first[table.offsets[:-1]] = True
    return np.bincount(table.species[first], minlength=len(SYMBOLS))


def space_group_counts(table: CrystalTable) -> np.ndarray:
    """(231,) structures in each space group, by number."""
    return np.bincount(table.space_group, minlength=N_SPACE_GROUPS + 1)


def element_shares(tables: dict[str, CrystalTable]) -> pd.DataFrame:
    """Share of the structures of each table that contain an element; one row an element that occurs, by number."""
    shares = pd.DataFrame({name: element_counts(t) / len(t) for name, t in tables.items()}, index=SYMBOLS)
    return shares[(shares > 0).any(axis=1)].rename_axis("element")


def summary(tables: dict[str, CrystalTable]) -> pd.DataFrame:
    """How large each table is; one row a quantity, with the paper's value last."""
    columns = {}
    for name, table in tables.items():
        sizes, n_sites = group_sizes(table), table.n_sites
        kinds = (np.count_nonzero(counts(table)) for counts in (element_counts, space_group_counts))
        columns[name] = [len(table), len(sizes), sizes.min(), sizes.max(), *kinds, n_sites.min(), n_sites.max()]
    frame = pd.DataFrame(columns, index=list(DATA_SET)).map("{:,}".format)
    return frame.assign(paper=DATA_SET).rename_axis("quantity")


def group_sizes(table: CrystalTable) -> np.ndarray:
    """(groups,) structures of each unreduced formula, in the order in which the formulas first occur."""
    return np.bincount(pd.factorize(table.formula)[0])


def polymorph_groups(table: CrystalTable) -> dict[str, np.ndarray]:
    """Unreduced formula -> rows of its structures, lowest formation energy first."""
    order, starts, _, formulas = sorted_groups(table)
    return dict(zip(formulas.tolist(), np.split(order, starts)[1:], strict=True))


def _group_sizes_of(table: CrystalTable) -> np.ndarray:
    """(n,) size of the group that each crystal is in."""
    codes, _ = pd.factorize(table.formula)
    return np.bincount(codes)[codes]


def sorted_groups(table: CrystalTable) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows sorted by group and energy, where each group starts among them, its size and its formula."""
    codes, formulas = pd.factorize(table.formula)
    sizes = np.bincount(codes, minlength=len(formulas))
    return np.lexsort((table.formation_energy, codes)), np.cumsum(sizes) - sizes, sizes, np.asarray(formulas)


def split_by_formula(
    table: CrystalTable, validation_fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and for validation that share no reduced formula (section 2.2).

    Balanced over elements and chemical systems by error diffusion: formulas are visited from the largest to the
    smallest, ties at random; each adds `validation_fraction` of its structures to what its elements and its system are
    owed, and goes to validation, which settles that much, where more than half of it is owed on average. Rows are
    sorted. Raises BadInput if there are too few reduced formulas to put one on each side.
    """
    codes, formulas = pd.factorize(table.reduced_formula)
    _, first, sizes = np.unique(codes, return_index=True, return_counts=True)
    systems: dict[bytes, int] = {}
    labels = []  # of each formula: its elements, then its chemical system
    for row in first:
        elements = np.unique(table.species_of(row))
        system = len(SYMBOLS) + systems.setdefault(elements.tobytes(), len(systems))
        labels.append(np.append(elements, system).astype(int))
    owed = np.zeros(len(SYMBOLS) + len(systems))
    in_validation = np.zeros(len(formulas), dtype=bool)
    for formula in np.lexsort((rng.random(len(sizes)), -sizes)):
        owed[labels[formula]] += validation_fraction * sizes[formula]
        if owed[labels[formula]].mean() > sizes[formula] / 2:
            in_validation[formula] = True
            owed[labels[formula]] -= sizes[formula]
    if not in_validation.any() or in_validation.all():
        raise BadInput(
            f"{len(formulas)} reduced formulas cannot be split with validation_fraction {validation_fraction:g}; "
            "choose another fraction or keep more formulas"
        )
    chosen = in_validation[codes]
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def three_way_split(
    table: CrystalTable,
    validation_fraction: float,
    test_fraction: float,
    rng: np.random.Generator,
    first: Literal["validation", "test"] = "test",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to learn from, to validate by and to be judged by.

    Crystals that their source marks as an official test split (column `split` is "test") are never learnt from; where
    there are some, they alone are the test set, whether or not their formulas occur elsewhere, and the other crystals
    are split as without them, so that a model trained before they were there can be judged by them.

    Args:
        validation_fraction, test_fraction: share of structures whose reduced formulas are kept for each set. Without a
            test_fraction the validation set is the test set too, as in the paper.
        first: the set that is drawn first; the share of the other is one of what is left.

    Returns:
        Sorted row indices of the three sets; no reduced formula is in two of them, official test splits apart.
    """
    official = table.extra.get("split", np.zeros(len(table), dtype="U1")) == "test"
    rest = np.flatnonzero(~official)
    fractions = {"validation": validation_fraction} | ({"test": test_fraction} if test_fraction else {})
    sets: dict[str, np.ndarray] = {}
    for name in sorted(fractions, key=lambda name: name != first):
        rest, sets[name] = (rest[rows] for rows in split_by_formula(table.take(rest), fractions[name], rng))
    if official.any():
        sets["test"] = np.flatnonzero(official)
    return rest, sets["validation"], sets.get("test", sets["validation"])


def split_proof(first: CrystalTable, second: CrystalTable) -> pd.DataFrame:
    """What two sets share, and how evenly elements are spread over them: quantity, first, second, shared, difference.

    The first rows count distinct values, and how many of them stand on both sides; then comes the share of structures
    that contain each element, with the difference second - first.
    """
    columns = {
        "structures": (first.id, second.id),
        "polymorph groups (unreduced formulas)": (first.formula, second.formula),
        "reduced formulas": (first.reduced_formula, second.reduced_formula),
        "space groups": (first.space_group, second.space_group),
        "elements": (SYMBOLS[np.unique(first.species)], SYMBOLS[np.unique(second.species)]),
    }
    rows = []
    for quantity, sides in columns.items():
        left, right = (set(side.tolist()) for side in sides)
        rows.append((quantity, len(left), len(right), len(left & right), np.nan))
    shares = element_shares({"first": first, "second": second})
    for element, share in shares.iterrows():
        difference = share["second"] - share["first"]
        rows.append((f"share of structures with {element}", share["first"], share["second"], np.nan, difference))
    return pd.DataFrame(rows, columns=["quantity", "first", "second", "shared", "difference"])


def choose_targets(test: CrystalTable, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """At most n rows of a test set that a model is measured on, and their ranks in energy in their formula, from 0.

    First the lowest of each formula, then the second lowest of each, and so on, in random order. Of an official test
    split (column `split`) any, at random: published rates are means over all of it.
    """
    groups = polymorph_groups(test).values()
    rank, rows = (np.concatenate(numbers) for numbers in zip(*((np.arange(len(g)), g) for g in groups), strict=True))
    first = np.zeros_like(rank) if "split" in test.extra else rank
    chosen = np.lexsort((rng.random(len(rank)), first))[:n]
    return rows[chosen], rank[chosen]


def with_newcomers(
    test: CrystalTable, more: CrystalTable, known: Sequence[CrystalTable]
) -> tuple[CrystalTable, pd.DataFrame]:
    """Test crystals with those of another file, and a frame with the ids of the pairs that these bring.

    Newcomers have an id that is not known, a reduced formula of which nothing was learnt, are no larger than what was
    learnt from (`known`), and have energies of the same kind as the test's. There is one pair (init_id, target_id) for
    each polymorph that is not the lowest of its group, where it or the lowest is a newcomer.
    """
    largest = max(table.n_sites.max() for table in known)
    old = np.isin(more.id, np.concatenate([test.id, *(table.id for table in known)]))
    learnt = np.isin(more.reduced_formula, np.concatenate([table.reduced_formula for table in known]))
    more = more.take(~old & ~learnt & (more.n_sites <= largest))
    judged = CrystalTable.join([replace(table, extra={}) for table in (test, more)], about=test.about)
    groups = [rows for rows in polymorph_groups(judged).values() if rows.max() >= len(test)]
    pairs = [(i, rows[0]) for rows in groups for i in rows[1:] if max(i, rows[0]) >= len(test)]
    init, target = np.array(pairs, dtype=int).reshape(-1, 2).T
    return judged, pd.DataFrame({"init_id": judged.id[init], "target_id": judged.id[target]})
