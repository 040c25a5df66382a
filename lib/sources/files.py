"""A user's own structures: a folder of CIF and POSCAR files, and a csv with the columns file and formation_energy."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from lib.crystals import SYMPREC, CrystalTable
from lib.params import IngestParams
from lib.run import ROOT, BadInput, Run, progress

STRUCTURE_FILE = re.compile(r".*\.cif|.*\.vasp|.*(poscar|contcar).*", re.IGNORECASE)


def parsed(text: str, fmt: str, name: str) -> Structure:
    """A structure from the text of a CIF ("cif") or POSCAR ("poscar") file.

    Raises:
        BadInput: it does not parse.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # such as coordinates rounded to 1/3
            return Structure.from_str(text, fmt=fmt)
    except Exception as error:  # pymatgen's parsers raise whatever the text made them trip over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{name} does not parse as {fmt.upper()} ({reason}); correct or remove it") from error


def read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """Columns of a csv file as text: the formula NaN, or a file of that name, is no missing value.

    Raises:
        BadInput: the file is missing, damaged or lacks a column.
    """
    if not path.is_file():
        raise BadInput(f"the csv file {path} does not exist; check the parameter that names it")
    try:
        return pd.read_csv(path, usecols=columns, dtype=str, keep_default_na=False)[columns]
    except (ValueError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{path} does not read as csv with the columns {', '.join(columns)} ({reason})") from error


def energies(column: pd.Series, names: pd.Series, path: Path) -> np.ndarray:
    """Formation energies in eV/atom from their text.

    Raises:
        BadInput: one is missing or no number.
    """
    values = pd.to_numeric(column, errors="coerce").to_numpy(float)
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise BadInput(
            f"{path} has no formation energy for {names[wrong].iloc[0]} but {column[wrong].iloc[0]!r}; give eV/atom"
        )
    return values


def load(params: IngestParams, run: Run) -> CrystalTable:
    """The structures of `params.files_folder` with the energies of `params.files_energies`.

    Raises:
        BadInput: a structure has no energy or an energy no structure; a file does not parse or holds no known elements.
    """
    folder, table_path = ROOT / params.files_folder, ROOT / params.files_energies
    if not folder.is_dir():
        raise BadInput(f"the folder {folder} does not exist; check the parameter 'files_folder'")
    table = read_csv(table_path, ["file", "formation_energy"])
    run.input(table_path)
    present = {path.name for path in folder.iterdir() if STRUCTURE_FILE.fullmatch(path.name)}
    for names, sentence in (
        (present - set(table.file), f"has no energy in {table_path}; add a row or remove the file"),
        (set(table.file) - present, f"is not in {folder}; add the file or remove its row"),
    ):
        if names:
            raise BadInput(f"{min(names)} {sentence}")
    return CrystalTable.from_structures(
        (_read(run.input(folder / name)) for name in progress(table.file, desc="structure files")),
        id=table.file,
        formation_energy=energies(table.formation_energy, table.file, table_path),
        energy_kind=f"formation energies of {table_path.name}",
        about={"source": f"files in {folder.name}", "space_groups": f"spglib, symprec {SYMPREC} Å"},
    )


def _read(path: Path) -> Structure:
    fmt = "cif" if path.suffix.lower() == ".cif" else "poscar"
    return parsed(path.read_text(errors="replace"), fmt, path.name)
