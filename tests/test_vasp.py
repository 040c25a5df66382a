import bz2
import gzip
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from vasp_output import TITELS, crystal, vasprun

from lib.core.errors import BadInput
from lib.energies.dft.calculation import folder_name, hull_distances, with_dft
from lib.energies.dft.vasp import read_calculation, read_calculations
from lib.energies.hull import Hull


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name / "vasprun.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_folder_names():
    assert folder_name("aflow:0a1b/2") == "aflow_0a1b_2"
    assert folder_name("TaWB6_gap0_step0.01_00_sg225_ddim") == "TaWB6_gap0_step0.01_00_sg225_ddim"


def test_finished_calculation(tmp_path):
    structure = crystal("Ta", "B", "B")
    found = read_calculation(put(tmp_path, "ok", vasprun(structure, [-29.0, -30.0])))
    assert (found.name, found.formula) == ("ok", "TaB2")
    assert found.energy == pytest.approx(-10.0)  # the last ionic step, sigma -> 0, per atom
    assert found.structure.matches(structure, scale=False)


def test_unusable_calculations_are_reported_and_skipped(tmp_path):
    structure, energies = crystal("Ta", "B"), [-19.0, -20.0]
    put(tmp_path, "good", vasprun(structure, energies))
    put(tmp_path, "truncated", vasprun(structure, energies)[:2500])
    put(tmp_path, "cut_between_steps", vasprun(structure, energies).split("</calculation>")[0])
    put(tmp_path, "electronic", vasprun(structure, energies, nelm=3, n_scf=3))
    put(tmp_path, "ionic", vasprun(structure, energies, nsw=2))
    put(tmp_path, "cutoff", vasprun(structure, energies, encut=400))
    put(tmp_path, "empty", "")
    put(tmp_path, "text", "VASP was killed")
    (tmp_path / "packed").mkdir()
    with gzip.open(tmp_path / "packed" / "vasprun.xml.gz", "wt") as file:
        file.write(vasprun(structure, energies))
    calculations, problems = read_calculations(tmp_path)
    assert [c.name for c in calculations] == ["good", "packed"]
    said = {Path(problem.split(" ")[0]).parent.name: problem for problem in problems}
    assert len(problems) == len(said) == 7
    for name in ("truncated", "cut_between_steps", "empty", "text"):
        assert "is not a complete vasprun.xml" in said[name], said[name]
    assert "not converged (it ran into NELM)" in said["electronic"]
    assert "not converged (it ran into NSW)" in said["ionic"]
    assert "cutoff of 400 eV" in said["cutoff"]
    assert not any("\n" in problem for problem in problems)


def test_missing_folder(tmp_path):
    with pytest.raises(BadInput, match="is not a folder"):
        read_calculations(tmp_path / "nowhere")


# ------------------------------------------------------------------- a small Ta-B folder, and what may be wrong with it

PHASES = {  # eV a cell; the lowest crystal of an element counts, and TaB lies 1 eV/atom below the elements
    "Ta": (["Ta"], -12.0),
    "Ta_strained": (["Ta"], -11.5),
    "B": (["B"], -6.0),
    "known": (["Ta", "B"], -20.0),
}
TAB2, ENERGY = ["Ta", "B", "B"], -26.4
PLACED = -0.8 + 2 / 3  # eV/atom above the hull
HULL = Hull(["B", "Ta"], ["TaB"], [-0.8], ["known"], "test")


def put_phases(folder: Path, **how) -> None:
    for name, (symbols, energy) in PHASES.items():
        put(folder, name, vasprun(crystal(*symbols), [energy], **how))


def distances(folder: Path, *names: str) -> tuple[dict[str, float], list[str]]:
    calculations, unread = read_calculations(folder)
    found, problems = hull_distances(calculations, dict.fromkeys(names or ["candidate"], "TaB2"), HULL)
    said = unread + problems
    assert not any("\n" in sentence for sentence in said)
    return found.energy_above_hull.to_dict(), said


def test_distances_come_from_vasp_alone(tmp_path):
    put_phases(tmp_path)
    put(tmp_path, "candidate", vasprun(crystal(*TAB2), [ENERGY]))
    calculations, _ = read_calculations(tmp_path)
    found, problems = hull_distances(calculations, {"candidate": "TaB2"}, HULL)  # which would become TaB and B
    assert problems == [] and found.loc["candidate", "formation_energy"] == pytest.approx(-0.8)
    assert found.loc["candidate", "energy_above_hull"] == pytest.approx(PLACED)
    shutil.rmtree(tmp_path / "known")
    words = "candidate has no hull of its own kind yet: calculate TaB in the same folder"
    assert distances(tmp_path) == ({}, [words])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"tags": "GGA = PS"}, "GGA = PS"),
        ({"tags": "GGA = RP"}, "GGA = RP"),
        ({"tags": "METAGGA = R2SCAN"}, "METAGGA = R2SCAN"),
        ({"tags": "METAGGA = Scan"}, "METAGGA = SCAN"),
        ({"tags": "LHFCALC = T, HFSCREEN = 0.2"}, "HFSCREEN|LHFCALC = T"),
        ({"tags": "IVDW = 11"}, "IVDW = 11"),
        ({"tags": "LUSE_VDW = T"}, "LUSE_VDW = T"),
        ({"tags": "LSORBIT = T"}, "LSORBIT = T"),
        ({"tags": "LNONCOLLINEAR = T"}, "LNONCOLLINEAR = T"),
        ({"tags": "NUPDOWN = 2.0"}, "NUPDOWN = 2"),
        ({"tags": "LSOL = T"}, "LSOL = T"),
        ({"tags": "XC = PBESOL"}, "XC = PBESOL"),
        ({"tags": "LIBXC1 = 116"}, "LIBXC1 = 116"),
        ({"tags": "AGGAC = 0.0"}, "AGGAC = 0"),
        ({"tags": "ISPIN = 2"}, "ISPIN = 2"),
        ({"tags": "LDAU = T, LDAUU = 4.0 0.0, LDAUJ = 0.0 0.0"}, "LDAU of Ta = U = 4 eV"),
        ({"tags": "LDAU = T, LDAUTYPE = 1, LDAUU = 0.0 3.0"}, "LDAU of B = U = 3 eV.*LDAUTYPE = 1"),
        ({"tags": "LDAU = T, LDAUL = 3 -1, LDAUU = 4.0 0.0"}, "LDAU of Ta = U = 4 eV.*l = 3"),
        ({"titles": TITELS | {"Ta": "PAW_PBE Ta 17Jan2003"}}, "pseudopotential of Ta = PAW_PBE Ta 17Jan2003"),
        ({"titles": TITELS | {"B": "PAW B 04Feb2005"}}, "pseudopotential of B = PAW B 04Feb2005"),
        ({"divisions": (12, 12, 12)}, "k-points 12 x 12 x 12"),
        ({"divisions": (1, 1, 1)}, "k-points 1 x 1 x 1"),
        ({"divisions": (8, 8, 1)}, "k-points 8 x 8 x 1"),
    ],
)
def test_energies_of_other_settings_stand_on_no_common_hull(tmp_path, how, words):
    put_phases(tmp_path)
    put(tmp_path, "candidate", vasprun(crystal(*TAB2), [ENERGY], **how))
    found, said = distances(tmp_path)
    assert found == {} and len(said) == 1
    assert re.search(f"candidate/vasprun.xml has .*({words}).*not placed", said[0]), said
    shutil.rmtree(tmp_path / "candidate")
    put(tmp_path, "candidate", vasprun(crystal(*TAB2), [ENERGY]))  # now a phase is the odd one
    shutil.rmtree(tmp_path / "known")
    put(tmp_path, "known", vasprun(crystal("Ta", "B"), [-20.0], **how))
    found, said = distances(tmp_path)
    assert found == {} and len(said) == 1 and "known/vasprun.xml" in said[0] and "without TaB" in said[0]


@pytest.mark.parametrize(
    "how",
    [
        {"tags": "GGA = PE"},  # what the pseudopotentials are made with
        {"tags": "GGA = --, METAGGA = --, LDAU = F, LDAUU = 4.0 0.0, IVDW = 0, LASPH = F, ISPIN = 1"},
        {"tags": "LDAU = T, LDAUU = 0.0 0.0"},
        {"tags": "LDAU = T, LDAUL = -1 -1, LDAUU = 4.0 0.0"},
        {"tags": "NUPDOWN = -1.0, LSOL = F, LNONCOLLINEAR = F, AGGAX = 1.0, AGGAC = 1.0, ALDAC = 1.0, ML_LMLFF = F"},
        {"tags": "EFIELD_PEAD = 0.0 0.0 0.0, I_CONSTRAINED_M = 0, VCA = 1.0 1.0, XC = --"},
        {"divisions": (3, 3, 3)},
        {"nsw": 0, "tags": "IBRION = -1"},
    ],
)
def test_other_words_for_the_same_settings(tmp_path, how):
    put_phases(tmp_path)
    put(tmp_path, "candidate", vasprun(crystal(*TAB2), [ENERGY], **how))
    found, said = distances(tmp_path)
    assert found == pytest.approx({"candidate": PLACED}) and said == []


def test_one_set_of_settings_is_any_set(tmp_path):
    how = {"tags": "METAGGA = R2SCAN, LASPH = T, ISPIN = 2"}
    put_phases(tmp_path, **how)
    put(tmp_path, "candidate", vasprun(crystal(*TAB2), [ENERGY], **how))
    assert distances(tmp_path) == (pytest.approx({"candidate": PLACED}), [])


def test_a_phase_that_is_not_needed_is_left_out_and_named(tmp_path):
    put_phases(tmp_path)
    put(tmp_path, "candidate", vasprun(crystal(*TAB2), [ENERGY]))
    put(tmp_path, "odd", vasprun(crystal(*TAB2), [-90.0], tags="GGA = PS"))
    found, said = distances(tmp_path)
    assert found == pytest.approx({"candidate": PLACED})
    assert len(said) == 1 and "odd/vasprun.xml" in said[0] and "GGA = PE, not PS" in said[0]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"tags": "PSTRESS = 100.0"}, "PSTRESS = 100 kB"),
        ({"tags": "EFIELD = 0.5"}, "EFIELD = 0.5"),
        ({"tags": "EFIELD_PEAD = 0.1 0.0 0.0"}, "EFIELD_PEAD = 0.1 0 0"),
        ({"tags": "I_CONSTRAINED_M = 1"}, "I_CONSTRAINED_M = 1"),
        ({"tags": "ML_LMLFF = T"}, "ML_LMLFF = T"),
        ({"tags": "VCA = 1.0 0.5"}, "VCA"),
        ({"tags": "ICHARG = 11"}, "ICHARG = 11"),
        ({"tags": "NELECT = 14.0"}, "NELECT = 14"),
        ({"tags": "IBRION = 0"}, "IBRION = 0"),
        ({"tags": "IBRION = 6"}, "IBRION = 6"),
    ],
)
def test_energies_that_are_not_of_the_relaxed_neutral_cell(tmp_path, how, words):
    put_phases(tmp_path)
    put(tmp_path, "candidate", vasprun(crystal(*TAB2), [ENERGY], **how))
    found, said = distances(tmp_path)
    assert found == {} and len(said) == 1 and re.search(f"candidate/vasprun.xml.*{words}", said[0])


@pytest.mark.parametrize("written", ["NaN", "*" * 16, "Infinity"])
def test_energies_and_cells_that_are_no_numbers(tmp_path, written):
    put_phases(tmp_path)
    text = vasprun(crystal(*TAB2), [ENERGY])
    put(tmp_path, "candidate", text.replace(f"{ENERGY:16.8f}", f" {written} "))
    put(tmp_path, "cell", text.replace(f"{crystal(*TAB2).lattice.a:16.8f}", f" {written} "))
    found, said = distances(tmp_path, "candidate", "cell")
    assert found == {} and len(said) == 2
    assert "candidate/vasprun.xml has the energy" in said[0] and "cell/vasprun.xml" in said[1]


def test_a_static_step_takes_the_place_of_its_relaxation(tmp_path):
    put_phases(tmp_path)
    put(tmp_path, "candidate", vasprun(crystal(*TAB2), [-20.0]))
    put(tmp_path, "candidate/static", vasprun(crystal(*TAB2), [ENERGY], nsw=0, tags="IBRION = -1"))
    assert distances(tmp_path) == (pytest.approx({"candidate": PLACED}), [])
    put(tmp_path, "candidate", vasprun(crystal(*TAB2), [-20.0, -20.0], nsw=2))
    found, said = distances(tmp_path)
    assert found == {} and any("candidate/vasprun.xml is not converged" in sentence for sentence in said)


def test_a_cell_under_pressure_is_not_relaxed(tmp_path):
    put_phases(tmp_path)
    put(tmp_path, "candidate", vasprun(crystal(*TAB2), [ENERGY], pressure=9.0))
    put(tmp_path, "strained", vasprun(crystal(*TAB2), [ENERGY], pressure=40.0))
    found, said = distances(tmp_path)
    assert found == pytest.approx({"candidate": PLACED})
    assert len(said) == 1 and re.search("strained/vasprun.xml ends under a pressure of 40 kB; relax", said[0])


@pytest.mark.parametrize("how", [{"nsw": 1}, {"tags": "EDIFFG = 0.0", "nsw": 1}, {"nsw": 0, "tags": "IBRION = -1"}, {}])
def test_atoms_that_feel_a_force_are_not_relaxed(tmp_path, how):
    """One step alone, a number of steps without a criterion, a static step from nowhere, and one stopped by hand."""
    put_phases(tmp_path)
    put(tmp_path, "candidate", vasprun(crystal(*TAB2), [ENERGY], force=-0.05, **how))
    assert distances(tmp_path) == (pytest.approx({"candidate": PLACED}), [])
    put(tmp_path, "candidate", vasprun(crystal(*TAB2), [ENERGY], force=-0.4, **how))
    found, said = distances(tmp_path)
    assert found == {} and len(said) == 1 and re.search("candidate/vasprun.xml ends with a force of 0.40 eV/Å", said[0])


def test_the_final_output_of_a_folder_counts(tmp_path):
    put_phases(tmp_path)
    good, bad = vasprun(crystal(*TAB2), [ENERGY]), vasprun(crystal(*TAB2), [-20.0])
    for name in ("vasprun.xml.relax1", "vasprun.xml.relax2", "vasprun.xml~", "vasprun.xml.bak", "vasprun.xml.old.gz"):
        path = put(tmp_path, "candidate", bad) if name.endswith("relax1") else tmp_path / "candidate" / name
        path.with_name(name).write_text(bad)
    (tmp_path / "candidate" / "vasprun.xml").write_text(good)
    assert distances(tmp_path) == (pytest.approx({"candidate": PLACED}), [])
    (tmp_path / "candidate" / "vasprun.xml").unlink()
    (tmp_path / "candidate" / "vasprun.xml.relax10").write_text(good)  # the last of several relaxations
    assert distances(tmp_path) == (pytest.approx({"candidate": PLACED}), [])
    (tmp_path / "candidate" / "vasprun.xml.bz2").write_bytes(bz2.compress(good.encode()))
    (tmp_path / "candidate" / "vasprun.xml.gz").write_bytes(gzip.compress(bad.encode()))
    os.utime(tmp_path / "candidate" / "vasprun.xml.gz", (1e9, 1e9))  # older
    assert distances(tmp_path) == (pytest.approx({"candidate": PLACED}), [])
    (tmp_path / "candidate" / "vasprun.xml").write_text(good[:2500])  # what is under way is not finished
    os.utime(tmp_path / "candidate" / "vasprun.xml", (3e9, 3e9))
    found, said = distances(tmp_path)
    assert found == {} and "candidate/vasprun.xml is not a complete" in said[0]


@pytest.mark.parametrize("name", ["vasprun.xml.relax1", "vasprun.xml~", "OUTCAR", "OUTCAR.gz", "vasprun.xml.orig"])
def test_folders_without_a_final_output_are_named(tmp_path, name):
    put_phases(tmp_path)
    (tmp_path / "candidate").mkdir()
    (tmp_path / "candidate" / name).write_text(vasprun(crystal(*TAB2), [ENERGY]))
    found, said = distances(tmp_path)
    assert found == {} and len(said) == 1 and "candidate" in said[0] and name in said[0]


def test_folders_within_a_candidates_are_its_own(tmp_path):
    put_phases(tmp_path / "set")
    text = vasprun(crystal(*TAB2), [ENERGY])
    put(tmp_path / "set", "candidate/finer", text)
    assert distances(tmp_path) == (pytest.approx({"candidate": PLACED}), [])
    put(tmp_path / "set", "candidate", text)
    found, said = distances(tmp_path)  # which of the two is final?
    assert found == {} and len(said) == 1
    assert all(f"candidate/{name}" in said[0] for name in ("finer/vasprun.xml", "vasprun.xml"))


def test_a_folder_in_place_of_a_file_and_a_broken_link(tmp_path):
    put_phases(tmp_path)
    put(tmp_path, "candidate", vasprun(crystal(*TAB2), [ENERGY]))
    (tmp_path / "folder" / "vasprun.xml").mkdir(parents=True)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "vasprun.xml").symlink_to(tmp_path / "gone")
    found, said = distances(tmp_path)
    assert found == pytest.approx({"candidate": PLACED}) and len(said) == 2
    assert "folder/vasprun.xml" in said[0] and "link/vasprun.xml" in said[1]


def test_another_crystal_in_a_candidates_folder_is_not_its_own(tmp_path):
    put_phases(tmp_path)
    put(tmp_path, "candidate", vasprun(crystal("Ta", "B"), [-21.0]))
    found, said = distances(tmp_path)
    assert found == {} and len(said) == 1
    assert said[0].endswith("candidate/vasprun.xml is of TaB, candidate of TaB2; move it to its own folder")


def test_vasp_replaces_the_potential():
    candidates = pd.DataFrame({"id": ["a:1", "b", "c"], "formation_energy": -0.5, "distance": [0.1, 0.2, 0.3]})
    candidates = candidates.assign(source="CHGNet", status="judged", **{"known as": ""})
    distances = pd.DataFrame({"formation_energy": -0.4, "energy_above_hull": [0.01, -0.2]}, index=["a_1", "c"])
    distances = distances.assign(source="VASP", **{"known as": ["", "mp-1"]})
    found = with_dft(candidates, distances)
    assert found["distance"].tolist() == [0.01, 0.2, -0.2]
    assert found["formation_energy"].tolist() == [-0.4, -0.5, -0.4]
    assert found["source"].tolist() == ["VASP", "CHGNet", "VASP"]
    assert found["status"].tolist() == ["judged", "judged", "known"], (
        "what VASP relaxes into a known crystal is no find"
    )
    assert with_dft(found, distances.iloc[:0]).equals(found)
    nothing = hull_distances([], {"a_1": "TaB2"}, HULL)[0]
    assert with_dft(found, nothing.assign(**{"known as": []})).equals(found), "nothing was calculated"
