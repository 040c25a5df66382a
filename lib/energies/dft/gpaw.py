"""GPAW (Mortensen et al., 10.1063/5.0182685): a first-principles energy without a licence.

Plane waves, PBE and GPAW's own projector-augmented setups; the structure stays as it is given, and moments start in
ferromagnetic order. Energies have the form
of VASP's (:mod:`lib.energies.dft.calculation`) and never stand beside them on one hull. A calculation is a folder with
gpaw.json, which is written when it has converged, and GPAW's own log.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import time
from pathlib import Path

import numpy as np
from pymatgen.core import Structure

from lib.core.errors import BadInput
from lib.core.files import write_json
from lib.energies.dft.calculation import Calculation

CODE, RESULT = "GPAW", "gpaw.json"
CUTOFF = 400.0  # eV
SPACING = 0.3  # Å^-1 between k-points at most; TaB2 gets 8 x 8 x 7
WIDTH = 0.1  # eV of the Fermi-Dirac distribution; energies are extrapolated to none
TIGHT = 1e-5  # eV a valence electron, by which the energy may change in the end
MAGNETIC = {"Cr": 3.0, "Mn": 3.0, "Fe": 2.5, "Co": 1.7, "Ni": 0.7, "Gd": 7.0, "Eu": 7.0}  # moments to start from, µB
NEEDED = (
    "GPAW is not installed; with Debian's libxc-dev, libopenblas-dev and libfftw3-dev: CC=g++ pip install '.[gpaw]'"
)


def installed() -> bool:
    """Whether GPAW is there; it is an extra that has to be compiled."""
    return importlib.util.find_spec("gpaw") is not None


def divisions_of(structure: Structure, spacing: float = SPACING) -> tuple[int, int, int]:
    """Divisions of the mesh whose points are no further apart than `spacing`, Å^-1."""
    lengths = np.array(structure.lattice.reciprocal_lattice.abc)
    return tuple(np.maximum(np.ceil(lengths / spacing - 1e-6), 1).astype(int).tolist())


def initial_moments(structure: Structure) -> list[float]:
    """Of each atom, µB; without any, spins are paired, which costs half. O2 by itself is a triplet."""
    of = MAGNETIC | ({"O": 1.0} if len(structure.composition) == 1 else {})
    return [of.get(site.specie.symbol, 0.0) for site in structure]


def calculate(structure: Structure, folder: Path, *, cutoff: float = CUTOFF, spacing: float = SPACING) -> Calculation:
    """The energy of a structure as it is; what the folder holds already, by the same settings, is not repeated.

    Raises:
        BadInput: GPAW is not installed, has no setup for an element, or does not converge.
    """
    if not installed():
        raise BadInput(NEEDED)
    asked = {
        "cutoff": f"{cutoff:g} eV",
        "structure": structure.as_dict(),
        "divisions": divisions_of(structure, spacing),
    }
    if any(moments := initial_moments(structure)):
        asked["moments"] = moments
    asked["gpaw"] = importlib.metadata.version("gpaw")
    path = folder / RESULT
    if path.exists() and json.loads(path.read_text()).get("asked") == json.loads(json.dumps(asked)):
        return read_calculation(path)
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    energy, setups = _energy(structure, folder / "gpaw.txt", cutoff, asked["divisions"])
    settings = {"code": CODE, "version": asked["gpaw"], "xc": "PBE", "cutoff": asked["cutoff"]}
    settings |= {"smearing": f"Fermi-Dirac {WIDTH:g} eV"} | {f"setup of {s}": name for s, name in setups.items()}
    found = {"energy_eV_per_atom": energy / len(structure), "seconds": round(time.time() - begun, 1)}
    write_json(path, {"asked": asked, "settings": settings} | found)
    return read_calculation(path)


def _energy(
    structure: Structure, log: Path, cutoff: float, divisions: tuple[int, int, int]
) -> tuple[float, dict[str, str]]:
    """Total energy, eV a cell, and each element's setup by its checksum."""
    from gpaw import GPAW, KohnShamConvergenceError
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.set_initial_magnetic_moments(initial_moments(structure))
    try:
        atoms.calc = GPAW(
            mode={"name": "pw", "ecut": cutoff},
            xc="PBE",
            kpts={"size": divisions, "gamma": True},
            occupations={"name": "fermi-dirac", "width": WIDTH},
            convergence={"energy": TIGHT},
            txt=str(log),
        )
        energy = float(atoms.get_potential_energy())
    except KohnShamConvergenceError as error:
        raise BadInput(f"GPAW does not converge for {structure.composition.reduced_formula}; see {log}") from error
    except FileNotFoundError as error:
        raise BadInput(f"GPAW has no setup for all of {structure.composition.reduced_formula} ({error})") from error
    return energy, {setup.symbol: setup.fingerprint for setup in atoms.calc.setups}


def read_calculation(path: Path, name: str | None = None) -> Calculation:
    """Read a finished gpaw.json; `name` is that of the calculation, else that of its folder.

    Raises:
        BadInput: the file is damaged.
    """
    try:
        found = json.loads(path.read_text())
        asked, energy = found["asked"], float(found["energy_eV_per_atom"])
        structure, divisions = Structure.from_dict(asked["structure"]), tuple(map(int, asked["divisions"]))
        settings = {key: str(value) for key, value in found["settings"].items()}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BadInput(f"{path} is no finished calculation of GPAW ({error}); run it again") from error
    if not np.isfinite(energy) or settings.get("code") != CODE:
        raise BadInput(f"{path} has no energy of GPAW; run it again")
    return Calculation(name or path.parent.name, structure, energy, path, settings, divisions)


def read_calculations(folder: Path) -> tuple[list[Calculation], list[str]]:
    """All finished calculations below a folder, and a sentence for each that cannot be used: one that is damaged, or
    coarser than :data:`CUTOFF` and :data:`SPACING`, which are what a hull is given credit for."""
    calculations, problems = [], []
    for path in sorted(folder.rglob(RESULT)):
        name = path.parent.relative_to(folder).as_posix() if path.parent != folder else folder.name
        try:
            found = read_calculation(path, name)
            if float(found.settings.get("cutoff", "0").split()[0]) < CUTOFF or found.kpoint_spacing > SPACING + 1e-6:
                asked = f"{found.settings.get('cutoff')} and k-points {found.kpoint_spacing:.2f} Å^-1 apart"
                raise BadInput(
                    f"{path} has {asked}, too coarse for a hull; run it at {CUTOFF:g} eV and {SPACING:g} Å^-1"
                )
            calculations.append(found)
        except BadInput as problem:
            problems.append(str(problem))
    return calculations, problems
