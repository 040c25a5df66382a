"""MP-20, MPTS-52, perov-5 and carbon-24, as CDVAE and DiffCSP publish them (Xie et al., 10.48550/arXiv.2110.06197;
Jiao et al., 10.48550/arXiv.2309.04475): csv or parquet.

The csv holds a CIF a row; the parquet holds cell parameters, atomic numbers and coordinates. Formulas are taken from
the atoms and never from a column, in which NaN (sodium and nitrogen) reads as a missing value.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.core.errors import BadInput
from lib.core.files import ROOT, sha256_of
from lib.core.parameters import Params
from lib.core.run import Run
from lib.core.web import fetch
from lib.core.workers import progress, worker_pool
from lib.crystals.structure_checks import CELL, cell, check
from lib.crystals.structure_io import enough
from lib.crystals.table import CrystalTable
from lib.datasets.sources.files import energies, read_all, read_csv, tell
from lib.symmetry.cells import SYMPREC
from lib.symmetry.spacegroups import N_SPACE_GROUPS

ENERGY_KIND = "Materials Project formation energy"
TOTAL = "energy_per_atom"  # carbon-24's column: energies of one element count from its lowest crystal
ENERGIES = {  # column -> what its energies are, eV/atom
    "formation_energy_per_atom": ENERGY_KIND,
    "heat_ref": "perov-5 heat of formation from reference phases",
    "heat_all": "perov-5 heat of formation, the competing phases included",
    TOTAL: "energy above the lowest crystal of the element",
}


def load(params: Params, run: Run) -> CrystalTable:
    """The structures of the file that `mp20_path` names, or of the one at `mp20_url`, which is fetched once.

    A path without suffix is that of a parquet or csv file. The structures of `mp20_test_path` follow, marked by "test"
    in the column `split` and never learnt from. Raises BadInput if a file is missing, incomplete, of another checksum,
    or damaged, or both have a crystal in common.
    """
    if params.mp20_url:
        path = run.folder / "data" / f"mp20_{params.mp20_sha256[:12]}{Path(httpx.URL(params.mp20_url).path).suffix}"
        fetch(params.mp20_url, params.mp20_sha256, path, "check the parameters 'mp20_url' and 'mp20_sha256'")
    else:
        path = ROOT / params.mp20_path
    table = read(path, run, params.mp20_energy)
    if params.mp20_test_path is None:
        return _above_lowest(table)
    test = read(ROOT / params.mp20_test_path, run, params.mp20_energy)
    twice = np.intersect1d(table.id, test.id)
    if len(twice):
        raise BadInput(
            f"{len(twice)} crystals, such as {twice[0]}, stand in {path.name} and in {params.mp20_test_path.name}; "
            "a test split must not be learnt from: remove them from one of the files"
        )
    sides = (replace(t, extra={"split": np.full(len(t), side)}) for t, side in ((table, "train"), (test, "test")))
    return _above_lowest(CrystalTable.join(list(sides), about=table.about | {"test split": params.mp20_test_path.name}))


def _above_lowest(table: CrystalTable) -> CrystalTable:
    """Total energies counted from the lowest; others as they are. Raises BadInput if total energies are of several
    elements, which have no common zero."""
    if table.energy_kind != ENERGIES[TOTAL]:
        return table
    if len(np.unique(table.species)) > 1:
        raise BadInput(f"'mp20_energy: {TOTAL}' is for crystals of one element; name a column of formation energies")
    return replace(table, formation_energy=table.formation_energy - table.formation_energy.min())


def found_file(path: Path) -> Path:
    """A path without suffix is that of a parquet or csv file, whichever there is."""
    if path.suffix:
        return path
    parquet, csv = map(path.with_suffix, (".parquet", ".csv"))
    return parquet if parquet.is_file() else csv


def read(path: Path, run: Run, column: str = "formation_energy_per_atom") -> CrystalTable:
    """The structures of one file (:func:`found_file`), with the energies of a column of ENERGIES.

    Up to one in a hundred crystals may be left out; the run then writes and prints which, and why. Raises BadInput if
    it is missing or damaged, or more of its crystals do not read.
    """
    path = found_file(path)
    if not path.is_file():
        raise BadInput(
            f"{path} does not exist; get train.csv from data/mp_20 of https://github.com/txie-93/cdvae, or give the "
            "parameters 'mp20_url' and 'mp20_sha256' (val.csv of data/mpts_52: https://github.com/jiaor17/DiffCSP)"
        )
    run.input(path)
    csv = path.suffix == ".csv"
    table = from_csv(path, run.params.n_workers, run.resume, column) if csv else from_parquet(path, column)
    left_out = table.about.get("left out", {})
    enough(left_out, len(table) + len(left_out))
    tell(left_out, run)
    return table


def from_csv(path: Path, n_workers: int, resume: Path, column: str = "formation_energy_per_atom") -> CrystalTable:
    """A csv with the columns material_id, one of ENERGIES and cif; space groups are found by spglib. The folder
    `resume` takes each 200 crystals as they come and gives back those of an interrupted call."""
    table = read_csv(path, ["material_id", column, "cif"])
    _named(table.material_id, path)
    energy = energies(table[column], table.material_id, path)
    pieces = np.array_split(np.arange(len(table)), max(1, len(table) // 200))
    checksum = sha256_of(path)[:12]
    finished = [resume / f"{path.stem}_{checksum}_{column}_{i}.parquet" for i in range(len(pieces))]
    columns = [[column.iloc[rows] for rows in pieces] for column in (table.material_id, table.cif)]
    with worker_pool(n_workers) as pool:
        read = pool.map(
            _from_cifs, *columns, [energy[rows] for rows in pieces], [ENERGIES[column]] * len(pieces), finished
        )
        tables = list(progress(read, total=len(pieces), desc=path.name, unit="200 crystals"))
    return CrystalTable.join(tables, about=_about(path, *(table.about.get("left out", {}) for table in tables)))


def _named(names: pd.Series, path: Path) -> None:
    missing = (names.isna() | (names == "")).to_numpy()
    if missing.any():
        raise BadInput(f"row {missing.argmax() + 1} of {path} has no material_id; give one")


def _about(path: Path, *left_out: Mapping[str, str]) -> dict[str, object]:
    everything = {name: reason for some in left_out for name, reason in some.items()}
    about = {"source": f"MP-20 ({path.name})", "space_groups": f"spglib, symprec {SYMPREC} Å"}
    return about | ({"left out": everything} if everything else {})


def _from_cifs(names: pd.Series, cifs: pd.Series, energy: np.ndarray, kind: str, finished: Path) -> CrystalTable:
    if not finished.exists():
        structures, groups, refused = read_all(cifs, ["cif"] * len(cifs), names)
        keep = ~names.isin(refused).to_numpy()
        facts = {"id": names[keep], "formation_energy": energy[keep], "space_group": groups}
        about = {"left out": refused}
        table = CrystalTable.from_structures(structures, **facts, energy_kind=kind, about=about)
        table.to_parquet(finished)
    return CrystalTable.from_parquet(finished)


def from_parquet(path: Path, column: str = "formation_energy_per_atom") -> CrystalTable:
    """A parquet file with material_id, cell parameters, numbers, frac, one of ENERGIES and sg_spglib_0p01.
    Raises BadInput if the file is damaged, lacks a column or an energy, or holds unknown elements."""
    columns = ["material_id", *CELL, "numbers", "frac", column, "sg_spglib_0p01"]
    try:
        table = pq.read_table(path, columns=columns).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{path} does not read as parquet with {', '.join(columns)} ({reason}); get it again") from error
    names, groups = table["material_id"].to_pandas(), table["sg_spglib_0p01"].to_pandas()
    _named(names, path)
    energy = energies(table[column].to_pandas(), names, path)
    rows = zip(names, table["numbers"].to_pylist(), table["frac"].to_pylist(), groups, strict=True)
    cells = zip(*(table[name].to_pylist() for name in CELL), strict=True)
    found, left_out = [], {}
    for parameters, (name, numbers, frac_coords, group) in zip(cells, rows, strict=True):
        try:
            try:
                values = [np.asarray([] if v is None else v, dtype=float) for v in (parameters, numbers, frac_coords)]
            except (ValueError, TypeError) as error:
                raise BadInput(f"its cell, atomic numbers or coordinates are no numbers ({error})") from error
            lattice, atoms, places = cell(values[0]), values[1].astype(int), values[2].reshape(-1)
            if (atoms != values[1]).any():
                raise BadInput(f"its atomic numbers {values[1].tolist()} are no whole numbers; correct them")
            check(lattice, atoms, places)
            if group not in range(1, N_SPACE_GROUPS + 1):  # nor is a missing one
                raise BadInput(f"its space group is {group}; it must be 1 to 230")
        except BadInput as error:
            left_out[name] = f"{name} in {path.name}: {error}"
            continue
        found.append((lattice, places.reshape(-1, 3), atoms))
    keep = ~names.isin(left_out).to_numpy()
    facts = {"id": names[keep], "formation_energy": energy[keep], "space_group": groups[keep]}
    return CrystalTable.of_cells(found, **facts, energy_kind=ENERGIES[column], about=_about(path, left_out))
