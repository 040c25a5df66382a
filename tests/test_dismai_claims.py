"""Claims are told by the numbers that they name, and say so where there are none."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from lib.core.stats import Rate, independent_difference, mean
from lib.dismai.claims import BENCH, FAILS, HOLDS, OPEN, STUDY, Claim, judged, sentences
from lib.dismai.entrants import ENTRANTS, VARIANTS
from lib.figures.disordered import critic_losses


def line(entrant: str, value: float, off_site: float, half: float = 0.01) -> dict:
    ends = {
        "low": value - half,
        "high": value + half,
        "off_site_low": off_site - half,
        "off_site_high": off_site + half,
    }
    return {"entrant": entrant, "n": 10, "value": value, "off_site": off_site, **ends}


def test_a_claim_holds_fails_or_cannot_be_told():
    scores = pd.DataFrame([line("a", 0.1, 0.5), line("b", 0.2, 0.3), line("c", np.nan, 0.505)])
    claims = [
        Claim("a beats b and c.", "here", [("a", "b"), ("a", "c")], ("distance", "off_site")),
        Claim("a beats d.", "there", [("a", "d")]),
        Claim("Nobody knows.", "nowhere", untestable="of the moon"),
    ]
    lines = judged(claims, scores)
    assert lines.verdict.tolist()[:4] == [HOLDS, FAILS, OPEN, OPEN]
    assert lines.difference[0] == pytest.approx(-0.1) and lines.high[0] == pytest.approx(-0.1 + 0.01 * 2**0.5)
    assert all(v.startswith("cannot be tested") for v in lines.verdict[4:]) and "the moon" in lines.verdict[5]
    first, second = sentences(lines)
    assert f"{HOLDS} in 1 of 4".capitalize() in first and "a 0.1, b 0.2" in first and "a 0.5, b 0.3" in first
    assert "of 3: 1 cannot be tested: of entrants that this run does not have" in second and "the moon" in second


def test_claims_speak_of_what_there_is():
    known = {*ENTRANTS, *VARIANTS, "lambda 0, equal time", "uniform", "shuffled lattice"}
    named = set(itertools.chain.from_iterable(pair for claim in (*STUDY, *BENCH) for pair in claim.pairs))
    assert named <= known and all(bool(claim.pairs) != bool(claim.untestable) for claim in (*STUDY, *BENCH))


def test_the_difference_of_two_means_has_its_interval():
    """It covers the true one in 95 of 100 cases."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        a, b = rng.normal(1, 1, 30), rng.normal(0, 2, 50)
        found = independent_difference(mean(a), mean(b))
        hits += found.ci_low <= 1 <= found.ci_high
    assert 0.92 <= hits / 400 <= 0.985
    assert np.isnan(independent_difference(mean(rng.normal(size=9)), Rate(np.nan, np.nan, np.nan, 0)).ci_low)


def test_losses_are_drawn_in_units_of_the_first():
    history = pd.DataFrame({"step": [1, 2], "training": [0, 0], "validation": [-4.0, 8.0]})
    (axes,) = critic_losses({"a": history, "none": history.iloc[:0]}).axes
    assert [x.get_ydata().tolist() for x in axes.lines] == [[-1, 2]]
    (axes,) = critic_losses({str(i): history for i in range(9)}).axes
    axes.figure.canvas.draw()
    assert len({(x.get_color(), x.get_linestyle()) for x in axes.lines}) == 9, "more lines than colours"
    assert "\u00d7" not in "".join(t.get_text() for t in axes.get_yticklabels()), "1.07 x 10^0"
    assert "no training" in critic_losses({"none": history.iloc[:0]})
