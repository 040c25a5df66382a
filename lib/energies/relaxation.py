"""Interatomic potentials and structural relaxation (paper section 7.1, step 3).

Relaxation is ASE's BFGS on positions and cell (unit-cell filter), symmetry-preserving where asked. Energies are
total energies of the potential in eV/atom; :mod:`lib.energies.hull` turns them into formation energies.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixSymmetry
from ase.filters import UnitCellFilter
from ase.optimize import BFGS
from pymatgen.core import Element, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from lib.core.errors import BadInput
from lib.core.files import write_json
from lib.core.workers import WORTH_A_POOL, progress, worker_pool
from lib.crystals.table import CrystalTable

DEFAULT_POTENTIAL = "chgnet"
CHGNET_MAX_Z = 94  # rows of its table of elements
BFGS_CURVATURE = 40.0  # eV/Å^2; ASE's default of 70 is for molecules and takes a fifth more steps on metals
POTENTIAL_FAILURES = (ValueError, RuntimeError, np.linalg.LinAlgError, IndexError)  # what an odd cell can raise
FMAX, MAX_STEPS = 0.05, 300  # eV/Å and steps of relaxations whose energies are compared
MAX_VOLUME_CHANGE = 3.0  # a cell that grows or shrinks by more than this factor has left the potential's range


class CHGNetEnergy(Calculator):
    """CHGNet as an ASE calculator: one backward pass for forces and stress.

    chgnet's own calculator differentiates twice, keeping the graph for training, and adds magnetic moments; the
    energies are identical, forces agree to 2e-5 eV/Å, and a step takes 0.6 of the time.

    Energy in eV, forces in eV/Å, stress in eV/Å^3 (ASE's sign). Source: Deng et al., 10.1038/s42256-023-00716-3.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(self) -> None:
        super().__init__()
        from chgnet.model.model import CHGNet

        with contextlib.redirect_stdout(io.StringIO()):  # it announces itself, verbose or not
            self.model = CHGNet.load(use_device="cpu", verbose=False).requires_grad_(False)
        self.model.graph_converter.set_isolated_atom_response("ignore")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        import torch
        from chgnet.model.model import BatchedGraph

        super().calculate(atoms, properties, system_changes)
        strangers = sorted({atom.symbol for atom in atoms if atom.number > CHGNET_MAX_Z})
        if strangers:
            raise ValueError(f"CHGNet knows elements up to Pu, not {', '.join(strangers)}")
        graph = self.model.graph_converter(AseAtomsAdaptor.get_structure(atoms))
        batch = BatchedGraph.from_graphs(
            [graph],
            bond_basis_expansion=self.model.bond_basis_expansion,
            angle_basis_expansion=self.model.angle_basis_expansion,
            compute_stress=True,
        )
        per_atom = self.model._compute(batch)["e"]
        gradients = torch.autograd.grad(per_atom.sum() * len(atoms), [batch.atom_positions[0], batch.strains[0]])
        energy = float(per_atom + self.model.composition_model([graph])) * len(atoms)
        stress = gradients[1].double().numpy() / atoms.get_volume()
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": -gradients[0].double().numpy(),
            "stress": stress.flat[[0, 4, 8, 5, 2, 1]],
        }


def _chgnet_provenance() -> dict[str, str]:
    import chgnet

    weights = next((Path(chgnet.__file__).parent / "pretrained" / "0.3.0").glob("*.tar"))
    return {
        "potential": "CHGNet 0.3.0",
        "package": f"chgnet {importlib.metadata.version('chgnet')}",
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


POTENTIALS = {"chgnet": (CHGNetEnergy, _chgnet_provenance)}


def _registered(name: str):
    if name not in POTENTIALS:
        raise BadInput(f"potential {name!r} is not known; choose one of {', '.join(sorted(POTENTIALS))}")
    return POTENTIALS[name]


@functools.cache
def load_potential(name: str = DEFAULT_POTENTIAL) -> Calculator:
    """The ASE calculator called `name`, loaded once a process.

    Raises:
        BadInput: the name is not in the registry.
    """
    warnings.filterwarnings("ignore", module="chgnet|torch|pymatgen")
    warnings.filterwarnings("ignore", message="Only FixAtoms")  # pymatgen of the symmetry constraint, at every step
    return _registered(name)[0]()


@functools.cache
def potential_provenance(name: str = DEFAULT_POTENTIAL) -> dict[str, str]:
    """Name, package version and sha256 of the weights of a potential."""
    return _registered(name)[1]()


def energy_kind_of(potential: str) -> str:
    """What a table of crystals calls formation energies by a potential: "chgnet-0.3.0 formation energy"."""
    return f"{potential_provenance(potential)['potential'].lower().replace(' ', '-')} formation energy"


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
    """

    structure: Structure
    energy: float
    start_energy: float
    n_steps: int
    max_force: float
    displacement: float
    failure: str = ""


def single_point(structure: Structure, potential: str = DEFAULT_POTENTIAL) -> float:
    """Total energy of a structure in eV/atom."""
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.calc = load_potential(potential)
    return atoms.get_potential_energy() / len(atoms)


def relax(
    structure: Structure,
    potential: str = DEFAULT_POTENTIAL,
    *,
    fmax: float = 0.02,
    max_steps: int = 200,
    relax_cell: bool = True,
    keep_symmetry: bool = True,
) -> Relaxation:
    """Relax positions (and the cell) until no force exceeds `fmax` eV/Å.

    Never raises for a bad structure: what went wrong stands in `failure`, so that one of many does not stop the rest.

    Raises:
        BadInput: the potential is not known.
    """
    calculator = load_potential(potential)
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.calc = calculator
    start_volume, start_frac = atoms.get_volume(), atoms.get_scaled_positions(wrap=False)
    energy = start_energy = max_force = float("nan")
    n_steps, failure = 0, ""
    try:
        start_energy = energy = atoms.get_potential_energy() / len(atoms)
        if keep_symmetry:
            atoms.set_constraint(FixSymmetry(atoms))
        target = UnitCellFilter(atoms) if relax_cell else atoms
        optimiser = BFGS(target, logfile=None, alpha=BFGS_CURVATURE)
        for _ in optimiser.irun(fmax=fmax, steps=max_steps):
            n_steps = optimiser.nsteps
            change = atoms.get_volume() / start_volume
            if not 1 / MAX_VOLUME_CHANGE < change < MAX_VOLUME_CHANGE:
                failure = f"volume changed by a factor {change:.1f}"
                break
        energy = atoms.get_potential_energy() / len(atoms)
        max_force = float(np.linalg.norm(target.get_forces(), axis=1).max())
        if not failure and not max_force <= fmax:  # so that nan is a failure too
            failure = f"not converged in {max_steps} steps"
    except POTENTIAL_FAILURES as error:
        failure = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    shift = atoms.get_scaled_positions(wrap=False) - start_frac
    shift -= shift.mean(axis=0)
    shift -= np.round(shift)
    displacement = float(np.linalg.norm(shift @ atoms.cell.array, axis=1).mean())
    relaxed = Structure(atoms.cell.array, structure.species, atoms.get_scaled_positions(wrap=False))
    return Relaxation(relaxed, energy, start_energy, n_steps, max_force, displacement, failure)


def relax_many(
    structures: Sequence[Structure],
    potential: str = DEFAULT_POTENTIAL,
    *,
    n_workers: int = 2,
    finished: Path | None = None,
    **settings,
) -> list[Relaxation]:
    """Relax many structures in parallel, in order, with a progress bar; see :func:`relax` for the settings.

    One worker is this process itself. Every result is written at once to the folder `finished`, if given, and one found
    there is not computed again: an interruption of any kind loses only the structures in work.
    """
    keys = [_key(structure, potential, settings) for structure in structures]
    paths = {key: finished / f"{key}.json" for key in keys} if finished else {}
    results = {key: _read(path) for key, path in paths.items() if path.exists()}
    missing = {key: structure for key, structure in zip(keys, structures, strict=True) if key not in results}
    if missing:
        with (
            worker_pool(min(n_workers, len(missing))) if n_workers > 1 else contextlib.nullcontext() as pool,
            progress(total=len(missing), desc=f"relaxing with {potential}", unit="crystal") as bar,
        ):
            for key, result in _relaxed(missing, potential, pool, **settings):
                results[key] = result
                if finished:
                    _write(paths[key], result)
                bar.update()
    return [results[key] for key in keys]


def _relaxed(
    structures: Mapping[str, Structure], potential: str, pool: Executor | None, **settings
) -> Iterator[tuple[str, Relaxation]]:
    """Each key's outcome as it comes, in a pool or in this process."""
    if pool is None:
        yield from ((key, relax(structure, potential, **settings)) for key, structure in structures.items())
        return
    jobs = {pool.submit(relax, structure, potential, **settings): key for key, structure in structures.items()}
    yield from ((jobs[job], job.result()) for job in as_completed(jobs))


def _key(structure: Structure, potential: str, settings: Mapping[str, object]) -> str:
    """A short checksum of everything that determines a relaxation's result."""
    numbers = [structure.lattice.matrix.tolist(), structure.frac_coords.tolist(), list(structure.atomic_numbers)]
    what = json.dumps([numbers, potential_provenance(potential), settings], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def _write(path: Path, result: Relaxation) -> None:
    write_json(path, vars(result) | {"structure": result.structure.as_dict()})


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
    with worker_pool(n_workers) if len(missing) >= WORTH_A_POOL else contextlib.nullcontext() as pool:
        found = pool.map(energy, missing.values(), chunksize=4) if pool else map(energy, missing.values())
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
        BadInput: no table knows the element.
    """
    weights = potential_provenance(potential)["weights_sha256"]
    energies: dict[str, float] = {}
    for table in tables:
        if table.about.get("weights_sha256") == weights:
            energies = dict(table.about["element_energies_eV_per_atom"]) | energies
    for symbol in set(symbols) - set(energies):
        energies[symbol] = relax(_lowest_pure_crystal(symbol, tables), potential).energy
    return {symbol: float(energies[symbol]) for symbol in symbols}


def _lowest_pure_crystal(symbol: str, tables: Sequence[CrystalTable]) -> Structure:
    for table in tables:
        pure = np.logical_and.reduceat(table.species == Element(symbol).Z, table.offsets[:-1]) if len(table) else []
        rows = np.flatnonzero(pure)
        if len(rows):
            return table.structure(rows[np.argmin(table.formation_energy[rows])])
    raise BadInput(f"the data hold no crystal of pure {symbol} to refer energies to; ingest one")
