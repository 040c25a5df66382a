"""Targets beside scores."""

import json

import pytest

from lib.core.files import ROOT
from lib.report.goals import TARGETS, Target, beside, machine_of

SCORE = {"id": "mp20.group.match_csp", "value": 0.8, "machine": "Some Processor, 2 cores"} | dict.fromkeys(
    ("ci_low", "ci_high")
)


@pytest.mark.parametrize(
    ("target", "words", "met", "unmet"),
    [
        (Target(">=", 100), ">= 100", 100, 99.9),
        (Target("<", 5), "< 5", 4.9, 5),
        (Target(">=", 0.05, "other"), ">= 5 points above `other`", 0.85, 0.8499),
        (Target(">", 0, "other"), "above `other`", 0.81, 0.8),
    ],
)
def test_a_target_knows_whether_it_is_reached(target, words, met, unmet):
    scores = {"other": 0.8}
    assert target.in_words() == words
    assert target.reached(met, scores) is True and target.reached(unmet, scores) is False
    assert target.reached(None, scores) is None


def test_a_target_above_a_score_that_is_missing_is_neither_reached_nor_missed():
    assert Target(">=", 0.05, "other").reached(0.9, {}) is None
    assert Target(">=", 0.05, "other").reached(0.9, {"other": None}) is None


def test_words_beside_a_score_name_the_machine_that_the_target_was_set_for():
    lookup = {"mp20.substitution.group.match_csp": 0.78}
    words = ">= 5 points above `mp20.substitution.group.match_csp`"
    assert beside(SCORE, lookup) == f"{words}, set for a GPU: missed"
    assert beside(SCORE | {"machine": "Some Processor, 16 cores, NVIDIA H200", "value": 0.84}, lookup) == (
        f"{words}: reached"
    )
    assert beside(SCORE | {"id": "without.any"}, lookup) == ""
    unsure = SCORE | {"value": 0.84, "ci_low": 0.80, "ci_high": 0.88}  # the bound is 0.83
    assert beside(unsure, lookup).endswith("reached, by less than its error")
    assert beside(unsure | {"ci_low": 0.835}, lookup).endswith("reached")


def test_a_bound_of_other_data_is_neither_reached_nor_missed():
    target = TARGETS["embedded.modification.match_default"]
    assert target.reached(0.9, {}) is None and target.reached(0.1, {}) is None
    words = beside(SCORE | {"id": "embedded.modification.match_default"}, {})
    assert "AFLOW" in words and "reached" not in words and "missed" not in words


def test_what_was_not_measured_stands_where_it_would_have_been():
    waiting = {"id": "speed.periodic.seconds_10k_h200", "value": None, "machine": "Some Processor, 2 cores"}
    assert machine_of(waiting) == "GPU" and beside(waiting, {}) == "< 10"
    assert machine_of(waiting | {"id": "without.any"}) == "CPU"
    assert machine_of(SCORE) == "CPU"


def test_every_target_belongs_to_a_published_score():
    published = {score["id"] for score in json.loads((ROOT / "outputs/published/scores.json").read_text())}
    assert set(TARGETS) | {t.above for t in TARGETS.values() if t.above} <= published
