"""AFLOW over AFLUX, its search API (Rose et al., 10.1016/j.commatsci.2017.04.036).

A summons is the query part of one URL: comma-separated keywords with conditions, `:` for or, `*` for an open end of a
range, `$paging(page,size)` last. Entries come sorted by the first keyword, here the unique `auid`, so that pages
neither overlap nor leave gaps. Every page is kept as it came; a rerun asks only for those that are not complete.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Annotated, Self

import httpx
import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pymatgen.core import Lattice

from lib.core.errors import BadInput
from lib.core.files import replacing
from lib.core.parameters import Params
from lib.core.run import Run
from lib.core.web import PassingFault, checked, client, patiently
from lib.core.workers import progress
from lib.crystals.elements import NUMBERS, formula_of
from lib.crystals.table import CrystalTable
from lib.symmetry.cells import MIN_VOLUME_PER_ATOM


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

    @field_validator(
        "composition", "geometry", "positions_fractional", "spacegroup_relax", "enthalpy_formation_atom", mode="before"
    )
    @classmethod
    def _no_truth(cls, value: object) -> object:
        if re.search("true|false", json.dumps(value)):
            raise ValueError("true and false are no numbers")
        return value

    @field_validator("species", "composition", "geometry", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("positions_fractional", mode="before")
    @classmethod
    def _split_rows(cls, value: object) -> object:
        return [row.split(",") for row in value.split(";")] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        unknown = [symbol for symbol in self.species if symbol not in NUMBERS]
        if unknown:
            raise ValueError(f"unknown element {', '.join(unknown)}")
        if len(self.species) != len(self.composition) or sum(self.composition) != len(self.positions_fractional):
            raise ValueError("species, composition and positions_fractional differ in number")
        if formula_of(self.numbers()) != self.compound:
            raise ValueError("compound differs from species and composition")
        if self.lattice().volume < MIN_VOLUME_PER_ATOM * sum(self.composition):
            raise ValueError("geometry spans no cell")
        return self

    def numbers(self) -> np.ndarray:
        """(n_sites,) atomic numbers; positions_fractional lists the atoms species by species."""
        return np.repeat([NUMBERS[symbol] for symbol in self.species], self.composition)

    def lattice(self) -> Lattice:
        """The cell of `geometry`: a, b, c in Å and the angles in degrees."""
        return Lattice.from_parameters(*self.geometry)


ASKED = ("auid", "species", "catalog")  # with a condition, so that they are shown anyway
SHOWN = [name for name in Entry.model_fields if name not in ASKED]


@dataclass(frozen=True)
class Query:
    """One question to AFLOW: a name for its files, and the summons without paging."""

    name: str
    summons: str


def queries(params: Params) -> list[Query]:
    """Summonses that together give every entry made of nothing but the wanted elements, each once.

    AFLUX can ask for entries with given species and their number. Entries of n species are asked for by their first n -
    1 in alphabetical order and any later one as the last: thousands of systems take few queries. Raises BadInput if a
    wanted species is no element.
    """
    unknown = sorted(set(params.aflow_species) - set(NUMBERS))
    if unknown:
        raise BadInput(f"parameter 'aflow_species' names {', '.join(unknown)}, which is no element; write symbols")
    elements = sorted(set(params.aflow_species))
    low, high = params.aflow_sites
    conditions = [
        f"natoms({low}*,*{high})",
        f"catalog({':'.join(params.aflow_catalogs)})",
        f"dft_type({':'.join(params.aflow_dft_types)})",
    ]
    found = []
    for n_species in range(1, min(params.aflow_max_species, len(elements)) + 1):
        for first in combinations(elements, n_species - 1):
            later = [e for e in elements if not first or e > first[-1]]
            if later:
                last = ":".join(later) if len(later) == 1 or not first else f"({':'.join(later)})"
                species = f"species({','.join([*first, last])})"
                words = ["auid", species, f"nspecies({n_species})", *conditions, *SHOWN]
                found.append(Query("-".join([f"{n_species}_species", *first]), ",".join(words)))
    return found


def entries_of(text: str, question: str) -> tuple[list[object], int | None]:
    """The entries of a page, and how many there are on all pages where the answer tells.

    Newer answers are arrays; older ones are objects keyed "1 of 912", "2 of 912", ...; without entries both are `[]`.
    Raises BadInput, which quotes AFLOW, if the answer is an error, and PassingFault if it is no page at all, as when
    AFLOW's database is down ("DB Fail!null") or gives nothing ("null").
    """
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PassingFault(f"no JSON but {text[:100]!r}") from error
    if isinstance(answer, list) and (not answer or not all(isinstance(entry, str) for entry in answer)):
        return answer, None
    if not answer:
        raise PassingFault(f"no page of entries but {text[:100]!r}")
    if isinstance(answer, dict) and all(re.fullmatch(r"\d+ of \d+", key) for key in answer):
        return list(answer.values()), int(next(iter(answer)).split(" of ")[1])
    if isinstance(answer, dict) and len(answer) == 1:
        answer = next(iter(answer.values()))
    said = answer if isinstance(answer, str) else json.dumps(answer)
    raise BadInput(f"AFLOW refuses the summons {question}: {said[:300]}")


def ask(http: httpx.Client, url: str) -> str:
    """One page as text, which raises as :func:`entries_of` and :func:`lib.core.web.checked` do."""
    text = checked(http.get(url)).text
    entries_of(text, url)
    return text


def pages(query: Query, params: Params, folder: Path, http: httpx.Client) -> Iterator[tuple[Path, list[object]]]:
    """The pages of a query, from disk where they are complete and else from AFLOW, up to the first that is not full.
    Raises as :func:`ask`, and BadInput if the pages end before all entries have come that AFLOW said there are, or
    repeat themselves where all are asked for. The page they end with is not kept, so that it is asked for again."""
    n_entries, total, seen = 0, None, set()
    for number in range(1, (params.aflow_max_pages or 10**6) + 1):
        url = f"{params.aflow_url}?{query.summons},$paging({number},{params.aflow_page_size})"
        digest = hashlib.sha256(url.encode()).hexdigest()[:12]
        path = folder / f"{query.name}_{number:05d}_{digest}.json"
        if not path.exists():
            text = patiently(partial(ask, http, url), f"page {number} of AFLOW's {query.name}")
            with replacing(path) as temporary:
                temporary.write_text(text, "utf-8")
        try:
            entries, told = entries_of(path.read_text("utf-8"), url)
        except (PassingFault, UnicodeDecodeError) as error:
            raise BadInput(f"the page {path} is damaged; delete it and run again") from error
        n_entries, total = n_entries + len(entries), max(told or 0, total or 0) or None
        new = {json.dumps(entry) for entry in entries} - seen
        if entries and not new and params.aflow_max_pages is None:  # else without end
            path.unlink()
            raise BadInput(f"page {number} of AFLOW's {query.name} repeats entries of pages before it; run again later")
        seen |= new
        last = len(entries) < params.aflow_page_size
        if last and n_entries < (total or 0):
            path.unlink()
            remedy = f"set the parameter 'aflow_page_size' to at most {len(entries)}" if entries else "run again later"
            raise BadInput(
                f"AFLOW gave {n_entries} of {total} entries of {query.name}, the last {len(entries)} as page {number}, "
                f"which should hold {params.aflow_page_size}; {remedy}"
            )
        yield path, entries
        if last or n_entries == total:
            return


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


def read_page(entries: list[object], page: str, seen: set[str], energy_kind: str) -> tuple[CrystalTable, list[tuple]]:
    """The usable entries of a page that are not in `seen`, which grows; and (auid, reason, page) of the others."""
    found: list[Entry] = []
    set_aside = []
    for raw in entries:
        entry = read_entry(raw)
        if isinstance(entry, Entry) and entry.auid in seen:
            entry = "auid met before"
        if isinstance(entry, Entry):
            seen.add(entry.auid)
            found.append(entry)
        else:
            set_aside.append((raw.get("auid", "") if isinstance(raw, dict) else "", entry, page))
    table = CrystalTable.of_cells(
        [(entry.lattice().matrix, np.array(entry.positions_fractional), entry.numbers()) for entry in found],
        id=[entry.auid for entry in found],
        formation_energy=[entry.enthalpy_formation_atom for entry in found],
        space_group=[entry.spacegroup_relax for entry in found],
        energy_kind=energy_kind,
        extra={name: np.array([getattr(e, name) or "" for e in found], dtype=str) for name in ("prototype", "catalog")},
    )
    return table, set_aside


def load(params: Params, run: Run) -> CrystalTable:
    """Every entry of the wanted elements; unusable ones are set aside in tables/aflow_set_aside.csv with the reason."""
    folder = run.folder / "data" / "aflow_pages"
    energy_kind = f"AFLOW {':'.join(params.aflow_dft_types)} formation enthalpy"
    tables: list[CrystalTable] = []
    set_aside: list[tuple] = []
    seen: set[str] = set()
    asked = queries(params)
    with client() as http, progress(asked, desc="AFLOW", unit="query") as bar:
        for query in bar:
            for path, entries in pages(query, params, folder, http):
                table, unusable = read_page(entries, run.input(path).name, seen, energy_kind)
                tables.append(table)
                set_aside += unusable
                bar.set_postfix(pages=len(tables), entries=len(seen), set_aside=len(set_aside))
    frame = pd.DataFrame(set_aside, columns=["auid", "reason", "page"])
    run.table(frame, "aflow_set_aside", "AFLOW entries that cannot be used, and why")
    about = {
        "source": f"AFLOW ({params.aflow_url})",
        "space_groups": "AFLOW's spacegroup_relax",
        "queries": len(asked),
        "pages": len(tables),
        "complete": params.aflow_max_pages is None,
        "set_aside": dict(Counter(frame.reason)),
    }
    return CrystalTable.join(tables, about=about)
