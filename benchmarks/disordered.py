"""Dismai-Bench: fingerprints of amorphous silicon against pymatgen's parts, an atom and a motif at a time, as matminer
puts them together; and 1,000 alloys scored."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator

import numpy as np
from pymatgen.core import Lattice, Structure
from pymatgen.core.local_env import CN_OPT_PARAMS, CrystalNN, LocalStructOrderParams

from benchmarks.timing import Result, in_turns, ratios, repeated
from lib.core.run import Run
from lib.dismai.alloy import FccSites, to_table
from lib.dismai.score import Reference, score
from lib.metrics.fingerprints import find_neighbours, fingerprints
from lib.metrics.order_parameters import MOTIFS

FINGERPRINTS = Result(
    "dismai.fingerprint_ratio", "fingerprints of 64 atoms of silicon, to one tessellation an atom", "x"
)
SCORE = Result("dismai.score_1000_seconds", "1,000 alloys of 256 atoms scored", "s")


def plain_fingerprints(structure: Structure, **settings) -> np.ndarray:
    """(n, 61) fingerprints of pymatgen's CrystalNN and order parameters, one atom and one motif at a time."""
    rule, rows = CrystalNN(**settings), []
    for i in range(len(structure)):
        with warnings.catch_warnings(action="ignore"):
            data = rule.get_nn_data(structure, i)
        row = []
        for cn in range(1, 25):
            weight = data.cn_weights.get(cn, 0)
            row.append(weight)
            for name in MOTIFS.get(cn, ()):
                kind, *parameters = CN_OPT_PARAMS.get(cn, {}).get(name, ["sgl_bd" if cn == 1 else name])
                motif = LocalStructOrderParams([kind], parameters=[parameters[0] if parameters else None])
                sites = [structure[i], *(neighbour["site"] for neighbour in data.cn_nninfo.get(cn, []))]
                value = motif.get_order_parameters(sites, 0, list(range(1, cn + 1)))[0] if weight else 0
                row.append(weight * (value or 0))
        rows.append(row)
    return np.array(rows)


def spaced(n: int, least: float, lengths: list[float], rng: np.random.Generator) -> np.ndarray:
    """(n, 3) random fractional coordinates, no two nearer than `least` Å in an orthorhombic cell."""
    points = np.zeros((0, 3))
    while len(points) < n:
        point = rng.random(3)
        apart = points - point
        if (np.linalg.norm((apart - np.round(apart)) * lengths, axis=1) > least).all():
            points = np.vstack([points, point])
    return points


def measure(run: Run) -> Iterator[Result]:
    """See the module's first line."""
    n, often, n_sites = (4, 20, 32) if run.params.tiny else (64, 1000, 256)
    edge = (20.02 * n) ** (1 / 3)
    silicon = Structure(Lattice.cubic(edge), ["Si"] * n, spaced(n, 1.8, [edge] * 3, run.rng))
    cell = silicon.lattice.matrix, silicon.frac_coords, np.array(silicon.atomic_numbers)
    both = {"plain": lambda: plain_fingerprints(silicon), "lib": lambda: fingerprints(find_neighbours(*cell))}
    np.testing.assert_allclose(both["lib"](), both["plain"](), atol=1e-6)
    both["lib"], times = repeated(both["lib"])
    seconds = in_turns(both, run.params.repetitions)
    yield FINGERPRINTS.of([times * ratio for ratio in ratios(seconds, of="plain", to="lib")])

    sites = FccSites.of(n_sites)
    atoms = np.repeat(np.arange(3), sites.composition)
    table = to_table(np.stack([run.rng.permutation(atoms) for _ in range(often)]), sites, "alloy")
    reference = Reference("alloy", table.take(range(10)), table.take(range(10)), n=10)
    structures, found = list(table.structures()), []
    reference.anchors  # noqa: B018 (made once for all entrants)
    for _ in range(run.params.repetitions):
        started = time.perf_counter()
        score("random", structures, reference)
        found.append(time.perf_counter() - started)
    yield SCORE.of(found)
