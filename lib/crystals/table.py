"""`CrystalTable`: many crystals in packed arrays, to and from parquet and pymatgen (paper section 2.1)."""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pymatgen.core import Composition, DummySpecies, Lattice, Structure
from scipy.optimize import nnls

from lib.core.errors import BadInput
from lib.core.files import replacing
from lib.core.workers import progress
from lib.crystals.columns import ROW_GROUP, WRITTEN, row_groups, to_arrays, to_arrow
from lib.crystals.elements import ALPHABETICAL, SYMBOLS, formula_of
from lib.symmetry.cells import SYMPREC, space_group_of, standard_cell
from lib.symmetry.normaliser import canonical_unit
from lib.symmetry.packed import PackedUnits
from lib.symmetry.wyckoff import AsymmetricUnit

ON_LATTICE_POINT = 1e-5  # fractional coordinates this close to 0 or 1 are 0: A.4 classifies targets by exact equality

_ROW_A_CRYSTAL = ("id", "lattice", "formation_energy", "space_group")
_ROW_AN_ATOM = ("frac_coords", "species")
_CORE = (*_ROW_A_CRYSTAL, *_ROW_AN_ATOM, "offsets")
FITTED = 100_000  # most crystals that statistics are taken of: beyond, they change in the fourth digit


def wrap(frac_coords: np.ndarray) -> np.ndarray:
    """Fractional coordinates moved into [0, 1), with what lies on a cell face put exactly on it."""
    wrapped = frac_coords - np.floor(frac_coords)
    wrapped[(wrapped < ON_LATTICE_POINT) | (wrapped > 1 - ON_LATTICE_POINT)] = 0.0
    return wrapped


def canonical_order(species: np.ndarray, frac_coords: np.ndarray, crystal: np.ndarray | None = None) -> np.ndarray:
    """Indices that sort atoms (atoms,), (atoms, 3) by symbol (as in AFLOW's `compound`), then by wrapped x, y, z; where
    `crystal` (atoms,) says which crystal each is of, within each."""
    rounded = np.round(wrap(frac_coords), 4)
    keys = (rounded[:, 2], rounded[:, 1], rounded[:, 0], ALPHABETICAL[species])
    return np.lexsort(keys if crystal is None else (*keys, crystal))


@dataclass(frozen=True, eq=False)
class CrystalTable:
    """Crystals as packed arrays; atoms of crystal i are rows offsets[i]:offsets[i+1].

    A table that comes from outside (:func:`lib.datasets.sources.load`) is :meth:`standardised`: one setting for all
    crystals, the reduced (Niggli), primitive and right-handed cell, however their files describe them.
    """

    id: np.ndarray  # (n,) names, unique
    lattice: np.ndarray  # (n, 3, 3) rows a, b, c in Å
    frac_coords: np.ndarray  # (atoms, 3) in [0, 1)
    species: np.ndarray  # (atoms,) atomic numbers
    offsets: np.ndarray  # (n + 1,) first atom of each crystal
    formation_energy: np.ndarray  # (n,) eV/atom
    space_group: np.ndarray  # (n,) 1..230, spglib at symprec 0.01 unless a source says otherwise
    energy_kind: str  # where the energies come from; tables of different kinds must not be mixed
    # further (n,) columns of a source, such as the prototype
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    # facts about the whole table (source, versions, counts), kept in the parquet metadata
    about: Mapping[str, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.id)

    @cached_property
    def n_sites(self) -> np.ndarray:
        """(n,) atoms per cell."""
        return np.diff(self.offsets)

    @cached_property
    def formulas(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) the number of each crystal's unreduced formula, and those that there are, in order of appearance."""
        atoms, ends = np.asarray(self.species, dtype=np.uint8).tobytes(), self.offsets.tolist()
        of = cache(lambda species: formula_of(np.frombuffer(species, np.uint8)))  # far fewer than crystals
        numbers: dict[str, int] = {}
        every = (numbers.setdefault(of(atoms[a:b]), len(numbers)) for a, b in itertools.pairwise(ends))
        codes = np.fromiter(every, dtype=np.int32, count=len(self))
        return codes, np.array(list(numbers), dtype=str)

    @cached_property
    def formula(self) -> np.ndarray:
        """(n,) unreduced formulas such as B6Ta1W1; equal ones form a polymorph group."""
        codes, formulas = self.formulas
        return formulas[codes]

    @cached_property
    def reduced_formula(self) -> np.ndarray:
        """(n,) pymatgen reduced formulas; what train and validation must not share."""
        return self.reduced_formulas[self.formulas[0]]

    @cached_property
    def reduced_formulas(self) -> np.ndarray:
        """(formulas,) the pymatgen reduced formula of each that there is."""
        with warnings.catch_warnings(action="ignore"):  # noble gases have no electronegativity to sort by
            reduced = [Composition(formula).reduced_formula for formula in self.formulas[1].tolist()]
        return np.array(reduced, dtype=str)

    @cached_property
    def ids_sha256(self) -> str:
        """Checksum of the ids, whatever their order: two tables that share it hold the same crystals."""
        return hashlib.sha256("\n".join(sorted(self.id.tolist())).encode()).hexdigest()

    @cached_property
    def volume_per_atom(self) -> np.ndarray:
        """(n,) Å^3/atom."""
        return np.abs(np.linalg.det(self.lattice)) / self.n_sites

    @cached_property
    def asymmetric_units(self) -> PackedUnits:
        """The crystals by the sites that their symmetry does not repeat, idealised within symprec 0.01 Å.

        Which origin, axes and atoms of an orbit stand for a crystal does not depend on its description:
        :func:`lib.symmetry.normaliser.canonical_unit`.
        """
        rows = progress(range(len(self)), desc="finding asymmetric units", unit="crystal")
        return PackedUnits.of(self.unit_of(i) for i in rows)

    def unit_of(self, i: int) -> AsymmetricUnit:
        """The asymmetric unit of crystal i, found alone where those of all are not known yet."""
        if "asymmetric_units" in vars(self):
            return self.asymmetric_units[i]
        cell = self.lattice[i], self.frac_coords_of(i), self.species_of(i)
        return canonical_unit(AsymmetricUnit.of(*cell, SYMPREC))

    def species_of(self, i: int) -> np.ndarray:
        """(n_sites,) atomic numbers of crystal i."""
        return self.species[self.offsets[i] : self.offsets[i + 1]]

    def frac_coords_of(self, i: int) -> np.ndarray:
        """(n_sites, 3) fractional coordinates of crystal i."""
        return self.frac_coords[self.offsets[i] : self.offsets[i + 1]]

    def structure(self, i: int) -> Structure:
        """Crystal i for pymatgen."""
        return Structure(Lattice(self.lattice[i]), self.species_of(i).tolist(), self.frac_coords_of(i))

    def structures(self) -> Iterator[Structure]:
        """All crystals for pymatgen, in order."""
        return (self.structure(i) for i in range(len(self)))

    def has_element(self, number: int) -> np.ndarray:
        """(n,) whether each crystal contains the element."""
        return np.bitwise_or.reduceat(self.species == number, self.offsets[:-1])

    def take(self, rows: np.ndarray | Sequence[int]) -> CrystalTable:
        """The crystals at the given indices or where a boolean mask holds, in that order."""
        rows = np.asarray(rows)
        rows = np.arange(len(self))[rows if rows.size else rows.astype(int)]  # an empty list is an array of floats
        counts = self.n_sites[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        atoms = np.repeat(self.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        taken = replace(
            self,
            **{name: getattr(self, name)[rows] for name in _ROW_A_CRYSTAL},
            **{name: getattr(self, name)[atoms] for name in _ROW_AN_ATOM},
            offsets=offsets,
            extra={name: column[rows] for name, column in self.extra.items()},
        )
        if "asymmetric_units" in vars(self):  # found already, at 5 ms each
            vars(taken)["asymmetric_units"] = self.asymmetric_units.take(rows)
        return taken

    def with_notes(
        self, *, extra: Mapping[str, np.ndarray] | None = None, about: Mapping[str, object] | None = None
    ) -> CrystalTable:
        """The same crystals with further columns (n,), or facts about the whole table."""
        changes = {"extra": dict(self.extra) | dict(extra or {}), "about": dict(self.about) | dict(about or {})}
        noted = replace(self, **changes)
        if "asymmetric_units" in vars(self):
            vars(noted)["asymmetric_units"] = self.asymmetric_units
        return noted

    def thinned(self) -> CrystalTable:
        """The crystals that statistics are taken of: FITTED of them, evenly spaced, or all where there are fewer."""
        n = len(self)
        return self if n <= FITTED else self.take(np.linspace(0, n - 1, FITTED).astype(int))

    def standardised(self) -> CrystalTable:
        """The same crystals, each in its reduced, primitive, right-handed cell:
        :func:`lib.symmetry.cells.standard_cell`.

        Rows that are so already stay as they are, to the last digit, and so do energies, which are per atom.
        """
        rows = progress(range(len(self)), desc="standard cells", unit="crystal")
        cells = [standard_cell(self.lattice[i], self.frac_coords_of(i), self.species_of(i)) for i in rows]
        same = ("id", "formation_energy", "space_group", "energy_kind", "extra", "about")
        return CrystalTable.of_cells(cells, **{name: getattr(self, name) for name in same})

    @classmethod
    def from_structures(
        cls, structures: Iterable[Structure], *, id: Sequence[str], space_group: Sequence[int] | None = None, **columns
    ) -> CrystalTable:
        """Pack structures; atoms are put in canonical order and wrapped into the cell.

        Space groups that are not given are found by spglib; the other columns are those of :meth:`pack`. Raises
        BadInput if a structure has partly occupied or unknown sites or no space group.
        """
        cells, found_groups = [], []
        for name, structure in zip(id, structures, strict=True):
            if not structure.is_ordered:
                raise BadInput(f"structure {name} has partly occupied sites; give an ordered cell")
            unknown = sorted({site.specie.symbol for site in structure if isinstance(site.specie, DummySpecies)})
            if unknown:
                raise BadInput(f"structure {name} contains {', '.join(unknown)}, which is no element; correct it")
            cells.append((structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers))
            if space_group is None:
                found_groups.append(space_group_of(structure, name))
        return cls.of_cells(cells, id=id, space_group=found_groups if space_group is None else space_group, **columns)

    @classmethod
    def of_cells(cls, cells: Sequence[tuple[np.ndarray, np.ndarray, Sequence[int]]], **columns) -> CrystalTable:
        """Pack lattice (3, 3), fractional coordinates (n_sites, 3) and atomic numbers of each; see :meth:`pack`."""
        return cls.pack(
            lattice=np.array([lattice for lattice, _, _ in cells]).reshape(-1, 3, 3),
            frac_coords=np.concatenate([np.zeros((0, 3)), *(frac_coords for _, frac_coords, _ in cells)]),
            species=np.concatenate([np.zeros(0, np.uint8), *(species for _, _, species in cells)]),
            n_sites=[len(species) for _, _, species in cells],
            **columns,
        )

    @classmethod
    def pack(
        cls,
        *,
        id: Sequence[str],
        lattice: np.ndarray,
        frac_coords: np.ndarray,
        species: np.ndarray,
        n_sites: Sequence[int],
        formation_energy: Sequence[float],
        space_group: Sequence[int],
        energy_kind: str,
        extra: Mapping[str, Sequence] | None = None,
        about: Mapping[str, object] | None = None,
    ) -> CrystalTable:
        """Pack arrays in which the atoms of one crystal follow each other, in any order; see :meth:`from_structures`.
        Raises BadInput if an id stands twice or a space group is not in 1..230."""
        id = np.array(id, dtype=str)
        n_sites, space_group = np.array(n_sites, dtype=int), np.array(space_group, dtype=int)
        formation_energy = np.array(formation_energy, dtype=float)
        extra = {name: np.array(column) for name, column in (extra or {}).items()}
        if {len(c) for c in (lattice, n_sites, formation_energy, space_group, *extra.values())} - {len(id)}:
            raise ValueError(f"columns of different length for {len(id)} crystals")
        if len(set(id.tolist())) < len(id):
            names, counts = np.unique(id, return_counts=True)
            raise BadInput(f"crystal {names[counts > 1][0]} stands more than once in the input; give each its own name")
        wrong = (space_group < 1) | (space_group > 230)
        if wrong.any():
            raise BadInput(f"crystal {id[wrong][0]} has space group {space_group[wrong][0]}; it must be 1 to 230")
        species = np.asarray(species).astype(np.uint8)
        order = canonical_order(species, frac_coords, np.repeat(np.arange(len(id)), n_sites))
        return cls(
            id=id,
            lattice=np.asarray(lattice, dtype=float),
            frac_coords=wrap(np.asarray(frac_coords, dtype=float)[order]),
            species=species[order],
            offsets=np.concatenate([[0], np.cumsum(n_sites)]).astype(int),
            formation_energy=formation_energy,
            space_group=space_group,
            energy_kind=energy_kind,
            extra=extra,
            about=dict(about or {}),
        )

    @classmethod
    def join(cls, tables: Sequence[CrystalTable], *, about: Mapping[str, object]) -> CrystalTable:
        """One table after the other, with their asymmetric units where all of them have some. Raises
        BadInput if their energies are of different kinds."""
        kind = _one_kind([table.energy_kind for table in tables])
        extra = list(tables[0].extra)
        whole = _joined([{name: getattr(t, name) for name in _CORE} | {n: t.extra[n] for n in extra} for t in tables])
        joined = cls(**{name: whole.pop(name) for name in _CORE}, energy_kind=kind, extra=whole, about=dict(about))
        if all("asymmetric_units" in vars(table) for table in tables):
            vars(joined)["asymmetric_units"] = PackedUnits.join([table.asymmetric_units for table in tables])
        return joined

    def to_parquet(self, path: str | Path) -> Path:
        """Write the table (zstd), whole or not at all, with its asymmetric units where they have been found; its row
        groups are made one by one."""
        with replacing(path) as temporary:
            first = self._arrow(range(min(len(self), ROW_GROUP)))
            with pq.ParquetWriter(temporary, first.schema, **WRITTEN) as writer:
                writer.write_table(first)
                for start in range(ROW_GROUP, len(self), ROW_GROUP):
                    writer.write_table(self._arrow(range(start, min(len(self), start + ROW_GROUP))))
        return Path(path)

    def _arrow(self, rows: range) -> pa.Table:
        part = self if len(rows) == len(self) else self.take(rows)
        columns = {name: getattr(part, name) for name in _CORE}
        about = {"energy_kind": self.energy_kind, "about": json.dumps(self.about, sort_keys=True)}
        return to_arrow(columns | part.extra, vars(part).get("asymmetric_units"), about)

    @classmethod
    def from_parquet(cls, path: str | Path, rows: range | None = None) -> CrystalTable:
        """Read a table written by :meth:`to_parquet`, or a folder of such files as one table; of its crystals all, or
        those of some following `rows`. Raises BadInput if a file is missing, damaged or lacks a column, or a cell or
        coordinate is no finite number, or energies are of different kinds."""
        pieces, units, facts = [], [], []
        for piece in row_groups(Path(path), rows):
            arrays, known, said = to_arrays(piece)
            facts.append(said)
            if not (np.isfinite(arrays["lattice"]).all() and np.isfinite(arrays["frac_coords"]).all()):
                raise BadInput(f"crystal table {path} has cells or coordinates that are no numbers; write it again")
            pieces.append(arrays | {"frac_coords": wrap(arrays["frac_coords"])})
            units += [] if known is None else [known]
        whole, kind = _joined(pieces), _one_kind([said["energy_kind"] for said in facts])
        core = {name: whole.pop(name) for name in _CORE}
        read = cls(**core, energy_kind=kind, about=facts[0]["about"], extra=whole)
        if len(units) == len(pieces):
            vars(read)["asymmetric_units"] = PackedUnits.join(units)
        return read


def _one_kind(kinds: Sequence[str]) -> str:
    if len(set(kinds)) != 1:
        names = ", ".join(sorted(set(kinds)))
        raise BadInput(f"energies of different kinds ({names}) do not mix in one table; use one source")
    return kinds[0]


def _joined(pieces: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Columns of one table after the other, in one; each is let go as it is copied, so that memory holds it once."""
    if len(pieces) == 1:
        return pieces[0]
    n_sites = np.concatenate([np.diff(piece.pop("offsets")) for piece in pieces])
    whole = {name: np.concatenate([piece.pop(name) for piece in pieces]) for name in list(pieces[0])}
    return whole | {"offsets": np.concatenate([[0], np.cumsum(n_sites)]).astype(int)}


def element_shares(table: CrystalTable) -> np.ndarray:
    """(n, 119) by atomic number the share of each element among a crystal's atoms."""
    counts = np.zeros((len(table), len(SYMBOLS)))
    np.add.at(counts, (np.repeat(np.arange(len(table)), table.n_sites), table.species), 1)
    return counts / table.n_sites[:, None]


def atomic_volumes(training: CrystalTable) -> np.ndarray:
    """(119,) Å^3 that each element takes on average in the training set, by non-negative least squares over V/n; those
    without a volume of their own get the mean volume per atom."""
    training = training.thinned()
    volumes, _ = nnls(element_shares(training), training.volume_per_atom)
    return np.where(volumes > 0, volumes, training.volume_per_atom.mean())


def predicted_volumes(table: CrystalTable, volumes: np.ndarray) -> np.ndarray:
    """(n,) cell volumes in Å^3: the sum of :func:`atomic_volumes` over the atoms."""
    return np.add.reduceat(volumes[table.species], table.offsets[:-1])
