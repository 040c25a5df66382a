"""Relaxing candidates, in batches and in two processes, against ASE's optimiser one by one in this process.

All take the same number of steps of the same optimiser from the same structures, by the default potential.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from ase.filters import UnitCellFilter
from ase.optimize import BFGS
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from benchmarks.timing import Job, Result, in_turns, ratios
from lib.core.run import Run
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.energies.hull import crystals_in_system
from lib.energies.potentials import load_potential
from lib.energies.relaxation import BFGS_CURVATURE, relax_many

LINES = {
    "in a batch": Result("relax.batch_ratio_one_process", "W-B-Ta crystals in one batch, to one by one", "x"),
    "in two processes": Result("relax.batch_ratio_cpu", "W-B-Ta crystals in two processes, to one by one", "x"),
}
CRYSTALS, STEPS, BATCH = 16, 6, 256  # of 4 atoms and more; steps of each; atoms of a batch


def candidates(n: int, rng: np.random.Generator) -> list[Structure]:
    """Crystals of the system, rattled so that all take every step."""
    known = crystals_in_system(CrystalTable.from_parquet(EMBEDDED), ["B", "Ta", "W"])
    rows = rng.choice(np.flatnonzero(known.n_sites >= 4), n, replace=False)
    return [known.structure(row).perturb(0.1, seed=int(row)) for row in rows]


def one_by_one(structures: Sequence[Structure], steps: int) -> None:
    """ASE's own loop."""
    for structure in structures:
        atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        atoms.calc = load_potential()
        BFGS(UnitCellFilter(atoms), logfile=None, alpha=BFGS_CURVATURE).run(fmax=0.0, steps=steps)


def measure(run: Run) -> Iterator[Result]:
    """The library's ways beside ASE's."""
    n, steps = (2, 1) if run.params.tiny else (CRYSTALS, STEPS)
    structures = candidates(n, np.random.default_rng(run.params.seed))
    how = {"fmax": 0.0, "max_steps": steps, "keep_symmetry": False}
    jobs: dict[str, Job] = {
        "one by one": lambda: one_by_one(structures, steps),
        "in a batch": lambda: relax_many(structures, n_workers=1, batch_atoms=BATCH, **how),
        "in two processes": lambda: relax_many(structures, n_workers=2, **how),
    }
    times = in_turns(jobs, run.params.repetitions)
    for name, line in LINES.items():
        yield line.of(ratios(times, "one by one", name))
