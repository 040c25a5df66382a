"""Intervals: exact where values stand alone, wider where they belong together, never of no width."""

import math

import numpy as np
import pytest
from scipy.stats import beta, binomtest, linregress, spearmanr, t

from lib.core import stats
from lib.core.stats import Rate, claim, direction, paired_difference, share


@pytest.mark.parametrize(("hits", "n"), [(0, 200), (1, 200), (9, 12), (12, 12), (1, 1), (700, 987)])
def test_a_share_has_the_exact_binomial_interval(hits, n):
    rate = share(np.arange(n) < hits, np.arange(n))
    low = beta.ppf(0.025, hits, n - hits + 1) if hits else 0
    high = beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1
    assert (rate.value, rate.n) == (hits / n, n)
    assert (rate.ci_low, rate.ci_high) == pytest.approx((low, high), abs=1e-5)


def test_one_hit_more_never_lowers_an_end():
    groups = np.repeat(np.arange(60), np.arange(60) % 5 + 1)
    order = np.random.default_rng(0).permutation(len(groups))
    rates = [share(order < hits, groups) for hits in (0, 1, 2, 3, 30, 100, len(groups))]
    for one, more in zip(rates, rates[1:], strict=False):
        assert one.ci_low <= more.ci_low and one.ci_high < more.ci_high or more.value == 1
    assert rates[0].ci_low == 0 and 0 < rates[0].ci_high < 0.1 and 0.9 < rates[-1].ci_low < rates[-1].ci_high == 1


def test_values_of_one_group_count_as_one():
    hits, groups = np.repeat(np.arange(40) < 20, 10), np.repeat(np.arange(40), 10)
    together, alone = share(hits, groups), share(hits[::10], groups[::10])
    assert together.n == 400 and (together.ci_low, together.ci_high) == pytest.approx((alone.ci_low, alone.ci_high))
    one = share([True, False], ["A", "A"])
    assert one.value == 0.5 and 0 < one.ci_low < 0.05 and 0.95 < one.ci_high < 1


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    for n_groups, most, truth in [(12, 1, 0.75), (40, 4, 0.3)]:
        inside = 0
        for _ in range(60):
            groups = np.repeat(np.arange(n_groups), rng.integers(1, most + 1, n_groups))
            rate = share(rng.random(len(groups)) < rng.beta(2 * truth, 2 - 2 * truth, n_groups)[groups], groups)
            inside += rate.ci_low <= truth <= rate.ci_high
        assert inside >= 0.9 * 60


@pytest.mark.parametrize(("wins", "losses"), [(5, 0), (6, 0), (20, 8), (21, 8), (0, 0), (0, 9)])
def test_a_paired_difference_is_resolved_where_mcnemars_exact_test_resolves_it(wins, losses):
    a, b = np.zeros(100, bool), np.zeros(100, bool)
    a[:wins], b[wins : wins + losses] = True, True
    found = paired_difference(a, b, np.arange(100))
    assert found.value == pytest.approx((wins - losses) / 100)
    p = binomtest(wins, wins + losses).pvalue if wins + losses else 1
    assert (direction(found) != "unresolved") == (p < 0.05)
    assert found.ci_low < found.value < found.ci_high


def test_where_nothing_differs_the_interval_says_how_much_could():
    same = paired_difference(np.ones(200), np.ones(200), np.arange(200))
    assert (same.ci_low, same.ci_high) == pytest.approx((-0.01828, 0.01828), abs=1e-5)
    few = paired_difference(np.ones(3), np.ones(3), np.arange(3))
    assert few.ci_high > 0.5 and direction(few) == "unresolved"


def test_means_and_slopes_have_students_intervals():
    rng = np.random.default_rng(0)
    values = rng.normal(3, 1, 12)
    half = t.ppf(0.975, 11) * values.std(ddof=1) / math.sqrt(12)
    found = stats.mean(values)
    assert (found.ci_low, found.ci_high) == pytest.approx((values.mean() - half, values.mean() + half))
    twice = stats.mean(np.repeat(values, 2), np.repeat(np.arange(12), 2))
    assert (twice.ci_low, twice.ci_high) == pytest.approx((found.ci_low, found.ci_high)) and twice.n == 24
    x = np.linspace(0, 1, 200)
    y = 0.5 * x + rng.normal(0, 0.1, 200)
    line = linregress(x, y)
    found = stats.slope(x, y, np.arange(200))
    assert found.value == pytest.approx(line.slope)
    assert (found.ci_high - found.ci_low) / 2 == pytest.approx(t.ppf(0.975, 198) * line.stderr, rel=0.15)


def test_unbounded_values_without_scatter_have_no_interval_rather_than_one_of_no_width():
    for values, groups in [([2.0], None), ([2.0, 2.0], None), ([1.0, 2.0], ["A", "A"])]:
        assert math.isnan(stats.mean(values, groups).ci_low)
    assert stats.mean([]).n == 0 and math.isnan(share([], []).value)


def test_rank_correlation_of_few_is_everything_and_a_perfect_one_has_an_interval():
    x, y = np.arange(12.0), np.array([2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11.0])
    found = stats.rank_correlation(x, y, x)
    assert found.value == pytest.approx(spearmanr(x, y).statistic) and 0.6 < found.ci_low < found.value < found.ci_high
    perfect = stats.rank_correlation(x, x, x)
    assert perfect.value == perfect.ci_high == 1 and 0.5 < perfect.ci_low < 1
    three = stats.rank_correlation(x[:3], x[:3], x[:3])
    assert (three.ci_low, three.ci_high) == (-1, 1)


def test_claims_need_an_interval_without_zero():
    assert claim(Rate(0.2, 0.1, 0.3, 50), "A", "B").startswith("A matches more often than B: +20.0 points")
    assert claim(Rate(-0.2, -0.3, -0.1, 50), "A", "B").startswith("A matches less often than B: -20.0 points")
    assert claim(Rate(0.02, -0.01, 0.05, 50), "A", "B").startswith("unresolved: A minus B is +2.0 points")
    nothing = claim(paired_difference([], [], []), "A", "B")
    assert nothing.startswith("unresolved") and "nan" not in nothing


def test_a_difference_of_independent_numbers_is_as_wide_as_both_on_its_side():
    rate = stats.independent_difference(Rate(0.5, 0.2, 0.6, 30), Rate(0.2, 0.1, 0.6, 20))
    assert (rate.value, rate.n) == (pytest.approx(0.3), 20)
    assert rate.ci_low == pytest.approx(0.3 - 0.5) and rate.ci_high == pytest.approx(0.3 + math.hypot(0.1, 0.1))
