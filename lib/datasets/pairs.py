"""Pairs of polymorphs for the modification task (paper section 2.2)."""

import numpy as np
import pandas as pd

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.datasets.polymorphs import sorted_groups

TWIN = "twin_of"  # column of a table: crystals with the same entry match already and make no pair


def most_of_each(counts: np.ndarray, share: float) -> np.ndarray:
    """(kinds,) how many of each to keep, as many as there are or a common limit, so that no kind has more than a share
    of all that are kept. Raises BadInput if there are too few kinds for that."""
    falling = np.sort(counts[counts > 0])[::-1]
    if share >= 1 or not len(falling):
        return counts
    if len(falling) * share <= 1:
        raise BadInput(
            f"{len(falling)} numbers of atoms cannot each have less than {share:g} of the crystals; raise "
            "'max_sites_share'"
        )
    limited = np.arange(np.ceil(1 / share))[: len(falling)]  # so many kinds have the limit, and the rest as they are
    rest = falling.sum() - np.concatenate([[0], np.cumsum(falling)])[: len(limited)]
    limits = share * rest / np.maximum(1 - share * limited, 1e-12)
    fits = limits >= falling[: len(limited)]
    return np.minimum(counts, int(limits[fits.argmax()] + 1e-9))


def first_of_each(kinds: np.ndarray, most: np.ndarray) -> np.ndarray:
    """(n,) whether each is among the first `most` (k,) of its kind (n,), numbers below k."""
    return pd.Series(kinds).groupby(kinds).cumcount().to_numpy() < most[kinds]


class PairSampler:
    """Pairs x_0 -> x_1 of one polymorph group, x_0 the higher in energy (section 2.2).

    With S_0 the lowest structure of a group: lowest-energy pairs are (S_i, S_0), non-lowest (S_i, S_j) with
    i > j > 0. An epoch, drawn anew each time, holds as many of the one kind as of the other and at most
    `pairs_per_group` of a group; where no group can give a non-lowest pair (all have two members), it holds
    lowest-energy pairs alone. Crystals that the column TWIN, where there is one, calls the same make no pair. With a
    `max_sites_share` below 1 no number of atoms a cell has more than that share of an epoch's pairs.

    Every number follows from the generator: processes whose generators are alike draw the same epochs.

    Raises BadInput if no group has two structures of different energy, or there are too few numbers of atoms.
    """

    def __init__(
        self, table: CrystalTable, pairs_per_group: int, rng: np.random.Generator, max_sites_share: float = 1.0
    ) -> None:
        self.energy, self.n_sites, self.max_sites_share = table.formation_energy, table.n_sites, max_sites_share
        self.twin = pd.factorize(table.extra[TWIN])[0] if TWIN in table.extra else np.arange(len(table))
        self.rows, self.starts, self.sizes, _ = sorted_groups(table)
        self.pairs_per_group = pairs_per_group
        self.rng = rng
        last = self.starts + self.sizes - 1
        if not (self.energy[self.rows[last]] > self.energy[self.rows[self.starts]]).any():
            raise BadInput("no polymorph group has two structures of different energy; lower min_group_size, add data")

    def epoch(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows (init, target) of an epoch's pairs, in random order; each call draws others."""
        lowest = self.lowest(self.pairs_per_group // 2)
        others = self.non_lowest(self.pairs_per_group // 2)
        if not len(lowest) and not len(others):
            raise BadInput("no pair is left that does not match already; set 'leave_out_matching' to false, add data")
        if self.max_sites_share < 1:
            lowest, others = self._balanced(self.rng.permutation(lowest), self.rng.permutation(others))
        n = min(len(lowest), len(others)) or len(lowest)
        pairs = np.concatenate([self.rng.permutation(kind)[:n] for kind in (lowest, others)])
        init, target = self.rng.permutation(pairs).T
        return init, target

    def _balanced(self, *both: np.ndarray) -> list[np.ndarray]:
        """Of each number of atoms as many pairs of the one kind as of the other, and not too many."""
        sites = [self.n_sites[pairs[:, 1]] for pairs in both]
        counts = [np.bincount(several, minlength=self.n_sites.max() + 1) for several in sites if len(several)]
        most = most_of_each(np.min(counts, axis=0), self.max_sites_share)
        return [pairs[first_of_each(several, most)] for pairs, several in zip(both, sites, strict=True)]

    def lowest(self, per_group: int) -> np.ndarray:
        """(pairs, 2) rows of up to `per_group` pairs of each group with its lowest structure as target."""
        group, index = self._draw(self.sizes - 1, per_group)
        return self._pairs(group, index + 1, np.zeros_like(index))

    def non_lowest(self, per_group: int) -> np.ndarray:
        """(pairs, 2) rows of up to `per_group` pairs of each group whose target is not its lowest structure."""
        group, index = self._draw((self.sizes - 1) * (self.sizes - 2) // 2, per_group)
        i = ((1 + np.sqrt(8 * index + 1)) // 2).astype(int)  # number -> (i, j), i > j >= 0, row by row of a triangle
        j = index - i * (i - 1) // 2
        return self._pairs(group, i + 1, j + 1)

    def _draw(self, available: np.ndarray, per_group: int) -> tuple[np.ndarray, np.ndarray]:
        """Up to `per_group` different numbers below `available` for each group: systematic samples, all equally likely.

        A random start in steps of available / n >= 1 never gives a number twice and needs no loop over groups.
        """
        n = np.minimum(available, per_group)
        group = np.repeat(np.arange(len(n)), n)
        place = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        start = self.rng.random(len(n))
        return group, ((place + start[group]) * available[group] / n[group]).astype(int)

    def _pairs(self, group: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Rows of the i-th and j-th structures of groups, without those that equal energies make no such pair."""
        pairs = np.stack([self.rows[self.starts[group] + i], self.rows[self.starts[group] + j]], axis=1)
        init, target = self.energy[pairs].T
        above_lowest = target > self.energy[self.rows[self.starts[group]]]
        other = self.twin[pairs[:, 0]] != self.twin[pairs[:, 1]]
        return pairs[(init > target) & (above_lowest | (j == 0)) & other]


def compare_epochs(sampler: PairSampler, n_epochs: int = 3) -> pd.DataFrame:
    """What consecutive epochs hold: pairs of each kind, most of one group, pairs that the epoch before held too."""
    table_rows, before = [], set()
    group_of = np.repeat(np.arange(len(sampler.sizes)), sampler.sizes)[np.argsort(sampler.rows)]
    for number in range(1, n_epochs + 1):
        init, target = sampler.epoch()
        pairs = set(zip(init.tolist(), target.tolist(), strict=True))
        to_lowest = int(np.isin(target, sampler.rows[sampler.starts]).sum())
        table_rows.append(
            {
                "epoch": number,
                "pairs": len(pairs),
                "target lowest": to_lowest,
                "target not lowest": len(pairs) - to_lowest,
                "most of one group": np.bincount(group_of[target]).max(),
                "smallest energy drop (eV/atom)": (sampler.energy[init] - sampler.energy[target]).min(),
                "also in the epoch before": len(pairs & before),
            }
        )
        before = pairs
    return pd.DataFrame(table_rows)


def validation_pairs(
    table: CrystalTable, pairs_per_group: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (init, target) of up to `pairs_per_group` pairs of each group, all with the lowest structure as target."""
    init, target = PairSampler(table, pairs_per_group, rng).lowest(pairs_per_group).T
    return init, target
