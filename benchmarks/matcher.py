"""Matching pairs of crystals against plain pymatgen, in as many processes; with the same answers.

The reference asks for the default and the CSP verdict alone; the library answers the strict one, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import chain

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from benchmarks.timing import Result, in_turns, ratios
from lib.core.errors import BadInput
from lib.core.run import Run
from lib.core.workers import worker_pool
from lib.crystals.table import CrystalTable
from lib.datasets.polymorphs import polymorph_groups
from lib.datasets.sources.embedded import EMBEDDED
from lib.metrics.matching import match_many
from lib.metrics.overlay import SAME

LINES = {
    1: Result("speed.matcher_ratio", "1,000 pairs, half of which match, to pymatgen; one process each", "x"),
    2: Result("speed.matcher_ratio_two_processes", "the same, two processes each", "x"),
}
CHUNK = 32  # pairs that a process of plain pymatgen takes at a time
DISPLACEMENT, STRAIN = 0.05, 0.02  # Å and relative: what separates a good answer from its target
Pairs = list[tuple[Structure, Structure]]  # candidate, target


def answer_for(target: Structure, rng: np.random.Generator) -> Structure:
    """The target displaced and strained, described in another basis, from another origin, in another order."""
    basis = np.eye(3, dtype=int)[rng.permutation(3)]
    basis[0] += rng.integers(-1, 2) * basis[1]
    lattice = Lattice(basis @ target.lattice.matrix @ (np.eye(3) + STRAIN * rng.normal(0, 1, (3, 3))))
    moves = rng.normal(0, DISPLACEMENT, (len(target), 3)) @ lattice.inv_matrix + rng.random(3)
    order = rng.permutation(len(target))
    coords = target.frac_coords @ np.linalg.inv(basis) + moves
    return Structure(lattice, [target.species[i] for i in order], coords[order], to_unit_cell=True)


def pairs_of(table: CrystalTable, n: int, rng: np.random.Generator) -> Pairs:
    """n / 2 crystals with an answer that matches, and n / 2 with a polymorph of theirs that does not, in random order.

    Whether they match is what pymatgen says with its default tolerances.
    """
    groups = [rows for rows in polymorph_groups(table).values() if len(rows) > 1]
    default, found = StructureMatcher(), {True: [], False: []}
    while min(map(len, found.values())) < n // 2:
        i, j = rng.choice(groups[rng.integers(len(groups))], 2, replace=False)
        target = table.structure(i)
        wanted = len(found[True]) < n // 2 and bool(rng.integers(2))
        candidate = answer_for(target, rng) if wanted else table.structure(j)
        matches = default.fit(candidate, target)
        if len(found[matches]) < n // 2:
            found[matches].append((candidate, target))
    pairs = found[True] + found[False]
    return [pairs[k] for k in rng.permutation(len(pairs))]


def plain(pairs: Pairs) -> list[tuple[bool, float]]:
    """(default match, RMSD or nan) of each pair, as pymatgen gives them."""
    default, csp = StructureMatcher(), StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    answers = []
    for candidate, target in pairs:
        distances = csp.get_rms_dist(candidate, target)
        answers.append((default.fit(candidate, target), math.nan if distances is None else distances[0]))
    return answers


def plain_in(pairs: Pairs, n_workers: int) -> list[tuple[bool, float]]:
    """:func:`plain` in several processes, started anew as the library starts its own."""
    if n_workers == 1:
        return plain(pairs)
    with worker_pool(n_workers) as pool:
        return list(chain.from_iterable(pool.map(plain, (pairs[i : i + CHUNK] for i in range(0, len(pairs), CHUNK)))))


def of_library(pairs: Pairs, n_workers: int) -> list[tuple[bool, float]]:
    """The same from :func:`lib.metrics.matching.match_many`."""
    candidates, targets = zip(*pairs, strict=True)
    found = match_many(targets, candidates, n_workers=n_workers)
    return list(zip(found.match_default, found.rms, strict=True))


def check(expected: list[tuple[bool, float]], found: list[tuple[bool, float]]) -> None:
    """Raise BadInput where answers differ: verdicts at all, displacements by rounding."""
    (default, rms), (default_found, rms_found) = (np.array(answers).T for answers in (expected, found))
    same = (default == default_found) & np.isclose(rms, rms_found, rtol=1e-6, atol=SAME, equal_nan=True)
    if not same.all():
        raise BadInput(f"{(~same).sum()} of {len(same)} pairs get another answer than from pymatgen; mend lib/overlay")


def measure(run: Run) -> Iterator[Result]:
    """See the module's first lines."""
    pairs = pairs_of(CrystalTable.from_parquet(EMBEDDED), 20 if run.params.tiny else 1000, run.rng)
    for n, line in LINES.items():
        check(plain_in(pairs, n), of_library(pairs, n))
        jobs = {"pymatgen": partial(plain_in, pairs, n), "lib": partial(of_library, pairs, n)}
        yield line.of(ratios(in_turns(jobs, run.params.repetitions), of="pymatgen", to="lib"))
