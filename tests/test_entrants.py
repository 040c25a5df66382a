"""Methods with fit and sample, and structures of other programs, as rows of Table 1."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.parameters import validated
from lib.crystals.table import CrystalTable
from lib.datasets.splits import split_by_formula
from lib.entrants import answers_of, random_spaced, requests_of, substitution
from lib.retrieval import baselines
from lib.retrieval.templates import ElementRanking
from lib.studies.params import MatchParams

METHODS = sorted(f"lib.entrants.{path.stem}" for path in (ROOT / "lib/entrants").glob("[a-z]*.py"))
LOOKUP = "lib.entrants.substitution"


@pytest.fixture(scope="module")
def tables() -> tuple[CrystalTable, CrystalTable]:
    """A training set of 300 crystals and 20 targets of other formulas."""
    table = CrystalTable.from_parquet(ROOT / "lib/data/embedded.parquet")
    train, held_out = split_by_formula(table.take(np.arange(0, len(table), 30)), 0.2, np.random.default_rng(0))
    table = table.take(np.arange(0, len(table), 30))
    return table.take(train), table.take(held_out[:20])


@pytest.fixture
def how(tmp_path) -> dict:
    return {"folder": tmp_path, "device": "cpu", "seed": 1}


@pytest.mark.parametrize("method", METHODS)
def test_answers_are_of_what_was_asked_and_the_same_again(tables, how, tmp_path, method):
    training, targets = tables
    answers = answers_of(method, targets, training, **how)
    for i, answer in enumerate(answers):
        assert answer is None or sorted(answer.atomic_numbers) == sorted(targets.species_of(i).tolist())
    assert sum(answer is not None for answer in answers) > 10
    assert answers_of(method, targets, training, **how | {"folder": tmp_path / "elsewhere"}) == answers


def test_substitution_is_the_baseline_of_the_asked_group_else_of_any(tables, how):
    training, targets = tables
    answers = answers_of("lib.entrants.substitution", targets, training, **how)
    grouped = ElementRanking(training).substitution(targets, use_space_group=True)
    assert any(template is None for template in grouped) and any(grouped)
    free = ElementRanking(training).substitution(targets, use_space_group=False)
    for answer, expected in zip(answers, (a or b for a, b in zip(grouped, free, strict=True)), strict=True):
        assert (answer is None) == (expected is None)
        if answer:
            assert answer.volume == pytest.approx(expected.volume)


def test_requests_give_nothing_away(tables):
    _, targets = tables
    requests = requests_of(targets)
    assert np.isnan(requests.lattice).all() and np.isnan(requests.frac_coords).all() and not requests.extra
    assert not set(requests.id) & set(targets.id)
    assert requests.formula.tolist() == targets.formula.tolist()
    assert np.isfinite(targets.lattice).all(), "the targets themselves were altered"


def test_atoms_of_the_best_draw_are_further_apart(tables, tmp_path):
    training, targets = tables
    random_spaced.fit(training, targets, folder=tmp_path)
    spaced = random_spaced.sample(requests_of(targets), folder=tmp_path, seed=0)
    plain = baselines.random_in_training_cell(targets, training, np.random.default_rng(0))
    distance = random_spaced.smallest_distance
    assert np.mean([distance(s) for s in spaced]) > 1.5 * np.mean([distance(s) for s in plain])


def test_a_method_is_fitted_once_for_its_data_and_seed_without_the_targets(tables, how, monkeypatch):
    training, targets = tables
    calls = []

    def fit(train, validation, **how):
        calls.append((train, validation, how))
        original(train, validation, **how)

    original = substitution.fit
    monkeypatch.setattr(substitution, "fit", fit)
    for _ in range(2):
        answers_of(LOOKUP, targets, training, **how)
    (train, validation, given) = calls.pop()
    assert not calls and given["seed"] == 1 and given["folder"] == how["folder"] / LOOKUP
    assert sorted([*train.id, *validation.id]) == sorted(training.id)
    assert not set(train.reduced_formula) & set(validation.reduced_formula)
    (how["folder"] / LOOKUP / "half.resume").touch()
    answers_of(LOOKUP, targets, training, **how | {"seed": 2})
    assert not (how["folder"] / LOOKUP / "half.resume").exists(), "nothing of another seed is taken up"
    answers_of(LOOKUP, targets, training.take(np.arange(200)), **how | {"seed": 2})
    assert len(calls) == 2
    assert json.loads((how["folder"] / LOOKUP / "fitted.json").read_text())["seed"] == 2


def test_too_few_answers_are_an_error(tables, how, monkeypatch):
    training, targets = tables

    def sample(requests, **_):
        assert np.isnan(requests.lattice).all(), "it sees the targets themselves"
        return [None]

    monkeypatch.setattr(substitution, "sample", sample)
    with pytest.raises(ValueError, match="gave 1 structures for 20 requests"):
        answers_of(LOOKUP, targets, training, **how)


def test_files_are_entrants_too(tables, how, tmp_path):
    training, targets = tables
    targets.structure(3).to(str(tmp_path / f"{targets.id[3]}.cif"), fmt="cif")
    answers = answers_of(str(tmp_path), targets, training, **how)
    assert [i for i, answer in enumerate(answers) if answer] == [3]


@pytest.mark.parametrize(
    ("entrants", "words"),
    [
        ({"mine": "absent.zip"}, "'absent.zip' of 'mine' is no file, zip file or folder and no method .*substitution"),
        ({"mine": "lib.entrants.absent"}, "no method .*lib.entrants.random_spaced, .*lib.entrants.substitution"),
        ({"substitution": LOOKUP}, "'substitution' reads like a row of the table's own"),
        ({"CFM U(0,1), mine": LOOKUP}, "reads like a row of the table's own"),
        ({"mine": 3}, "parameter 'entrants.mine' .* got 3"),
    ],
)
def test_an_entrant_that_does_not_exist_stops_the_run(entrants, words):
    with pytest.raises(BadInput, match=words):
        validated(MatchParams, {"entrants": entrants})


def test_files_and_methods_are_allowed(tmp_path):
    entrants = {"mine": str(tmp_path), "lookup": LOOKUP, "repository": "lib/data/embedded.parquet"}
    assert validated(MatchParams, {"entrants": entrants}).entrants == entrants
