"""Distances of thousands of crystals from the hull of their system: how many a second, the hull included."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pymatgen.core import Composition

from benchmarks.timing import Result, in_turns
from lib.core.run import Run
from lib.energies.hull import Hull

LINE = Result("hull.entries_per_s", "entries of a ternary system, with their distances from its hull", "entries/s")
ELEMENTS, ENTRIES = ["Mn", "Pd", "Pt"], 3502  # as many as AFLOW has of this system


def entries(n: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Formulas of a ternary system, their formation energies (eV/atom) and fractions, at random."""
    amounts = rng.integers(0, 9, (2 * n, len(ELEMENTS)))
    amounts = amounts[amounts.sum(axis=1) > 0][:n]
    formulas = [Composition(dict(zip(ELEMENTS, row.tolist(), strict=True))).formula.replace(" ", "") for row in amounts]
    energies = rng.normal(-0.1, 0.1, n) * (np.count_nonzero(amounts, axis=1) - 1)
    return formulas, energies, amounts / amounts.sum(axis=1, keepdims=True)


def measure(run: Run) -> Iterator[Result]:
    """Hull and distances, from formulas and energies."""
    n = 50 if run.params.tiny else ENTRIES
    formulas, energies, fractions = entries(n, np.random.default_rng(run.params.seed))

    def distances() -> np.ndarray:
        return energies - Hull(ELEMENTS, formulas, energies, formulas, "test").heights(fractions)

    times = in_turns({"hull": distances}, run.params.repetitions)["hull"]
    yield LINE.of([n / seconds for seconds in times])
