"""Every interval of the project: 95 %, without random draws, and valid also where n is small or nothing differs.

Values of one group (such as targets of one formula) depend on each other, so whole groups are the sample.

- Shares, paired differences of shares and other bounded values: Gaffke's bound (2005; see arXiv:2106.03163, section 3).
  To a mean's lower end a further group is added that has the least possible value, to its upper end one that has the
  largest; all groups get independent exponential weights, and the end is the 2.5 % or 97.5 % quantile of the weighted
  mean. With one value a group that is Clopper and Pearson's exact binomial interval (10.1093/biomet/26.4.404): 0 of
  200 ends at 0.018, one hit more never lowers an end, and a paired difference is resolved where McNemar's exact test
  (10.1007/BF02295996) resolves it.
- Means of unbounded values and slopes: Student's t with as many degrees of freedom as there are groups, less those
  spent, and a variance between groups (Cameron and Miller, 10.3368/jhr.50.2.317, section II).
- Differences of independent numbers: from the distances of both from their ends (Zou and Donner, 10.1002/sim.2891).
- Rank correlations: Fisher's transformation with the variance of Bonett and Wright (10.1007/BF02294183).
- One more value of a kind: Student's t with the variance of a value added to that of the mean.
- Medians of repeated measurements: their range, which holds the median of n in 1 - 2^(1 - n) of all cases.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_STEP = 0.02
_U = np.exp(np.arange(-20, 20, _STEP))  # where the characteristic function is summed


@dataclass(frozen=True)
class Rate:
    """A number with its 95 % interval."""

    value: float  # nan where n is 0
    # ci_low, ci_high: the interval; nan where the values say nothing of their scatter: none at all, or unbounded ones
    # of one group or all equal
    ci_low: float
    ci_high: float
    n: int  # number of values, not of groups

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.ci_low:.3f} to {self.ci_high:.3f})"


def cells(rates: Mapping[str, Rate]) -> dict[str, float]:
    """Each value and its interval as columns of a table: `name`, `name_low` and `name_high`."""
    found = {}
    for name, rate in rates.items():
        found |= {name: rate.value, f"{name}_low": rate.ci_low, f"{name}_high": rate.ci_high}
    return found


def share(hits: np.ndarray, groups: np.ndarray) -> Rate:
    """Share of hits; `groups` (n,) says what belongs together."""
    return bounded_mean(np.asarray(hits, dtype=bool), groups, 0.0, 1.0)


def paired_difference(hits_a: np.ndarray, hits_b: np.ndarray, groups: np.ndarray) -> Rate:
    """Share of hits of a less that of b, of the same cases."""
    return bounded_mean(np.asarray(hits_a, dtype=float) - np.asarray(hits_b, dtype=float), groups, -1.0, 1.0)


def independent_difference(a: Rate, b: Rate) -> Rate:
    """a less b of two samples that have nothing in common; its interval follows from theirs (Zou and Donner,
    10.1002/sim.2891), nan where one of them has none."""
    value = a.value - b.value
    below = math.hypot(a.value - a.ci_low, b.ci_high - b.value)
    above = math.hypot(a.ci_high - a.value, b.value - b.ci_low)
    return Rate(value, value - below, value + above, min(a.n, b.n))


def bounded_mean(values: np.ndarray, groups: np.ndarray, least: float, largest: float) -> Rate:
    """Mean of values that cannot lie outside [least, largest]."""
    values, sums, counts = _by_group(values, groups)
    if not len(values):
        return Rate(math.nan, math.nan, math.nan, 0)
    low = _quantile(sums, counts, least, 0.025, (least, largest))
    high = _quantile(sums, counts, largest, 0.975, (least, largest))
    return Rate(float(values.mean()), low, high, len(values))


def mean(values: np.ndarray, groups: np.ndarray | None = None) -> Rate:
    """Mean of values without known bounds; without groups each value is its own."""
    values, sums, counts = _by_group(values, groups)
    if not len(values):
        return Rate(math.nan, math.nan, math.nan, 0)
    value = float(values.mean())
    half = _student(sums - value * counts, len(counts) - 1) / len(values)
    return Rate(value, value - half, value + half, len(values))


def next_value(values: np.ndarray) -> Rate:
    """Mean of values, and the 95 % interval in which one more of their kind lies: wider than that of the mean.

    Student's t with the variance of a value and of the mean; nan for fewer than two values or without scatter.
    """
    found = mean(values)
    half = (found.ci_high - found.value) * math.sqrt(found.n + 1) if found.n else math.nan
    return Rate(found.value, found.value - half, found.value + half, found.n)


def median(values: Sequence[float]) -> Rate:
    """Median of repeated measurements with their range; that of six is a 97 % interval."""
    return Rate(statistics.median(values), min(values), max(values), len(values))


def slope(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Rate:
    """Least-squares slope of y against x; its interval needs three groups."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < 2 or np.ptp(x) == 0:
        return Rate(math.nan, math.nan, math.nan, len(x))
    x, y = x - x.mean(), y - y.mean()
    value = float(x @ y / (x @ x))
    _, scores, counts = _by_group(x * (y - value * x), groups)
    half = _student(scores, len(counts) - 2) / float(x @ x)
    return Rate(value, value - half, value + half, len(x))


def rank_correlation(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Rate:
    """Spearman's rank correlation; -1 to 1 where there are too few groups to say more."""
    import pandas as pd

    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Rate(math.nan, math.nan, math.nan, len(x))
    value = float(np.clip(np.corrcoef(pd.Series(x).rank(), pd.Series(y).rank())[0, 1], -1, 1))
    n = len(np.unique(np.asarray(groups, dtype=str)))
    if n <= 3:
        return Rate(value, -1.0, 1.0, len(x))
    most = 1 - 12 / (n * (n * n - 1))  # with two neighbours exchanged, so that a perfect order has an interval, too
    centre = math.atanh(min(max(value, -most), most))
    half = 1.96 * math.sqrt((1 + min(value * value, most * most) / 2) / (n - 3))
    low = -1.0 if value <= -most else math.tanh(centre - half)
    high = 1.0 if value >= most else math.tanh(centre + half)
    return Rate(value, low, high, len(x))


def direction(difference: Rate) -> str:
    """ "more" or "less", or "unresolved" where the interval contains 0 or there is none."""
    return "more" if difference.ci_low > 0 else "less" if difference.ci_high < 0 else "unresolved"


def points(difference: Rate) -> str:
    """A difference of shares with its interval, in percentage points."""
    ends = f"{100 * difference.ci_low:+.1f} to {100 * difference.ci_high:+.1f}"
    return f"{100 * difference.value:+.1f} points (95 % interval {ends}, n = {difference.n})"


def claim(difference: Rate, a: str, b: str) -> str:
    """A sentence on a :func:`paired_difference` of matches: "unresolved" where its interval contains 0."""
    if not difference.n:
        return f"unresolved: no case to compare {a} with {b}"
    if direction(difference) == "unresolved":
        return f"unresolved: {a} minus {b} is {points(difference)}"
    return f"{a} matches {direction(difference)} often than {b}: {points(difference)}"


def _by_group(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The values as floats, and the sum and number of those of each group."""
    values = np.asarray(values, dtype=float)
    if groups is None:
        return values, values, np.ones(len(values))
    _, place = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return values, np.bincount(place, values), np.bincount(place).astype(float)


def _student(residuals: np.ndarray, freedom: int) -> float:
    """Half the width of the interval of the residuals' sum; nan where they show no scatter."""
    from scipy.stats import t

    squares = float(residuals @ residuals)
    if freedom < 1 or squares <= 1e-18 * len(residuals):
        return math.nan
    return float(t.ppf(0.975, freedom)) * math.sqrt(squares * len(residuals) / (len(residuals) - 1))


def _quantile(
    sums: np.ndarray, counts: np.ndarray, extreme: float, probability: float, bounds: tuple[float, float]
) -> float:
    """Quantile of sum(w sums) / sum(w counts) with exponential weights w and one group more, all of whose values are
    the extreme one."""
    from scipy.optimize import brentq

    size = counts.mean()
    kinds, times = np.unique(
        np.column_stack([np.append(sums, extreme * size), np.append(counts, size)]), axis=0, return_counts=True
    )
    if np.ptp(kinds[:, 0] / kinds[:, 1]) < 1e-12:
        return extreme

    def above(at: float) -> float:
        return 1 - _above_zero(kinds[:, 0] - at * kinds[:, 1], times) - probability

    return float(brentq(above, *bounds, xtol=1e-7))


def _above_zero(scales: np.ndarray, times: np.ndarray) -> float:
    """Probability that a sum of independent gamma variates, of shapes `times`, each times its scale, is above 0.

    From their characteristic function (Imhof, 10.1093/biomet/48.3-4.419).
    """
    if (scales >= 0).all() or (scales <= 0).all():
        return float((scales > 0).any())
    scales = scales / math.sqrt(times @ scales**2)
    turned, size = np.zeros_like(_U), np.zeros_like(_U)
    for scale, n in zip(scales.tolist(), times.tolist(), strict=True):
        product = scale * _U
        turned += n * np.arctan(product)
        size += n * np.log1p(product**2)
    return float(0.5 + np.sum(np.sin(turned) * np.exp(-size / 2)) * _STEP / np.pi)
