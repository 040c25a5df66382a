"""GPAW's energies: kept, read back, and never beside VASP's. What runs GPAW is skipped where it is not installed."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.core.files import ROOT, write_json
from lib.energies.dft import calculation, gpaw, read_calculations
from lib.energies.hull import Hull
from lib.studies.first_principles import lowest_of, main

TA_W_B = Path(os.environ.get("CRYSTAL_SHARED", ROOT.parent / "shared")) / "data" / "ta_w_b" / "energies.csv"
needs_gpaw = pytest.mark.skipif(not gpaw.installed(), reason="GPAW is not installed (the extra gpaw)")
SODIUM = Structure(Lattice.cubic(4.23), ["Na", "Na"], [[0, 0, 0], [0.5, 0.5, 0.5]]).get_primitive_structure()
COARSE = {"cutoff": 200.0, "spacing": 0.6}


def put(folder: Path, symbols: list[str], energy: float, **settings: str) -> Path:
    """A finished calculation, as GPAW's would be."""
    structure = Structure(
        Lattice.cubic(3 * len(symbols) ** (1 / 3)), symbols, [[i / len(symbols)] * 3 for i in range(len(symbols))]
    )
    both = {"code": "GPAW", "version": "26.7.0", "xc": "PBE", "cutoff": "400 eV"} | settings
    asked = {"structure": structure.as_dict(), "divisions": gpaw.divisions_of(structure)}
    return write_json(folder / gpaw.RESULT, {"asked": asked, "settings": both, "energy_eV_per_atom": energy})


def test_meshes_are_as_dense_as_asked():
    tab2 = Structure(Lattice.hexagonal(3.1, 3.3), ["Ta"], [[0, 0, 0]])
    assert gpaw.divisions_of(tab2) == (8, 8, 7)
    lengths, divisions = tab2.lattice.reciprocal_lattice.abc, gpaw.divisions_of(tab2, 0.2)
    assert all(length / n <= 0.2 + 1e-6 < length / (n - 1) for length, n in zip(lengths, divisions, strict=True))


def test_oxygen_is_magnetic_by_itself():
    """With paired spins O2 lies half an eV an atom too high, and every oxide too low."""
    molecule = Structure(Lattice.cubic(8), ["O", "O"], [[0, 0, 0], [0, 0, 1.21 / 8]])
    assert gpaw.initial_moments(molecule) == [1.0, 1.0]
    assert gpaw.initial_moments(Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])) == [0, 0]
    assert gpaw.initial_moments(Structure(Lattice.cubic(4.2), ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])) == [2.5, 0]


def test_distances_come_from_gpaw_alone(tmp_path):
    for name, symbols, energy in [("Ta", ["Ta"], -12.0), ("B", ["B"], -6.0), ("known", ["Ta", "B"], -10.0)]:
        put(tmp_path / name, symbols, energy)
    put(tmp_path / "candidate", ["Ta", "B", "B"], -8.8)
    hull = Hull(["B", "Ta"], ["TaB"], [-0.8], ["known"], "test")
    calculations, unread = read_calculations(tmp_path)
    found, problems = calculation.hull_distances(calculations, {"candidate": "TaB2"}, hull)
    assert unread == problems == [] and found.loc["candidate", "source"] == "GPAW"
    assert found.loc["candidate", "energy_above_hull"] == pytest.approx(-0.8 + 2 / 3)
    put(tmp_path / "known", ["Ta", "B"], -10.0, cutoff="500 eV")
    found, problems = calculation.hull_distances(read_calculations(tmp_path)[0], {"candidate": "TaB2"}, hull)
    assert found.empty and "cutoff = 400 eV, not 500 eV" in problems[0]
    put(tmp_path / "known", ["Ta", "B"], -10.0, cutoff="300 eV")
    assert "known/gpaw.json has 300 eV and k-points" in read_calculations(tmp_path)[1][0]
    put(tmp_path / "known", ["Ta", "B"], -10.0, code="VASP")
    assert "has no energy of GPAW" in read_calculations(tmp_path)[1][0]


def test_another_codes_energies_are_not_compared(tmp_path):
    ours = gpaw.read_calculation(put(tmp_path / "a", ["Ta"], -12.0))
    theirs = calculation.Calculation("b", ours.structure, -11.8, settings={"code": "VASP", "GGA": "PE"})
    assert "code = GPAW, not VASP" in ours.unlike(theirs)


def test_a_damaged_result_is_named(tmp_path):
    put(tmp_path / "good", ["Ta"], -12.0)
    path = put(tmp_path / "cut", ["Ta"], -12.0)
    path.write_text(path.read_text()[:50])
    put(tmp_path / "nan", ["Ta"], float("nan"))
    calculations, problems = read_calculations(tmp_path)
    assert [c.name for c in calculations] == ["good"] and len(problems) == 2
    assert "cut/gpaw.json is no finished calculation" in problems[0] and "nan/gpaw.json" in problems[1]


@pytest.mark.skipif(gpaw.installed(), reason="GPAW is installed")
def test_what_to_install_is_said(tmp_path, capsys):
    with pytest.raises(BadInput, match=r"libxc-dev.*pip install '.\[gpaw\]'"):
        gpaw.calculate(SODIUM, tmp_path)


@pytest.mark.skipif(not TA_W_B.exists(), reason=f"{TA_W_B} is not here")
def test_the_lowest_crystals_of_compounds_and_elements_are_calculated(tmp_path, monkeypatch):
    """GPAW itself is stood in for: with the reference's own energies nothing is left as an error."""
    from lib.metrics.fitness import read_reference_phases

    phases = read_reference_phases(TA_W_B, ["B", "Ta", "W"])
    assert list(lowest_of(phases, ["TaB2", "WB"])) == ["B", "Ta", "W", "TaB2", "BW"]
    with pytest.raises(BadInput, match="no crystal of TaB9"):
        lowest_of(phases, ["TaB9"])
    energies = {str(phases.id[row]): phases.formation_energy[row] - 7.0 for row in range(len(phases))}
    monkeypatch.setattr(
        gpaw, "calculate", lambda s, folder, **how: gpaw.read_calculation(put(folder, ["Ta"], energies[folder.name]))
    )
    main([str(TA_W_B), "TaB2", "WB", "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "tables" / "gpaw_formation_energies.csv")
    assert table["formula"].tolist() == ["TaB2", "BW"] and table["error"].abs().max() < 1e-5
    (score,) = json.loads((tmp_path / "scores.json").read_text())
    assert score["id"] == "gpaw.max_error_mev" and score["value"] == pytest.approx(0, abs=0.01) and score["n"] == 2


@needs_gpaw
@pytest.mark.slow
def test_gpaw_calculates_once(tmp_path):
    first = gpaw.calculate(SODIUM, tmp_path / "Na", **COARSE)
    assert first.settings["code"] == "GPAW" and first.divisions == (4, 4, 4) and first.energy < 0
    path = tmp_path / "Na" / gpaw.RESULT
    path.write_text(
        path.read_text().replace(f'"seconds": {json.loads(path.read_text())["seconds"]}', '"seconds": 12345')
    )
    again = gpaw.calculate(SODIUM, tmp_path / "Na", **COARSE)
    assert json.loads(path.read_text())["seconds"] == 12345 and again.energy == first.energy
    finer = gpaw.calculate(SODIUM, tmp_path / "Na", cutoff=220.0, spacing=0.6)
    assert finer.unlike(again) == ["cutoff = 220 eV, not 200 eV"] and json.loads(path.read_text())["seconds"] != 12345
