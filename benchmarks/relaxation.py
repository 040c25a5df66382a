"""Relaxing candidates, in batches and in two processes, against ASE's optimiser one by one in this process.

For speed, all take the same number of steps of the same optimiser from the same structures, by the default potential.
For agreement, other crystals are relaxed to the end in a batch and by ASE one by one, and compared one to one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from ase import Atoms
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
AGREEMENT = {
    "energy": Result("relax.batch_differs_mev", "largest difference in energy of relaxed crystals, to ASE", "meV/atom"),
    "cell": Result("relax.batch_differs_angstrom", "largest difference in axes and atoms, to ASE", "Å"),
    "lost": Result("relax.lost", "crystals that end neither converged, capped nor rejected", "crystals"),
}
CRYSTALS, STEPS, BATCH = 16, 6, 256  # of 4 atoms and more; steps of each; atoms of a batch
COMPARED, FMAX, MAX_STEPS = 50, 0.02, 300  # relaxed to the end; eV/Å


def candidates(n: int, rng: np.random.Generator) -> list[Structure]:
    """Crystals of the system, rattled so that all take every step."""
    known = crystals_in_system(CrystalTable.from_parquet(EMBEDDED), ["B", "Ta", "W"])
    rows = rng.choice(np.flatnonzero(known.n_sites >= 4), n, replace=False)
    return [known.structure(row).perturb(0.1, seed=int(row)) for row in rows]


def one_by_one(structures: Sequence[Structure], steps: int, fmax: float = 0.0) -> list[Atoms]:
    """ASE's own loop."""
    relaxed = []
    for structure in structures:
        atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        atoms.calc = load_potential()
        BFGS(UnitCellFilter(atoms), logfile=None, alpha=BFGS_CURVATURE).run(fmax=fmax, steps=steps)
        relaxed.append(atoms)
    return relaxed


def agreement(structures: Sequence[Structure], steps: int) -> Iterator[Result]:
    """How far a batch and ASE end from each other, the largest of all crystals, and how many crystals are lost."""
    how = {"fmax": FMAX, "max_steps": steps, "keep_symmetry": False}
    ours = relax_many(structures, n_workers=1, batch_atoms=BATCH, **how)
    energies, lengths = [], []
    for one, atoms in zip(ours, one_by_one(structures, steps, FMAX), strict=True):
        energies.append(1000 * abs(one.energy - atoms.get_potential_energy() / len(atoms)))
        shift = one.structure.frac_coords - atoms.get_scaled_positions(wrap=False)
        moved = np.abs((shift - shift.mean(axis=0)) @ atoms.cell.array).max()
        lengths.append(max(moved, np.abs(np.array(one.structure.lattice.abc) - atoms.cell.lengths()).max()))
    lost = len(structures) - sum(one.outcome.startswith(("converged", "capped", "rejected")) for one in ours)
    for name, values in {"energy": energies, "cell": lengths, "lost": [lost] * len(ours)}.items():
        yield replace(AGREEMENT[name].of(values), value=float(max(values)))


def measure(run: Run) -> Iterator[Result]:
    """The library's ways beside ASE's: speed, then agreement."""
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
    n, steps = (5, 2) if run.params.tiny else (COMPARED, MAX_STEPS)
    yield from agreement(candidates(n, np.random.default_rng([run.params.seed, 1])), steps)
