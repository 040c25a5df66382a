"""Pages to tables, a part of some ten thousand entries at a time: parts are made in parallel, and each only once.

First the entries are read (microseconds each), then their cells are put into the project's one setting (about a
millisecond each, most of it spglib's), and then the parts are joined.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lib.core.files import replacing, sha256_of
from lib.core.workers import do_all
from lib.crystals.table import CrystalTable
from lib.datasets.sources.aflow.aflux import Answers
from lib.datasets.sources.aflow.entries import Scale
from lib.datasets.sources.aflow.pages import kept_entries
from lib.datasets.sources.aflow.rows import MET_BEFORE, Reject, read_pages

VERSION = "1"  # another where rows or cells come out differently, so that parts are made anew
NEXT_CELLS = np.array(np.meshgrid(*[[-1, 0, 1]] * 3)).reshape(3, -1).T
ROUNDED, OFF_EDGES = 2, 0.0013719  # decimals of Å; the offset keeps round numbers off the edges between two roundings
OTHER_CATALOG = "same structure in another catalog"


def parts_of(
    pages: Sequence[Path], entries: Sequence[int], size: int, scale: Scale, folder: Path
) -> dict[Path, list[Path]]:
    """Which pages make which part: one after the other until a part has `size` entries. A part is named after its
    pages' checksums, so that it is made anew if one of them is another."""
    ends = np.flatnonzero(np.diff(np.cumsum(entries) // size, prepend=0)) + 1
    groups = [group.tolist() for group in np.split(np.arange(len(pages)), ends) if len(group)]
    found = {}
    for number, group in enumerate(groups, 1):
        sums = [sha256_of(pages[i]) for i in group]
        digest = hashlib.sha256("\n".join([VERSION, scale.energy_kind, *sums]).encode()).hexdigest()[:12]
        found[folder / f"part_{number:05d}_{digest}.parquet"] = [pages[i] for i in group]
    return found


def _rejects_of(part: Path) -> Path:
    return part.with_suffix(".rejects.parquet")


def make_part(pages: Sequence[Path], part: Path, scale: Scale) -> None:
    """Read pages and write their crystals, and beside them the entries that are none."""
    table, rejects = read_pages(((page.name, kept_entries(page)) for page in pages), scale)
    with replacing(_rejects_of(part)) as temporary:
        columns = zip(*rejects, strict=True) if rejects else [()] * len(Reject._fields)
        arrays = [pa.array(column, pa.string()) for column in columns]
        pq.write_table(pa.table(arrays, names=list(Reject._fields)), temporary, compression="zstd")
    table.to_parquet(part)  # last: a part that is there is whole


def standardise(part: Path, standard: Path) -> None:
    """Write a part's crystals in their reduced, primitive, right-handed cells, each with its structure hash."""
    table = CrystalTable.from_parquet(part).standardised()
    rows = range(len(table))
    sums = [
        structure_hash(table.lattice[i], table.frac_coords_of(i), table.species_of(i), table.space_group[i])
        for i in rows
    ]
    replace(table, extra={**table.extra, "structure_hash": np.array(sums, np.uint64)}).to_parquet(standard)


def structure_hash(lattice: np.ndarray, frac_coords: np.ndarray, species: np.ndarray, space_group: int) -> int:
    """64 bits, the same for one crystal calculated once and listed twice, whatever its origin and order of atoms.

    Of the crystal in its reduced cell it takes the space group, the cell's lengths, and between which elements there
    are which distances, to 0.01 Å. Two relaxations of one crystal need not agree so well and then differ.
    """
    apart = frac_coords[:, None] - frac_coords
    images = (apart - np.floor(apart))[:, :, None] + NEXT_CELLS
    distances = np.linalg.norm(images @ lattice, axis=-1).min(-1)
    rounded = np.round(distances + OFF_EDGES, ROUNDED)
    kinds = np.sort(np.stack(np.broadcast_arrays(species[:, None], species[None])), axis=0)
    order = np.lexsort((rounded.ravel(), *kinds.reshape(2, -1)))
    lengths = np.round(np.sort(np.linalg.norm(lattice, axis=1)) + OFF_EDGES, ROUNDED)
    digest = hashlib.blake2b(np.sort(species).tobytes() + bytes([space_group]) + lengths.tobytes(), digest_size=8)
    digest.update(kinds.reshape(2, -1)[:, order].tobytes() + rounded.ravel()[order].tobytes())
    return int.from_bytes(digest.digest(), "big")


def read_parts(surveyed: Sequence[Answers], folder: Path, *, scale: Scale, size: int, n_workers: int) -> list[Path]:
    """The parts of all pages, in AFLOW's own cells."""
    pages = [(a.paths[n], a.heads[n].entries) for a in surveyed for n in sorted(a.paths)]
    parts = parts_of(*zip(*pages, strict=True), size, scale, folder / "aflow_parts")
    missing = [(paths, part, scale) for part, paths in parts.items() if not part.exists()]
    do_all(make_part, missing, n_workers, desc="AFLOW: reading", unit="part")
    _remove_others(folder / "aflow_parts", [*parts, *map(_rejects_of, parts)])
    return list(parts)


def standard_parts(parts: Sequence[Path], folder: Path, *, n_workers: int) -> list[Path]:
    """The same parts in standard cells."""
    standards = [folder / "aflow_standard" / part.name for part in parts]
    missing = [(part, standard) for part, standard in zip(parts, standards, strict=True) if not standard.exists()]
    do_all(standardise, missing, n_workers, desc="AFLOW: standard cells", unit="part")
    _remove_others(folder / "aflow_standard", standards)
    return standards


def joined(parts: Sequence[Path], standards: Sequence[Path], catalogs: Sequence[str]) -> tuple[CrystalTable, pa.Table]:
    """The crystals of all parts, each auid and each structure once, and a table of the other entries.

    Of a structure in several catalogs the one stays whose catalog is named first.
    """
    tables = [CrystalTable.from_parquet(standard) for standard in standards]
    table, names = CrystalTable.join(tables, about={}), np.repeat([part.name for part in parts], [*map(len, tables)])
    again, twins = np.ones(len(table), bool), _in_a_later_catalog(table, catalogs)
    again[np.unique(table.id, return_index=True)[1]] = False
    rejects = [pq.read_table(_rejects_of(part)) for part in parts]
    for rows, reason in ((again, MET_BEFORE), (twins & ~again, OTHER_CATALOG)):
        columns = table.id[rows], np.full(rows.sum(), reason), names[rows], np.full(rows.sum(), "")
        rejects.append(pa.table([pa.array(c, pa.string()) for c in columns], names=list(Reject._fields)))
    return table.take(~again & ~twins), pa.concat_tables(rejects)


def _in_a_later_catalog(table: CrystalTable, catalogs: Sequence[str]) -> np.ndarray:
    """(n,) whether a crystal's structure stands in a catalog that is named before its own."""
    rank = np.array([[*catalogs, name].index(name) for name in table.extra["catalog"].tolist()], int)
    _, structure = np.unique(table.extra["structure_hash"], return_inverse=True)
    first = np.full(len(table), len(catalogs))
    np.minimum.at(first, structure, rank)
    return rank > first[structure]


def _remove_others(folder: Path, kept: Sequence[Path]) -> None:
    """Parts of other pages than these."""
    for path in {*folder.glob("part_*.parquet")} - {*kept}:
        path.unlink()
