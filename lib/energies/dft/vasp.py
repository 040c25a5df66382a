"""What VASP's finished calculations say: read, checked, and in the form of :mod:`lib.energies.dft.calculation`.

A calculation counts where it is complete and converged, at the paper's cutoff, without pressure, forces, or anything
else that adds to its energy. What else its energy depends on is read as its settings, and must agree along a hull.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lib.core.errors import BadInput
from lib.core.workers import progress
from lib.energies.dft.calculation import Calculation
from lib.energies.dft.vasp_inputs import INCAR

if TYPE_CHECKING:
    from pymatgen.io.vasp.outputs import Vasprun

CODE = "VASP"
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
MOST_PRESSURE = 10  # kB of a relaxed cell; 10 kB raise the energy of a boride by less than 1 meV/atom
MOST_FORCE = 0.1  # eV/Å on an atom of a relaxed cell, ten times what it is relaxed to; worth less than 1 meV/atom
STATIC_STEP = "/static"  # what the name of a calculation ends with that follows a relaxation
FINAL_OUTPUT = re.compile(r"vasprun\.xml(?P<static>\.static)?(\.relax(?P<relax>\d+))?(\.(gz|bz2|xz|lzma|Z))?")


def read_calculation(path: Path, name: str | None = None) -> Calculation:
    """Read a finished vasprun.xml.

    Args:
        name: of the calculation; else that of its folder.

    Raises:
        BadInput: it is truncated, not converged, has no finite energy, is no relaxation or self-consistent calculation
            of a neutral cell without pressure and forces, or was run with another cutoff than :data:`INCAR` asks for.
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
        force = float(np.linalg.norm(result.ionic_steps[-1]["forces"], axis=1).max())
        pressure = float(np.trace(result.ionic_steps[-1]["stress"]) / 3) if "stress" in result.ionic_steps[-1] else 0.0
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
    if abs(pressure) > MOST_PRESSURE:
        raise BadInput(f"{path} ends under a pressure of {pressure:.0f} kB; relax its cell (ISIF = 3) to the end")
    if force > MOST_FORCE:
        raise BadInput(f"{path} ends with a force of {force:.2f} eV/Å on an atom; relax it to the end")
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
    found = {"code": CODE} | {tag: _text(tags.get(tag, default)) for tag, default in defaults.items()}
    has_u = bool(tags.get("LDAU"))
    u, j = (_numbers(tags.get(tag, [])) if has_u else [] for tag in ("LDAUU", "LDAUJ"))
    shells = [*(_numbers(tags.get("LDAUL", [])) if has_u else []), *[2.0] * len(potentials)]  # d is VASP's default
    of_element = defaultdict(set), defaultdict(set)  # an element may stand in two types, as of opposite spins
    for title, own_u, own_j, shell in itertools.islice(
        itertools.zip_longest(potentials, u, j, shells, fillvalue=0.0), len(potentials)
    ):
        element = re.match("[A-Z][a-z]?", title.split()[1])[0]
        of_element[0][element].add(title)
        plus_u = f"U = {own_u:g} eV, J = {own_j:g} eV, l = {shell:g}, LDAUTYPE = {tags.get('LDAUTYPE', 2)}"
        of_element[1][element].add(plus_u if (own_u or own_j) and shell >= 0 else "none")
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
    vasprun.xml.relaxN, and the newest of those packed in different ways; copies such as vasprun.xml~ do not count. A
    static step in the folder `static` takes the place of the relaxation around it, if that is usable.

    Raises:
        BadInput: the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"vasp_folder {folder} is not a folder; give the one that holds the finished calculations")
    places: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(itertools.chain(folder.rglob("vasprun.xml*"), folder.rglob("OUTCAR*"))):
        places[path.parent].append(path)
    calculations, problems, unusable = {}, [], set()
    for place, paths in progress(places.items(), desc="VASP outputs"):
        name = place.relative_to(folder).as_posix() if place != folder else folder.name
        try:
            calculations[name] = read_calculation(final_output(paths), name)
        except BadInput as problem:
            problems.append(str(problem))
            unusable.add(name)
    for name in [name for name in calculations if name.endswith(STATIC_STEP)]:
        relaxation = name.removesuffix(STATIC_STEP)
        calculations.pop(name if relaxation in unusable else relaxation, None)
    return list(calculations.values()), problems


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
