"""How far a potential is off on known compounds of a system."""

import os
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.datasets.sources.files import read_csv
from lib.energies.hull import Hull
from lib.metrics.stability import potential_error, read_reference_phases, scale_of

SHARED = Path(os.environ.get("CRYSTAL_SHARED", ROOT.parent / "shared"))
TA_W_B = SHARED / "data" / "ta_w_b" / "energies.csv"


@pytest.mark.skipif(not TA_W_B.exists(), reason=f"{TA_W_B} is not here")
def test_reference_phases():
    phases = read_reference_phases(TA_W_B, ["B", "Ta", "W"])
    energies = dict(zip(phases.id, phases.formation_energy, strict=True))
    assert energies["mp-1108"] == pytest.approx(-0.65189, abs=1e-5)  # TaB2
    assert dict(zip(phases.id, phases.space_group, strict=True))["mp-1108"] == 191
    assert (phases.reduced_formula == "TaB2").sum() == 1
    assert "mp-91" not in energies  # tungsten
    assert set(read_reference_phases(TA_W_B, ["B", "W"]).species) == {5, 74}


def test_reference_phases_need_crystals(tmp_path):
    (tmp_path / "energies.csv").write_text("material_id,formula,e_form\nmp-1,TaB2,-0.6\n")
    with pytest.raises(BadInput, match="put <material_id>.cif"):
        read_reference_phases(tmp_path / "energies.csv", ["B", "Ta"])
    (tmp_path / "energies.csv").write_text("formula,energy\nTaB2,-0.6\n")
    with pytest.raises(BadInput, match="material_id"):
        read_reference_phases(tmp_path / "energies.csv", ["B", "Ta"])


@pytest.mark.skipif(not TA_W_B.exists(), reason=f"{TA_W_B} is not here")
def test_the_potentials_error_is_what_the_project_says():
    scale = scale_of(CrystalTable.from_parquet(EMBEDDED), ["TaW2B5"], relax=True, rng=np.random.default_rng(0))
    measured, errors = potential_error(TA_W_B, ["B", "Ta", "W"], scale, "chgnet", n_workers=1)
    stated, _ = potential_error(None, ["B", "Ta", "W"], scale, "chgnet", n_workers=1)
    assert measured.loc["chgnet", "error"] == pytest.approx(stated.loc["chgnet", "error"], abs=0.001)
    assert measured.loc["chgnet", "n"] == stated.loc["chgnet", "n"] == len(errors)
    for end in ("ci_low", "ci_high"):
        assert measured.loc["chgnet", end] == pytest.approx(stated.loc["chgnet", end], abs=0.001)
    assert len(errors) == 10 and (errors["error"].abs() < 0.14).all()


@pytest.mark.slow
@pytest.mark.skipif(not TA_W_B.exists(), reason=f"{TA_W_B} is not here")
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
    mixed, hull = (Hull.from_table(t, ["B", "Ta", "W"]) for t in (table, scale.known))
    energies = scale.known.formation_energy
    assert min(map(mixed.energy_above_hull, scale.known.reduced_formula, energies)) < -0.1, "what two kinds would say"
    distances = [
        hull.energy_above_hull(*pair, hull.energy_kind)
        for pair in zip(scale.known.reduced_formula, energies, strict=True)
    ]
    assert min(distances) > -1e-9 and len(scale.known) >= 13
    with pytest.raises(BadInput, match="one method"):
        mixed.energy_above_hull("TaB2", -0.8, hull.energy_kind)
    assert 0.01 < scale.resolution.ci_high < 0.15 and scale.resolution.n >= 10
