"""VASP: inputs for the last step of paper section 7.1, and what its finished calculations say.

The inputs hold no POTCAR, which VASP's licence does not let anyone pass on: POTCAR.spec names the recommended
pseudopotentials (as in pymatgen's PBE_54 sets), and `potcar` of pymatgen or a few lines of shell put them together.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pymatgen.core import Structure

from lib.hull import Hull, formation_energy
from lib.run import BadInput, replacing

FUNCTIONAL = "PBE_54"
INCAR = {
    "ENCUT": 500,  # eV; this and the two criteria below as in paper section 7.1
    "EDIFF": 1e-5,  # eV a cell
    "EDIFFG": -1e-2,  # eV/Å
    "PREC": "Accurate",
    "ALGO": "Normal",
    "NELM": 200,
    "IBRION": 2,
    "ISIF": 3,  # positions, shape and volume
    "NSW": 200,
    "ISMEAR": 1,  # Methfessel-Paxton: these phases are metals and their forces matter
    "SIGMA": 0.2,
    "ISPIN": 2,
    "LREAL": False,
    "LWAVE": False,
    "LCHARG": False,
}
KPOINT_DENSITY = 200  # points per Å^-3 of the reciprocal cell, the Materials Project's for metals


@dataclass(frozen=True)
class Calculation:
    """A finished VASP relaxation.

    Attributes:
        name: of its folder.
        structure: the last positions.
        energy: total energy extrapolated to zero smearing, eV/atom.
    """

    name: str
    structure: Structure
    energy: float

    @property
    def formula(self) -> str:
        """Reduced formula."""
        return self.structure.composition.reduced_formula


def folder_name(id: str) -> str:
    """A crystal's id as the name of its folder: `aflow:1a2b` is no good name everywhere."""
    return re.sub(r"[^\w.+-]", "_", id)


def write_inputs(structure: Structure, folder: str | Path) -> list[Path]:
    """Write POSCAR, INCAR, KPOINTS and POTCAR.spec for a relaxation.

    Raises:
        BadInput: the folder cannot be written, or an element has no recommended pseudopotential.
    """
    from pymatgen.io.vasp.sets import MPScanRelaxSet, VaspInputSet

    potentials = MPScanRelaxSet.CONFIG["POTCAR"]
    unknown = sorted({site.specie.symbol for site in structure} - set(potentials))
    if unknown:
        raise BadInput(f"no recommended pseudopotential is known for {', '.join(unknown)}; leave such crystals out")
    config = {"INCAR": INCAR, "KPOINTS": {"reciprocal_density": KPOINT_DENSITY}, "POTCAR": potentials}
    inputs = VaspInputSet(structure, config | {"POTCAR_FUNCTIONAL": FUNCTIONAL}, user_potcar_functional=FUNCTIONAL)
    files = inputs.get_input_set(potcar_spec=True)
    paths = []
    for name in ("POSCAR", "INCAR", "KPOINTS", "POTCAR.spec"):
        with replacing(Path(folder) / name) as temporary:
            temporary.write_text(f"{files[name]}".rstrip() + "\n")
        paths.append(Path(folder) / name)
    return paths


def read_calculation(path: Path) -> Calculation:
    """Read a finished vasprun.xml.

    Raises:
        BadInput: it is truncated, not converged, or was run with another cutoff than :data:`INCAR` asks for.
    """
    from pymatgen.io.vasp.outputs import Vasprun

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = Vasprun(path, parse_dos=False, parse_eigen=False, parse_potcar_file=False)
        cutoff, energy = result.parameters["ENMAX"], float(result.final_energy)
    except Exception as error:  # pymatgen raises many kinds for a file that ends too early
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{path} is not a complete vasprun.xml ({reason}); run the calculation again") from error
    used_up = [
        tag for tag, done in (("NELM", result.converged_electronic), ("NSW", result.converged_ionic)) if not done
    ]
    if used_up:
        raise BadInput(f"{path} is not converged (it ran into {' and '.join(used_up)}); continue the calculation")
    if abs(cutoff - INCAR["ENCUT"]) > 0.5:
        raise BadInput(f"{path} has a cutoff of {cutoff:g} eV and does not compare; run it at {INCAR['ENCUT']} eV")
    return Calculation(path.parent.name, result.final_structure, energy / len(result.final_structure))


def read_calculations(folder: str | Path) -> tuple[list[Calculation], list[str]]:
    """All finished calculations below a folder, and a sentence for each that cannot be used.

    Raises:
        BadInput: the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"vasp_folder {folder} is not a folder; give the one that holds the finished calculations")
    calculations, problems = [], []
    for path in sorted(folder.rglob("vasprun.xml*")):
        try:
            calculations.append(read_calculation(path))
        except BadInput as problem:
            problems.append(str(problem))
    return calculations, problems


def hull_distances(
    calculations: Iterable[Calculation], candidates: Iterable[str], known: Hull
) -> tuple[pd.DataFrame, list[str]]:
    """Energies above the hull from VASP alone: candidates against phases calculated in the same way.

    Energies of different methods do not mix, so a candidate counts only where the phases it competes with have been
    calculated too; the hull is that of all calculations that are not candidates'.

    Args:
        calculations: finished ones.
        candidates: folder names of the candidates among them.
        known: the hull of the data, which says what each candidate competes with.

    Returns:
        A table indexed by folder name with formation_energy and energy_above_hull (eV/atom), and a sentence for each
        candidate that cannot be placed.
    """
    finished, names = list(calculations), set(candidates)
    phases = [c for c in finished if c.name not in names]
    pure = [c for c in phases if len(c.structure.composition) == 1]
    elements = {c.structure[0].specie.symbol: c.energy for c in sorted(pure, key=lambda c: -c.energy)}  # lowest last
    rows, problems = {}, []
    for candidate in (c for c in finished if c.name in names):
        missing = sorted(set(known.competing(candidate.formula)["formula"]) - {c.formula for c in phases})
        if missing:
            problems.append(f"{candidate.name} has no VASP hull yet: calculate {', '.join(missing)} in the same folder")
            continue
        hull = _hull(phases, elements, {str(e) for e in candidate.structure.composition})
        energy = formation_energy(candidate.energy, candidate.structure.atomic_numbers, elements)
        rows[candidate.name] = {
            "formation_energy": energy,
            "energy_above_hull": hull.energy_above_hull(candidate.formula, energy),
        }
    columns = ["formation_energy", "energy_above_hull"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=float), problems


def _hull(known: list[Calculation], elements: Mapping[str, float], system: set[str]) -> Hull:
    inside = [c for c in known if {str(e) for e in c.structure.composition} <= system]
    energies = [formation_energy(c.energy, c.structure.atomic_numbers, elements) for c in inside]
    return Hull(system, [c.formula for c in inside], energies, [c.name for c in inside])


def with_vasp(candidates: pd.DataFrame, distances: pd.DataFrame) -> pd.DataFrame:
    """The candidates with VASP's energies instead of the potential's where there are any.

    Args:
        candidates: id, formation_energy, distance (eV/atom), source.
        distances: as :func:`lib.vasp.hull_distances` returns them.
    """
    names = candidates["id"].map(folder_name)
    done = names.isin(distances.index)
    found = distances.reindex(names[done])
    replaced = candidates.copy()
    replaced.loc[done, "formation_energy"] = found["formation_energy"].to_numpy()
    replaced.loc[done, "distance"] = found["energy_above_hull"].to_numpy()
    replaced.loc[done, "source"] = "VASP"
    return replaced
