"""Findings say what tables of known truth hold, and nothing where nothing was measured."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from lib.core.stats import Rate
from lib.metrics.matching import VERDICTS, compare_rows, rate_table
from lib.report import findings

QUESTION = "Does A match more often than B?"


def verdicts(**hits: list[bool]) -> pd.DataFrame:
    """Verdicts of rows on the same targets, each a formula of its own; all three verdicts alike."""
    n = len(next(iter(hits.values())))
    row = {"target": [f"t{i}" for i in range(n)], "formula": [f"f{i}" for i in range(n)], "note": ""}
    row |= {"rms": 0.1, "rms_angstrom": 0.2}
    return pd.concat(
        [pd.DataFrame({"row": name} | row | {v: hit for v in VERDICTS}) for name, hit in hits.items()],
        ignore_index=True,
    )


def first(hits: int, n: int = 40) -> list[bool]:
    return [i < hits for i in range(n)]


@pytest.mark.parametrize(
    ("a", "b", "n", "word"),
    [
        (30, 5, 40, "yes, +62.5 points"),
        (5, 30, 40, "no, -62.5 points"),
        (22, 20, 40, "unresolved, +5.0 points"),  # smaller than its error
        (20, 20, 40, "unresolved, +0.0 points"),
        (2, 0, 2, "unresolved, +100.0 points"),  # all of too few
    ],
)
def test_a_question_is_answered_only_where_its_interval_says_so(a, b, n, word):
    lines = compare_rows(verdicts(A=first(a, n), B=first(b, n)), "A", "B")
    found = findings.differences(lines)
    low, high, (says, points) = 100 * lines.ci_low[0], 100 * lines.ci_high[0], word.split(", ")
    ends = f"(95 % interval {low:+.1f} to {high:+.1f}, n = {n})"
    assert findings.claim(QUESTION, found) == f"{QUESTION} {says.capitalize()}. A minus B: {points} {ends}."
    assert ("unresolved" in word) == (low <= 0 <= high)
    several = findings.claim(QUESTION, found | {"A minus C": Rate(0.3, 0.1, 0.5, 20)})
    tally = "Yes in 2 of 2" if says == "yes" else f"{says.capitalize()} in 1 of 2, yes in 1 of 2"
    assert several.startswith(f"{QUESTION} {tally}. A minus B: {points} {ends}, {says}; A minus C: +30.0")


def test_rows_that_match_nothing_are_not_called_alike():
    rates = rate_table(verdicts(a=first(0), b=first(0), c=first(3)), ["row"])
    sentence = findings.none_matches(rates[rates.row != "c"])
    assert "do not tell a and b apart: none matches any of its 40 targets" in sentence and "below 8.8 %" in sentence
    assert findings.none_matches(rates) is None and findings.none_matches(rates.head(0)) is None


def test_a_claim_without_a_case_is_left_out():
    nothing = Rate(math.nan, math.nan, math.nan, 0)
    assert findings.claim(QUESTION, {}) is None and findings.claim(QUESTION, {"A minus B": nothing}) is None
    resolved = {"A minus B": nothing, "A minus C": Rate(0.3, 0.1, 0.5, 20)}
    assert "A minus B" not in findings.claim(QUESTION, resolved)


def test_the_best_row_stands_beside_its_baselines():
    cases = verdicts(model=first(30), lookup=first(28), x_0=first(2))
    rates = rate_table(cases, ["row"])
    over = {k: v for b in ("lookup", "x_0") for k, v in findings.differences(compare_rows(cases, "model", b)).items()}
    sentence = findings.best_row(1, rates, "model", "chosen on validation crystals", over)
    assert "model (chosen on validation crystals) matches 75.0 % (95 % interval" in sentence and "n = 40" in sentence
    assert "model minus lookup: +5.0 points" in sentence and "n = 40), unresolved." in sentence
    assert "model minus x_0: +70.0 points" in sentence and "n = 40), more often." in sentence
    worse = findings.differences(compare_rows(cases, "x_0", "lookup"))
    assert findings.best_row(2, rates, "x_0", "the only row", worse).endswith("n = 40), less often.")
    assert findings.best_row(1, rates, "absent", "the only row", {}) is None


def test_candidates_are_counted_by_what_they_say():
    says = ["known as a", "unresolved", "unresolved", "above the hull", "below the hull", "known as b"]
    sentence = findings.candidates(says, 360, "130 meV/atom with CHGNet")
    counts = (
        "6 relaxed candidates: 2 equal to a crystal of the data, 1 new and below the hull, 2 new and unresolved, 1 new"
    )
    assert counts in sentence and "130 meV/atom" in sentence
    assert (
        "8 structures below the hull, by 0.042 to 5.5 meV/atom, less than the 24" in sentence
    )  # of the published table
    assert "no relaxed candidate" in findings.candidates([], 20, "130 meV/atom")
    assert findings.candidates([], 0, "130 meV/atom") is None


def test_data_and_splits():
    steps = pd.DataFrame({"step": ["all", "small", "rare"], "structures": [1200, 1100, 600], "groups": [50, 49, 30]})
    assert "1,200 structures in 50" in findings.data(steps) and "600 in 30" in findings.data(steps)
    assert "“rare” (500)" in findings.data(steps)
    assert "lost" not in findings.data(steps.assign(structures=7)) and findings.data(steps.head(0)) is None
    proofs = {f: pd.DataFrame({"quantity": ["reduced formulas"], "shared": [n]}) for f, n in (("a, b", 0), ("a, c", 3))}
    assert "a, c (3)" in findings.splits(proofs) and "a, b" not in findings.splits(proofs)
    assert "share no" in findings.splits({"a, b": proofs["a, b"]}) and findings.splits({}) is None


def test_methods_without_a_request_are_not_named():
    scores = pd.DataFrame(
        [["ddpm", "valid", 0.25, 0.1, 0.45, 20], ["cfm", "valid", *[np.nan] * 3, 0], ["cfm", "steps", 3, 2, 4, 9]],
        columns=["method", "score", "value", "ci_low", "ci_high", "n"],
    )
    sentence = findings.valid(scores)
    assert "ddpm 25.0 % (95 % interval 10.0 to 45.0, n = 20)" in sentence and "cfm" not in sentence
    assert findings.valid(scores.tail(2)) is None
    assert "closer than 0.6 of the sum of their covalent radii" in sentence  # not the rule of Table 1's "invalid"


def test_who_is_not_told_the_energy_does_not_disobey():
    columns = ["method", "energies", "n", "slope", "slope_low", "slope_high"]
    lines = [["ddim", 1, *[np.nan] * 3], ["cfm", 161, 0.9, 0.8, 1.0], ["up", 90, -0.3, -0.4, -0.2]]
    lines += [["lookup", 180, -0.05, -0.06, -0.04]]
    response = pd.DataFrame([[m, "as generated", *x] for m, *x in lines], columns=columns)
    sentence = findings.energy_response(response, "as generated", ["lookup"])
    for part in (
        "ddim too few structures (n = 1), unresolved",
        "cfm +0.90 (95 % interval +0.80 to +1.00, n = 161), yes",
        "up -0.30 (95 % interval -0.40 to -0.20, n = 90), no, it rises",
        "lookup -0.05 (95 % interval -0.06 to -0.04, n = 180), not told the energy",
    ):
        assert part in sentence
    assert findings.energy_response(response, "relaxed") is None


def test_the_quickstart_counts_answers_that_energies_do_not_tell_apart():
    funnel = pd.DataFrame({"request": ["TaB"], "asked": [8], "of them known": [2], "distinct": [3]})
    answers = pd.DataFrame({"request": 1, "name": ["a", "b", "c"], "formula": "TaB", "space_group_0.1": [12, 1, 2]})
    answers["known"] = ["crystal x", "", ""]
    energies = answers.assign(formation_energy=[-0.5, -0.495, -0.3])
    sentence = findings.quickstart(funnel, energies, 0.013)
    assert "of 8 structures, 2 of them known before, 3 are distinct" in sentence
    assert "a, space group 12 (known: crystal x)" in sentence
    assert "-0.500 eV/atom, with 1 of the others" in sentence and "13 meV/atom" in sentence
    assert sentence.endswith("The first that is not known, b, lies 5 meV/atom above it.")
    assert "not known" not in findings.quickstart(funnel, energies.assign(known="crystal x"), 0.013)
    assert "eV" not in findings.quickstart(funnel, answers.assign(formation_energy=np.nan), 0.013)  # not relaxed
    assert "0 are distinct" in findings.quickstart(funnel.assign(distinct=0), energies.head(0), 0.013)
    assert findings.quickstart(funnel.head(0), energies, 0.013) is None
