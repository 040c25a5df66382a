"""How potentials do on crystals that they have not learnt from, beside those that they have.

    python -m lib.fitness wbm.parquet --out outputs/fitness
    python -m lib.fitness wbm.parquet --out outputs/fitness --potential chgnet --potential m3gnet --systems 20

The potentials of the registry learnt from the Materials Project, so their errors on its Ta-W-B phases
(:mod:`lib.metrics.fitness`) flatter them. WBM (Wang, Botti and Marques, 10.1038/s41524-020-00481-6) holds compounds
that were made from other ones by replacing elements, and calculated afterwards. The file has the columns of
:func:`lib.datasets.sources.mp20.from_parquet`. Of it come the chemical systems in which hulls are dense, in random
order; the same crystals for every potential.

WBM's formation energies count from elements that the file does not hold. So the elements' energies are fitted to the
other four fifths of the crystals, which takes out what a potential misses by a constant of each element, and nothing
else. A distance from the hull hardly depends on them: each compound's is that from the hull of the other compositions,
by the file's energies alone and by the potential's alone.

Every energy is kept as it comes in OUT/energies, and the same command goes on where it was interrupted. The table is
tables/fitness.csv, the crystals' energies are tables/fitness_crystals.csv, and the scores go to scores.json.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from lib.core.commands import command, whole
from lib.core.errors import BadInput
from lib.core.files import replacing, write_json
from lib.core.machine import measured_by
from lib.core.workers import progress
from lib.crystals.elements import SYMBOLS
from lib.crystals.table import CrystalTable
from lib.datasets.sources.mp20 import from_parquet
from lib.energies.hull import distance_errors, fitted_references, formation_energy_errors, referred
from lib.energies.potentials import DEFAULT_POTENTIAL, potential_class
from lib.energies.relaxation import single_points
from lib.metrics.fitness import SYSTEM, fitness, fitness_row, on_record

POTENTIALS = {DEFAULT_POTENTIAL: "chgnet", "sevennet-l3i5": "sevennet_l3i5", "m3gnet": "m3gnet_paper"}  # name -> in ids
COMPETITORS = 5  # compositions beside its own in the system of a compound whose distance counts
MOST_ELEMENTS = 3
FOLDS = 5
SCORES = {"formation energy": "formation_mae_mev", "distance from the hull": "hull_distance_mae_mev"}


def dense_systems(table: CrystalTable, n: int, rng: np.random.Generator) -> dict[frozenset[int], np.ndarray]:
    """Chemical systems of many compositions, in random order, with the rows of the crystals inside each.

    Args:
        n: systems at most.

    Raises:
        BadInput: there is none.
    """
    of = [frozenset(table.species_of(row).tolist()) for row in range(len(table))]
    rows_of = pd.Series(range(len(table))).groupby(of, sort=False).agg(list)
    found = {}
    for system in rows_of.index:
        parts = (frozenset(part) for k in range(1, len(system) + 1) for part in combinations(sorted(system), k))
        if len(system) <= MOST_ELEMENTS:
            inside = np.array(sorted(row for part in parts for row in rows_of.get(part, [])))
            if len(set(table.reduced_formula[inside])) > COMPETITORS:
                found[system] = inside
    if not found:
        raise BadInput(
            f"the {len(table)} crystals fill no chemical system with more than {COMPETITORS} compositions; give a "
            "larger file"
        )
    order = sorted(found, key=sorted)
    return {order[i]: found[order[i]] for i in rng.permutation(len(order))[:n]}


def left_out_energies(table: CrystalTable, totals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) formation energies from total ones, eV/atom, each counted from elements fitted to the other crystals."""
    fold = rng.permutation(len(table)) % FOLDS
    found = np.full(len(table), np.nan)
    for i in range(FOLDS):
        others, own = np.flatnonzero(fold != i), np.flatnonzero(fold == i)
        references = fitted_references(table.take(others), totals[others])
        found[own] = referred(totals[own], table.take(own), references)
    return found


def errors_outside(
    table: CrystalTable, systems: Mapping[frozenset[int], np.ndarray], totals: np.ndarray, rng: np.random.Generator
) -> dict[str, pd.DataFrame]:
    """How a potential's formation energies and distances from the hull differ from the table's, eV/atom.

    Args:
        totals: (n,) the potential's total energies, eV/atom; nan where there is none.

    Returns:
        Quantity -> as :func:`lib.energies.hull.formation_energy_errors`.
    """
    formation = formation_energy_errors(table, left_out_energies(table, totals, rng))
    by_potential = referred(totals, table, fitted_references(table, totals))
    compared = formation_energy_errors(table, by_potential)
    distances = []
    for system, rows in progress(systems.items(), desc="hulls", unit="system"):
        known = compared.iloc[rows].dropna()
        of = distance_errors(known, SYMBOLS[sorted(system)].tolist())
        own = [row for row in rows if set(table.species_of(row).tolist()) == system]
        distances.append(of[of["id"].isin(table.id[own])])
    return {"formation energy": formation.dropna(), "distance from the hull": pd.concat(distances, ignore_index=True)}


def measure(
    path: Path, out: Path, potentials: Sequence[str], n_systems: int, n_workers: int
) -> dict[str, pd.DataFrame]:
    """Both tables; see the module's first lines."""
    table = from_parquet(path)
    systems = dense_systems(table, n_systems, np.random.default_rng(0))
    rows = np.unique(np.concatenate(list(systems.values())))
    place = {row: i for i, row in enumerate(rows.tolist())}
    systems = {system: np.array([place[row] for row in inside.tolist()]) for system, inside in systems.items()}
    table = table.take(rows)
    (out / "energies").mkdir(parents=True, exist_ok=True)
    lines, crystals = [], []
    for name in potentials:
        totals = single_points(list(table.structures()), name, n_workers=n_workers, finished=out / "energies")
        learnt = fitness(on_record(name), sorted(SYSTEM), name).assign(data="Ta-W-B, Materials Project")
        lines += learnt.to_dict("records")
        for quantity, errors in errors_outside(table, systems, totals, np.random.default_rng(0)).items():
            lines.append(fitness_row(name, quantity, errors) | {"data": path.stem})
            crystals.append(errors.assign(potential=name, quantity=quantity))
    frame = pd.DataFrame(lines)
    frame.insert(1, "data", frame.pop("data"))
    return {"fitness": frame, "fitness_crystals": pd.concat(crystals, ignore_index=True)}


def scores(table: pd.DataFrame, data: str, command: str) -> list[dict[str, object]]:
    """Rows of `scores.json`: mean absolute errors outside the training data, meV/atom."""
    about = measured_by(command)
    rows = []
    for line in table[table["data"] == data].itertuples():
        name = POTENTIALS.get(line.potential, line.potential.replace("-", "_"))
        numbers = {"value": line.error, "ci_low": line.error_low, "ci_high": line.error_high}
        row = {key: 1000 * value if np.isfinite(value) else None for key, value in numbers.items()}
        row |= {
            "id": f"fitness.{name}.{SCORES[line.quantity]}",
            "n": line.n,
            "unit": f"meV/atom, {line.quantity}, {data}",
        }
        rows.append(row | about)
    return rows


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m lib.fitness", description=__doc__.splitlines()[0])
    parser.add_argument("crystals", type=Path, help="parquet file of WBM's crystals and formation energies")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, such as outputs/fitness")
    parser.add_argument("--potential", action="append", help=f"may be given again; {', '.join(POTENTIALS)}")
    parser.add_argument("--systems", type=whole(1), default=200, help="chemical systems at most")
    parser.add_argument("--workers", type=whole(1), default=1, help="processes")
    given = parser.parse_args(arguments)
    potentials = given.potential or list(POTENTIALS)
    for name in potentials:
        potential_class(name)  # one that is missing says so before the first energy
    tables = measure(given.crystals, given.out, potentials, given.systems, given.workers)
    for name, frame in tables.items():
        with replacing(given.out / "tables" / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=False, float_format="%.5f")
    words = f"python -m lib.fitness {given.crystals.name} --out {given.out} --systems {given.systems}"
    write_json(given.out / "scores.json", scores(tables["fitness"], given.crystals.stem, words))
    print(tables["fitness"].to_string(index=False, float_format="{:.4f}".format))
