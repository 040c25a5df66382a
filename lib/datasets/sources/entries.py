"""pymatgen's ComputedStructureEntry, as databases and workflows write them: a json file, or json.gz.

The file holds a list of entries, or a mapping with such a list as `entries`. Their energies are totals with their
corrections, eV a cell, and become formation energies as those of a folder (:mod:`lib.datasets.sources.files`).
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pymatgen.core import Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.parameters import Params
from lib.core.run import Run
from lib.core.workers import progress
from lib.crystals.structure_checks import check
from lib.crystals.structure_io import enough
from lib.crystals.table import CrystalTable
from lib.datasets.sources.files import formation_energies, read_references, tell
from lib.symmetry.cells import SYMPREC, space_group_of


def load(params: Params, run: Run) -> CrystalTable:
    """The entries of `params.entries_path`.

    Up to one in a hundred may be left out; the run then writes and prints which, and why. Raises BadInput if the file
    is missing or damaged, more of its entries do not read, or an element has no energy to refer to.
    """
    path = ROOT / params.entries_path
    given = _raw(path)
    run.input(path)
    found: dict[str, tuple[Structure, float, int]] = {}
    left_out: dict[str, str] = {}
    for number, raw in enumerate(progress(given, desc=path.name, unit="entry"), start=1):
        name = next(_names(raw), f"entry {number}")
        try:
            if name in found or name in left_out:
                raise BadInput(f"{name} stands more than once in {path.name}; keep one")
            structure, energy = _read(raw)
            found[name] = structure, energy, space_group_of(structure, name)
        except BadInput as error:
            left_out[f"{name} (number {number})" if name in found else name] = f"{name} in {path.name}: {error}"
    enough(left_out, len(given))
    tell(left_out, run)
    structures, totals, groups = (list(column) for column in zip(*found.values(), strict=True)) if found else ([],) * 3
    place = ROOT / params.files_references if params.files_references else path
    references = read_references(run.input(place)) if params.files_references else None
    values, elements = formation_energies(structures, np.array(totals), references, str(place))
    return CrystalTable.from_structures(
        structures,
        id=list(found),
        formation_energy=values,
        space_group=groups,
        energy_kind=f"formation energies from corrected total energies of {path.name}, elements of {place.name}",
        about={
            "source": f"entries of {path.name}",
            "space_groups": f"spglib, symprec {SYMPREC} Å",
            "element_energies_eV_per_atom": elements,
        },
    )


def _raw(path: Path) -> list[object]:
    if not path.is_file():
        raise BadInput(f"{path} does not exist; check the parameter 'entries_path'")
    try:
        read = path.read_bytes()
        read = json.loads(gzip.decompress(read) if read[:2] == b"\x1f\x8b" else read)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise BadInput(f"{path} does not read as json, or json.gz ({error}); get it again") from error
    entries = read.get("entries") if isinstance(read, dict) else read
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"{path} holds no list of entries; write one of ComputedStructureEntry.as_dict()")
    return entries


def _names(raw: object) -> Iterator[str]:
    """What an entry may be called, the best first."""
    if isinstance(raw, dict):
        data = raw.get("data") if isinstance(raw.get("data"), dict) else {}
        names = (raw.get("entry_id"), data.get("material_id"), data.get("mat_id"))
        yield from (str(name) for name in names if name not in (None, ""))


def _read(raw: object) -> tuple[Structure, float]:
    """Structure and total energy of an entry, eV a cell. Raises BadInput if it has none, or they contradict each
    other."""
    try:
        entry = ComputedStructureEntry.from_dict(raw)
        structure, energy = entry.structure, float(entry.energy)
    except Exception as error:  # noqa: BLE001, whatever pymatgen makes of a damaged entry
        raise BadInput(f"it does not read as a ComputedStructureEntry ({type(error).__name__}: {error})") from error
    if not structure.is_ordered:
        raise BadInput("it has partly occupied sites; give an ordered cell")
    if entry.composition != structure.composition:
        raise BadInput(f"its composition {entry.composition.formula} is not that of its structure; correct it")
    if not np.isfinite(energy):
        raise BadInput(f"its energy is {energy}; give eV of the whole cell")
    check(structure.lattice.matrix, structure.atomic_numbers, structure.frac_coords)
    return structure, energy
