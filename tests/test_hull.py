import itertools
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import table
from pymatgen.core import Composition, Lattice, Structure
from scipy.optimize import linprog

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.crystals.table import CrystalTable
from lib.energies.hull import (
    UNKNOWN,
    Hull,
    Resolution,
    crystals_in_system,
    distance_errors,
    fitted_references,
    formation_energy,
    formation_energy_errors,
    mean_absolute_error,
    referred,
)
from lib.energies.potentials import POTENTIALS, energy_kind_of

SHARED = Path(os.environ.get("CRYSTAL_SHARED", ROOT.parent / "shared"))
TA_W_B = SHARED / "data" / "ta_w_b" / "energies.csv"
needs_shared = pytest.mark.skipif(not TA_W_B.exists(), reason=f"{TA_W_B} is not here")


def table_of(**energies: float) -> CrystalTable:
    """One crystal a formula, atoms along a line; only composition and energy matter here."""
    structures = []
    for formula in energies:
        species = [e for e, n in Composition(formula).items() for _ in range(int(n))]
        coords = [[0, 0, i / len(species)] for i in range(len(species))]
        structures.append(Structure(Lattice.tetragonal(3, 3 * len(species)), species, coords))
    n = len(energies)
    return CrystalTable.from_structures(
        structures, id=list(energies), formation_energy=list(energies.values()), space_group=[1] * n, energy_kind="test"
    )


def hull_by_linear_programme(formulas: list[str], energies: list[float], at: str, elements: list[str]) -> float:
    """The lowest energy of a mixture of phases with the given overall composition: the hull's definition."""
    fractions = [[Composition(f).get_atomic_fraction(e) for f in formulas] for e in elements]
    overall = [Composition(at).get_atomic_fraction(e) for e in elements]
    return linprog(energies, A_eq=fractions, b_eq=overall, bounds=(0, None)).fun


@pytest.fixture(scope="module")
def materials_project() -> pd.DataFrame:
    frame = pd.read_csv(TA_W_B, keep_default_na=False)
    return frame[frame["source"].str.startswith("matbench")].astype({"e_form": float})


def test_binary_hull_by_hand():
    hull = Hull(["Cu", "Al"], ["AlCu", "AlCu3", "Al3Cu"], [-0.2, -0.15, -0.05], ["a", "b", "c"], "test")
    assert hull.hull_energy("AlCu") == pytest.approx(-0.2)
    assert hull.hull_energy("AlCu3") == pytest.approx(-0.15)
    assert hull.hull_energy("Al3Cu") == pytest.approx(-0.1)  # half way from Al (0) to AlCu
    assert hull.energy_above_hull("Al3Cu", -0.05, "test") == pytest.approx(0.05)
    below = hull.energy_above_hull("Al3Cu", -0.13, "test")
    assert below == pytest.approx(-0.03), "the distance to the hull without it"
    assert hull.decomposition("Al3Cu") == pytest.approx({"a": 0.5, "Al (reference)": 0.5})
    assert set(hull.competing("Al3Cu")["formula"]) == {"Al", "Cu", "AlCu"}
    assert hull.at(["Al3Cu"])["hull_energy"].tolist() == pytest.approx([-0.1])
    assert dict(zip(hull.phases["id"], hull.phases["energy_above_hull"], strict=True)) == pytest.approx(
        {"Al (reference)": 0, "Cu (reference)": 0, "a": 0, "b": 0, "c": 0.05}
    )


def test_ternary_hull_by_hand():
    hull = Hull(["B", "Ta", "W"], ["TaB", "WB"], [-0.8, -0.4], ["a", "b"], "test")
    assert hull.hull_energy("TaWB2") == pytest.approx(-0.6)
    assert hull.hull_energy("TaWB6") == pytest.approx(-0.8 / 4 - 0.4 / 4)  # TaB + WB + 4 B over 8 atoms
    assert {tuple(sorted(map(tuple, line))) for line in hull.tie_lines} >= {((0.5, 0, 0.5), (0.5, 0.5, 0))}
    assert len(hull.tie_lines) == 7  # five phases in three triangles


def test_hull_needs_no_compound_and_takes_one_element():
    assert Hull(["Ta", "W"], [], [], [], "test").hull_energy("TaW") == 0
    assert Hull(["W"], ["W"], [-0.02], ["omega"], "test").hull_energy("W2") == 0
    assert Hull(["W"], ["W"], [-0.02], ["omega"], "test", pinned=False).hull_energy("W2") == pytest.approx(-0.02)


def test_lowest_polymorph_counts_and_order_does_not():
    hulls = [
        Hull(["Al", "Cu"], ["AlCu", "Al2Cu2"], energies, ["a", "b"], "test")
        for energies in ([-0.2, -0.3], [-0.3, -0.2])
    ]
    assert [h.hull_energy("AlCu") for h in hulls] == pytest.approx([-0.3, -0.3])
    assert [h.phases.set_index("formula").loc["AlCu", "id"] for h in hulls] == ["b", "a"]


def test_an_element_is_named_by_its_crystal_though_that_lies_a_little_above_0():
    """Its inputs would not be written else, and it would not be relaxed with what competes."""
    hull = Hull(["Ta", "W"], ["Ta", "Ta", "W"], [0.0002, 0.004, 0.3], ["bcc", "again", "A15"], "test", pinned=False)
    phases = hull.phases.set_index("formula")
    assert phases.loc["Ta", ["id", "formation_energy"]].tolist() == ["bcc", 0] and hull.hull_energy("Ta") == 0
    assert phases.loc["W", "id"] == "W (reference)", "no ground state"


def test_molecular_elements_stand_once():
    hull = Hull(["Ti", "O"], ["O2", "TiO2"], [0.0, -3.0], ["oxygen", "rutile"], "test")
    assert sorted(hull.phases["formula"]) == ["O2", "Ti", "TiO2"]


@needs_shared
def test_against_linear_programming(materials_project):
    formulas, energies = materials_project["formula"].tolist(), materials_project["e_form"].tolist()
    hull = Hull(["B", "Ta", "W"], formulas, energies, formulas, "test")
    rng = np.random.default_rng(0)
    for amounts in [(6, 1, 1), (5, 1, 2), (5, 2, 1), *rng.integers(1, 9, (12, 3))]:
        at = "".join(f"{symbol}{n}" for symbol, n in zip(["B", "Ta", "W"], amounts, strict=True))
        expected = hull_by_linear_programme(formulas, energies, at, ["B", "Ta", "W"])
        assert hull.hull_energy(at) == pytest.approx(expected, abs=1e-9), at


def test_an_error_that_all_compounds_share_goes_in_part():
    """A potential too low by 0.1 eV/atom of each compound: a distance is off by what its neighbours do not share."""
    reference = table_of(Al=0.0, Cu=0.0, AlCu3=-0.15, AlCu=-0.2, Al3Cu=-0.15)
    ours = reference.formation_energy - [0, 0, 0.1, 0.1, 0.1]
    compared = formation_energy_errors(reference, ours)
    errors = distance_errors(compared, ["Al", "Cu"])
    assert errors["formula"].tolist() == ["AlCu3", "AlCu", "Al3Cu"]
    assert errors["error"].tolist() == pytest.approx([-0.05, 0.0, -0.05])
    assert errors["reference"].tolist() == pytest.approx([-0.05, -0.05, -0.05])
    found = mean_absolute_error(errors)
    assert found.value == pytest.approx(0.1 / 3) and found.ci_low == 0 < found.ci_high
    assert distance_errors(compared, ["Al"]).empty


@needs_shared
def test_against_the_materials_projects_own_distances(materials_project):
    hull = Hull(
        ["B", "Ta", "W"], materials_project["formula"], materials_project["e_form"], materials_project.index, "DFT"
    )
    frame = pd.read_csv(TA_W_B, keep_default_na=False)
    given = frame[(frame["e_above_hull"] != "") & frame["formula"].str.contains(r"[A-Z].*[A-Z]")]
    assert len(given) >= 5
    for row in given.itertuples():
        ours = hull.energy_above_hull(row.formula, float(row.e_form), "DFT")
        assert ours == pytest.approx(float(row.e_above_hull), abs=0.025), row  # another year's database


@needs_shared
def test_the_materials_projects_stable_phases_of_ta_w_b(materials_project):
    compounds = materials_project[materials_project["formula"].str.contains(r"[A-Z].*[A-Z]")]
    hull = Hull(["B", "Ta", "W"], compounds["formula"], compounds["e_form"], compounds["material_id"], "DFT")
    above = hull.phases.set_index("formula")["energy_above_hull"]
    stable = set(above.index[above < 1e-9]) - {"B", "Ta", "W"}
    asked = ["TaB", "Ta5B6", "Ta3B4", "Ta3B2", "TaB2", "WB", "WB2", "W2B", "TaW3", "Ta3W"]
    assert stable == {Composition(formula).reduced_formula for formula in asked}
    assert 1000 * above[Composition("TaW3B4").reduced_formula] == pytest.approx(4, abs=0.5)
    assert 1000 * above[Composition("Ta3W3B4").reduced_formula] == pytest.approx(114, abs=0.5)


def test_an_element_below_zero_draws_nothing_down_unless_asked_to():
    """In AFLOW's hulls the elements stand at zero; in pymatgen's the lowest crystal does, and moves what is around."""
    compounds = table_of(Mn=-0.0094, Pd=0.0, Pt=0.0, MnPd=-0.1, MnPt=-0.3, Mn3Pd=-0.04)
    pinned, free = (Hull.from_table(compounds, ["Mn", "Pd", "Pt"], pinned=choice) for choice in (True, False))
    assert pinned.hull_energy("Mn") == 0 and free.hull_energy("Mn") == pytest.approx(-0.0094)
    assert pinned.distances(compounds) == pytest.approx([-0.0094, 0, 0, 0, 0, 0.01])  # half of MnPd's 0.1
    assert free.distances(compounds) == pytest.approx([0, 0, 0, 0, 0, 0.01 + 0.0094 / 2])
    assert pinned.phases.set_index("formula").loc["Mn", ["id", "energy_above_hull"]].tolist() == ["Mn", -0.0094]


def test_thousands_of_distances_come_at_once_and_are_those_of_a_linear_programme():
    rng = np.random.default_rng(0)
    elements = ["Mn", "Pd", "Pt"]
    amounts = rng.integers(0, 7, (3500, 3))
    amounts = amounts[amounts.sum(axis=1) > 0]
    formulas = ["".join(f"{e}{n}" for e, n in zip(elements, row, strict=True) if n) for row in amounts]
    energies = rng.normal(-0.1, 0.1, len(formulas)) * (np.count_nonzero(amounts, axis=1) - 1)
    begun = time.process_time()
    hull = Hull(elements, formulas, energies, formulas, "test")
    fractions = amounts / amounts.sum(axis=1, keepdims=True)
    heights = hull.heights(fractions[:, np.argsort(elements)])
    assert time.process_time() - begun < 3
    assert (energies - heights).min() == pytest.approx(0, abs=1e-9)
    for i in rng.choice(len(formulas), 3):
        expected = hull_by_linear_programme([*formulas, *elements], [*energies, 0, 0, 0], formulas[i], elements)
        assert heights[i] == pytest.approx(expected, abs=1e-8)


def test_a_hull_refuses_a_second_scale():
    known = table_of(Al=0.0, Cu=0.0, AlCu=-0.2)
    hull = Hull.from_table(known, ["Al", "Cu"])
    with pytest.raises(BadInput, match="is a sevennet.*hull of Al-Cu is made of test; compute both with one method"):
        hull.distances(replace(known, energy_kind="sevennet-l3i5 formation energy"))
    with pytest.raises(BadInput, match="energies of different kinds"):
        CrystalTable.join([known, replace(known, energy_kind="DFT")], about={})
    with pytest.raises(BadInput, match="lie outside the system Al-Cu"):
        hull.distances(table_of(AlNi=-0.6))


@pytest.mark.parametrize(("ours", "theirs"), list(itertools.permutations(POTENTIALS, 2)))
def test_no_potential_stands_on_the_hull_of_another(ours, theirs):
    """CHGNet's energies have the Materials Project's corrections, SevenNet's and M3GNet's have none."""
    known = replace(table_of(Al=0.0, Cu=0.0, AlCu=-0.2), energy_kind=energy_kind_of(ours))
    hull = Hull.from_table(known, ["Al", "Cu"])
    assert hull.energy_above_hull("AlCu", -0.3, energy_kind_of(ours)) == pytest.approx(-0.1)
    with pytest.raises(BadInput) as refusal:
        hull.energy_above_hull("AlCu", -0.3, energy_kind_of(theirs))
    said = str(refusal.value)
    assert energy_kind_of(ours) in said and energy_kind_of(theirs) in said and "\n" not in said


def test_table_and_missing_element():
    table = table_of(Al=0.0, AlCu=-0.2, Ni=0.0, AlNi=-0.6)
    assert Hull.from_table(table, ["Al", "Cu"]).hull_energy("Al3Cu") == pytest.approx(-0.1)
    assert list(crystals_in_system(table, ["Al", "Cu"]).id) == ["Al", "AlCu"]
    with pytest.raises(BadInput, match="DFT.* hull of Al-Cu .*test.* one method"):
        Hull.from_table(table, ["Al", "Cu"]).energy_above_hull("AlCu", -0.3, "DFT")
    with pytest.raises(BadInput, match="Ta, W; choose .*Al, Ni, Cu"):
        Hull.from_table(table, ["Al", "Ta", "W"])


def test_bad_formulas():
    hull = Hull(["Al", "Cu"], [], [], [], "test")
    with pytest.raises(BadInput, match="does not parse"):
        hull.hull_energy("Al-Cu!")
    with pytest.raises(BadInput, match="contains Ni, outside the system Al-Cu"):
        Hull(["Al", "Cu"], ["AlNi"], [-0.6], ["a"], "test")


def test_formation_energy():
    energies = {"B": -6.0, "Ta": -12.0}
    assert formation_energy(-9.5, [5, 5, 73], energies) == pytest.approx(-9.5 + 8.0)
    with pytest.raises(BadInput, match="no reference energy for W"):
        formation_energy(-9.5, [5, 74], energies)


def test_errors_of_a_potential():
    errors = formation_energy_errors(table_of(AlCu=-0.2, Al3Cu=-0.05), np.array([-0.3, -0.25]))
    assert errors["formula"].tolist() == ["AlCu", "Al3Cu"]
    assert errors["error"].tolist() == pytest.approx([-0.1, -0.2])


@pytest.mark.parametrize(
    ("distance", "says"),
    [(-0.0055, "unresolved"), (-0.15, "below the hull"), (0.15, "above the hull"), (0.0, "unresolved")],
)
def test_verdict(distance, says):
    assert Resolution.of_scatter(0.05).verdict(distance) == says
    assert UNKNOWN.verdict(distance) == "unresolved"


def test_a_distance_less_its_error_is_where_the_true_one_lies():
    """Errors of -30 meV/atom on average and 10 of scatter: the bias is taken off, the interval is a single one's."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(300):
        errors = rng.normal(-0.03, 0.01, 11)
        low, high = Resolution.of(pd.DataFrame({"error": errors[:10]})).interval(-0.05 + errors[10])
        inside.append(low <= -0.05 <= high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)
    errors = pd.DataFrame({"error": [-0.02, -0.04, -0.03, -0.02, -0.04]})
    found, shared = Resolution.of(errors), Resolution.of_formation_energies(errors)
    assert found.verdict(-0.05) == "unresolved" and found.verdict(-0.08) == "below the hull"
    assert found.verdict(0.01) == "above the hull", "since no known compound came out too high"
    assert shared.single.value == 0 and shared.verdict(0.01) == "unresolved"


def test_energies_are_referred_to_the_elements_of_each_crystal():
    caesium_chloride = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    crystals = table([caesium_chloride, Structure(Lattice.cubic(3.2), ["W"], [[0, 0, 0]])])
    formation = referred(np.array([-3.0, -9.0]), crystals, {"Cs": -1.0, "Cl": -2.0})
    assert formation[0] == pytest.approx(-1.5) and np.isnan(formation[1])


def test_elements_that_the_crystals_do_not_determine_are_not_fitted():
    true = {"Na": -1.0, "Cl": -2.0, "K": -3.0, "Rb": -4.0, "I": -5.0}
    formulas = ["NaCl", "NaCl2", "Na2Cl", "KCl", "KCl2", "K3Cl", "RbCl", "Rb2I2", "RbI", "Rb3I3"]
    crystals = table_of(**dict(zip(formulas, np.linspace(-2, -1, len(formulas)), strict=True)))
    totals = crystals.formation_energy - referred(np.zeros(len(crystals)), crystals, true)
    assert fitted_references(crystals, totals) == pytest.approx(true)
    some = np.where(crystals.id == "NaCl", np.nan, totals)
    assert fitted_references(crystals, some).keys() == true.keys() - {"Na"}, "two crystals of it are too few"
    unknown = replace(crystals, formation_energy=np.where(crystals.id == "NaCl", np.nan, crystals.formation_energy))
    assert fitted_references(unknown, totals) == fitted_references(crystals, some)
    iodides = np.flatnonzero(crystals.has_element(53))
    together = fitted_references(crystals.take(iodides), totals[iodides], {"Na": -1.0})
    assert together == {"Na": -1.0}, "rubidium and iodine are everywhere one to one"
