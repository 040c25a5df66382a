"""Structural relaxation (paper section 7.1, step 3), of one crystal or of many in one batch.

The optimisers and filters are ASE's, so that a batch gives what ASE gives one by one: each crystal has its own, and
only energies, forces and stresses are evaluated together. Finished crystals leave the batch and waiting ones enter it.
Energies are total energies of the potential in eV/atom; :mod:`lib.energies.hull` turns them into formation energies.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter, UnitCellFilter
from ase.optimize import BFGS, FIRE
from pymatgen.core import Element, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from lib.core.errors import BadInput
from lib.core.files import write_json
from lib.core.workers import progress, spread, worker_pool
from lib.crystals.table import CrystalTable
from lib.energies.potentials import DEFAULT_POTENTIAL, load_potential, potential_provenance
from lib.energies.potentials.interface import Evaluation, Potential

BFGS_CURVATURE = 40.0  # eV/Å^2; ASE's default of 70 is for molecules and takes a fifth more steps on metals
OPTIMISERS = {
    "bfgs": (functools.partial(BFGS, logfile=None, alpha=BFGS_CURVATURE), UnitCellFilter),
    "fire": (functools.partial(FIRE, logfile=None), FrechetCellFilter),  # keeps no matrix, for large cells
}
POTENTIAL_FAILURES = (ValueError, RuntimeError, np.linalg.LinAlgError, IndexError)  # what an odd cell can raise
FMAX, MAX_STEPS = 0.05, 300  # eV/Å and steps of relaxations whose energies are compared
MAX_VOLUME_CHANGE = 3.0  # a cell that grows or shrinks by more than this factor has left the potential's range
CLOSEST = 0.5  # Å; atoms that are nearer are pushed apart to it first
BATCH_ATOMS = 1  # evaluated together by default, which is one crystal at a time
TASK = 32  # crystals that a process takes at a time where it evaluates several together


@dataclass(frozen=True)
class Relaxation:
    """The outcome of one relaxation; `failure` is empty when it converged.

    Attributes:
        structure: the relaxed structure (the last one reached, if it failed).
        energy, start_energy: total energies in eV/atom.
        n_steps: optimiser steps taken.
        max_force: largest component left, in eV/Å (cell included).
        displacement: mean distance of the atoms from their start, in the relaxed cell, minimum image, drift removed, Å.
        failure: why the result is not to be used, or "".
        potential: whose energies these are, by the name in the registry; those of two never compare.
    """

    structure: Structure
    energy: float
    start_energy: float
    n_steps: int
    max_force: float
    displacement: float
    failure: str = ""
    potential: str = ""

    @property
    def outcome(self) -> str:
        """ "converged", "capped" where the steps ran out, or "rejected: " and why."""
        if not self.failure:
            return "converged"
        return "capped" if self.failure.startswith("not converged") else f"rejected: {self.failure}"


def single_point(structure: Structure, potential: str = DEFAULT_POTENTIAL) -> float:
    """Total energy of a structure in eV/atom."""
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.calc = load_potential(potential)
    return atoms.get_potential_energy() / len(atoms)


class _Evaluated(Calculator):
    """Hands an optimiser what was evaluated for its crystal, as it stands."""

    implemented_properties = Potential.implemented_properties

    def take(self, atoms: Atoms, found: Evaluation) -> None:
        self.atoms, self.results = atoms.copy(), found.results

    def calculate(self, *args, **kwargs) -> None:
        raise RuntimeError("an optimiser asks for a structure that was not evaluated")


class _Descent:
    """One crystal on its way down; see :func:`relax` for the settings."""

    def __init__(
        self,
        structure: Structure,
        *,
        fmax: float = 0.02,
        max_steps: int = 200,
        relax_cell: bool = True,
        keep_symmetry: bool = True,
        optimiser: str = "bfgs",
    ):
        self.fmax, self.max_steps, self.keep_symmetry = fmax, max_steps, keep_symmetry
        self.species = structure.species
        self.atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        self.start_volume = self.atoms.get_volume()
        self.start_frac = self.atoms.get_scaled_positions(wrap=False)
        push_apart(self.atoms)
        self.atoms.calc = _Evaluated()
        make, cell_filter = OPTIMISERS[optimiser]
        self.begin = lambda: make(cell_filter(self.atoms) if relax_cell else self.atoms)
        self.optimiser = None
        self.energy = self.start_energy = self.max_force = float("nan")
        self.n_steps, self.failure = 0, ""

    def advance(self, found: Evaluation | Exception) -> bool:
        """Take a step from what was found for the crystal as it stands; False where that was the end."""
        try:
            return self._advance(found)
        except POTENTIAL_FAILURES as error:
            self.failure = f"{type(error).__name__}: {error}".splitlines()[0][:120]
            return False

    def _advance(self, found: Evaluation | Exception) -> bool:
        if isinstance(found, Exception):
            raise found
        self.atoms.calc.take(self.atoms, found)
        self.energy = found.energy / len(self.atoms)
        if self.optimiser is None:
            self.start_energy = self.energy
            if self.keep_symmetry:
                self.atoms.set_constraint(FixSymmetry(self.atoms))
            self.optimiser = self.begin()
            if self.atoms.calc.check_state(self.atoms):  # made symmetric: to be evaluated as it stands now
                return True
        gradient = self.optimiser.optimizable.get_gradient()
        self.max_force = float(np.linalg.norm(gradient.reshape(-1, 3), axis=1).max())
        change = self.atoms.get_volume() / self.start_volume
        if not 1 / MAX_VOLUME_CHANGE < change < MAX_VOLUME_CHANGE:
            self.failure = f"volume changed by a factor {change:.1f}"
            return False
        if self.max_force <= self.fmax:
            return False
        if self.n_steps >= self.max_steps:
            self.failure = f"not converged in {self.max_steps} steps"
            return False
        self.optimiser.step()
        self.n_steps += 1
        return True

    def result(self, potential: str) -> Relaxation:
        """Where it stands, by this potential."""
        frac, cell = self.atoms.get_scaled_positions(wrap=False), self.atoms.cell.array
        shift = frac - self.start_frac
        shift -= shift.mean(axis=0)
        shift -= np.round(shift)
        displacement = float(np.linalg.norm(shift @ cell, axis=1).mean())
        structure = Structure(cell, self.species, frac)
        energies = self.energy, self.start_energy
        return Relaxation(structure, *energies, self.n_steps, self.max_force, displacement, self.failure, potential)


def push_apart(atoms: Atoms) -> None:
    """Move atoms that are nearer than CLOSEST away from each other, along their distance or, where they coincide, along
    a direction of the pair's own. What two atoms at one place feel is no force, and no optimiser parts them."""
    for _ in range(20):
        vectors = atoms.get_all_distances(mic=True, vector=True)
        lengths = np.linalg.norm(vectors, axis=2)
        pairs = np.argwhere(np.triu(lengths < CLOSEST, 1))
        if not len(pairs):
            return
        for i, j in pairs.tolist():
            away = vectors[i, j] if lengths[i, j] > 1e-3 else np.random.default_rng([i, j]).normal(size=3)
            step = 0.51 * (CLOSEST - lengths[i, j]) * away / np.linalg.norm(away)
            atoms.positions[i] -= step
            atoms.positions[j] += step


def relaxing(
    structures: Iterable[Structure], potential: str = DEFAULT_POTENTIAL, *, batch_atoms: int = BATCH_ATOMS, **settings
) -> Iterator[tuple[int, Relaxation]]:
    """Relax many structures in this process, and give each with its place among them as it comes to an end.

    Args:
        batch_atoms: evaluated together at most, but one crystal at least.
        **settings: of :func:`relax`.
    """
    waiting = deque(enumerate(structures))
    active: dict[int, _Descent] = {}
    calculator = load_potential(potential) if waiting else None
    while waiting or active:
        room = batch_atoms - sum(len(descent.atoms) for descent in active.values())
        while waiting and (not active or len(waiting[0][1]) <= room):
            place, structure = waiting.popleft()
            active[place] = _Descent(structure, **settings)
            room -= len(structure)
        found = _evaluated(calculator, [descent.atoms for descent in active.values()])
        for place, one in zip(list(active), found, strict=True):
            if not active[place].advance(one):
                yield place, active.pop(place).result(potential)


def _evaluated(potential: Potential, crystals: Sequence[Atoms]) -> list[Evaluation | Exception]:
    """What a potential says of each crystal, or how it fails there: one of many does not stop the rest."""
    if len(crystals) == 1 and (reason := potential.strangers(crystals[0])):
        return [ValueError(reason)]
    try:
        if not any(map(potential.strangers, crystals)):
            return list(potential.evaluate(crystals))
    except POTENTIAL_FAILURES as error:
        if len(crystals) == 1:
            return [error]
    return [one for atoms in crystals for one in _evaluated(potential, [atoms])]


def relax(structure: Structure, potential: str = DEFAULT_POTENTIAL, **settings) -> Relaxation:
    """Relax positions (and the cell) until no force exceeds `fmax` eV/Å.

    Never raises for a bad structure: what went wrong stands in `failure`, so that one of many does not stop the rest.

    Args:
        **settings: fmax (eV/Å; 0.02), max_steps (200), relax_cell (True), keep_symmetry (True), and optimiser: "bfgs"
            (default) or "fire" of :data:`OPTIMISERS`.

    Raises:
        BadInput: the potential is not known.
    """
    ((_, result),) = relaxing([structure], potential, **settings)
    return result


def relax_many(
    structures: Sequence[Structure],
    potential: str = DEFAULT_POTENTIAL,
    *,
    n_workers: int = 2,
    finished: Path | None = None,
    batch_atoms: int = BATCH_ATOMS,
    **settings,
) -> list[Relaxation]:
    """Relax many structures in parallel, in order, with a progress bar; see :func:`relax` for the settings.

    One worker is this process itself. Every result is written at once to the folder `finished`, if given, and one found
    there is not computed again: an interruption of any kind loses only the structures in work.

    Args:
        batch_atoms: that each process evaluates together, as in :func:`relaxing`.
    """
    keys = [_key(structure, potential, settings) for structure in structures]
    paths = {key: finished / f"{key}.json" for key in keys} if finished else {}
    results = {key: _read(path) for key, path in paths.items() if path.exists()}
    missing = {key: structure for key, structure in zip(keys, structures, strict=True) if key not in results}
    work = functools.partial(_relax_some, potential=potential, batch_atoms=batch_atoms, **settings)
    with progress(total=len(missing), desc=f"relaxing with {potential}", unit="crystal") as bar:
        if n_workers == 1 or not missing:
            for key, result in work(missing, paths):
                results[key] = result
                bar.update()
            return [results[key] for key in keys]
        size = 1 if batch_atoms == 1 else min(TASK, -(-len(missing) // n_workers))
        parts = [list(missing)[start : start + size] for start in range(0, len(missing), size)]
        with worker_pool(min(n_workers, len(parts))) as pool:
            jobs = [pool.submit(_all_of, work, {key: missing[key] for key in part}, paths) for part in parts]
            for job in as_completed(jobs):
                results |= job.result()
                bar.update(len(job.result()))
    return [results[key] for key in keys]


def _relax_some(
    structures: Mapping[str, Structure], paths: Mapping[str, Path], *, potential: str, **settings
) -> Iterator[tuple[str, Relaxation]]:
    """Each key's outcome as it comes, written at once where it has a path."""
    keys = list(structures)
    for place, result in relaxing(structures.values(), potential, **settings):
        if paths:
            write_json(paths[keys[place]], vars(result) | {"structure": result.structure.as_dict()})
        yield keys[place], result


def _all_of(work, *parts) -> dict[str, Relaxation]:
    return dict(work(*parts))


def _key(structure: Structure, potential: str, settings: Mapping[str, object]) -> str:
    """A short checksum of everything that determines a relaxation's result."""
    numbers = [structure.lattice.matrix.tolist(), structure.frac_coords.tolist(), list(structure.atomic_numbers)]
    what = json.dumps([numbers, potential_provenance(potential), settings], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def _read(path: Path) -> Relaxation:
    values = json.loads(path.read_text())
    return Relaxation(**values | {"structure": Structure.from_dict(values["structure"])})


def single_points(
    structures: Sequence[Structure | None],
    potential: str = DEFAULT_POTENTIAL,
    *,
    n_workers: int = 2,
    finished: Path | None = None,
) -> np.ndarray:
    """(n,) total energies in eV/atom; nan for None and where the potential gives none.

    The folder `finished`, if given, keeps every energy as it comes, as for :func:`relax_many`.
    """
    keys = [structure and _key(structure, potential, {"single_point": True}) for structure in structures]
    paths = {key: finished / f"{key}.json" for key in keys} if finished else {}
    energies = {key: json.loads(path.read_text()) for key, path in paths.items() if path.exists()} | {None: np.nan}
    missing = {key: structure for key, structure in zip(keys, structures, strict=True) if key not in energies}
    energy = functools.partial(_energy_or_nan, potential=potential)
    with spread(n_workers, len(missing), chunksize=4) as mapped:
        found = mapped(energy, missing.values())
        bar = progress(found, total=len(missing), desc=f"energies with {potential}", unit="crystal")
        for key, value in zip(missing, bar, strict=True):
            energies[key] = float(value)
            if finished:
                write_json(paths[key], energies[key])
    return np.array([energies[key] for key in keys], dtype=float)


def _energy_or_nan(structure: Structure, potential: str) -> float:
    try:
        return single_point(structure, potential)
    except POTENTIAL_FAILURES:
        return float("nan")


def element_energies(
    symbols: Iterable[str], tables: Sequence[CrystalTable], potential: str = DEFAULT_POTENTIAL
) -> dict[str, float]:
    """Total energies of the elements' ground states in a potential, eV/atom, to refer formation energies to.

    They are those that a table made with this very potential records; for other elements the lowest pure crystal of
    the first table that has one is relaxed.

    Raises:
        BadInput: no table knows the element, or the potential gives it no energy.
    """
    weights = potential_provenance(potential)["weights_sha256"]
    energies: dict[str, float] = {}
    for table in tables:
        if table.about.get("weights_sha256") == weights:
            energies = dict(table.about["element_energies_eV_per_atom"]) | energies
    for symbol in set(symbols) - set(energies):
        found = relax(_lowest_pure_crystal(symbol, tables), potential)
        if not np.isfinite(found.energy):
            raise BadInput(
                f"{potential} gives no energy of pure {symbol} ({found.failure}); leave {symbol} out or choose another "
                "potential"
            )
        energies[symbol] = found.energy
    return {symbol: float(energies[symbol]) for symbol in symbols}


def _lowest_pure_crystal(symbol: str, tables: Sequence[CrystalTable]) -> Structure:
    for table in tables:
        pure = np.logical_and.reduceat(table.species == Element(symbol).Z, table.offsets[:-1]) if len(table) else []
        rows = np.flatnonzero(pure)
        if len(rows):
            return table.structure(rows[np.argmin(table.formation_energy[rows])])
    raise BadInput(f"the data hold no crystal of pure {symbol} to refer energies to; ingest one")
