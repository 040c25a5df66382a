"""`CrystalTable`: many crystals in packed arrays, to and from parquet and pymatgen (paper section 2.1)."""

from __future__ import annotations

import hashlib
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
from lib.crystals.elements import ALPHABETICAL, SYMBOLS, formula_of
from lib.symmetry.cells import SYMPREC, space_group_of, standard_cell
from lib.symmetry.normaliser import canonical_unit
from lib.symmetry.wyckoff import AsymmetricUnit, Site

ON_LATTICE_POINT = 1e-5  # fractional coordinates this close to 0 or 1 are 0: A.4 classifies targets by exact equality

_COLUMNS = {
    "id": pa.string(),
    "lattice": pa.list_(pa.float64(), 9),
    "frac_coords": pa.list_(pa.float32()),
    "species": pa.list_(pa.uint8()),
    "formation_energy": pa.float32(),
    "space_group": pa.uint8(),
}
_ROW_A_CRYSTAL = ("id", "lattice", "formation_energy", "space_group")
_ROW_AN_ATOM = ("frac_coords", "species")
_UNIT_COLUMN = "asymmetric_unit"  # written where the units are known
_UNIT_TYPE = pa.struct(
    {
        "lattice": pa.list_(pa.float64(), 9),
        "symmetry": pa.uint8(),
        "species": pa.list_(pa.uint8()),
        "positions": pa.list_(pa.uint8()),  # their places in lib.symmetry.wyckoff.positions
        "parameters": pa.list_(pa.list_(pa.float64())),
    }
)


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
    def formula(self) -> np.ndarray:
        """(n,) unreduced formulas such as B6Ta1W1; equal ones form a polymorph group."""
        of = cache(lambda species: formula_of(np.frombuffer(species, self.species.dtype)))  # far fewer than crystals
        return np.array([of(self.species_of(i).tobytes()) for i in range(len(self))], dtype=str)

    @cached_property
    def reduced_formula(self) -> np.ndarray:
        """(n,) pymatgen reduced formulas; what train and validation must not share."""
        with warnings.catch_warnings(action="ignore"):  # noble gases have no electronegativity to sort by
            reduced = {f: Composition(f).reduced_formula for f in set(self.formula.tolist())}
        return np.array([reduced[f] for f in self.formula], dtype=str)

    @property
    def ids_sha256(self) -> str:
        """Checksum of the ids, whatever their order: two tables that share it hold the same crystals."""
        return hashlib.sha256("\n".join(sorted(self.id)).encode()).hexdigest()

    @property
    def volume_per_atom(self) -> np.ndarray:
        """(n,) Å^3/atom."""
        return np.abs(np.linalg.det(self.lattice)) / self.n_sites

    @cached_property
    def asymmetric_units(self) -> list[AsymmetricUnit]:
        """The crystals by the sites that their symmetry does not repeat, idealised within symprec 0.01 Å.

        Which origin, axes and atoms of an orbit stand for a crystal does not depend on its description:
        :func:`lib.symmetry.normaliser.canonical_unit`.
        """
        return [self.unit_of(i) for i in progress(range(len(self)), desc="finding asymmetric units", unit="crystal")]

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
            vars(taken)["asymmetric_units"] = [self.asymmetric_units[row] for row in rows]
        return taken

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
        """One table after the other. Raises BadInput if their energies are of different kinds."""
        kinds = sorted({table.energy_kind for table in tables})
        if len(kinds) != 1:
            raise BadInput(f"energies of different kinds ({', '.join(kinds)}) do not mix in one table; use one source")
        return cls(
            **{n: np.concatenate([getattr(t, n) for t in tables]) for n in (*_ROW_A_CRYSTAL, *_ROW_AN_ATOM)},
            offsets=np.concatenate([[0], np.cumsum(np.concatenate([t.n_sites for t in tables]))]).astype(int),
            energy_kind=kinds[0],
            extra={name: np.concatenate([t.extra[name] for t in tables]) for name in tables[0].extra},
            about=dict(about),
        )

    def to_parquet(self, path: str | Path) -> Path:
        """Write the table (zstd), whole or not at all, with its asymmetric units where they have been found."""
        columns = {
            "id": self.id,
            "lattice": pa.FixedSizeListArray.from_arrays(self.lattice.ravel(), 9),
            "frac_coords": pa.ListArray.from_arrays(3 * self.offsets, self.frac_coords.ravel().astype(np.float32)),
            "species": pa.ListArray.from_arrays(self.offsets, self.species),
            "formation_energy": self.formation_energy.astype(np.float32),
            "space_group": self.space_group.astype(np.uint8),
        }
        arrays = {name: pa.array(column, _COLUMNS[name]) for name, column in columns.items()}
        arrays |= {name: pa.array(column) for name, column in self.extra.items()}
        if "asymmetric_units" in vars(self):
            arrays[_UNIT_COLUMN] = pa.array([_record(unit) for unit in self.asymmetric_units], _UNIT_TYPE)
        metadata = {"energy_kind": self.energy_kind, "about": json.dumps(self.about, sort_keys=True)}
        with replacing(path) as temporary:
            how = {"compression": "zstd", "compression_level": 9, "write_page_checksum": True}
            pq.write_table(pa.table(arrays, metadata=metadata), temporary, **how)
        return Path(path)

    @classmethod
    def from_parquet(cls, path: str | Path) -> CrystalTable:
        """Read a table written by :meth:`to_parquet`. Raises BadInput if the file is missing, damaged or lacks a
        column, or a cell or coordinate is no finite number."""
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            known = [name for name in table.column_names if name in _COLUMNS]
            columns = {name: table[name].combine_chunks() for name in table.column_names}
            columns |= {name: columns[name].cast(_COLUMNS[name]) for name in known}
        except FileNotFoundError as error:
            raise BadInput(f"crystal table {path} does not exist; run the notebook that writes it first") from error
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"crystal table {path} is damaged ({str(error).splitlines()[0]}); write it again") from error
        missing = set(_COLUMNS) - set(known)
        if missing:
            raise BadInput(f"crystal table {path} lacks the columns {', '.join(sorted(missing))}; write it again")
        metadata = table.schema.metadata or {}
        frac_coords = wrap(columns["frac_coords"].values.to_numpy(zero_copy_only=False).reshape(-1, 3).astype(float))
        lattice = columns["lattice"].values.to_numpy(zero_copy_only=False).reshape(-1, 3, 3)
        if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()):
            raise BadInput(f"crystal table {path} has cells or coordinates that are no numbers; write it again")
        units = columns.pop(_UNIT_COLUMN, None)
        read = cls(
            id=np.array(columns["id"].to_pylist(), dtype=str),
            lattice=lattice,
            frac_coords=frac_coords,
            species=columns["species"].values.to_numpy(zero_copy_only=False).copy(),
            offsets=columns["species"].offsets.to_numpy().astype(int),
            formation_energy=columns["formation_energy"].to_numpy(zero_copy_only=False).astype(float),
            space_group=columns["space_group"].to_numpy(zero_copy_only=False).astype(int),
            energy_kind=metadata.get(b"energy_kind", b"unknown").decode(),
            extra={name: np.array(column.to_pylist()) for name, column in columns.items() if name not in _COLUMNS},
            about=json.loads(metadata.get(b"about", b"{}")),
        )
        if units is not None:
            vars(read)["asymmetric_units"] = [_unit(record) for record in units.to_pylist()]
        return read


def _record(unit: AsymmetricUnit) -> dict[str, object]:
    return {
        "lattice": unit.lattice.ravel(),
        "symmetry": unit.symmetry,
        "species": [site.species for site in unit.sites],
        "positions": [site.position for site in unit.sites],
        "parameters": [site.parameters for site in unit.sites],
    }


def _unit(record: Mapping) -> AsymmetricUnit:
    sites = zip(record["species"], record["positions"], record["parameters"], strict=True)
    lattice = np.array(record["lattice"]).reshape(3, 3)
    return AsymmetricUnit(lattice, record["symmetry"], tuple(Site(z, p, np.array(u, float)) for z, p, u in sites))


def element_shares(table: CrystalTable) -> np.ndarray:
    """(n, 119) by atomic number the share of each element among a crystal's atoms."""
    counts = np.zeros((len(table), len(SYMBOLS)))
    np.add.at(counts, (np.repeat(np.arange(len(table)), table.n_sites), table.species), 1)
    return counts / table.n_sites[:, None]


def atomic_volumes(training: CrystalTable) -> np.ndarray:
    """(119,) Å^3 that each element takes on average in the training set, by non-negative least squares over V/n; those
    without a volume of their own get the mean volume per atom."""
    volumes, _ = nnls(element_shares(training), training.volume_per_atom)
    return np.where(volumes > 0, volumes, training.volume_per_atom.mean())


def predicted_volumes(table: CrystalTable, volumes: np.ndarray) -> np.ndarray:
    """(n,) cell volumes in Å^3: the sum of :func:`atomic_volumes` over the atoms."""
    return np.add.reduceat(volumes[table.species], table.offsets[:-1])
