"""AFLOW's entries as rows of a table: every entry is checked, most of them together, with the verdicts of one by one.

An entry that is plain, as nearly all are, takes a few microseconds; any other is read by :class:`Entry`, which takes a
hundred times as long and says what is wrong. What passes the quick look passes :class:`Entry`, too, with the same
values.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lib.crystals.elements import NUMBERS, formula_of
from lib.crystals.table import CrystalTable
from lib.symmetry.cells import MIN_VOLUME_PER_ATOM, lattice_from_parameters


def cells_of(geometry: np.ndarray) -> np.ndarray:
    """Cells (n, 3, 3) in Å of AFLOW's `geometry` (n, 6), in Å and degrees; nan where there is none."""
    return lattice_from_parameters(geometry[:, :3], np.radians(geometry[:, 3:]))


def are_cells(lattice: np.ndarray, n_sites: np.ndarray) -> np.ndarray:
    """(n,) whether cells (n, 3, 3) have room for their atoms (n,)."""
    with np.errstate(invalid="ignore"):
        return np.abs(np.linalg.det(lattice)) >= MIN_VOLUME_PER_ATOM * n_sites  # nan is not


class Entry(BaseModel):
    """One AFLOW entry; numbers may come as numbers or, in AFLUX's older shape, as strings such as "0,0,0;0.5,0.5,0"."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    auid: str = Field(min_length=1)
    compound: str
    species: list[str] = Field(min_length=1)
    composition: list[Annotated[int, Field(ge=1)]]
    geometry: list[Annotated[float, Field(gt=0, le=1000)]] = Field(min_length=6, max_length=6)  # Å and degrees
    positions_fractional: list[tuple[float, float, float]]
    spacegroup_relax: int = Field(ge=1, le=230)
    enthalpy_formation_atom: float
    prototype: str | None = None
    catalog: str | None = None
    dft_type: list[str] | None = None
    ldau_type: int = 0  # VASP's LDAUTYPE; without +U AFLOW gives none
    aflowlib_date: list[str] | None = None  # when it was calculated, and then whenever it was changed

    @field_validator(
        *["composition", "geometry", "positions_fractional", "spacegroup_relax", "enthalpy_formation_atom"],
        "ldau_type",
        mode="before",
    )
    @classmethod
    def _no_truth(cls, value: object) -> object:
        if re.search("true|false", json.dumps(value)):
            raise ValueError("true and false are no numbers")
        return value

    @field_validator("species", "composition", "geometry", "dft_type", "aflowlib_date", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("positions_fractional", mode="before")
    @classmethod
    def _split_rows(cls, value: object) -> object:
        return [row.split(",") for row in value.split(";")] if isinstance(value, str) else value

    @field_validator("ldau_type", mode="before")
    @classmethod
    def _none_is_without(cls, value: object) -> object:
        return 0 if value in (None, "", "null") else value

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        unknown = [symbol for symbol in self.species if symbol not in NUMBERS]
        if unknown:
            raise ValueError(f"unknown element {', '.join(unknown)}")
        if len(self.species) != len(self.composition) or sum(self.composition) != len(self.positions_fractional):
            raise ValueError("species, composition and positions_fractional differ in number")
        if formula_of(self.numbers()) != self.compound:
            raise ValueError("compound differs from species and composition")
        if not are_cells(self.lattice()[None], np.array([sum(self.composition)])):
            raise ValueError("geometry spans no cell")
        return self

    def numbers(self) -> np.ndarray:
        """(n_sites,) atomic numbers; positions_fractional lists the atoms species by species."""
        return np.repeat([NUMBERS[symbol] for symbol in self.species], self.composition)

    def lattice(self) -> np.ndarray:
        """(3, 3) the cell of `geometry` in Å."""
        return cells_of(np.array([self.geometry]))[0]


def read_entry(raw: object) -> Entry | str:
    """The entry, or in words why it cannot be used."""
    if not isinstance(raw, dict):
        return "no object"
    if raw.get("enthalpy_formation_atom") in (None, "", "null"):
        return "no enthalpy_formation_atom"
    try:
        return Entry(**raw)
    except ValidationError as failure:
        error = failure.errors()[0]
        field = f"{error['loc'][0]}: " if error["loc"] else ""
        return field + error["msg"].removeprefix("Value error, ")


@dataclass(frozen=True)
class Scale:
    """Of which calculations the energies are; those of another scale do not mix with them."""

    dft_type: str
    ldau_type: int  # 0: without +U
    correction: str = "none"  # `enthalpy_formation_atom` is as calculated

    @property
    def energy_kind(self) -> str:
        """As tables of crystals name it."""
        plus_u = f"+U (type {self.ldau_type})" if self.ldau_type else ""
        return f"AFLOW {self.dft_type}{plus_u} formation enthalpy"

    def other(self, dft_type: Sequence[str], ldau_type: int) -> str:
        """Why an energy is none of these, or ""."""
        functional = "+".join(sorted({*dft_type} - {self.dft_type}))
        if functional:
            return f"energy of another scale: {functional}"
        plus_u = f"+U (ldau_type {ldau_type})" if ldau_type else "without +U (ldau_type 0)"
        return "" if ldau_type == self.ldau_type else f"energy of another scale: {plus_u}"


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


def _rows(value: object) -> list[float]:
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
        counts, geometry, positions = (
            _whole(raw["composition"]),
            _reals(raw["geometry"]),
            _rows(raw["positions_fractional"]),
        )
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
