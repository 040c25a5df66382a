"""Whether a potential is fit for a hull: known phases in its energies and in a reference's."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Structure

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.crystals.table import CrystalTable
from lib.datasets.sources.files import read_csv
from lib.energies.hull import UNKNOWN, Hull, distance_errors
from lib.energies.potentials import POTENTIALS
from lib.metrics.fitness import before, fitness, measured, on_record, read_reference_phases, referred_to_elements
from lib.metrics.stability import scale_of

SHARED = Path(os.environ.get("CRYSTAL_SHARED", ROOT.parent / "shared"))
TA_W_B = SHARED / "data" / "ta_w_b" / "energies.csv"
SYSTEM = ["B", "Ta", "W"]
needs_shared = pytest.mark.skipif(not TA_W_B.exists(), reason=f"{TA_W_B} is not here")


def test_every_potential_has_a_record_and_the_finer_one_a_narrower_interval():
    found = pd.concat([fitness(on_record(name), SYSTEM, name) for name in POTENTIALS])
    found = found.set_index(["quantity", "potential"])
    assert (found["n"] == 10).all() and found["trained_on"].str.contains("Materials Project").all()
    formation, distance = found.loc["formation energy"], found.loc["distance from the hull"]
    assert 1000 * formation.loc["chgnet", "error"] == pytest.approx(101, abs=1)
    assert 1000 * formation.loc["sevennet-l3i5", "error"] == pytest.approx(13, abs=1)
    assert formation.loc["chgnet", "bias_high"] < 0, "it binds all of them too strongly"
    assert distance.loc["chgnet", "bias_high"] > 0, "which goes from distances"
    assert (distance["error"] < formation["error"]).all()
    widths = distance["single_high"] - distance["single_low"]
    assert widths.idxmin() == "sevennet-l3i5" and 3 * widths.min() < widths["chgnet"]
    assert (distance["single_low"] < distance["bias_low"]).all(), "one more distance scatters more than their mean"


def test_nothing_is_on_record_for_other_weights():
    assert on_record("ase.calculators.emt:EMT").empty
    assert before("ase.calculators.emt:EMT")[1] == UNKNOWN
    empty = fitness(on_record("ase.calculators.emt:EMT"), SYSTEM, "ase.calculators.emt:EMT")
    assert empty["n"].tolist() == [0, 0] and empty["error"].isna().all()


def test_formation_energies_count_from_the_elements_that_are_lowest_by_the_reference():
    phases = pd.DataFrame({"id": list("abcd"), "formula": ["Ta", "Ta", "TaB", "W"], "reference": [0.1, 0, -0.5, 0]})
    found = referred_to_elements(phases, np.array([-12.5, -12.0, -10.0, np.nan]), {"B": -6.0})
    assert found.set_index("id")["ours"].to_dict() == pytest.approx({"a": -0.5, "b": 0, "c": -1.0})
    assert referred_to_elements(phases, np.array([-12.5, -12.0, -10.0, np.nan]))["id"].tolist() == ["a", "b"]


@needs_shared
def test_reference_phases():
    phases = read_reference_phases(TA_W_B, SYSTEM)
    energies = dict(zip(phases.id, phases.formation_energy, strict=True))
    assert energies["mp-1108"] == pytest.approx(-0.65189, abs=1e-5)  # TaB2
    assert dict(zip(phases.id, phases.space_group, strict=True))["mp-1108"] == 191
    assert (phases.reduced_formula == "TaB2").sum() == 1
    assert energies["mp-91"] == 0  # tungsten
    assert set(read_reference_phases(TA_W_B, ["B", "W"]).species) == {5, 74}


def test_reference_phases_need_crystals(tmp_path):
    (tmp_path / "energies.csv").write_text("material_id,formula,e_form\nmp-1,TaB2,-0.6\n")
    with pytest.raises(BadInput, match="put <material_id>.cif files there"):
        read_reference_phases(tmp_path / "energies.csv", ["B", "Ta"])
    (tmp_path / "energies.csv").write_text("formula,energy\nTaB2,-0.6\n")
    with pytest.raises(BadInput, match="material_id"):
        read_reference_phases(tmp_path / "energies.csv", ["B", "Ta"])


@needs_shared
@pytest.mark.slow
def test_what_is_on_record_is_what_is_measured():
    compared, resolution, on = measured(TA_W_B, SYSTEM, {}, "chgnet", n_workers=1)
    _, stated, on_compounds, _ = before("chgnet")
    assert on == "10 compounds of energies.csv" and on_compounds.startswith("10 Ta-W-B compounds")
    for ours, theirs in ((resolution.error, stated.error), (resolution.single, stated.single)):
        assert vars(ours) == pytest.approx(vars(theirs), abs=0.001)
    assert (distance_errors(compared, SYSTEM)["error"].abs() < 0.14).all()


@needs_shared
@pytest.mark.slow
def test_known_compounds_are_no_finds_by_a_potential_on_its_own_scale():
    """Single points of CHGNet on a hull of DFT energies put known compounds 100 meV/atom and more below it."""
    names = read_csv(TA_W_B, ["material_id", "formula", "e_form"]).drop_duplicates("material_id")
    cifs = {name: TA_W_B.parent / "cifs" / f"{name}.cif" for name in names["material_id"]}
    rows = names[[bool(name) and cifs[name].is_file() for name in names["material_id"]]]
    table = CrystalTable.from_structures(
        [Structure.from_file(cifs[name]) for name in rows["material_id"]],
        id=rows["material_id"].tolist(),
        formation_energy=rows["e_form"].astype(float).tolist(),
        energy_kind="DFT",
    )
    scale = scale_of(table, ["TaW2B5"], relax=False, rng=np.random.default_rng(0), n_workers=1)
    mixed, hull = (Hull.from_table(t, SYSTEM) for t in (table, scale.known))
    heights = [mixed.hull_energy(formula) for formula in scale.known.reduced_formula]
    assert (scale.known.formation_energy - heights).min() < -0.1, "what two kinds would say"
    compounds = [len(set(scale.known.species_of(i))) > 1 for i in range(len(scale.known))]
    assert hull.distances(scale.known)[compounds].min() > -1e-9 and len(scale.known) >= 13
    with pytest.raises(BadInput, match="one method"):
        mixed.distances(scale.known)
    verdicts = {scale.resolution_in(SYSTEM).verdict(distance) for distance in hull.distances(scale.known)}
    assert verdicts <= {"unresolved", "above the hull"} and scale.resolution.error.n >= 10
    assert scale.resolution_in(SYSTEM).single.ci_low < 0 < scale.resolution_in(SYSTEM).single.ci_high
