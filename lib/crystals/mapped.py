"""Tables whose arrays stay on disk: opened in no time, shared by processes, read where a batch needs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from lib.core.errors import BadInput
from lib.core.files import replacing, write_json
from lib.crystals.columns import checksum, n_rows
from lib.crystals.table import CrystalTable
from lib.symmetry.packed import PackedUnits

IN_MEMORY = 100_000  # crystals; larger tables are mapped, and packed batch by batch in training


def opened(path: Path, folder: Path) -> CrystalTable:
    """The table of a parquet file; of a large one the arrays, which `folder` keeps from the first time on, are mapped.

    Raises BadInput as :meth:`CrystalTable.from_parquet`.
    """
    if n_rows(path) <= IN_MEMORY:
        return CrystalTable.from_parquet(path)
    source = checksum(path)
    about = folder / "about.json"
    if not about.exists() or json.loads(about.read_text())["source"] != source:
        save(CrystalTable.from_parquet(path), folder, source)
    return load(folder)


def save(table: CrystalTable, folder: Path, source: str = "") -> Path:
    """Write a table's arrays, and last the file that says they are whole: of which `source`, what energies."""
    about = folder / "about.json"
    about.unlink(missing_ok=True)
    names = []
    for name, array in _arrays(table):
        with replacing(folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, array)
        names.append(name)
    facts = {"energy_kind": table.energy_kind, "about": dict(table.about), "names": names, "source": source}
    write_json(about, facts)
    return folder


def load(folder: Path) -> CrystalTable:
    """The table that :func:`save` wrote, its arrays mapped. Raises BadInput if a file is missing or damaged."""
    try:
        facts = json.loads((folder / "about.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in facts["names"]}
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise BadInput(f"the arrays in {folder} are incomplete ({error}); delete the folder and run again") from error
    parts: dict[str, dict[str, np.ndarray]] = {"table": {}, "extra": {}, "units": {}}
    for name, array in arrays.items():
        part, column = name.split(".", 1)
        parts[part][column] = array
    codes, formulas = (parts["table"].pop(name) for name in ("codes", "formulas"))
    reduced = parts["table"].pop("reduced_formulas")
    table = CrystalTable(**parts["table"], extra=parts["extra"], energy_kind=facts["energy_kind"], about=facts["about"])
    vars(table).update(formulas=(codes, formulas), reduced_formulas=reduced)
    if parts["units"]:
        vars(table)["asymmetric_units"] = PackedUnits(**parts["units"])
    return table


def _arrays(table: CrystalTable) -> Iterator[tuple[str, np.ndarray]]:
    for field in fields(table):
        if isinstance(value := getattr(table, field.name), np.ndarray):
            yield f"table.{field.name}", value
    yield from zip(("table.codes", "table.formulas"), table.formulas, strict=True)
    yield "table.reduced_formulas", table.reduced_formulas
    for name, column in table.extra.items():
        yield f"extra.{name}", column
    if "asymmetric_units" in vars(table):
        units = table.asymmetric_units
        for field in fields(units):
            if isinstance(value := getattr(units, field.name), np.ndarray):
                yield f"units.{field.name}", value
