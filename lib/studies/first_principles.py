"""Formation energies of known compounds by GPAW, beside a reference's: what its accuracy can confirm.

    python -m lib.dft energies.csv --out outputs/gpaw TaB2 TaB WB WB2

The csv and the folder `cifs` beside it are those of :func:`lib.metrics.fitness.read_reference_phases`; of each
formula, and of each of its elements, the crystal of lowest reference energy is calculated as it is. A distance from the
hull that is smaller than the largest error says nothing.

Every calculation is kept as it comes in OUT/NAME, and the same command goes on where it was interrupted. The table is
tables/gpaw_formation_energies.csv, and the score goes to scores.json.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.core.commands import command, positive
from lib.core.errors import BadInput
from lib.core.files import replacing, write_json
from lib.core.machine import measured_by
from lib.core.workers import progress
from lib.crystals.elements import parse_formula
from lib.crystals.table import CrystalTable
from lib.energies.dft import gpaw
from lib.energies.dft.calculation import folder_name
from lib.metrics.fitness import read_reference_phases, referred_to_elements
from lib.studies.grid import elements_of


def lowest_of(phases: CrystalTable, formulas: Sequence[str]) -> dict[str, int]:
    """Reduced formula, of each that is given and of each of their elements -> row of its lowest crystal.

    Raises:
        BadInput: there is none.
    """
    wanted = [parse_formula(formula).reduced_formula for formula in [*elements_of(formulas), *formulas]]
    found = {}
    for formula in wanted:
        rows = np.flatnonzero(phases.reduced_formula == formula)
        if not len(rows):
            raise BadInput(f"the reference holds no crystal of {formula}; leave it out, or add its cif")
        found[formula] = int(rows[np.argmin(phases.formation_energy[rows])])
    return found


def formation_energies(reference: Path, formulas: Sequence[str], out: Path, **settings) -> pd.DataFrame:
    """Of each formula: id, formula, reference, ours and error, eV/atom (:func:`lib.metrics.fitness.on_record`).

    Args:
        settings: cutoff and spacing of :func:`lib.energies.dft.gpaw.calculate`.
    """
    phases = read_reference_phases(reference, elements_of(formulas))
    rows = sorted(lowest_of(phases, formulas).values(), key=lambda row: phases.n_sites[row])  # small ones first
    totals = []
    for row in progress(rows, desc="GPAW", unit="crystal"):
        folder = out / folder_name(str(phases.id[row]))
        totals.append(gpaw.calculate(phases.structure(row), folder, **settings).energy)
    chosen = phases.take(np.array(rows))
    columns = {"id": chosen.id, "formula": chosen.reduced_formula, "reference": chosen.formation_energy}
    compared = referred_to_elements(pd.DataFrame(columns), np.array(totals))
    return compared[compared["formula"].map(lambda formula: len(parse_formula(formula)) > 1).astype(bool)]


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m lib.dft", description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path, help="csv file with material_id, formula and e_form; cifs beside it")
    parser.add_argument("formulas", nargs="+", help="compounds, such as TaB2")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, such as outputs/gpaw")
    parser.add_argument("--cutoff", type=positive, default=gpaw.CUTOFF, help="eV")
    parser.add_argument("--spacing", type=positive, default=gpaw.SPACING, help="of k-points, 1/Å")
    given = parser.parse_args(arguments)
    how = {"cutoff": given.cutoff, "spacing": given.spacing}
    table = formation_energies(given.reference, given.formulas, given.out, **how)
    with replacing(given.out / "tables" / "gpaw_formation_energies.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.5f")
    words = f"python -m lib.dft {given.reference.name} --out {given.out} {' '.join(given.formulas)}"
    words += f" --cutoff {given.cutoff:g} --spacing {given.spacing:g}"
    about = measured_by(words) | {"ci_low": None, "ci_high": None}
    value, n = 1000 * float(table["error"].abs().max()), len(table)
    unit = f"meV/atom, largest error of a formation energy ({given.cutoff:g} eV)"
    write_json(given.out / "scores.json", [{"id": "gpaw.max_error_mev", "value": value, "unit": unit, "n": n} | about])
    print(table.to_string(index=False, float_format="{:.4f}".format))
