"""AFLOW's entries as rows of a table: every entry is checked, most of them together, with the verdicts of one by one.

An entry that is plain, as nearly all are, takes some ten microseconds; any other is read by :class:`.Entry`, which
takes many times as long and says what is wrong. What passes the quick look passes :class:`.Entry`, too, with the same
values.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from lib.crystals.elements import NUMBERS
from lib.crystals.table import CrystalTable
from lib.datasets.sources.aflow.entries import Entry, Scale, are_cells, cells_of, read_entry


class Row(NamedTuple):
    """What a table takes of an entry."""

    auid: str
    numbers: list[int]  # of the species
    composition: list[int]
    geometry: list[float]
    positions: list[float]  # x, y, z of each atom
    space_group: int
    energy: float
    prototype: str
    catalog: str
    dft_type: list[str]
    ldau_type: int
    date: int  # yyyymmdd, 0 if unknown


MET_BEFORE = "auid met before"


class Reject(NamedTuple):
    """An entry that is not used."""

    auid: str
    reason: str
    page: str
    raw: str  # as it came


_REALS_IN_TEXT = re.compile(r"[-+0-9.e,]+").fullmatch
_WHOLE_IN_TEXT = re.compile(r"[0-9,]+").fullmatch
_DATE = re.compile(r"(\d{8})_").match
_REAL, _TEXT_OR_NONE = {int, float}, {str, type(None)}


def _date(dates: Sequence[str]) -> int:
    """20200524 of the first, such as "20200524_13:53:56_GMT-5"."""
    found = _DATE(dates[0]) if dates else None
    return int(found[1]) if found else 0


def checked_row(entry: Entry) -> Row:
    """The row of an entry that was read with all checks."""
    return Row(
        auid=entry.auid,
        numbers=[NUMBERS[symbol] for symbol in entry.species],
        composition=entry.composition,
        geometry=entry.geometry,
        positions=list(chain.from_iterable(entry.positions_fractional)),
        space_group=entry.spacegroup_relax,
        energy=entry.enthalpy_formation_atom,
        prototype=entry.prototype or "",
        catalog=entry.catalog or "",
        dft_type=entry.dft_type or [],
        ldau_type=entry.ldau_type,
        date=_date(entry.aflowlib_date or []),
    )


def _texts(value: object) -> list[str]:
    """Words of a list, or of text such as "B,Ta"; raises as :func:`_reals`."""
    if type(value) is str:
        return value.split(",")
    if value is not None and (type(value) is not list or not {*map(type, value)} <= {str}):
        raise ValueError
    return value or []


def _reals(value: object) -> list[float]:
    """Numbers of a list, or of text such as "0,0.5,1e-5". Raises ValueError where a second look is needed."""
    if type(value) is str and _REALS_IN_TEXT(value):
        return [float(number) for number in value.split(",")]
    if type(value) is not list or not {*map(type, value)} <= _REAL:
        raise ValueError
    return value


def _whole(value: object) -> list[int]:
    """Whole numbers of a list, or of text such as "4,2"; raises as :func:`_reals`."""
    if type(value) is str and _WHOLE_IN_TEXT(value):
        return [int(number) for number in value.split(",")]
    if type(value) is not list or {*map(type, value)} != {int}:
        raise ValueError
    return value


def _one(read: Callable[[object], list], value: object) -> float:
    """A number that stands alone; raises as :func:`_reals`."""
    (number,) = read(value if type(value) is str else [value])
    return number


def _places(value: object) -> list[float]:
    """x, y, z of each atom, one after the other; raises as :func:`_reals`."""
    rows = value.split(";") if type(value) is str else value
    if type(value) is str and {row.count(",") for row in rows} == {2}:
        return _reals(value.replace(";", ","))
    if type(value) is not list or {*map(type, rows)} != {list} or {*map(len, rows)} != {3}:
        raise ValueError
    return _reals(list(chain.from_iterable(rows)))


def quick_row(raw: object) -> Row | None:
    """The row of an entry that is plain at a look; None for one that :func:`read_entry` has to judge.

    Whether the geometry spans a cell is seen for many together.
    """
    try:
        auid, species = raw["auid"], _texts(raw["species"])
        dft_type, dates = _texts(raw.get("dft_type")), _texts(raw.get("aflowlib_date"))
        counts, geometry = _whole(raw["composition"]), _reals(raw["geometry"])
        positions = _places(raw["positions_fractional"])
        group, energy = _one(_whole, raw["spacegroup_relax"]), _one(_reals, raw["enthalpy_formation_atom"])
        ldau_type = 0 if raw.get("ldau_type") is None else _one(_whole, raw["ldau_type"])
        prototype, catalog = raw.get("prototype"), raw.get("catalog")
        plain = (
            type(auid) is str
            and auid
            and "".join(map("{}{}".format, species, counts)) == raw["compound"]
            and len(species) == len(counts)
            and (len(species) == 1 or sorted({*species}) == species)
            and min(counts) >= 1
            and len(positions) == 3 * sum(counts)
            and len(geometry) == 6
            and all(0 < number <= 1000 for number in geometry)
            and 1 <= group <= 230
            and math.isfinite(sum(positions))
            and math.isfinite(energy)
            and {type(prototype), type(catalog)} <= _TEXT_OR_NONE
            and f"{auid}{prototype}{catalog}".isascii()
        )
        if not plain:
            return None
        numbers = [NUMBERS[symbol] for symbol in species]
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        return None
    texts = prototype or "", catalog or "", dft_type, ldau_type, _date(dates)
    return Row(auid, numbers, counts, geometry, positions, group, energy, *texts)


def table_of(rows: Sequence[Row], scale: Scale) -> CrystalTable:
    """The rows as crystals, in AFLOW's own cells."""
    auid, numbers, counts, geometry, positions, group, energy, prototype, catalog, _, ldau_type, date = (
        zip(*rows, strict=True) if rows else [()] * len(Row._fields)
    )
    species = np.fromiter(chain.from_iterable(numbers), int)
    n_sites = [sum(several) for several in counts]
    return CrystalTable.pack(
        id=auid,
        lattice=cells_of(np.array(geometry, float).reshape(-1, 6)),
        frac_coords=np.fromiter(chain.from_iterable(positions), float).reshape(-1, 3),
        species=np.repeat(species, np.fromiter(chain.from_iterable(counts), int)),
        n_sites=n_sites,
        formation_energy=energy,
        space_group=group,
        energy_kind=scale.energy_kind,
        extra={
            "prototype": np.array(prototype, str),
            "catalog": np.array(catalog, str),
            "functional": np.full(len(rows), scale.dft_type),
            "ldau_type": np.array(ldau_type, np.int8),
            "correction": np.full(len(rows), scale.correction),
            "aflowlib_date": np.array(date, np.int32),
        },
    )


def read_pages(pages: Iterable[tuple[str, Sequence[object]]], scale: Scale) -> tuple[CrystalTable, list[Reject]]:
    """The usable entries of pages, given by name, each auid once, and the others."""
    rows: list[tuple[Row, object, str]] = []
    rejects: list[Reject] = []

    def reject(raw: object, reason: str, page: str) -> None:
        auid = raw.get("auid") or "" if isinstance(raw, dict) else ""
        rejects.append(Reject(str(auid), reason, page, json.dumps(raw)))

    for page, entries in pages:
        for raw in entries:
            row = quick_row(raw) or read_entry(raw)
            if isinstance(row, str):
                reject(raw, row, page)
            else:
                rows.append((checked_row(row) if isinstance(row, Entry) else row, raw, page))
    lattice = cells_of(np.array([row.geometry for row, _, _ in rows], float).reshape(-1, 6))
    spans = are_cells(lattice, np.array([sum(row.composition) for row, _, _ in rows]))
    found: dict[str, Row] = {}
    for (row, raw, page), is_cell in zip(rows, spans.tolist(), strict=True):
        verdict = "" if is_cell else read_entry(raw)
        reason = verdict if isinstance(verdict, str) else ""
        reason = reason or scale.other(row.dft_type, row.ldau_type) or MET_BEFORE * (row.auid in found)
        if reason:
            reject(raw, reason, page)
        else:
            found[row.auid] = row
    return table_of(list(found.values()), scale), rejects
