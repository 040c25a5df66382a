"""Inputs for the last step of paper section 7.1: VASP's relaxation, a static step after it, and a job to run them all.

Magnetic moments are those of pymatgen's set of the Materials Project (MPRelaxSet), all of one sign; cutoff and criteria
are the paper's. There is no +U: that set has it in oxides and fluorides alone, whose energies would then stand on no
hull with those of the metals in them. The inputs hold no POTCAR, which VASP's licence does not let anyone pass on:
POTCAR.spec names the recommended pseudopotentials (pymatgen's PBE_54), and the job puts them together with the command
`pmg potcar` from the folder that the user has told pymatgen (PMG_VASP_PSP_DIR in ~/.config/.pmgrc.yaml).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Element, Structure

from lib.core.errors import BadInput
from lib.core.files import replacing
from lib.symmetry.cells import SYMPREC

FUNCTIONAL = "PBE_54"
INCAR = {
    "ENCUT": 500,  # eV; this and the two criteria below as in paper section 7.1
    "EDIFF": 1e-5,  # eV a cell
    "EDIFFG": -1e-2,  # eV/Å
    "PREC": "Accurate",
    "ALGO": "Normal",
    "NELM": 200,
    "IBRION": 2,
    "ISIF": 3,  # positions, shape and volume
    "NSW": 200,
    "ISPIN": 2,
    "LREAL": False,
    "LWAVE": False,
    "LCHARG": False,
}
FROM_THE_SET = ("MAGMOM", "LASPH")  # of MPRelaxSet
SMEARING = {
    "metal": {"ISMEAR": 1, "SIGMA": 0.2},  # Methfessel-Paxton, whose forces are right
    "insulator": {"ISMEAR": 0, "SIGMA": 0.05},  # Gaussian, which does no harm where it turns out to be a metal
}
STATIC = {"IBRION": -1, "NSW": 0, "ISMEAR": -5, "SIGMA": 0.05, "EDIFF": 1e-6}  # tetrahedra, whose energies are right
ANIONS = frozenset(["N", "O", "F", "S", "Cl", "Se", "Br", "Te", "I"])  # a compound with one of them may have a gap
KPOINT_DENSITY = 200  # points per Å^-3 of the reciprocal cell, the Materials Project's for metals
ORBITAL_STEPS, ELECTRONIC_STEPS, IONIC_STEPS = 4, 13, 15  # actions of the Hamiltonian, self-consistency, relaxation
FLOPS = 1e10  # of one core, a second, that such a calculation gets
JOB = r"""#!/bin/bash
#SBATCH --job-name=vasp
#SBATCH --array=1-{n}
#SBATCH --ntasks={tasks}
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%A_%a.out
# One task of the array is one line of folders.txt. Needs VASP_COMMAND, such as "srun vasp_std", and pymatgen with the
# folder of your pseudopotentials (pmg config --add PMG_VASP_PSP_DIR ...). What is finished is passed over, and what
# came to no end goes on: submit the job again.
set -euo pipefail
cd "$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" folders.txt)"
: "${{VASP_COMMAND:?name the command that runs VASP}}"
says() {{ [ -f OUTCAR ] && grep -q "$1" OUTCAR; }}
potcar() {{ [ -s POTCAR ] || pmg potcar --functional {functional} --symbols $(cat POTCAR.spec); }}
potcar
says "reached required accuracy" || {{ [ ! -s CONTCAR ] || cp CONTCAR POSCAR; rm -f static/OUTCAR; $VASP_COMMAND; }}
says "reached required accuracy" || {{ echo "$PWD is not relaxed yet; submit the job again" >&2; exit 1; }}
cp CONTCAR static/POSCAR
cd static
potcar
says "General timing" || $VASP_COMMAND
"""


def kind_of(structure: Structure) -> str:
    """ "metal", or "insulator" for what may have a gap: compounds of anions, and what holds no metal."""
    symbols = {element.symbol for element in structure.composition.elements}
    return "insulator" if symbols & ANIONS or not any(Element(s).is_metal for s in symbols) else "metal"


def write_inputs(structure: Structure, folder: str | Path) -> list[Path]:
    """Write POSCAR, INCAR, KPOINTS and POTCAR.spec for a relaxation, and all but POSCAR, which is its result, for the
    static step in the folder `static` within.

    Raises:
        BadInput: the folder cannot be written, or an element has no recommended pseudopotential.
    """
    steps = {"": SMEARING[kind_of(structure)], "static": STATIC}
    paths = []
    for step, tags in steps.items():
        files = _set(structure, INCAR | tags).get_input_set(potcar_spec=True)
        for name in ("POSCAR", "INCAR", "KPOINTS", "POTCAR.spec"):
            if step and name == "POSCAR":
                continue
            with replacing(Path(folder) / step / name) as temporary:
                temporary.write_text(f"{files[name]}".rstrip() + "\n")
            paths.append(Path(folder) / step / name)
    return paths


def _set(structure: Structure, tags: dict[str, object]):
    from pymatgen.io.vasp.sets import MPRelaxSet, MPScanRelaxSet, VaspInputSet

    potentials = MPScanRelaxSet.CONFIG["POTCAR"]
    unknown = sorted({site.specie.symbol for site in structure} - set(potentials))
    if unknown:
        raise BadInput(f"no recommended pseudopotential is known for {', '.join(unknown)}; leave such crystals out")
    asked = {name: MPRelaxSet.CONFIG["INCAR"][name] for name in FROM_THE_SET}
    config = {"INCAR": asked | tags, "KPOINTS": {"reciprocal_density": KPOINT_DENSITY}, "POTCAR": potentials}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is another functional's set
        return VaspInputSet(structure, config | {"POTCAR_FUNCTIONAL": FUNCTIONAL}, user_potcar_functional=FUNCTIONAL)


def write_job(folder: Path, names: Sequence[str], tasks: int = 8) -> list[Path]:
    """Write folders.txt and job.slurm, an array job that relaxes each of the folders and then runs its static step."""
    texts = {"folders.txt": "\n".join(names) + "\n"}
    texts["job.slurm"] = JOB.format(n=len(names), tasks=tasks, functional=FUNCTIONAL)
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text)
    return [folder / name for name in texts]


def valence_electrons(symbol: str, title: str) -> int:
    """Electrons that a pseudopotential such as W_sv treats: outside the noble gas and full f (and, after the transition
    metals, d) shells, and those that its name adds."""
    element = Element(symbol)
    inside = {"sv": 8, "pv": 6, "d": 10}.get(title.partition("_")[2], 0)
    shells = re.findall(r"\d([spdf])(\d+)", element.electronic_structure)
    full = {"f"} | ({"d"} if element.block == "p" else set())
    outer = sum(int(n) for shell, n in shells if not (shell in full and int(n) in (10, 14)))
    return outer + inside


def costs(structures: dict[str, Structure]) -> pd.DataFrame:
    """What relaxing and the static step will take, to the order of magnitude.

    Floating-point operations of orthogonalising the bands and of applying the Hamiltonian by Fourier transforms, for
    usual numbers of steps, at FLOPS a second and core; nothing of it was measured.

    Returns:
        id, atoms, electrons, kpoints (irreducible), plane_waves and core_hours.
    """
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    rows = []
    for name, structure in structures.items():
        files = _set(structure, INCAR | SMEARING["metal"])
        titles = dict(zip(files.poscar.site_symbols, files.potcar_symbols, strict=True))
        electrons = sum(valence_electrons(s, titles[s]) * n for s, n in structure.composition.get_el_amt_dict().items())
        divisions = files.kpoints.kpts[0]
        kpoints = len(SpacegroupAnalyzer(structure, SYMPREC).get_ir_reciprocal_mesh(divisions))
        waves = structure.volume * (0.5123 * np.sqrt(INCAR["ENCUT"])) ** 3 / (6 * np.pi**2)  # sqrt(2 m eV) / hbar, Å^-1
        bands = 0.6 * electrons + len(structure)  # VASP's default with spin
        grid = 16 * waves
        step = 24 * waves * bands**2 + ORBITAL_STEPS * 2 * bands * 5 * grid * np.log2(grid)
        total = 2 * kpoints * step * ELECTRONIC_STEPS * (IONIC_STEPS + 1)
        rows.append((name, len(structure), int(electrons), kpoints, round(waves), total / FLOPS / 3600))
    return pd.DataFrame(rows, columns=["id", "atoms", "electrons", "kpoints", "plane_waves", "core_hours"])
