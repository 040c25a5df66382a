"""The learnt choice of the template to borrow."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import table
from pymatgen.core import Lattice, Structure

from lib import baselines, choice
from lib.choice import Lenders, Surroundings, TemplateChoice, examples_of, held_out_choices
from lib.crystals import CrystalTable
from lib.descent import supergroups
from lib.matching import match_many
from lib.run import BadInput
from lib.sources.embedded import EMBEDDED
from lib.templates import units_for

CUBIC = [[0, 0, 0], [0.5, 0.5, 0.5]]
PEROVSKITE = [*CUBIC, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
LIFTED = [[0.5, 0.5, 0.03], [0.5, 0, 0.52], [0, 0.5, 0.52]]


@pytest.fixture(scope="module")
def training() -> CrystalTable:
    embedded = CrystalTable.from_parquet(EMBEDDED)
    small = embedded.take(embedded.n_sites <= 4)
    return small.take(np.sort(np.random.default_rng(1).permutation(len(small))[:600]))


@pytest.fixture(scope="module")
def examples(training) -> pd.DataFrame:
    return examples_of(training, 60, rng=np.random.default_rng(0), n_workers=1)


@pytest.mark.parametrize("asked", [False, True])
def test_the_most_alike_is_what_substitution_borrows(training, examples, asked):
    chosen = held_out_choices(examples)
    assert set(chosen.row) == {"most alike", "learnt", "the best on offer"}
    plain = chosen[(chosen.row == "most alike") & (chosen.asked == asked)].set_index("crystal")
    for row in plain.index[:12]:
        target = training.take([row])
        blind = replace(target, formation_energy=np.full(1, np.nan))
        others = training.take(training.reduced_formula != training.reduced_formula[row])
        borrowed = baselines.substitution(blind, others, use_space_group=asked)
        assert match_many([target.structure(0)], borrowed).match_csp.tolist() == [plain.match_csp[row]]


def test_where_only_supergroups_lend_substitution_has_no_template():
    tetragonal = Structure(Lattice.tetragonal(4, 4.1), ["Ba", "Ti", "O", "O", "O"], [*PEROVSKITE[:2], *LIFTED])
    training = table([Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"], PEROVSKITE), tetragonal], [221, 99])
    found = examples_of(training, 2, rng=np.random.default_rng(0), n_workers=1)
    chosen = held_out_choices(found, folds=2).set_index(["crystal", "asked", "row"]).note
    assert chosen[1, True, "most alike"] == "no template" and chosen[1, False, "most alike"] == ""
    assert chosen[1, True, "learnt"] == ""
    assert (0, True, "learnt") not in chosen, "P4mm is no supergroup of Pm-3m"


def test_nothing_beats_the_best_on_offer(examples):
    rates = held_out_choices(examples).groupby(["asked", "row"]).match_csp.mean().unstack()
    assert (rates["the best on offer"] >= rates[["most alike", "learnt"]].max(axis=1)).all()


def test_offers_keep_to_the_group_and_leave_a_formula_out(training):
    lenders = Lenders(training)
    row = int(np.flatnonzero(training.space_group == 123)[0])
    formula = training.reduced_formula[row]
    offer = lenders.offer(training.species_of(row), 123, formula)
    lent = [template for template, _ in offer.templates]
    assert lent and formula not in training.reduced_formula[lent]
    assert set(training.space_group[lent].tolist()) <= supergroups(123)
    assert {len(values) for values in offer.features.values()} == {len(lent)}
    assert (np.diff(offer.features["unlike"]) >= -1e-6).all(), "the most alike come first"


def test_it_learns_what_decides(training, examples, monkeypatch):
    """Verdicts that only the kind of template decides are foreseen, against the order of alikeness."""
    monkeypatch.setitem(choice.SETTINGS, "min_samples_leaf", 5)
    told = examples.copy()
    for verdict in ("match_default", "match_csp", "match_strict"):
        told[verdict] = told["orbits"] == 3
    learnt = TemplateChoice.learn(training, told)
    plain = TemplateChoice(learnt.lenders, {})
    targets = training.take(np.flatnonzero(training.n_sites == 4)[:40])
    better = worse = 0
    for first, usual in zip(*(c.templates(targets, 1, use_space_group=False) for c in (learnt, plain)), strict=True):
        orbits = [len(training.asymmetric_units[few[0][0]].sites) for few in (first, usual)]
        better += orbits[0] == 3 and orbits[1] != 3
        worse += orbits[0] != 3 and orbits[1] == 3
    assert better >= 5 and worse == 0


def test_the_same_examples_teach_the_same(training, examples):
    targets = training.take(range(0, len(training), 20))
    one, other = (TemplateChoice.learn(training, examples).templates(targets, 3, use_space_group=True) for _ in "ab")
    assert [[row for row, _ in few] for few in one] == [[row for row, _ in few] for few in other]


def test_a_template_of_a_supergroup_is_described_in_the_asked_group():
    perovskite = Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"], PEROVSKITE)
    training = table([perovskite, Structure(Lattice.cubic(3), ["Cs", "Cl"], CUBIC)], [221, 221])
    asked = table([Structure(Lattice.cubic(4), ["Ba", "Ti", "O", "O", "O"], PEROVSKITE)], [99])
    (plain,), plain_source = units_for(asked, training)
    (unit,), source = units_for(asked, training, choice=TemplateChoice(Lenders(training), {}))
    assert plain_source == ["enumerated"] and source == ["supergroup"]
    assert unit.symmetry == plain.symmetry == 99
    assert sorted(unit.species.tolist()) == sorted(plain.species.tolist())
    (borrowed,) = TemplateChoice(Lenders(training), {}).substitution(asked, use_space_group=True)
    assert match_many([borrowed], [Structure(unit.lattice, unit.species, unit.frac_coords)]).match_strict.all()


def test_where_nothing_is_on_offer_nothing_is_borrowed(training):
    asked = table([Structure(Lattice.cubic(9), ["Cs"] * 7 + ["Cl"], np.random.default_rng(0).random((8, 3)))], [1])
    plain = TemplateChoice(Lenders(training), {})
    assert plain.templates(asked, 3, use_space_group=True) == [[]]
    assert plain.substitution(asked, use_space_group=False) == [None]


def test_the_surroundings_of_rock_salt():
    salt = Structure.from_spacegroup(225, Lattice.cubic(5.6), ["Na", "Cl"], CUBIC).get_primitive_structure()
    around = Surroundings.of(table([salt], [225]), 0)
    assert np.allclose(around.neighbours, 6) and np.allclose(around.near, [[0, 1], [1, 0]])
    assert np.allclose(around.contacts, [[5.6 / 2**0.5, 2.8], [2.8, 5.6 / 2**0.5]])
    assert around.volume == pytest.approx(5.6**3 / 8)


def test_another_training_set_is_refused(training):
    with pytest.raises(BadInput, match="another training set"):
        units_for(training.take([0]), training.take(range(10)), choice=TemplateChoice(Lenders(training), {}))


def test_an_empty_training_set_is_refused(training):
    with pytest.raises(BadInput, match="training set is empty"):
        examples_of(training.take([]), 10, rng=np.random.default_rng(0))
