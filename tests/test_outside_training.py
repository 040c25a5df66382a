"""Fitness of potentials on crystals that they have not learnt from."""

import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from conftest import table
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.crystals.elements import NUMBERS
from lib.crystals.table import CrystalTable
from lib.energies.hull import fitted_references, referred
from lib.studies import outside_training
from lib.studies.outside_training import dense_systems, errors_outside, left_out_energies, main

EMT_PATH = "ase.calculators.emt:EMT"
METALS = ["Ag", "Au", "Cu", "Ni", "Pd", "Pt"]
FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]


def alloys() -> list[Structure]:
    """Every A3B and ABC2 of six metals, and A2B2."""
    cells = [[a, a, a, b] for a, b in combinations(METALS, 2)] + [[b, b, b, a] for a, b in combinations(METALS, 2)]
    cells += [[a, a, b, b] for a, b in combinations(METALS, 2)]
    cells += [[a, b, c, c] for a, b, c in combinations(METALS, 3)]
    return [Structure(Lattice.cubic(3.95), species, FCC) for species in cells]


@pytest.fixture(scope="module")
def crystals() -> CrystalTable:
    structures = alloys()
    energies = np.random.default_rng(0).normal(-0.2, 0.1, len(structures))
    return table(structures, [1] * len(structures), energies)


def test_systems_have_many_compositions_and_the_same_ones_each_time(crystals):
    systems = dense_systems(crystals, 4, np.random.default_rng(0))
    assert len(systems) == 4 and list(systems) == list(dense_systems(crystals, 4, np.random.default_rng(0)))
    assert list(systems) == list(dense_systems(crystals, 99, np.random.default_rng(0)))[:4], (
        "more systems keep the first"
    )
    for system, rows in systems.items():
        inside = [set(crystals.species_of(row).tolist()) <= system for row in range(len(crystals))]
        assert rows.tolist() == np.flatnonzero(inside).tolist() and len(set(crystals.reduced_formula[rows])) > 5
    with pytest.raises(BadInput, match="the 3 crystals fill no chemical system with more than 5 compositions"):
        dense_systems(crystals.take(np.arange(3)), 4, np.random.default_rng(0))


def totals_of(crystals: CrystalTable, noise: np.ndarray) -> np.ndarray:
    """Total energies that give a table's formation energies, but for noise, from elements that nobody is told."""
    elements = {symbol: -3.0 - 0.3 * i for i, symbol in enumerate(METALS)}
    return crystals.formation_energy + noise - referred(np.zeros(len(crystals)), crystals, elements)


def test_elements_are_fitted_to_other_crystals_than_those_that_are_judged(crystals):
    n = len(crystals)
    exact = left_out_energies(crystals, totals_of(crystals, np.zeros(n)), np.random.default_rng(1))
    assert exact == pytest.approx(crystals.formation_energy)
    noise = np.random.default_rng(2).normal(scale=0.05, size=n)
    totals = totals_of(crystals, noise)
    out = left_out_energies(crystals, totals, np.random.default_rng(1)) - crystals.formation_energy
    fitted = referred(totals, crystals, fitted_references(crystals, totals)) - crystals.formation_energy
    assert np.abs(fitted).mean() < np.abs(out).mean() == pytest.approx(0.04, abs=0.01), "0.05 times sqrt(2 / pi)"


def test_errors_of_distances_are_those_of_compounds_of_the_system_itself(crystals):
    systems = dense_systems(crystals, 3, np.random.default_rng(0))
    noise = np.zeros(len(crystals))
    found = errors_outside(crystals, systems, totals_of(crystals, noise), np.random.default_rng(1))
    distances = found["distance from the hull"]
    assert len(distances) == 3 and distances["error"].abs().max() < 1e-9
    own = [set(crystals.species_of(int(name[1:])).tolist()) for name in distances["id"]]
    assert own == [set(system) for system in systems]
    row = int(distances["id"].iloc[0][1:])
    noise[row] = 0.1
    found = errors_outside(crystals, systems, totals_of(crystals, noise), np.random.default_rng(1))
    assert found["distance from the hull"]["error"].iloc[0] == pytest.approx(0.1, abs=0.02)


def test_the_command_leaves_tables_and_scores_and_goes_on(tmp_path, monkeypatch, capsys):
    structures = alloys()
    columns = {
        name: [getattr(s.lattice, name) for s in structures] for name in ("a", "b", "c", "alpha", "beta", "gamma")
    }
    columns["material_id"] = [f"m{i}" for i in range(len(structures))]
    columns["numbers"] = [[NUMBERS[site.specie.symbol] for site in s] for s in structures]
    columns["frac"] = [s.frac_coords.ravel().tolist() for s in structures]
    columns |= {"formation_energy_per_atom": np.linspace(-0.3, 0.1, len(structures)), "sg_spglib_0p01": 1}
    pd.DataFrame(columns).to_parquet(tmp_path / "wbm.parquet")
    arguments = [
        str(tmp_path / "wbm.parquet"),
        "--out",
        str(tmp_path / "out"),
        "--potential",
        EMT_PATH,
        "--systems",
        "2",
    ]
    main(arguments)
    scores = {score["id"]: score for score in json.loads((tmp_path / "out" / "scores.json").read_text())}
    assert {id.rsplit(".", 1)[1] for id in scores} == {"formation_mae_mev", "hull_distance_mae_mev"}
    tables = tmp_path / "out" / "tables"
    frame = pd.read_csv(tables / "fitness.csv")
    assert frame[frame["data"] == "wbm"]["quantity"].tolist() == ["formation energy", "distance from the hull"]
    assert frame[frame["data"] != "wbm"]["n"].tolist() == [0, 0], "nothing of Ta-W-B is on record for it"
    assert set(pd.read_csv(tables / "fitness_crystals.csv")["quantity"]) == set(outside_training.SCORES)
    for path in (tmp_path / "out" / "energies").iterdir():  # what was measured is read, not measured again
        path.write_text("0.0")
    main(arguments)
    again = {score["id"]: score for score in json.loads((tmp_path / "out" / "scores.json").read_text())}
    assert again.keys() == scores.keys() and again != scores
