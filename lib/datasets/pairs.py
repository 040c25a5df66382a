"""Pairs of polymorphs for the modification task (paper section 2.2)."""

import numpy as np
import pandas as pd

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.datasets.polymorphs import sorted_groups


class PairSampler:
    """Pairs x_0 -> x_1 of one polymorph group, x_0 the higher in energy (section 2.2).

    With S_0 the lowest structure of a group: lowest-energy pairs are (S_i, S_0), non-lowest (S_i, S_j) with
    i > j > 0. An epoch, drawn anew each time, holds as many of the one kind as of the other and at most
    `pairs_per_group` of a group; where no group can give a non-lowest pair (all have two members), it holds
    lowest-energy pairs alone. Raises BadInput if no group has two structures of different energy.
    """

    def __init__(self, table: CrystalTable, pairs_per_group: int, rng: np.random.Generator) -> None:
        self.energy = table.formation_energy
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
        n = min(len(lowest), len(others)) or len(lowest)
        pairs = np.concatenate([self.rng.permutation(kind)[:n] for kind in (lowest, others)])
        init, target = self.rng.permutation(pairs).T
        return init, target

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
        return pairs[(init > target) & (above_lowest | (j == 0))]


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
