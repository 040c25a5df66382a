"""The inference grid of paper section 7.1: what is asked of the models, one row a request.

Energies are formation energies in eV/atom. The columns `formula`, `experiment` and `method` say which cell of Table 3 a
request belongs to; what becomes of it stands in the column `status` (:mod:`lib.metrics.adherence`).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from lib.crystals.elements import parse_formula
from lib.crystals.table import CrystalTable
from lib.datasets.polymorphs import polymorph_groups
from lib.symmetry.spacegroups import checked_space_group
from lib.symmetry.wyckoff import assignments
from lib.training.registry import METHODS as REGISTERED
from lib.training.registry import NETWORKS, model_rows

METHODS = {"ddim": "Diffusion", "cfm_uniform": "Flow-Matching"}  # as Table 3 calls them
BASELINES = {  # no models: they get the same requests, and as many of them
    "random": "Random (baseline)",
    "symmetric": "Random, symmetric (baseline)",
    "substitution": "Substitution (baseline)",
}
NO_EXPERIMENT = "-"
LABELS = METHODS | BASELINES


def row_labels(models: Mapping[str, str]) -> dict[str, str]:
    """Keys of METHODS and the models (NETWORK_METHOD) that answered -> such as "Diffusion (DDIM, paper)": what Tables 3
    and 1 call each. The baselines have their labels."""
    rows = {
        (of, sampler or of.split("_", 1)[1]): row
        for row, (of, sampler) in model_rows("generation", NETWORKS, REGISTERED).items()
    }
    return BASELINES | {m: f"{METHODS[m]} ({rows.get((of.removesuffix('_long'), m), of)})" for m, of in models.items()}


def elements_of(formulas: Iterable[str]) -> list[str]:
    """Symbols of the elements in any of the formulas, alphabetical."""
    return sorted({element.symbol for formula in formulas for element in parse_formula(formula)})


def experiment_name(gap: float, step: float) -> str:
    """An experiment as Table 3 calls it."""
    return f"step {step:g}, gap {gap:g}"


def asked_energies(hull_energy: float, gap: float, step: float, n_energies: int) -> np.ndarray:
    """(n_energies,) energies that start `gap` below the hull and go down by `step`, eV/atom.

    By integer count: `np.arange(start, stop, -step)` ends with one value too many for some starts.
    """
    return hull_energy - gap - step * np.arange(n_energies)


def request_grid(
    hull_energies: Mapping[str, float],
    space_groups: Iterable[int],
    *,
    experiments: Sequence[tuple[float, float]],
    methods: Sequence[str],
    n_energies: int,
) -> pd.DataFrame:
    """All combinations of paper section 7.1, step 1; requests of the same conditions stand together.

    Args:
        hull_energies: formula -> height of the convex hull there, eV/atom.
        space_groups: those of the training set.
        experiments: (gap, step) in eV/atom.
        methods: keys of :data:`METHODS`.
        n_energies: energies an experiment.

    Returns:
        id, formula (as given), species (atomic numbers sorted by symbol), space_group, energy (eV/atom), experiment,
        method, allowed (whether Wyckoff positions of the group can hold the atoms).
    """
    groups = [checked_space_group(int(group)) for group in space_groups]
    rows = []
    for formula, hull_energy in hull_energies.items():
        composition = parse_formula(formula)
        elements = sorted(composition, key=lambda element: element.symbol)
        counts = [int(composition[element]) for element in elements]
        species = np.repeat([element.Z for element in elements], counts)
        possible = {group: next(assignments(group, counts), None) is not None for group in groups}
        for (gap, step), group in product(experiments, groups):
            for i, energy in enumerate(asked_energies(hull_energy, gap, step, n_energies)):
                for method in methods:
                    name = f"{formula}_gap{gap:g}_step{step:g}_{i:02d}_sg{group}_{method}"
                    rows.append(
                        (name, formula, species, group, energy, experiment_name(gap, step), method, possible[group])
                    )
    columns = ["id", "formula", "species", "space_group", "energy", "experiment", "method", "allowed"]
    return pd.DataFrame(rows, columns=columns)


def grid_size(requests: pd.DataFrame) -> pd.DataFrame:
    """Requests by formula, experiment and method, how many of them are possible, and in all."""
    by = ["formula", "experiment", "method"]
    sizes = requests.groupby(by, sort=False)["allowed"].agg(requests="size", possible="sum").reset_index()
    total = {"formula": "all", "requests": sizes["requests"].sum(), "possible": sizes["possible"].sum()}
    return pd.concat([sizes, pd.DataFrame([total])], ignore_index=True).fillna("")


def evenly(rows: pd.DataFrame, n: int | None, by: Sequence[str], order: np.ndarray) -> pd.DataFrame:
    """The first `n` rows by `order`, taken in turn from each group of the columns `by`; all rows where `n` is None."""
    ordered = rows.iloc[np.argsort(order, kind="stable")]
    turn = ordered.groupby(list(by), sort=False).cumcount()
    return rows.loc[turn.sort_values(kind="stable").index[:n]].sort_index()


def slice_requests(requests: pd.DataFrame, n: int | None, rng: np.random.Generator) -> pd.DataFrame:
    """A random slice of about `n` requests, even over formulas, experiments and methods; possible ones come first.

    All methods get the same conditions, so that they can be compared.
    """
    conditions = requests.groupby(["formula", "experiment", "space_group", "energy"], sort=False).ngroup().to_numpy()
    order = rng.permutation(conditions.max() + 1)[conditions] + len(requests) * ~requests["allowed"].to_numpy()
    return evenly(requests, n, ["formula", "experiment", "method"], order).reset_index(drop=True)


def baseline_requests(requests: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The same conditions once more, as many as each model got, for one of :data:`BASELINES`."""
    same = requests.drop_duplicates(["formula", "experiment", "space_group", "energy"])
    ids = [f"{formula}_{baseline}_{i:04d}" for i, formula in enumerate(same["formula"])]
    return same.assign(id=ids, method=baseline).reset_index(drop=True)


def as_targets(requests: pd.DataFrame) -> CrystalTable:
    """What a baseline may know of a request: its atoms and space group; cell and coordinates are left empty (nan)."""
    counts = [len(species) for species in requests["species"]]
    return CrystalTable(
        id=requests["id"].to_numpy(str),
        lattice=np.full((len(requests), 3, 3), np.nan),
        frac_coords=np.full((sum(counts), 3), np.nan),
        species=np.concatenate(requests["species"].to_list()),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        formation_energy=requests["energy"].to_numpy(float),
        space_group=requests["space_group"].to_numpy(int),
        energy_kind="asked",
    )


def modification_pairs(table: CrystalTable, n: int | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of crystals to modify and, for each, of its group's lowest; at most `n`, drawn evenly over formulas.

    The paper applies modification to no known polymorph (section 7.1).
    """
    groups = polymorph_groups(table)
    pairs = [(formula, init, rows[0]) for formula, rows in groups.items() for init in rows[1:]]
    pairs = pd.DataFrame(pairs, columns=["formula", "init", "target"])
    chosen = evenly(pairs, n, ["formula"], rng.permutation(len(pairs)))
    return chosen["init"].to_numpy(int), chosen["target"].to_numpy(int)
