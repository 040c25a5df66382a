"""Inputs for VASP, the job that runs them, and what they will cost."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure
from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar
from vasp_output import crystal

from lib.core.errors import BadInput
from lib.energies.dft.vasp_inputs import costs, kind_of, valence_electrons, write_inputs, write_job


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


def test_moments_and_smearing_are_as_the_material_needs_them(tmp_path):
    metal, oxide = incar(tmp_path / "metal", crystal("Fe", "B")), incar(tmp_path / "oxide", crystal("Fe", "O"))
    assert (metal["ISMEAR"], metal["SIGMA"]) == (1, 0.2) and (oxide["ISMEAR"], oxide["SIGMA"]) == (0, 0.05)
    assert metal["MAGMOM"] == [5, 0.6] and metal["ISPIN"] == 2
    assert {tag for tag in (*metal, *oxide) if "LDAU" in tag} == set(), "so that the oxide stands on a hull with iron"
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
        "[ $(wc -l < calls) = 1 ] || echo reached required accuracy >> OUTCAR\n"
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
    ready = environment | {"VASP_COMMAND": "run"}
    first = subprocess.run(command, cwd=tmp_path, env=ready, capture_output=True, text=True)
    assert first.returncode and "b is not relaxed yet; submit the job again" in first.stderr
    assert not (tmp_path / "b" / "static" / "calls").exists()
    for _ in range(2):  # the relaxation goes on where it was; then nothing is left to do
        subprocess.run(command, cwd=tmp_path, env=ready, check=True)
    assert (tmp_path / "b" / "CONTCAR").read_text().startswith("movedmoved")
    assert (tmp_path / "b" / "POTCAR").read_text() == "potcar --functional PBE_54 --symbols Ta_pv B\n"
    assert (tmp_path / "b" / "static" / "POSCAR").read_text() == (tmp_path / "b" / "CONTCAR").read_text()
    assert [len((tmp_path / "b" / at / "calls").read_text().split()) for at in ("", "static")] == [2, 1]
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
