"""Finished DFT calculations, and distances from a hull that is made of them alone.

VASP's (:mod:`lib.energies.dft.vasp`) and GPAW's (:mod:`lib.energies.dft.gpaw`) have one form, so that what follows does
not depend on the code; energies of two codes, or of two settings, stand on no common hull.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from lib.energies.hull import Hull, formation_energy, lowest_elements

ENERGY_KIND = "DFT formation energy"
DENSITY_RATIO, SPACING_RATIO = 4, 2.5
"""How far k-point densities of two calculations, and their widest spacings, may differ: divisions are whole numbers, so
that cells for which the same density is asked differ by up to 3 and 2."""


@dataclass(frozen=True)
class Calculation:
    """A finished calculation, of whatever code.

    Attributes:
        name: of its folder, below the folder of all calculations: "candidate" or "candidate/static".
        structure: the last positions.
        energy: total energy extrapolated to zero smearing, eV/atom.
        path: of its output.
        settings: what its energy depends on besides the structure, the code first, then by its own words and by
            element: {"code": "VASP", "GGA": "PE", "pseudopotential of Ta": "PAW_PBE Ta_pv 07Sep2000", ...}.
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
    def code(self) -> str:
        """The program that made it."""
        return self.settings.get("code", "DFT")

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


def hull_distances(
    calculations: Iterable[Calculation], candidates: Mapping[str, str], known: Hull
) -> tuple[pd.DataFrame, list[str]]:
    """Energies above the hull from DFT alone: candidates against phases calculated in the same way.

    Energies of different methods do not mix, so a candidate counts only where the phases it competes with have been
    calculated too, and with the same settings (:meth:`Calculation.unlike`); the hull is that of all such calculations
    that are not candidates'.

    Args:
        calculations: finished ones.
        candidates: folder name -> reduced formula of the candidates among them; what lies in folders within is the
            candidate's, too.
        known: the hull of the data, which says what each candidate competes with.

    Returns:
        A table indexed by folder name with formation_energy and energy_above_hull (eV/atom), source (the code) and
        structure, and a sentence for each candidate that cannot be placed, and for phases that are left out of a
        candidate's hull.
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
        if candidate.formula != candidates[name]:
            problems.append(
                f"{candidate.path} is of {candidate.formula}, {name} of {candidates[name]}; move it to its own folder"
            )
            continue
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
            problems.append(
                f"{name} has no hull of its own kind yet: calculate {', '.join(missing)} in the same folder"
            )
        if missing:
            continue
        elements = lowest_elements([c.structure.atomic_numbers for c in alike], [c.energy for c in alike])
        hull = _hull(alike, elements, system)
        energy = formation_energy(candidate.energy, candidate.structure.atomic_numbers, elements)
        rows[name] = {
            "formation_energy": energy,
            "energy_above_hull": hull.energy_above_hull(candidate.formula, energy, ENERGY_KIND),
            "source": candidate.code,
            "structure": candidate.structure,
        }
    columns = ["formation_energy", "energy_above_hull", "source", "structure"]
    found = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return found.astype(dict.fromkeys(columns[:2], float)), problems


def _hull(known: list[Calculation], elements: Mapping[str, float], system: set[str]) -> Hull:
    energies = [formation_energy(c.energy, c.structure.atomic_numbers, elements) for c in known]
    return Hull(system, [c.formula for c in known], energies, [c.name for c in known], ENERGY_KIND)


def with_dft(candidates: pd.DataFrame, distances: pd.DataFrame) -> pd.DataFrame:
    """The candidates with what DFT says instead of the potential where it says something.

    Args:
        candidates: id, formation_energy, distance (eV/atom), source, known as, status.
        distances: as :func:`hull_distances` returns them, with known as, the known crystal that the structure is or "".
    """
    names = candidates["id"].map(folder_name)
    done = names.isin(distances.index)
    found = distances.reindex(names[done])
    replaced = candidates.copy()
    replaced.loc[done, "formation_energy"] = found["formation_energy"].to_numpy()
    replaced.loc[done, "distance"] = found["energy_above_hull"].to_numpy()
    replaced.loc[done, ["source", "known as"]] = found[["source", "known as"]].to_numpy()
    replaced.loc[done, "status"] = np.where(found["known as"] == "", "judged", "known")
    return replaced
