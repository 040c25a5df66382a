"""The symmetric multigraph, against a plain reading of its definition: loops over sites, operations and cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.models import crystals
from benchmarks.timing import Result, in_turns, ratios
from lib.core.run import Run
from lib.studies.score import graph_of
from lib.symmetry.wyckoff import AsymmetricUnit, positions

TIME = Result("score.graph.ms_per_crystal", "the graph of a crystal within {} Å", "ms")
RATIO = Result("score.graph.python_ratio", "the same, to loops in Python", "x")
CUTOFF = 5.0  # Å
Edge = tuple[int, list[float], float, list[list[float]]]  # neighbour, vector in Å, length, way back from its image


def plain(unit: AsymmetricUnit, cutoff: float) -> tuple[list[list[Edge]], list[float]]:
    """Edges of each inequivalent site, and cosines of all triplets."""
    known = positions(unit.symmetry)
    lattice, inverse = unit.lattice.tolist(), np.linalg.inv(unit.lattice)
    heights = 1 / np.linalg.norm(inverse, axis=0)
    images = []  # of each site: where they are, and what turns them back, in space
    for site in unit.sites:
        position = known[site.position]
        turns = [(inverse @ np.linalg.inv(r).T @ unit.lattice).tolist() for r in position.rotations]
        images.append(list(zip(position.atoms(site.parameters).tolist(), turns, strict=True)))
    edges: list[list[Edge]] = []
    for own in images:
        here, found = own[0][0], []
        for j, others in enumerate(images):
            for a, (place, turn) in enumerate(others):
                apart = [place[k] - here[k] for k in range(3)]
                ranges = (
                    range(math.ceil(-cutoff / h - d), math.floor(cutoff / h - d) + 1)
                    for d, h in zip(apart, heights.tolist(), strict=True)
                )
                for cell in itertools.product(*ranges):
                    moved = [apart[k] + cell[k] for k in range(3)]
                    vector = [sum(moved[k] * lattice[k][x] for k in range(3)) for x in range(3)]
                    length = math.sqrt(sum(v * v for v in vector))
                    if length < cutoff and not (others is own and a == 0 and cell == (0, 0, 0)):
                        found.append((j, vector, length, turn))
        edges.append(found)
    cosines = []
    for several in edges:
        for j, vector, length, turn in several:
            back = [-sum(vector[k] * turn[k][x] for k in range(3)) for x in range(3)]
            for _, onwards, far, _ in edges[j]:
                if sum((b - o) ** 2 for b, o in zip(back, onwards, strict=True)) > 1e-6:
                    cosines.append(sum(b * o for b, o in zip(back, onwards, strict=True)) / (length * far))
    return edges, cosines


def few(run: Run) -> Sequence[AsymmetricUnit]:
    """Crystals to measure with."""
    table = crystals(run)
    rows = np.random.default_rng(0).permutation(len(table))[: 2 if run.params.tiny else 64]
    return table.take(rows).asymmetric_units


def measure(run: Run) -> Iterator[Result]:
    """All edges and triplets of crystals whose positions are known; loops do a few of them, and count by triplet."""
    units = few(run)
    read = units[: 1 if run.params.tiny else 4]
    (_, ours), theirs = graph_of(units, CUTOFF), [plain(unit, CUTOFF) for unit in read]
    work = len(ours.edge) / sum(len(cosines) for _, cosines in theirs)
    jobs = {"plain": lambda: [plain(unit, CUTOFF) for unit in read], "lib": lambda: graph_of(units, CUTOFF)}
    times = in_turns(jobs, run.params.repetitions)
    yield replace(TIME, what=TIME.what.format(CUTOFF)).of([1000 * t / len(units) for t in times["lib"]])
    yield RATIO.of([ratio * work for ratio in ratios(times, of="plain", to="lib")])
