"""Polymorph groups: the funnel of paper section 2.1 and the leak-free split of section 2.2."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
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
    group_rule: Literal["size", "size_and_gap"] = "size",
    min_group_gap: float = 0.01,
    max_group_size: int | None = None,
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
        group_rule: "size_and_gap", the rule of the paper's code, also removes groups none of whose structures lies
            min_group_gap, eV a cell, or more above the next lower one.
        max_group_size: most structures of a group that are learnt from: of a larger one the lowest, the highest and
            between them others in equal steps of rank stay, so that a few large groups do not outweigh the rest.

    Returns:
        The remaining crystals, and a frame with a row a step: step, structures, groups (distinct unreduced formulas).

    Raises:
        BadInput: a filter leaves nothing; the message names it.
    """
    low, high = energy_window
    common = f"in at least {100 * rare_fraction:.3g} % of structures"
    gap = f" with a gap of {min_group_gap:g} eV or more" if group_rule == "size_and_gap" else ""
    cut = {
        f"at most {max_group_size} of each polymorph group": (
            "max_group_size",
            lambda t: _spread_over_groups(t, max_group_size),
        )
    }
    steps: dict[str, tuple[str, Callable[[_Left], np.ndarray]]] = {  # name -> parameter, and which stay
        f"{min_sites} to {max_sites} atoms": (
            "min_sites and max_sites",
            lambda t: (t.n_sites >= min_sites) & (t.n_sites <= max_sites),
        ),
        f"formation energy between {low:g} and {high:g} eV/atom": (
            "energy_window",
            lambda t: (t.formation_energy > low) & (t.formation_energy < high),
        ),
        f"polymorph groups of {min_group_size} or more{gap}": (
            "min_group_size",
            lambda t: (t.group_sizes >= min_group_size)[t.codes] & (not gap or _has_gap(t, min_group_gap)),
        ),
        f"elements {common}": (
            "rare_fraction",
            lambda t: t.without_elements(t.element_counts / len(t) < rare_fraction),
        ),
        f"space groups {common}": (
            "rare_fraction",
            lambda t: (np.bincount(t.space_group, minlength=N_SPACE_GROUPS + 1) / len(t) >= rare_fraction)[
                t.space_group
            ],
        ),
    } | (cut if max_group_size else {})
    left = _Left.of(table)
    rows, again, first = [("all", len(left), left.n_groups)], "", 0
    for round_number in itertools.count(2):
        before = len(left)
        for step, (parameter, keeps) in list(steps.items())[first:]:
            keep = keeps(left)
            if not keep.any():
                n = len(left)
                raise BadInput(f"the filter '{step}' left none of {n} structures; widen the parameter {parameter}")
            if not (again and keep.all()):
                left = left.where(keep)
                rows.append((step + again, len(left), left.n_groups))
        if len(left) == before:
            kept = table if len(left) == len(table) else table.take(left.rows)
            return kept, pd.DataFrame(rows, columns=["step", "structures", "groups"])
        again, first = f" (round {round_number})", 2  # the first two are true for good


@dataclass(frozen=True)
class _Left:
    """What the filters ask of the crystals that are left: millions pass through them without their atoms."""

    rows: np.ndarray  # (k,) of the table
    n_sites: np.ndarray  # (k,)
    formation_energy: np.ndarray  # (k,) eV/atom
    space_group: np.ndarray  # (k,)
    codes: np.ndarray  # (k,) number of the unreduced formula
    elements: np.ndarray  # (formulas, 119) whether a formula has an element

    @classmethod
    def of(cls, table: CrystalTable) -> "_Left":
        codes, formulas = table.formulas
        elements = np.zeros((len(formulas), len(SYMBOLS)), dtype=bool)
        _, first = np.unique(codes, return_index=True)
        for has, row in zip(elements, first.tolist(), strict=True):
            has[table.species_of(row)] = True
        columns = table.n_sites, table.formation_energy, table.space_group, codes
        return cls(np.arange(len(table)), *columns, elements)

    def where(self, keep: np.ndarray) -> "_Left":
        columns = {f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name != "elements"}
        return self if keep.all() else replace(self, **columns)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def group_sizes(self) -> np.ndarray:
        """(formulas,) how many are left of each."""
        return np.bincount(self.codes, minlength=len(self.elements))

    @property
    def n_groups(self) -> int:
        return np.count_nonzero(self.group_sizes)

    @property
    def element_counts(self) -> np.ndarray:
        """(119,) structures that contain each element, by atomic number."""
        return self.group_sizes @ self.elements

    def without_elements(self, unwanted: np.ndarray) -> np.ndarray:
        """(k,) whether each has none of the elements where (119,) `unwanted`."""
        return ~self.elements[:, unwanted].any(axis=1)[self.codes]


def _has_gap(left: _Left, least: float) -> np.ndarray:
    """(k,) whether a structure of each crystal's group lies `least`, eV a cell, above the next lower one."""
    order = np.lexsort((left.formation_energy, left.codes))
    codes, energy = left.codes[order], left.formation_energy[order] * left.n_sites[order]
    gaps = codes[1:][(codes[1:] == codes[:-1]) & (np.diff(energy) >= least)]
    return np.bincount(gaps, minlength=len(left.elements))[left.codes] > 0


def _spread_over_groups(left: _Left, most: int) -> np.ndarray:
    """(k,) whether each crystal is among the `most` of its group that lie at equal steps of its rank in energy."""
    order = np.lexsort((left.formation_energy, left.codes))
    codes, sizes = left.codes[order], left.group_sizes
    rank = pd.Series(codes).groupby(codes).cumcount().to_numpy()
    step = np.maximum((sizes[codes] - 1) / (most - 1), 1)
    keep = np.zeros(len(order), dtype=bool)
    keep[order] = np.rint(np.rint(rank / step) * step) == rank
    return keep


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
    return np.bincount(table.formulas[0])


def polymorph_groups(table: CrystalTable) -> dict[str, np.ndarray]:
    """Unreduced formula -> rows of its structures, lowest formation energy first."""
    order, starts, _, formulas = sorted_groups(table)
    return dict(zip(formulas.tolist(), np.split(order, starts)[1:], strict=True))


def sorted_groups(table: CrystalTable) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows sorted by group and energy, where each group starts among them, its size and its formula."""
    codes, formulas = table.formulas
    sizes = np.bincount(codes, minlength=len(formulas))
    return np.lexsort((table.formation_energy, codes)), np.cumsum(sizes) - sizes, sizes, formulas


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
