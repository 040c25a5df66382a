"""A judge that has learnt from crystals beside distorted ones finds the crystals among others."""

import numpy as np
import pytest
from pymatgen.core import Structure

from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.generation.judge import LearntJudge, alone
from lib.retrieval.template_features import TemplateFeatures
from lib.retrieval.templates import by_count


def distorted(structure: Structure, rng: np.random.Generator) -> Structure:
    """Atoms moved by 0.8 Å each."""
    shift = rng.normal(size=(len(structure), 3))
    shift *= 0.8 / np.linalg.norm(shift, axis=1, keepdims=True)
    return Structure(structure.lattice, structure.species, structure.cart_coords + shift, coords_are_cartesian=True)


def among_distorted(table: CrystalTable, rng: np.random.Generator) -> tuple[list, list, np.ndarray]:
    """Each crystal among five distorted ones, all on its own sites; and its place."""
    place = rng.integers(6, size=len(table))
    candidates = [[distorted(s, rng) for _ in range(6)] for s in table.structures()]
    for i, j in enumerate(place):
        candidates[i][j] = table.structure(i)
    return candidates, [[unit] * 6 for unit in table.asymmetric_units], place


@pytest.fixture(scope="module")
def tables() -> tuple[CrystalTable, CrystalTable]:
    embedded = CrystalTable.from_parquet(EMBEDDED)
    small = embedded.take(embedded.n_sites <= 6)
    rows = np.random.default_rng(0).permutation(len(small))[:150]
    other = np.isin(small.reduced_formula[rows], small.reduced_formula[rows[:100]])
    return small.take(rows[:100]), small.take(rows[~other])


@pytest.fixture(scope="module")
def judge(tables) -> LearntJudge:
    training, rng = tables[0], np.random.default_rng(1)
    candidates, units, _ = among_distorted(training, rng)
    return LearntJudge.learn(TemplateFeatures(training), training, candidates, units, n_workers=1)


@pytest.mark.slow
def test_crystals_of_other_formulas_are_found_among_distorted_ones(judge, tables):
    others = tables[1]
    assert len(others) > 10
    candidates, units, place = among_distorted(others, np.random.default_rng(2))
    best = judge.best(candidates, units)
    assert (best.index == place).mean() > 0.6, "one in six would be found by chance"
    assert all(structure == candidates[i][best.index[i]] for i, structure in enumerate(best.structures) if structure)
    shortlist = best.first(candidates, 2)
    assert all(few[0] == structure for few, structure in zip(shortlist, best.structures, strict=True) if few)
    assert max(map(len, shortlist)) == 2
    alone_in_call = judge.best(candidates[3:4], units[3:4])
    assert alone_in_call.every[0] == pytest.approx(best.every[3], nan_ok=True), "what stands beside it is not looked at"


def test_what_is_no_crystal_never_wins(judge, tables):
    others = tables[1].take([0, 1])
    units = [[unit] * 2 for unit in others.asymmetric_units]
    best = judge.best([[None, others.structure(0)], [None, None]], units)
    assert best.index.tolist() == [1, -1] and best.first([[None, others.structure(0)], [None, None]], 5)[1] == []


def test_crystals_are_alone_where_no_other_has_their_counts_and_group(tables):
    training = tables[0]
    rows = set(alone(training).tolist())
    keys = [
        (tuple(by_count(training.species_of(i))[1]), training.space_group[i], training.n_sites[i])
        for i in range(len(training))
    ]
    assert 0 < len(rows) < len(training)
    assert all((keys.count(key) == 1) == (i in rows) for i, key in enumerate(keys))
