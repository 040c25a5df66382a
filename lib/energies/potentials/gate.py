"""The gate that a potential passes before its first use on a machine.

A library that reads older weights without complaint can return wrong energies: nothing but the numbers shows it. So a
dozen crystals of mixed chemistry are evaluated. Their energies must be those on record for the potential
(`lib/data/potential_gate.json`), and in distorted copies the forces must be the derivative of the energy by the
positions, the stress that by the strain, both in eV and Å. What has passed is noted in `data/potentials`, by weights
and versions, and not tested again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json

import numpy as np
import pandas as pd
from ase import Atoms

from lib.core.errors import BadInput
from lib.core.files import ROOT, read_json, write_json
from lib.energies.potentials.interface import Potential

RECORD = ROOT / "lib" / "data" / "potential_gate.json"  # crystals near experiment in primitive cells, energies eV/atom
PASSED = ROOT / "data" / "potentials" / "passed.json"
STEP, STRAIN = 0.01, 0.004  # Å of every atom, and norm of the strain, of a finite difference to either side
ENERGY, FORCE, STRESS = 0.002, 0.01, 0.001  # eV/atom, eV/Å, eV/Å^3: what may differ
RELATIVE = 0.03  # and what share of a derivative may, where that is more


def measure(potential: Potential, name: str) -> pd.DataFrame:
    """What a potential says of the crystals that it knows, beside what it should say.

    Args:
        name: under which energies are on record; without a record the derivatives alone are tested.

    Returns:
        One row a crystal: energy and recorded (eV/atom), force and its finite difference (along a random direction in
        which every atom moves, eV/Å), stress and its finite difference (of a random strain, eV/Å^3), and passed.
    """
    rng, record = np.random.default_rng(0), json.loads(RECORD.read_text())
    recorded = record["energies"].get(name, {})
    rows = {}
    for crystal, values in record["crystals"].items():
        atoms = Atoms(pbc=True, **values)
        found = _measured(potential, atoms, rng) if not potential.strangers(atoms) else None
        if found or crystal in recorded:
            rows[crystal] = (recorded.get(crystal, np.nan), *(found or [np.nan] * 5))
    columns = ["recorded", "energy", "force", "by difference", "stress", "by strain"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    passed = table["recorded"].isna() | ((table["energy"] - table["recorded"]).abs() <= ENERGY)
    for ours, theirs, most in (("force", "by difference", FORCE), ("stress", "by strain", STRESS)):
        passed &= (table[ours] - table[theirs]).abs() <= np.maximum(most, RELATIVE * table[theirs].abs())
    return table.assign(passed=passed)


def _measured(potential: Potential, atoms: Atoms, rng: np.random.Generator) -> list[float] | None:
    """Energy per atom as given; in a distorted copy, force and stress each with its finite difference.

    The copy has no symmetry, so that no component of a force or of the stress is zero. None where the potential fails:
    an imported calculator says only so which elements it knows.
    """
    start = _strained(atoms, rng.normal(scale=0.01, size=(3, 3)))
    start.positions += rng.normal(scale=0.05, size=start.positions.shape)
    direction = rng.normal(size=start.positions.shape)
    direction /= np.linalg.norm(direction) / np.sqrt(len(atoms))  # 1 Å an atom
    strain = rng.normal(size=(3, 3))
    strain = (strain + strain.T) / np.linalg.norm(strain + strain.T)
    ends = [_strained(start, sign * STRAIN * strain) for sign in (1, -1)]
    for sign in (1, -1):
        ends.append(start.copy())
        ends[-1].positions += sign * STEP * direction
    try:
        as_given, own, wider, narrower, plus, minus = potential.evaluate([atoms, start, *ends])
    except (ValueError, RuntimeError):
        return None
    n, volume = len(atoms), start.get_volume()
    force, stress = float((own.forces * direction).sum() / n), float((own.stress * strain).sum())
    by_difference = (minus.energy - plus.energy) / (2 * STEP * n)
    return [as_given.energy / n, force, by_difference, stress, (wider.energy - narrower.energy) / (2 * STRAIN * volume)]


def _strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return strained


def admit(potential: Potential, name: str) -> None:
    """Let a potential pass that has passed before or passes now.

    Raises:
        BadInput: it fails, with the table.
    """
    key = _key(potential)
    passed = read_json(PASSED) if PASSED.exists() else {}
    if passed.get(name) == key:
        return
    found = measure(potential, name)
    if found.empty:
        raise BadInput(f"potential {name} takes none of the crystals of the gate ({RECORD.name}); use another one")
    if not found["passed"].all():
        failed = ", ".join(found.index[~found["passed"]])
        table = found[~found["passed"]].to_string(float_format="{:.4f}".format)
        raise BadInput(
            f"potential {name} fails the gate at {failed}: its energies are not those on record, or forces and stress "
            f"are not their derivatives (eV, Å); install the versions in constraints.txt\n{table}"
        )
    with contextlib.suppress(BadInput):  # a folder that cannot be written: the next process measures again
        write_json(PASSED, passed | {name: key})


def _key(potential: Potential) -> str:
    """A checksum of what the outcome depends on."""
    versions = {package: importlib.metadata.version(package) for package in ("ase", "numpy", "torch")}
    facts = [potential.card.provenance, versions, RECORD.read_text(), STEP, STRAIN, ENERGY, FORCE, STRESS, RELATIVE]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
