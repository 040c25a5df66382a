import bz2
import gzip
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar

from lib.core.errors import BadInput
from lib.energies.dft.calculation import folder_name, hull_distances, with_dft
from lib.energies.dft.vasp import read_calculation, read_calculations
from lib.energies.dft.vasp_inputs import costs, kind_of, valence_electrons, write_inputs, write_job
from lib.energies.hull import Hull

TITELS = {"B": "PAW_PBE B 06Sep2000", "Ta": "PAW_PBE Ta_pv 07Sep2000", "W": "PAW_PBE W_sv 04Sep2015"}


def vasprun(
    structure: Structure,
    energies: list[float],
    *,
    encut: float = 500.0,
    nelm: int = 200,
    nsw: int = 200,
    n_scf: int = 3,
    tags: str = "",
    titles: dict[str, str] = TITELS,
    divisions: tuple[int, int, int] = (4, 4, 4),
) -> str:
    """A vasprun.xml as VASP 6 writes it for a relaxation, without the blocks of bands and densities of states.

    Args:
        structure: atoms of one element next to each other.
        energies: total energy (sigma -> 0) of each ionic step, eV a cell.
        n_scf: electronic steps of each ionic step.
        tags: further ones, as in INCAR: "GGA = PS, LDAUU = 4 0".
        titles: of the pseudopotentials.
        divisions: of the k-point mesh.
    """
    ibrion = 2
    more = ""
    for tag, value in (pair.split(" = ") for pair in tags.split(", ") if pair):
        if tag == "IBRION":
            ibrion = int(value)
            continue
        kind = "logical" if value in ("T", "F") else "int" if value.isdecimal() else "string"
        kind = "" if re.fullmatch(r"[\d. -]+", value) and "." in value else f' type="{kind}"'
        mark = "v" if " " in value else "i"
        more += f'<{mark}{kind} name="{tag}"> {value} </{mark}>\n  '

    def vectors(rows: np.ndarray, indent: str) -> str:
        return "\n".join(f"{indent}<v> " + " ".join(f"{x:16.8f}" for x in row) + " </v>" for row in rows)

    def crystal(name: str) -> str:
        lattice = structure.lattice
        return f"""<structure{name}>
  <crystal>
   <varray name="basis" >
{vectors(lattice.matrix, "    ")}
   </varray>
   <i name="volume"> {lattice.volume:16.8f} </i>
   <varray name="rec_basis" >
{vectors(lattice.reciprocal_lattice_crystallographic.matrix, "    ")}
   </varray>
  </crystal>
  <varray name="positions" >
{vectors(structure.frac_coords, "   ")}
  </varray>
 </structure>"""

    def energy(value: float) -> str:
        return f"""<energy>
   <i name="e_fr_energy"> {value - 0.002:16.8f} </i>
   <i name="e_wo_entrp"> {value + 0.002:16.8f} </i>
   <i name="e_0_energy"> {value:16.8f} </i>
  </energy>"""

    n = len(structure)
    symbols = [site.specie.symbol for site in structure]
    kinds = list(dict.fromkeys(symbols))
    atoms = "".join(f"<rc><c>{s:2}</c><c>{kinds.index(s) + 1:4} </c></rc>\n" for s in symbols)
    types = "".join(
        f"<rc><c>{symbols.count(s):4} </c><c>{s:2}</c><c>     10.00000000</c><c>      5.00000000</c>"
        f"<c>  {titles[s]:38}</c></rc>\n"
        for s in kinds
    )
    steps = "".join(
        f"""<calculation>
  {"".join(f"<scstep>{energy(value)}</scstep>" for _ in range(n_scf))}
  {crystal("")}
  <varray name="forces" >
{vectors(np.zeros((n, 3)), "   ")}
  </varray>
  <varray name="stress" >
{vectors(np.zeros((3, 3)), "   ")}
  </varray>
  {energy(value)}
 </calculation>
"""
        for value in energies
    )
    ionic = f"""<i type="int" name="IBRION">{ibrion:6}</i>
  <i type="int" name="NSW">{nsw:6}</i>"""
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator>
  <i name="program" type="string">vasp </i>
  <i name="version" type="string">6.3.2  </i>
  <i name="subversion" type="string">27Jun22 (build Jul 05 2022 12:00:00) complex parallel </i>
 </generator>
 <incar>
  <i type="string" name="PREC">accurate</i>
  <i name="ENCUT">    {encut:.8f}</i>
  {ionic}
  {more}
 </incar>
 <kpoints>
  <generation param="Gamma">
   <v type="int" name="divisions">  {" ".join(map(str, divisions))} </v>
   <v name="usershift">      0.00000000       0.00000000       0.00000000 </v>
   <v name="genvec1">      0.25000000       0.00000000       0.00000000 </v>
   <v name="genvec2">      0.00000000       0.25000000       0.00000000 </v>
   <v name="genvec3">      0.00000000       0.00000000       0.25000000 </v>
   <v name="shift">      0.00000000       0.00000000       0.00000000 </v>
  </generation>
  <varray name="kpointlist" >
   <v>       0.00000000       0.00000000       0.00000000 </v>
  </varray>
  <varray name="weights" >
   <v>       1.00000000 </v>
  </varray>
 </kpoints>
 <parameters>
  <separator name="electronic" >
   <i name="ENMAX">    {encut:.8f}</i>
   {more}
   <separator name="electronic convergence" >
    <i type="int" name="NELM">{nelm:6}</i>
   </separator>
  </separator>
  <separator name="ionic" >
  {ionic}
  </separator>
 </parameters>
 <atominfo>
  <atoms>{n:8} </atoms>
  <types>{len(kinds):8} </types>
  <array name="atoms" >
   <dimension dim="1">ion</dimension>
   <field type="string">element</field>
   <field type="int">atomtype</field>
   <set>
{atoms}   </set>
  </array>
  <array name="atomtypes" >
   <dimension dim="1">type</dimension>
   <field type="int">atomspertype</field>
   <field type="string">element</field>
   <field>mass</field>
   <field>valence</field>
   <field type="string">pseudopotential</field>
   <set>
{types}   </set>
  </array>
 </atominfo>
 {crystal(' name="initialpos" ')}
 {steps}
 {crystal(' name="finalpos" ')}
</modeling>
"""


def crystal(*symbols: str) -> Structure:
    coords = [[i / len(symbols)] * 3 for i in range(len(symbols))]
    return Structure(Lattice.cubic(2.6 * len(symbols) ** (1 / 3)), list(symbols), coords)


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name / "vasprun.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_inputs_read_back(tmp_path):
    structure = crystal("W", "B", "Ta", "B")  # species on purpose not in order
    paths = write_inputs(structure, tmp_path / "candidate")
    relaxed, static = (tmp_path / "candidate", tmp_path / "candidate" / "static")
    assert {p.name for p in paths if p.parent == relaxed} == {"POSCAR", "INCAR", "KPOINTS", "POTCAR.spec"}
    assert {p.name for p in paths if p.parent == static} == {"INCAR", "KPOINTS", "POTCAR.spec"}, "POSCAR comes later"
    assert sorted(p for p in relaxed.rglob("*") if p.is_file()) == sorted(paths)
    poscar = Poscar.from_file(tmp_path / "candidate" / "POSCAR", check_for_potcar=False)
    assert poscar.structure.matches(structure, scale=False)
    symbols = [symbol.split("_")[0] for symbol in (tmp_path / "candidate" / "POTCAR.spec").read_text().split()]
    assert symbols == poscar.site_symbols  # one pseudopotential per block of atoms, in POSCAR's order
    assert (tmp_path / "candidate" / "POTCAR.spec").read_text().split() == ["Ta_pv", "B", "W_sv"]
    incar = Incar.from_file(tmp_path / "candidate" / "INCAR")
    assert {tag: incar[tag] for tag in ("ENCUT", "EDIFF", "EDIFFG", "ISIF")} == {
        "ENCUT": 500, "EDIFF": 1e-5, "EDIFFG": -0.01, "ISIF": 3,
    }  # fmt: skip
    divisions = Kpoints.from_file(tmp_path / "candidate" / "KPOINTS").kpts[0]
    density = np.prod(divisions) * structure.volume / (2 * np.pi) ** 3
    assert 120 < density < 280  # 200 points per Å^-3, up to the rounding of three divisions


def incar(folder: Path, structure: Structure) -> Incar:
    write_inputs(structure, folder)
    return Incar.from_file(folder / "INCAR")


def test_moments_u_and_smearing_are_as_the_material_needs_them(tmp_path):
    metal, oxide = incar(tmp_path / "metal", crystal("Fe", "B")), incar(tmp_path / "oxide", crystal("Fe", "O"))
    assert (metal["ISMEAR"], metal["SIGMA"]) == (1, 0.2) and (oxide["ISMEAR"], oxide["SIGMA"]) == (0, 0.05)
    assert metal["MAGMOM"] == [5, 0.6] and metal["ISPIN"] == 2
    assert oxide["LDAU"] and oxide["LDAUU"] == [5.3, 0] and oxide["LMAXMIX"] == 4
    assert not {"LDAU", "LDAUU"} & set(metal), "the Materials Project adds U in oxides and fluorides alone"
    for folder in ("metal", "oxide"):
        static = Incar.from_file(tmp_path / folder / "static" / "INCAR")
        assert (static["NSW"], static["ISMEAR"], static["ENCUT"]) == (0, -5, 500) and "IBRION" not in static
    kinds = {name: kind_of(crystal(*name)) for name in [("Ta", "B"), ("B",), ("Na", "Cl"), ("Si", "C"), ("W",)]}
    assert [name for name, kind in kinds.items() if kind == "metal"] == [("Ta", "B"), ("W",)]


def test_the_job_runs_every_folder_and_builds_potcars_from_the_users_own(tmp_path):
    """VASP and pymatgen's command are stood in for by two of our own, which leave behind what the real ones do."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "pmg").write_text('#!/bin/bash\necho "$@" > POTCAR\n')
    (commands / "run").write_text(
        "#!/bin/bash\ngrep -c ^NSW INCAR >> calls\nsed s/^/moved/ POSCAR > CONTCAR\necho General timing > OUTCAR\n"
    )
    for path in commands.iterdir():
        path.chmod(0o755)
    names = ["a", "b"]
    for name in names:
        write_inputs(crystal("Ta", "B"), tmp_path / name)
    write_job(tmp_path, names)
    assert "#SBATCH --array=1-2\n" in (tmp_path / "job.slurm").read_text()
    environment = {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "2"}
    command = ["bash", "job.slurm"]
    missing = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert missing.returncode and "name the command that runs VASP" in missing.stderr
    for _ in range(2):  # the second time nothing is left to do
        subprocess.run(command, cwd=tmp_path, env=environment | {"VASP_COMMAND": "run"}, check=True)
    assert (tmp_path / "b" / "POTCAR").read_text() == "potcar --functional PBE_54 --symbols Ta_pv B\n"
    assert (tmp_path / "b" / "static" / "POSCAR").read_text() == (tmp_path / "b" / "CONTCAR").read_text()
    assert [len((tmp_path / "b" / at / "calls").read_text().split()) for at in ("", "static")] == [1, 1]
    assert not (tmp_path / "a" / "POTCAR").exists()


def test_costs_grow_with_the_cell():
    assert valence_electrons("W", "W_sv") == 14 and valence_electrons("Ta", "Ta_pv") == 11
    assert [valence_electrons(s, s) for s in ("B", "O", "Al")] == [3, 6, 3] and valence_electrons("Ga", "Ga_d") == 13
    found = costs({"small": crystal("Ta", "B"), "large": crystal(*["Ta", "B"] * 8)}).set_index("id")
    assert found["electrons"].tolist() == [14, 112] and found["atoms"].tolist() == [2, 16]
    assert found.loc["small", "core_hours"] < found.loc["large", "core_hours"] < 1000
    assert found.loc["small", "kpoints"] > found.loc["large", "kpoints"]


def test_no_pseudopotential(tmp_path):
    with pytest.raises(BadInput, match="pseudopotential .*Md.*leave"):
        write_inputs(crystal("Md", "W"), tmp_path)


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


def test_distances_come_from_vasp_alone(tmp_path):
    for name, symbols, energy in [
        ("Ta", ["Ta"], -12.0),
        ("Ta_strained", ["Ta"], -11.5),
        ("B", ["B"], -6.0),
        ("known", ["Ta", "B"], -20.0),  # 2 eV below the elements: -1 eV/atom
        ("candidate", ["Ta", "B", "B"], -26.4),  # -0.8 eV/atom; the hull there is 2/3 of -1
    ]:
        put(tmp_path, name, vasprun(crystal(*symbols), [energy]))
    calculations, _ = read_calculations(tmp_path)
    hull = Hull(["B", "Ta"], ["TaB"], [-0.8], ["known"], "test")  # of the data: TaB2 would become TaB and B
    found, problems = hull_distances(calculations, ["candidate"], hull)
    assert problems == []
    assert found.loc["candidate", "formation_energy"] == pytest.approx(-0.8)
    assert found.loc["candidate", "energy_above_hull"] == pytest.approx(-0.8 + 2 / 3)
    without = [c for c in calculations if c.name != "known"]
    found, problems = hull_distances(without, ["candidate"], hull)
    assert found.empty and problems == ["candidate has no hull of its own kind yet: calculate TaB in the same folder"]


# ------------------------------------------------------------------- a small Ta-B folder, and what may be wrong with it

PHASES = {"Ta": (["Ta"], -12.0), "B": (["B"], -6.0), "known": (["Ta", "B"], -20.0)}
TAB2, ENERGY = ["Ta", "B", "B"], -26.4
PLACED = -0.8 + 2 / 3  # eV/atom above the hull
HULL = Hull(["B", "Ta"], ["TaB"], [-0.8], ["known"], "test")


def put_phases(folder: Path, **how) -> None:
    for name, (symbols, energy) in PHASES.items():
        put(folder, name, vasprun(crystal(*symbols), [energy], **how))


def distances(folder: Path, *names: str) -> tuple[dict[str, float], list[str]]:
    calculations, unread = read_calculations(folder)
    found, problems = hull_distances(calculations, names or ["candidate"], HULL)
    said = unread + problems
    assert not any("\n" in sentence for sentence in said)
    return found.energy_above_hull.to_dict(), said


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
        ({"nelm": 3}, "NELM"),
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
    zeros = "\n".join("   <v> " + " ".join([f"{0:16.8f}"] * 3) + " </v>" for _ in range(3))
    for name, kilobar in (("candidate", 9.0), ("strained", 40.0)):
        stress = "\n".join(
            "   <v> " + " ".join(f"{kilobar * (i == j):16.8f}" for j in range(3)) + " </v>" for i in range(3)
        )
        head, tail = vasprun(crystal(*TAB2), [ENERGY]).rsplit(zeros, 1)
        put(tmp_path, name, head + stress + tail)
    found, said = distances(tmp_path)
    assert found == pytest.approx({"candidate": PLACED})
    assert len(said) == 1 and re.search("strained/vasprun.xml ends under a pressure of 40 kB; relax", said[0])


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


def test_vasp_replaces_the_potential():
    candidates = pd.DataFrame({"id": ["a:1", "b"], "formation_energy": [-0.5, -0.6], "distance": [0.1, 0.2]})
    distances = pd.DataFrame({"formation_energy": [-0.4], "energy_above_hull": [0.01], "source": "VASP"}, index=["a_1"])
    found = with_dft(candidates.assign(source="CHGNet"), distances)
    assert found["distance"].tolist() == [0.01, 0.2]
    assert found["formation_energy"].tolist() == [-0.4, -0.6]
    assert found["source"].tolist() == ["VASP", "CHGNet"]
    assert with_dft(found, distances.iloc[:0]).equals(found)
    assert with_dft(found, hull_distances([], ["a_1"], HULL)[0]).equals(found), "nothing was calculated"
