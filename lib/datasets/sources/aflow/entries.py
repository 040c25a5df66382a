"""One of AFLOW's entries, with all checks, and the scale of its energy."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lib.crystals.elements import NUMBERS, formula_of
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
