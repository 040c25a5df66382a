"""VASP: inputs for the last step of paper section 7.1, and what its finished calculations say.

The inputs hold no POTCAR, which VASP's licence does not let anyone pass on: POTCAR.spec names the recommended
pseudopotentials (as in pymatgen's PBE_54 sets), and `potcar` of pymatgen or a few lines of shell put them together.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from lib.core.errors import BadInput
from lib.core.files import replacing
from lib.core.workers import progress
from lib.energies.hull import Hull, formation_energy, lowest_elements

if TYPE_CHECKING:
    from pymatgen.io.vasp.outputs import Vasprun

FUNCTIONAL = "PBE_54"
ENERGY_KIND = "VASP formation energy"
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
DENSITY_RATIO, SPACING_RATIO = 4, 2.5
"""How far k-point densities of two calculations, and their widest spacings, may differ: divisions are whole numbers, so
that cells for which the same density is asked differ by up to 3 and 2."""
DEFAULTS = {  # what makes energies another method's, with VASP's defaults
    "METAGGA": "none", "LHFCALC": False, "LUSE_VDW": False, "LVDW": False, "IVDW": 0, "LSORBIT": False,
    "LNONCOLLINEAR": False, "LASPH": False, "ISPIN": 1, "NUPDOWN": -1.0, "LSOL": False,
    "XC": "none", "LIBXC1": "none", "LIBXC2": "none", "AGGAX": 1.0, "AGGAC": 1.0, "ALDAC": 1.0,
}  # fmt: skip
HYBRID = {"AEXX": 0.25, "HFSCREEN": 0.0}  # what LHFCALC = T leaves open
GGA_OF = {"PAW_PBE": "PE", "PAW_GGA": "91", "PAW": "CA"}  # the functional that a pseudopotential was made with
OWN_WORK = {  # tag -> unit; each adds its own work to the energy
    "PSTRESS": "kB", "EFIELD": "eV/Å", "EFIELD_PEAD": "eV/Å", "I_CONSTRAINED_M": "(a penalty)",
}  # fmt: skip
RELAXATIONS = (-1, 1, 2, 3)  # IBRION of a run that ends in its lowest structure; molecular dynamics and phonons do not
FINAL_OUTPUT = re.compile(r"vasprun\.xml(?P<static>\.static)?(\.relax(?P<relax>\d+))?(\.(gz|bz2|xz|lzma|Z))?")


@dataclass(frozen=True)
class Calculation:
    """A finished VASP relaxation.

    Attributes:
        name: of its folder, below the folder of all calculations: "candidate" or "candidate/static".
        structure: the last positions.
        energy: total energy extrapolated to zero smearing, eV/atom.
        path: its vasprun.xml.
        settings: what its energy depends on besides the structure, by VASP's tags and by element:
            {"GGA": "PE", "pseudopotential of Ta": "PAW_PBE Ta_pv 07Sep2000", ...}.
        divisions: of the k-point mesh; None where the points were listed one by one.
    """

    name: str
    structure: Structure
    energy: float
    path: Path = Path("vasprun.xml")
    settings: Mapping[str, str] = field(default_factory=dict)
    divisions: tuple[int, int, int] | None = None

    @property
    def formula(self) -> str:
        """Reduced formula."""
        return self.structure.composition.reduced_formula

    @property
    def kpoint_density(self) -> float:
        """k-points per Å^-3 of the reciprocal cell."""
        return float(np.prod(self.divisions) / self.structure.lattice.reciprocal_lattice.volume)

    @property
    def kpoint_spacing(self) -> float:
        """The widest distance of neighbouring k-points along a reciprocal axis, Å^-1."""
        return float(np.max(np.array(self.structure.lattice.reciprocal_lattice.abc) / self.divisions))

    def unlike(self, other: Calculation) -> list[str]:
        """What keeps the two energies from being compared, in words: "GGA = PS, not PE"."""
        both = self.settings.keys() & other.settings.keys()
        found = [
            f"{tag} = {self.settings[tag]}, not {other.settings[tag]}"
            for tag in sorted(both)
            if self.settings[tag] != other.settings[tag]
        ]
        if self.divisions and other.divisions:
            density = np.log(self.kpoint_density / other.kpoint_density)
            spacing = np.log(self.kpoint_spacing / other.kpoint_spacing)
            if abs(density) > np.log(DENSITY_RATIO) or abs(spacing) > np.log(SPACING_RATIO):
                ours, theirs = (
                    f"{' x '.join(map(str, c.divisions))} ({c.kpoint_density:.3g} per Å^-3)" for c in (self, other)
                )
                found.append(f"k-points {ours}, not {theirs}")
        return found


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


def read_calculation(path: Path, name: str | None = None) -> Calculation:
    """Read a finished vasprun.xml.

    Args:
        name: of the calculation; else that of its folder.

    Raises:
        BadInput: it is truncated, not converged, has no finite energy, is no relaxation or self-consistent calculation
            of a neutral cell without pressure, or was run with another cutoff than :data:`INCAR` asks for.
    """
    from pymatgen.io.vasp.outputs import Vasprun

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = Vasprun(path, parse_dos=False, parse_eigen=False, parse_potcar_file=False)
            cutoff, energy = result.parameters["ENMAX"], float(result.final_energy)
        set_tags, settings = _tags(result), settings_of(result)
        divisions = tuple(result.kpoints.kpts[0]) if result.kpoints.style.name in ("Gamma", "Monkhorst") else None
        structure = result.final_structure
    except Exception as error:  # pymatgen raises many kinds for a file that ends too early
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{path} is not a complete vasprun.xml ({reason}); run the calculation again") from error
    if set_tags.get("IBRION", -1) not in RELAXATIONS:
        raise BadInput(f"{path} has IBRION = {set_tags['IBRION']} and ends in no relaxed structure; relax it")
    used_up = [
        tag for tag, done in (("NELM", result.converged_electronic), ("NSW", result.converged_ionic)) if not done
    ]
    if used_up:
        raise BadInput(f"{path} is not converged (it ran into {' and '.join(used_up)}); continue the calculation")
    if not np.isfinite(energy):
        raise BadInput(f"{path} has the energy {energy}, which is no number; run the calculation again")
    if not (np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()):
        raise BadInput(f"{path} ends in a structure that is not all numbers; run the calculation again")
    if abs(cutoff - INCAR["ENCUT"]) > 0.5:
        raise BadInput(f"{path} has a cutoff of {cutoff:g} eV and does not compare; run it at {INCAR['ENCUT']} eV")
    for tag, unit in OWN_WORK.items():
        if any(values := _numbers(set_tags.get(tag, []))):
            found = " ".join(f"{value:g}" for value in values)
            raise BadInput(f"{path} has {tag} = {found} {unit}, which its energy includes; run it without")
    if _text(set_tags.get("ML_LMLFF", False)) == "T":
        raise BadInput(f"{path} has ML_LMLFF = T, so that energies are a learnt force field's; run it without")
    if any(share != 1 for share in _numbers(set_tags.get("VCA", []))):
        raise BadInput(f"{path} mixes elements on its sites (VCA); calculate an ordered cell")
    if set_tags.get("ICHARG", 0) >= 10:
        raise BadInput(f"{path} has ICHARG = {set_tags['ICHARG']} and is not self-consistent; run it without")
    if "NELECT" in result.incar:
        raise BadInput(f"{path} sets NELECT = {result.incar['NELECT']:g} as for a charged cell; run it without")
    return Calculation(name or path.parent.name, structure, energy / len(structure), path, settings, divisions)


def _tags(result: Vasprun) -> dict[str, object]:
    """What VASP says its tags were, and before that what INCAR set; without those that are left open."""
    every = itertools.chain(result.parameters.items(), result.incar.items())
    return {tag: value for tag, value in every if str(value).strip().upper() not in ("", "--", "NONE")}


def settings_of(result: Vasprun) -> dict[str, str]:
    """What energies must have in common to be compared, see :class:`Calculation`: the exchange-correlation functional,
    dispersion, spin, and of each element the pseudopotential and +U."""
    tags = _tags(result)
    potentials = [" ".join(title.split()) for title in result.potcar_symbols]
    defaults = {"GGA": GGA_OF.get(potentials[0].split()[0], "unknown")} | DEFAULTS
    if tags.get("LHFCALC"):
        defaults |= HYBRID
    found = {tag: _text(tags.get(tag, default)) for tag, default in defaults.items()}
    has_u = bool(tags.get("LDAU"))
    u, j = (_numbers(tags.get(tag, [])) if has_u else [] for tag in ("LDAUU", "LDAUJ"))
    of_element = defaultdict(set), defaultdict(set)  # an element may stand in two types, as of opposite spins
    for title, own_u, own_j in itertools.islice(
        itertools.zip_longest(potentials, u, j, fillvalue=0.0), len(potentials)
    ):
        element = re.match("[A-Z][a-z]?", title.split()[1])[0]
        of_element[0][element].add(title)
        plus_u = f"U = {own_u:g} eV, J = {own_j:g} eV, LDAUTYPE = {tags.get('LDAUTYPE', 2)}"
        of_element[1][element].add(plus_u if own_u or own_j else "none")
    for words, values in zip(("pseudopotential of", "LDAU of"), of_element, strict=True):
        found |= {f"{words} {element}": " and ".join(sorted(several)) for element, several in values.items()}
    return found


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    return f"{value:g}" if isinstance(value, float) else str(value).strip().upper().replace("NONE", "none")


def _numbers(value: object) -> list[float]:
    return [float(x) for x in (value.split() if isinstance(value, str) else np.atleast_1d(value))]


def read_calculations(folder: str | Path) -> tuple[list[Calculation], list[str]]:
    """All finished calculations below a folder, one of each, and a sentence for each that cannot be used.

    Of several outputs in one place the final one counts: vasprun.xml before vasprun.xml.static and the last
    vasprun.xml.relaxN, and the newest of those packed in different ways; copies such as vasprun.xml~ do not count.

    Raises:
        BadInput: the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"vasp_folder {folder} is not a folder; give the one that holds the finished calculations")
    places: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(itertools.chain(folder.rglob("vasprun.xml*"), folder.rglob("OUTCAR*"))):
        places[path.parent].append(path)
    calculations, problems = [], []
    for place, paths in progress(places.items(), desc="VASP outputs"):
        name = place.relative_to(folder).as_posix() if place != folder else folder.name
        try:
            calculations.append(read_calculation(final_output(paths), name))
        except BadInput as problem:
            problems.append(str(problem))
    return calculations, problems


def final_output(paths: Iterable[Path]) -> Path:
    """The last output of a calculation among the files of its folder.

    Raises:
        BadInput: there is none, but copies, the first of several relaxations, or an OUTCAR alone.
    """
    paths = list(paths)
    ranked = []
    for path in paths:
        found = FINAL_OUTPUT.fullmatch(path.name)
        if found and found["relax"] != "1":
            ranked.append(
                (not found["relax"], not found["static"], int(found["relax"] or 0), path.lstat().st_mtime, path)
            )
    if ranked:
        return max(ranked)[-1]
    names = ", ".join(path.name for path in paths)
    raise BadInput(f"{paths[0].parent} has no final vasprun.xml, but {names}; finish the calculation or copy the file")


def hull_distances(
    calculations: Iterable[Calculation], candidates: Iterable[str], known: Hull
) -> tuple[pd.DataFrame, list[str]]:
    """Energies above the hull from VASP alone: candidates against phases calculated in the same way.

    Energies of different methods do not mix, so a candidate counts only where the phases it competes with have been
    calculated too, and with the same settings (:meth:`Calculation.unlike`); the hull is that of all such calculations
    that are not candidates'.

    Args:
        calculations: finished ones.
        candidates: folder names of the candidates among them; what lies in folders within is the candidate's, too.
        known: the hull of the data, which says what each candidate competes with.

    Returns:
        A table indexed by folder name with formation_energy and energy_above_hull (eV/atom), and a sentence for each
        candidate that cannot be placed, and for phases that are left out of a candidate's hull.
    """
    names, phases, own = set(candidates), [], defaultdict(list)
    for calculation in calculations:
        inside = [part for part in calculation.name.split("/") if part in names]
        (own[inside[-1]] if inside else phases).append(calculation)
    rows, problems = {}, []
    for name, several in own.items():
        if len(several) > 1:
            places = " and ".join(str(c.path) for c in several)
            problems.append(f"{name} is not placed: {places} are both its own; keep the final one in the folder")
            continue
        candidate = several[0]
        system = {str(e) for e in candidate.structure.composition}
        inside = [c for c in phases if {str(e) for e in c.structure.composition} <= system]
        alike = [c for c in inside if not candidate.unlike(c)]
        missing = sorted(set(known.competing(candidate.formula)["formula"]) - {c.formula for c in alike})
        differing = defaultdict(list)
        for phase in inside:
            for words in candidate.unlike(phase):
                differing[words].append(str(phase.path))
        if differing:
            facts = "; ".join(f"{words} (of {', '.join(paths)})" for words, paths in differing.items())
            so = f"is not placed above a hull without {', '.join(missing)}" if missing else "is placed without them"
            problems.append(f"{candidate.path} has {facts}, so that {name} {so}; calculate all of them in the same way")
        elif missing:
            problems.append(f"{name} has no VASP hull yet: calculate {', '.join(missing)} in the same folder")
        if missing:
            continue
        elements = lowest_elements([c.structure.atomic_numbers for c in alike], [c.energy for c in alike])
        hull = _hull(alike, elements, system)
        energy = formation_energy(candidate.energy, candidate.structure.atomic_numbers, elements)
        rows[name] = {
            "formation_energy": energy,
            "energy_above_hull": hull.energy_above_hull(candidate.formula, energy, ENERGY_KIND),
        }
    columns = ["formation_energy", "energy_above_hull"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=float), problems


def _hull(known: list[Calculation], elements: Mapping[str, float], system: set[str]) -> Hull:
    energies = [formation_energy(c.energy, c.structure.atomic_numbers, elements) for c in known]
    return Hull(system, [c.formula for c in known], energies, [c.name for c in known], ENERGY_KIND)


def with_vasp(candidates: pd.DataFrame, distances: pd.DataFrame) -> pd.DataFrame:
    """The candidates with VASP's energies instead of the potential's where there are any.

    Args:
        candidates: id, formation_energy, distance (eV/atom), source.
        distances: as :func:`lib.energies.vasp.hull_distances` returns them.
    """
    names = candidates["id"].map(folder_name)
    done = names.isin(distances.index)
    found = distances.reindex(names[done])
    replaced = candidates.copy()
    replaced.loc[done, "formation_energy"] = found["formation_energy"].to_numpy()
    replaced.loc[done, "distance"] = found["energy_above_hull"].to_numpy()
    replaced.loc[done, "source"] = "VASP"
    return replaced
