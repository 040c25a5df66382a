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
        (30, 5, 40, "holds, +62.5 points"),
        (5, 30, 40, "contradicted, -62.5 points"),
        (22, 20, 40, "unresolved, +5.0 points"),  # smaller than its error
        (20, 20, 40, "unresolved, +0.0 points"),
        (2, 0, 2, "unresolved, +100.0 points"),  # all of too few
    ],
)
def test_a_claim_holds_only_where_its_interval_says_so(a, b, n, word):
    lines = compare_rows(verdicts(A=first(a, n), B=first(b, n)), "A", "B")
    sentence = findings.claim(QUESTION, findings.differences(lines))
    low, high = 100 * lines.ci_low[0], 100 * lines.ci_high[0]
    verdict = f"{word.split(',')[0].capitalize()} in 1 of 1"
    for part in (QUESTION, verdict, f"A less B: {word}", f"{low:+.1f} to {high:+.1f}, n = {n}"):
        assert part in sentence
    assert ("unresolved" in word) == (low <= 0 <= high)


def test_a_claim_without_a_case_is_left_out():
    nothing = Rate(math.nan, math.nan, math.nan, 0)
    assert findings.claim(QUESTION, {}) is None and findings.claim(QUESTION, {"A less B": nothing}) is None
    resolved = {"A less B": nothing, "A less C": Rate(0.3, 0.1, 0.5, 20)}
    assert "A less B" not in findings.claim(QUESTION, resolved)


def test_the_best_row_stands_beside_its_baselines():
    cases = verdicts(model=first(30), lookup=first(28), x_0=first(2))
    rates = rate_table(cases, ["row"])
    over = {k: v for b in ("lookup", "x_0") for k, v in findings.differences(compare_rows(cases, "model", b)).items()}
    sentence = findings.best_row(1, rates, "model", "chosen on validation crystals", over)
    assert "model (chosen on validation crystals) matches 75.0 % (95 % interval" in sentence and "n = 40" in sentence
    assert "model less lookup: unresolved, +5.0 points" in sentence
    assert "model less x_0: more often, +70.0 points" in sentence
    worse = findings.differences(compare_rows(cases, "x_0", "lookup"))
    assert "less often, -65.0 points" in findings.best_row(2, rates, "x_0", "the only row", worse)
    assert findings.best_row(1, rates, "absent", "the only row", {}) is None


def test_candidates_are_counted_by_what_they_say():
    says = ["known as a", "unresolved", "unresolved", "above the hull", "below the hull", "known as b"]
    sentence = findings.candidates(says, 360, "130 meV/atom with CHGNet")
    counts = "6 relaxed candidates: 1 below the hull, 2 unresolved, 2 crystals that the data hold, 1 above the hull"
    assert counts in sentence and "130 meV/atom" in sentence
    assert "8 structures below the hull, by 0.042 to 5.497 meV/atom" in sentence  # of the published table
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


def test_the_quickstart_counts_answers_that_energies_do_not_tell_apart():
    funnel = pd.DataFrame({"request": ["TaB"], "asked": [8], "of them known": [2], "distinct": [3]})
    answers = pd.DataFrame({"request": 1, "name": ["a", "b", "c"], "formula": "TaB", "space_group_0.1": [12, 1, 2]})
    answers["known"] = ["crystal x", "", ""]
    energies = answers.assign(formation_energy=[-0.5, -0.495, -0.3])
    sentence = findings.quickstart(funnel, energies, 0.013)
    assert "of 8 structures, 2 of them known before, 3 are distinct" in sentence
    assert "a, space group 12 (known: crystal x)" in sentence
    assert "-0.500 eV/atom, with 1 of the others" in sentence and "13 meV/atom" in sentence
    assert "eV" not in findings.quickstart(funnel, answers.assign(formation_energy=np.nan), 0.013)  # not relaxed
    assert "0 are distinct" in findings.quickstart(funnel.assign(distinct=0), energies.head(0), 0.013)
    assert findings.quickstart(funnel.head(0), energies, 0.013) is None
