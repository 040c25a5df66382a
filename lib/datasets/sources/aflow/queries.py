"""Questions in the words of AFLUX, AFLOW's search API (Rose et al., 10.1016/j.commatsci.2017.04.036).

A summons is the query part of one URL: comma-separated keywords with conditions, `:` for or, `*` for an open end of a
range, `$paging(page,size)` last, pages counted from 1. Entries come sorted by the first keyword, here the unique
`auid`, so that pages neither overlap nor leave gaps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from lib.core.errors import BadInput
from lib.core.parameters import Params
from lib.crystals.elements import NUMBERS
from lib.datasets.sources.aflow.entries import Entry

ASKED = ("auid", "species", "catalog", "dft_type")  # with a condition, so that they are shown anyway
SHOWN = [name for name in Entry.model_fields if name not in ASKED]


@dataclass(frozen=True)
class Query:
    """One question to AFLOW: entries of n_species elements, which are all of `elements` and, where there are any, one
    of `others`; None stands for whatever is missing."""

    name: str
    n_species: int
    elements: tuple[str, ...]
    others: tuple[str, ...] | None
    catalogs: tuple[str, ...]

    def summons(self, params: Params) -> str:
        """The query part of the URL, without paging."""
        low, high = params.aflow_sites
        others = ":".join(self.others or ())
        others = f"({others})" if len(self.others or ()) > 1 and self.elements else others
        words = [
            "auid",
            f"species({','.join([*self.elements, *([others] if others else [])])})",
            f"nspecies({self.n_species})",
            f"natoms({low}*,*{high})",
            f"catalog({':'.join(self.catalogs)})",
            f"dft_type({params.aflow_dft_type})",
        ]
        return ",".join([*words, *SHOWN])

    def parts(self) -> list["Query"]:
        """Queries that together give the same entries, each once; none if it cannot be split any further."""
        if len(self.catalogs) > 1:
            return [replace(self, name=f"{self.name}-{c}", catalogs=(c,)) for c in self.catalogs]
        if self.others is None:
            rest = sorted(set(NUMBERS) - set(self.elements))
            return list(_systems(self.name, self.n_species, self.elements, rest, self.catalogs))
        half = len(self.others) // 2
        halves = (self.others[:half], self.others[half:]) if half else ()
        return [replace(self, name=f"{self.name}-{h[0]}_to_{h[-1]}", others=h) for h in halves]


def _systems(
    name: str, n_species: int, elements: tuple[str, ...], pool: Sequence[str], catalogs: tuple[str, ...]
) -> Iterator[Query]:
    """Queries for `elements` and as many of the pool as are missing: by all but the last of these, in alphabetical
    order, and any later one as the last. Thousands of systems take few queries."""
    for first in combinations(pool, n_species - len(elements) - 1):
        later = tuple(e for e in pool if not first or e > first[-1])
        if later:
            yield Query("-".join([name, *first]), n_species, (*elements, *first), later, catalogs)


def queries(params: Params) -> list[Query]:
    """Summonses that together give every wanted entry, each once: those made of nothing but `aflow_species`, or with
    `aflow_inclusive` those that hold all of them.

    AFLUX can ask for entries with given species and their number. Raises BadInput if a wanted species is no element, or
    no entry can hold so many.
    """
    unknown = sorted(set(params.aflow_species) - set(NUMBERS))
    if unknown:
        raise BadInput(f"parameter 'aflow_species' names {', '.join(unknown)}, which is no element; write symbols")
    elements, catalogs = tuple(sorted(set(params.aflow_species))), tuple(params.aflow_catalogs)
    if not params.aflow_inclusive:
        numbers = range(1, min(params.aflow_max_species, len(elements)) + 1)
        return [q for n in numbers for q in _systems(f"{n}_species", n, (), elements, catalogs)]
    numbers = range(len(elements), params.aflow_max_species + 1)
    if not numbers:
        raise BadInput(
            f"no entry of at most {params.aflow_max_species} elements holds all {len(elements)} of 'aflow_species'; "
            "name fewer or raise 'aflow_max_species'"
        )
    names = ["-".join([f"{n}_species", *elements]) for n in numbers]
    return [
        Query(name, n, elements, () if n == len(elements) else None, catalogs)
        for name, n in zip(names, numbers, strict=True)
    ]
