"""Rankings of templates."""

import numpy as np
import pandas as pd
import pytest
from conftest import table
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.crystals.elements import SYMBOLS
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.energies.relaxation import single_points
from lib.metrics.matching import VERDICTS, match_many
from lib.retrieval import template_ranking
from lib.retrieval.candidates import best_candidates
from lib.retrieval.template_features import LocalEnvironments, TemplateFeatures
from lib.retrieval.template_ranking import (
    SETTINGS,
    EnergyRanking,
    LearntRanking,
    examples_of,
    gains,
    held_out_choices,
)
from lib.retrieval.templates import ElementRanking
from lib.symmetry.subgroups import supergroups

CUBIC = [[0, 0, 0], [0.5, 0.5, 0.5]]
PEROVSKITE = [*CUBIC, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
LIFTED = [[0.5, 0.5, 0.03], [0.5, 0, 0.52], [0, 0.5, 0.52]]


def rock_salt(cation: str, anion: str) -> Structure:
    return Structure.from_spacegroup(225, Lattice.cubic(5.6), [cation, anion], CUBIC).get_primitive_structure()


@pytest.fixture(scope="module", autouse=True)
def few_rounds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "max_iter", 40)
        yield


@pytest.fixture(scope="module")
def training() -> CrystalTable:
    embedded = CrystalTable.from_parquet(EMBEDDED)
    small = embedded.take(embedded.n_sites <= 4)
    return small.take(np.sort(np.random.default_rng(1).permutation(len(small))[:350]))


@pytest.fixture(scope="module")
def examples(training) -> pd.DataFrame:
    return examples_of(training, 30, rng=np.random.default_rng(0), n_workers=1)


@pytest.fixture(scope="module")
def held_out(examples) -> pd.DataFrame:
    return held_out_choices(examples, n_workers=1)


@pytest.mark.parametrize("asked", [False, True])
def test_the_most_alike_is_what_substitution_borrows(training, held_out, asked):
    assert set(held_out.row) == {"most alike", "learnt", "learnt, energy told", "the best on offer"}
    plain = held_out[(held_out.row == "most alike") & (held_out.asked == asked)].set_index("crystal")
    for row in plain.index[:12]:
        target = training.take([row])
        others = training.take(training.reduced_formula != training.reduced_formula[row])
        borrowed = ElementRanking(others).substitution(target, use_space_group=asked)
        assert match_many([target.structure(0)], borrowed).match_csp.tolist() == [plain.match_csp[row]]


@pytest.mark.slow
def test_where_only_supergroups_lend_substitution_has_no_template():
    tetragonal = Structure(Lattice.tetragonal(4, 4.1), ["Ba", "Ti", "O", "O", "O"], [*PEROVSKITE[:2], *LIFTED])
    training = table([Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"], PEROVSKITE), tetragonal], [221, 99])
    found = examples_of(training, 2, rng=np.random.default_rng(0), n_workers=1)
    chosen = held_out_choices(found, folds=2).set_index(["crystal", "asked", "row"]).note
    assert chosen[1, True, "most alike"] == "no template" and chosen[1, False, "most alike"] == ""
    assert chosen[1, True, "learnt"] == ""
    assert (0, True, "learnt") not in chosen, "P4mm is no supergroup of Pm-3m"


def test_crystals_of_a_formula_do_not_teach_each_other(examples, monkeypatch):
    taught = []

    def fit(several, *_):
        taught.extend(set(examples.formula[few.index]) for few, _ in several)
        return taught[-len(several) :]

    def scores(teachers, held):
        assert not teachers & set(held.formula)
        return np.zeros(len(held))

    monkeypatch.setattr(template_ranking, "fitted_forests", fit)
    monkeypatch.setattr(template_ranking, "expected_scores", scores)
    held_out_choices(examples)
    assert len(taught) == 12, "two kinds of request, with and without energies, three folds"
    assert examples.crystal.nunique() > examples.formula.nunique(), "some crystals share a formula"


def test_each_set_of_examples_has_forests_of_its_own(examples):
    several = [template_ranking._taught(examples, told) for told in (False, True)]
    blind, told = template_ranking.fitted_forests(several, 7, n_workers=2)
    for forests in (blind, told):
        assert len({forest.random_state for forest in forests}) == len(forests) == 3
    assert all("energy apart" in forest.feature_names_in_ for forest in told)
    assert not any("energy apart" in forest.feature_names_in_ for forest in blind)


def test_nothing_beats_the_best_on_offer(held_out):
    rates = held_out.groupby(["asked", "row"]).match_csp.mean().unstack()
    assert (rates["the best on offer"] >= rates.drop(columns="the best on offer").max(axis=1)).all()


def test_what_is_not_worth_it_is_not_learnt(training, examples, held_out):
    worse = held_out.copy()
    worse.loc[worse.row.str.startswith("learnt"), VERDICTS] = False
    assert not gains(worse).worth_it.any() and (gains(worse).gain < 0).all()
    choice = LearntRanking.learn(training, examples, worse)
    assert choice.forests == {}
    targets = training.take(range(0, len(training), 12))
    mine = choice.substitution(targets, use_space_group=True)
    theirs = ElementRanking(training).substitution(targets, use_space_group=True)
    assert all(match_many([other], [one]).match_strict.item() for one, other in zip(mine, theirs, strict=True))


def test_gains_are_paired(held_out):
    better = held_out.copy()
    better[VERDICTS] = np.tile(better.row.eq("learnt"), (3, 1)).T
    won = gains(better)
    assert (won.gain.xs(False, level="told") == 1).all() and (won.gain.xs(True, level="told") == 0).all()
    assert won.worth_it.tolist() == [True, False, True, False] and (won.standard_error.abs() < 1e-9).all()


def test_templates_keep_to_the_group_and_leave_a_formula_out(training):
    row = int(np.flatnonzero(training.space_group == 123)[0])
    formula = training.reduced_formula[row]
    found, features = TemplateFeatures(training).of(training.species_of(row), 123, other_than=formula)
    assert len(found.rows) and formula not in training.reduced_formula[found.rows]
    assert set(training.space_group[found.rows].tolist()) <= supergroups(123)
    assert {len(values) for values in features.values()} == {len(found.rows)}
    assert (np.diff(features["unlike"]) >= -1e-6).all(), "the most alike come first"


def test_it_learns_what_decides(training, examples, held_out, monkeypatch):
    """Verdicts that only the kind of template decides are foreseen, against the order of alikeness."""
    monkeypatch.setitem(SETTINGS, "min_samples_leaf", 5)
    told, worth = examples.copy(), held_out.copy()
    told[VERDICTS] = np.tile(told["orbits"].eq(3), (3, 1)).T
    worth[VERDICTS] = np.tile(worth.row.str.startswith("learnt"), (3, 1)).T
    learnt = LearntRanking.learn(training, told, worth, n_workers=1)
    assert len(learnt.forests) == 4
    with_group = LearntRanking.learn(training, told, worth, n_workers=1, asked={True})
    assert with_group.forests.keys() == {(True, False), (True, True)}, "nothing is learnt for what is not asked"
    plain = LearntRanking(learnt.features, {})
    targets = training.take(np.flatnonzero(training.n_sites == 4)[:40])
    better = worse = 0
    for first, usual in zip(*(c.templates(targets, 1, use_space_group=False) for c in (learnt, plain)), strict=True):
        orbits = [len(training.asymmetric_units[few[0].row].sites) for few in (first, usual)]
        better += orbits[0] == 3 and orbits[1] != 3
        worse += orbits[0] != 3 and orbits[1] == 3
    assert better >= 5 and worse == 0


class NearestInEnergy:
    """Stands where a forest would."""

    feature_names_in_ = ["energy apart"]

    def predict(self, features: pd.DataFrame) -> np.ndarray:
        return -features["energy apart"].to_numpy()


def test_a_choice_that_was_learnt_with_energies_is_asked_only_where_one_is_told():
    salts = [rock_salt(cation, "Cl") for cation in ("Na", "K", "Rb", "Cs")]
    training = table(salts, energy=[-2.0, -2.1, -2.2, -2.3])
    chosen = LearntRanking(TemplateFeatures(training), {(False, True): [NearestInEnergy()]})
    asked = table([rock_salt("Li", "Cl")] * 3, energy=[-2.28, np.nan, -2.11])
    rows = [few[0].row for few in chosen.templates(asked, 1, use_space_group=False)]
    assert rows == [3, 0, 1], "the nearest in energy, and sodium, the most alike, where none is told"
    assert [few[0].row for few in chosen.templates(asked, 1, use_space_group=True)] == [0, 0, 0]


def test_a_potential_finds_the_template_that_has_the_asked_energy():
    caesium_chloride = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], CUBIC)
    training = table([rock_salt("Na", "Cl"), caesium_chloride, rock_salt("K", "Cl")])
    plain, references = LearntRanking(TemplateFeatures(training), {}), {"Rb": -1.0, "Cl": -2.0, "Na": -1.0}
    asked = table([rock_salt("Rb", "Cl")] * 4 + [rock_salt("Li", "Cl")], energy=[0, 0, 0, np.nan, 0])
    in_order = [one.row for one in plain.templates(asked.take([0]), 3, use_space_group=False)[0]]
    borrowed = [plain.substituted(one) for one in plain.templates(asked.take([0]), 3, use_space_group=False)[0]]
    asked.formation_energy[:3] = single_points(borrowed, "chgnet", n_workers=1) + 1.5
    choice = EnergyRanking(plain, 3, references, n_workers=1)
    rows = [[one.row for one in few] for few in choice.templates(asked, 2, use_space_group=False)]
    assert [few[0] for few in rows[:3]] == in_order, "each template has the energy that was asked for by it"
    assert rows[3] == in_order[:2], "no energy is asked for"
    assert rows[4] == [one.row for one in plain.templates(asked.take([4]), 2, use_space_group=False)[0]], "no reference"
    assert [len(few) for few in rows] == [2] * 5
    one_tried = EnergyRanking(plain, 1, references, n_workers=1).templates(asked, 2, use_space_group=False)
    assert one_tried[1][0].row == in_order[0]
    (answer,) = choice.substitution(asked.take([1]), use_space_group=False)
    assert match_many([borrowed[1]], [answer]).match_strict.all()


def test_a_template_of_no_known_energy_comes_last(training, monkeypatch):
    plain = LearntRanking(TemplateFeatures(training), {})
    targets = training.take(np.flatnonzero(training.space_group == 221)[:1])
    in_order = [one.row for one in plain.templates(targets, 3, use_space_group=True)[0]]
    monkeypatch.setattr(template_ranking, "single_points", lambda *_, **__: np.array([np.nan, 5.0, 4.0]))
    by_energy = EnergyRanking(plain, 3, dict.fromkeys(SYMBOLS.tolist(), 0.0))
    found = [one.row for one in by_energy.templates(targets, 3, use_space_group=True)[0]]
    assert found == [in_order[2], in_order[1], in_order[0]], "4 eV/atom are nearer to what was asked than 5"


def test_features_of_templates():
    caesium_chloride = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], CUBIC)
    training = table([rock_salt("Na", "Cl"), caesium_chloride, rock_salt("K", "Cl")], energy=[-2.0, -2.2, -2.1])
    found, known = TemplateFeatures(training).of(np.array([37, 17]), energy=-2.12)
    assert found.rows.tolist() == [2, 1, 0], "rubidium is most like potassium, then like caesium"
    assert found.elements.tolist() == [[17, 19], [17, 55], [17, 11]], "in the order of chlorine and rubidium"
    assert known["on these sites"].tolist() == [2, 1, 2] and (known["kinds of sites"] == 2).all()
    assert known["kept elements"].tolist() == [1, 1, 1] and known["group"].tolist() == [225, 221, 225]
    weights = np.exp(-known["unlike, beyond the least"] / 0.2)
    salts, caesium = (weights[0] + weights[2]) / weights.sum(), weights[1] / weights.sum()
    assert known["votes, 0.2"] == pytest.approx([salts, caesium, salts]) and salts != pytest.approx(2 / 3)
    assert known["energy apart"] == pytest.approx([0.02, 0.08, 0.12])
    assert known["nearer in energy"].tolist() == [0, 1, 2]
    assert known["coordination"].tolist() == [6, 14, 6], "in caesium chloride six more are only 1.155 times as far"


def test_a_template_says_which_element_replaces_which():
    training = table([rock_salt("Na", "Cl"), rock_salt("K", "Cl")])
    for one in ElementRanking(training).templates(table([rock_salt("Rb", "Cl")]), 2, use_space_group=False)[0]:
        alkali = {0: 11, 1: 19}[one.row]
        assert one.replaced[[alkali, 17, 37]].tolist() == [37, 17, 0]


def test_the_same_examples_teach_the_same(examples, held_out):
    """Also in two processes."""
    again = held_out_choices(examples[examples.asked], n_workers=2)
    pd.testing.assert_frame_equal(again, held_out[held_out.asked].reset_index(drop=True))


def test_a_template_of_a_supergroup_is_described_in_the_asked_group():
    perovskite = Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"], PEROVSKITE)
    training = table([perovskite, Structure(Lattice.cubic(3), ["Cs", "Cl"], CUBIC)], [221, 221])
    asked = table([Structure(Lattice.cubic(4), ["Ba", "Ti", "O", "O", "O"], PEROVSKITE)], [99])
    (plain,) = best_candidates(asked, ElementRanking(training))
    ranking = LearntRanking(TemplateFeatures(training), {})
    (one,) = best_candidates(asked, ranking)
    assert plain.source == "enumerated" and one.source == "supergroup"
    assert one.unit.symmetry == plain.unit.symmetry == 99
    assert sorted(one.unit.species.tolist()) == sorted(plain.unit.species.tolist())
    (substituted,) = ranking.substitution(asked, use_space_group=True)
    described = Structure(one.unit.lattice, one.unit.species, one.unit.frac_coords)
    assert match_many([substituted], [described]).match_strict.all()


def test_where_there_is_no_template_nothing_is_substituted(training):
    asked = table([Structure(Lattice.cubic(9), ["Cs"] * 7 + ["Cl"], np.random.default_rng(0).random((8, 3)))], [1])
    plain = LearntRanking(TemplateFeatures(training), {})
    assert plain.templates(asked, 3, use_space_group=True) == [[]]
    assert plain.substitution(asked, use_space_group=False) == [None]


def test_the_surroundings_of_rock_salt():
    around = LocalEnvironments.of(table([rock_salt("Na", "Cl")], [225]), 0)
    assert np.allclose(around.neighbours, 6) and np.allclose(around.near, [[0, 1], [1, 0]])
    assert np.allclose(around.contacts, [[5.6 / 2**0.5, 2.8], [2.8, 5.6 / 2**0.5]])
    assert around.volume == pytest.approx(5.6**3 / 8)


def test_an_empty_training_set_is_refused(training):
    with pytest.raises(BadInput, match="training set is empty"):
        examples_of(training.take([]), 10, rng=np.random.default_rng(0))
