"""A user's own structures: a folder of CIF and POSCAR files, and a csv of their energies.

The csv has the columns `file` and, as the parameter `files_energy` says, `formation_energy` (eV/atom) or `total_energy`
(eV of the cell as it stands in the file). Total energies become formation energies by the energies of the elements,
which come from the file `files_references` or from the folder's own crystals of pure elements.
"""

import functools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.parameters import Params
from lib.core.run import Run
from lib.core.strict_yaml import read_yaml
from lib.core.workers import progress
from lib.crystals.elements import SYMBOLS
from lib.crystals.structure_io import NOT_READ, decoded, enough, kind_of, read_one
from lib.crystals.table import CrystalTable
from lib.energies.hull import formation_energy, lowest_elements
from lib.symmetry.cells import SYMPREC, space_group_of

COLUMNS = {"formation_energy_per_atom": "formation_energy", "total_energy": "total_energy"}  # of the csv


def read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """Columns of a csv file as text: the formula NaN, or a file of that name, is no missing value. Raises BadInput if
    the file is missing, damaged, or lacks a column or has it twice."""
    if not path.is_file():
        raise BadInput(f"the csv file {path} does not exist; check the parameter that names it")
    try:
        table = pd.read_csv(path, usecols=columns, dtype=str, keep_default_na=False)[columns]
        header = pd.read_csv(path, nrows=0).columns
    except (ValueError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{path} does not read as csv with the columns {', '.join(columns)} ({reason})") from error
    twice = [name for name in columns if f"{name}.1" in header]
    if twice:
        raise BadInput(f"{path} has the column {twice[0]} twice; keep one")
    return table


def energies(
    column: pd.Series, names: pd.Series, path: Path, what: str = "formation energy", unit: str = "eV/atom"
) -> np.ndarray:
    """Energies from their text. Raises BadInput if one is missing or no number."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(float)
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise BadInput(f"{path} has no {what} for {names[wrong].iloc[0]} but {column[wrong].iloc[0]!r}; give {unit}")
    return values


def read_references(path: Path) -> dict[str, float]:
    """Symbol -> energy of the element in eV/atom: a csv file with the columns element and energy, or a YAML mapping.
    Raises BadInput if the file is missing or damaged, an element is not known or stands twice, an energy is no
    number."""
    if path.suffix.lower() in (".yaml", ".yml"):
        known = read_yaml(path)
        table = pd.DataFrame({"element": list(known), "energy": [str(value) for value in known.values()]})
    else:
        table = read_csv(path, ["element", "energy"])
    strangers = sorted(set(table.element) - set(SYMBOLS[1:]))
    if strangers:
        raise BadInput(f"{path} names {', '.join(strangers)}, which is no element; write symbols such as Ta")
    twice = table.element[table.element.duplicated()]
    if len(twice):
        raise BadInput(f"{path} gives {twice.iloc[0]} more than once; keep one energy an element")
    values = energies(table.energy, table.element, path, "energy")
    return dict(zip(table.element.tolist(), values.tolist(), strict=True))


def formation_energies(
    structures: Sequence[Structure], total_energies: np.ndarray, references: Mapping[str, float] | None, place: str
) -> tuple[np.ndarray, dict[str, float]]:
    """Formation energies (n,), eV/atom, from total energies (n,), eV a cell, and the elements' that they refer to.

    References are symbol -> energy of the element, eV/atom, or None: the lowest of the structures of a pure element.
    Raises BadInput if an element has none; the message names all such elements, and the place of the references.
    """
    species = [structure.atomic_numbers for structure in structures]
    per_atom = [float(total) / len(numbers) for total, numbers in zip(total_energies, species, strict=True)]
    references = lowest_elements(species, per_atom) if references is None else references
    used = {symbol for numbers in species for symbol in SYMBOLS[list(set(numbers))].tolist()}
    missing = sorted(used - set(references))
    if missing:
        raise BadInput(
            f"{place} has no energy of pure {', '.join(missing)} to refer total energies to; add the elements' lowest "
            "crystals with their energies, or give 'files_references' with eV/atom for every element"
        )
    found = [formation_energy(e, numbers, references) for e, numbers in zip(per_atom, species, strict=True)]
    return np.array(found), {symbol: float(references[symbol]) for symbol in sorted(used)}


def load(params: Params, run: Run) -> CrystalTable:
    """The structures of `params.files_folder` with the energies of `params.files_energies`.

    Up to one in a hundred may be left out; the run then writes and prints which, and why, beside what else lies there.
    Raises BadInput if a structure has no energy or an energy no structure, or more of the files do not read.
    """
    folder, table_path = ROOT / params.files_folder, ROOT / params.files_energies
    if not folder.is_dir():
        raise BadInput(f"the folder {folder} does not exist; check the parameter 'files_folder'")
    column = COLUMNS[params.files_energy]
    table = read_csv(table_path, ["file", column])
    run.input(table_path)
    files = (path for path in folder.iterdir() if kind_of(path.name) in ("cif", "poscar") and path.is_file())
    present = {_one_form(path.name): path for path in files}
    table["file"] = table.file.map(_one_form)
    left_out = {name: f"{name} is left out: {reason}" for name, reason in _passed_over(folder).items()}
    for names, sentence in (
        (set(present) - set(table.file), f"has no energy in {table_path}; add a row or remove the file"),
        (set(table.file) & set(left_out), f"is no file that is read here; write {folder} as CIF or POSCAR"),
        (set(table.file) - set(present), f"is not in {folder}; add the file or remove its row"),
    ):
        if names:
            raise BadInput(f"{min(names)} {sentence}")
    unit = {"formation_energy": "eV/atom", "total_energy": "eV of the whole cell"}[column]
    values = energies(table[column], table.file, table_path, column.replace("_", " "), unit)
    texts = (decoded(run.input(present[name]).read_bytes()) for name in table.file)
    kinds = [kind_of(name) for name in table.file]
    structures, groups, refused = read_all(progress(texts, total=len(table), desc="structure files"), kinds, table.file)
    enough(refused, len(table))
    tell(left_out | refused, run)
    keep = ~table.file.isin(refused).to_numpy()
    table, values = table[keep], values[keep]
    about: dict[str, object] = {"source": f"files in {folder.name}", "space_groups": f"spglib, symprec {SYMPREC} Å"}
    kind = f"formation energies of {table_path.name}"
    if column == "total_energy":
        place, references = folder, None
        if params.files_references:
            place = ROOT / params.files_references
            references = read_references(place)
            run.input(place)
        values, elements = formation_energies(structures, values, references, str(place))
        kind = f"formation energies from total energies of {table_path.name}, elements of {place.name}"
        about["element_energies_eV_per_atom"] = elements
    facts = {"id": table.file, "formation_energy": values, "space_group": groups}
    return CrystalTable.from_structures(structures, **facts, energy_kind=kind, about=about)


def read_all(
    texts: Iterable[str], kinds: Iterable[str], names: Iterable[str]
) -> tuple[list[Structure], list[int], dict[str, str]]:
    """The structures and space groups (spglib) of texts that hold one each, of kinds as for
    :func:`lib.crystals.structure_io.read_one`; and for those that do not read name -> the sentence that refuses it."""
    structures, groups, refused = [], [], {}
    for text, kind, name in zip(texts, kinds, names, strict=True):
        try:
            structure = read_one(text, kind, name)
            groups.append(space_group_of(structure, name))
            structures.append(structure)
        except BadInput as error:
            refused[name] = str(error)
    return structures, groups, refused


def tell(left_out: Mapping[str, str], run: Run) -> None:
    """Write and print what was left out, and why; nothing where that is nothing."""
    if left_out:
        frame = pd.DataFrame(left_out.items(), columns=["structure", "reason"])
        run.table(frame, "left_out", "Structures that were left out, and why")
        print(*left_out.values(), sep="\n")


_one_form = functools.partial(unicodedata.normalize, "NFC")  # of a file's name: a Mac writes é as two characters


def _passed_over(folder: Path) -> dict[str, str]:
    """Structures in and under the folder that are not read, and why."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = _one_form(str(path.relative_to(folder)))
        if any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts):
            continue
        if path.parent != folder and kind_of(path.name):
            found[name] = "it is in a folder of its own; move it up"
        elif kind_of(path.name) == "xyz" or NOT_READ.fullmatch(path.name):
            found[name] = "it is no CIF or POSCAR file; write it as one"
    return found
