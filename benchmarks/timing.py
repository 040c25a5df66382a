"""Times of two things that take turns, and what a benchmark reports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from lib.core.stats import median
from lib.report.goals import TARGETS

Job = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """One line of the table: a median with the range of its repetitions, or the reason why there is none.

    Attributes:
        id: as in `scores.json`; :mod:`lib.report.goals` has the target, if there is one.
        what: in words, with sizes.
        low, high: smallest and largest of the n repetitions (:func:`lib.core.stats.median`).
    """

    id: str
    what: str
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    reason: str | None = None

    def of(self, values: list[float]) -> Result:
        """The same line with a median of these values."""
        found = median(values)
        return replace(self, value=found.value, low=found.ci_low, high=found.ci_high, n=found.n)

    def without(self, reason: str) -> Result:
        """The same line without a value."""
        return replace(self, reason=reason)

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """low and high, as scores take them."""
        return self.low, self.high

    @property
    def reached(self) -> bool | None:
        """Whether the value meets the target; None without a value or a target."""
        return TARGETS[self.id].reached(self.value, {}) if self.id in TARGETS else None

    def in_words(self) -> str:
        """A line for whoever watches."""
        if self.value is None:
            return f"{self.id}: not measured: {self.reason} ({self.what})"
        spread = "" if self.low is None else f" ({self.low:.4g} to {self.high:.4g})"
        return f"{self.id}: {self.value:.4g} {self.unit}{spread}, {self.what}"


def seconds_of(job: Job) -> float:
    """Time that one call takes, with what it has set off on the GPU."""
    _wait_for_gpu()
    started = time.perf_counter()
    job()
    _wait_for_gpu()
    return time.perf_counter() - started


def in_turns(jobs: dict[str, Job], repetitions: int) -> dict[str, list[float]]:
    """Seconds of every job in every round, after a round that warms up and does not count.

    The order changes from round to round, so that none always runs in another's wake.
    """
    names = list(jobs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repetitions + 1):
        for name in names if turn % 2 else reversed(names):
            seconds = seconds_of(jobs[name])
            if turn:
                times[name].append(seconds)
    return times


def ratios(times: dict[str, list[float]], of: str, to: str) -> list[float]:
    """How many times longer `of` took than `to`, round by round."""
    return [a / b for a, b in zip(times[of], times[to], strict=True)]


def repeated(job: Job, *, at_least: float = 0.05) -> tuple[Job, int]:
    """A job that repeats a short one until the clock can tell, and how often."""
    job()
    times = max(1, math.ceil(at_least / max(seconds_of(job), 1e-6)))

    def several() -> None:
        for _ in range(times):
            job()

    return several, times


def _wait_for_gpu() -> None:
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
