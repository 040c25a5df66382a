"""The parquet columns of a table of crystals: Arrow <-> packed arrays, and row groups that are read one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lib.core.errors import BadInput
from lib.core.files import sha256_of
from lib.symmetry.packed import PackedUnits

ROW_GROUP = 65_536  # crystals that are written and read at a time: about 50 MB in memory
COLUMNS = {
    "id": pa.string(),
    "lattice": pa.list_(pa.float64(), 9),
    "frac_coords": pa.list_(pa.float32()),
    "species": pa.list_(pa.uint8()),
    "formation_energy": pa.float32(),
    "space_group": pa.uint8(),
}
UNITS = "asymmetric_unit"  # written where the units are known
_UNIT_TYPE = pa.struct(
    {
        "lattice": pa.list_(pa.float64(), 9),
        "symmetry": pa.uint8(),
        "species": pa.list_(pa.uint8()),
        "positions": pa.list_(pa.uint8()),  # their places in lib.symmetry.wyckoff.positions
        "parameters": pa.list_(pa.list_(pa.float64())),
    }
)
WRITTEN = {"compression": "zstd", "compression_level": 9, "write_page_checksum": True}


def to_arrow(columns: Mapping[str, np.ndarray], units: PackedUnits | None, metadata: Mapping[str, str]) -> pa.Table:
    """The fields of a :class:`lib.crystals.table.CrystalTable`, its offsets and its further columns as an Arrow table,
    with the asymmetric units where they are known."""
    columns = dict(columns)
    offsets = columns.pop("offsets")
    packed = {
        "id": columns.pop("id"),
        "lattice": pa.FixedSizeListArray.from_arrays(columns.pop("lattice").ravel(), 9),
        "frac_coords": pa.ListArray.from_arrays(3 * offsets, columns.pop("frac_coords").ravel().astype(np.float32)),
        "species": pa.ListArray.from_arrays(offsets, columns.pop("species")),
        "formation_energy": columns.pop("formation_energy").astype(np.float32),
        "space_group": columns.pop("space_group").astype(np.uint8),
    }
    arrays = {name: pa.array(column, COLUMNS[name]) for name, column in packed.items()}
    arrays |= {name: pa.array(column) for name, column in columns.items()}
    if units is not None:
        arrays[UNITS] = _of_units(units)
    return pa.table(arrays, metadata=dict(metadata))


def _of_units(units: PackedUnits) -> pa.Array:
    free = units.parameters[np.arange(3) < units.n_free[:, None]]
    of_site = pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(units.n_free, dtype=np.int32)]), free)
    columns = {
        "lattice": pa.FixedSizeListArray.from_arrays(units.lattice.ravel(), 9),
        "symmetry": units.symmetry.astype(np.uint8),
        "species": pa.ListArray.from_arrays(units.offsets, units.species),
        "positions": pa.ListArray.from_arrays(units.offsets, units.position),
        "parameters": pa.ListArray.from_arrays(units.offsets, of_site),
    }
    types = {field.name: field.type for field in _UNIT_TYPE}
    return pa.StructArray.from_arrays(
        [pa.array(column, types[name]) for name, column in columns.items()], fields=list(_UNIT_TYPE)
    )


@contextmanager
def _readable(path: Path) -> Iterator[list[Path]]:
    """The files of a table, one or those of a folder in order of their names; what is wrong with them as BadInput."""
    try:
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not files:
            raise BadInput(f"the folder {path} holds no parquet file; run what writes it first")
        yield files
    except FileNotFoundError as error:
        raise BadInput(f"crystal table {path} does not exist; run the notebook that writes it first") from error
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"crystal table {path} is damaged ({str(error).splitlines()[0]}); write it again") from error


def n_rows(path: Path) -> int:
    """Crystals of a table, a file or a folder of them. Raises BadInput if it is missing or damaged."""
    with _readable(path) as files:
        return sum(pq.read_metadata(file).num_rows for file in files)


def checksum(path: Path) -> str:
    """sha256 of a table's file, of a folder's that of the checksums of its files. Raises BadInput if it is missing."""
    with _readable(path) as files:
        sums = [sha256_of(file) for file in files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def row_groups(path: Path, rows: range | None = None) -> Iterator[pa.Table]:
    """The row groups of a table, a file or a folder of them, or the parts of them that are among some rows; at least
    one, if an empty one. Raises BadInput if a file is missing, damaged or lacks a column."""
    with _readable(path) as files:
        start, found = 0, False
        for file in files:
            opened = pq.ParquetFile(file, page_checksum_verification=True)
            missing = set(COLUMNS) - set(opened.schema_arrow.names)
            if missing:
                raise BadInput(f"crystal table {path} lacks the columns {', '.join(sorted(missing))}; write it again")
            for group in range(opened.num_row_groups):
                n = opened.metadata.row_group(group).num_rows
                wanted = range(n) if rows is None else range(max(rows.start - start, 0), min(rows.stop - start, n))
                start += n
                if wanted:
                    found = True
                    yield _cast(opened.read_row_group(group).slice(wanted.start, len(wanted)))
        if not found:
            yield _cast(opened.schema_arrow.empty_table())


def _cast(table: pa.Table) -> pa.Table:
    for i, name in enumerate(table.column_names):
        if name in COLUMNS:
            table = table.set_column(i, name, table[name].cast(COLUMNS[name]))
    return table


def to_arrays(table: pa.Table) -> tuple[dict[str, np.ndarray], PackedUnits | None, dict[str, object]]:
    """Inverse of :func:`to_arrow`; the metadata are energy_kind and about."""
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    units = columns.pop(UNITS, None)
    metadata = table.schema.metadata or {}
    facts = {
        "energy_kind": metadata.get(b"energy_kind", b"unknown").decode(),
        "about": json.loads(metadata.get(b"about", b"{}")),
    }
    frac_coords, species = columns.pop("frac_coords"), columns.pop("species")
    arrays = {
        "id": np.array(columns.pop("id").to_pylist(), dtype=str),
        "lattice": _numbers(columns.pop("lattice").flatten()).reshape(-1, 3, 3),
        "frac_coords": _numbers(frac_coords.flatten()).reshape(-1, 3).astype(float),
        "species": _numbers(species.flatten()).copy(),
        "offsets": _offsets(species),
        "formation_energy": _numbers(columns.pop("formation_energy")).astype(float),
        "space_group": _numbers(columns.pop("space_group")).astype(int),
    }
    arrays |= {name: np.array(column.to_pylist()) for name, column in columns.items()}
    return arrays, None if units is None else _to_units(units), facts


def _to_units(column: pa.Array) -> PackedUnits:
    lattice, symmetry, species, position, parameters = column.flatten()
    of_site = parameters.flatten()
    n_free = np.diff(_offsets(of_site)).astype(np.uint8)
    padded = np.zeros((len(n_free), 3))
    padded[np.arange(3) < n_free[:, None]] = _numbers(of_site.flatten())
    return PackedUnits(
        lattice=_numbers(lattice.flatten()).reshape(-1, 3, 3),
        symmetry=_numbers(symmetry),
        offsets=_offsets(species),
        species=_numbers(species.flatten()),
        position=_numbers(position.flatten()),
        n_free=n_free,
        parameters=padded,
        lender=np.zeros(len(n_free), dtype=np.uint8),
    )


def _numbers(column: pa.Array) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False)


def _offsets(column: pa.Array) -> np.ndarray:
    offsets = column.offsets.to_numpy().astype(int)
    return offsets - offsets[0]
