"""Whether a potential is fit for a hull: its energies of the known phases of a system beside a reference's.

What matters is the distance from the hull with all energies from the same potential, each known compound taken for a
candidate; errors of formation energies that neighbouring phases share cancel in it. For Ta-W-B the energies of ten
compounds of the Materials Project are on record for every potential of the registry (`lib/data/fitness_ta_w_b.json`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Composition

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.stats import cells, mean, rank_correlation
from lib.crystals.elements import parse_formula
from lib.crystals.structure_io import decoded, read_one
from lib.crystals.table import CrystalTable
from lib.datasets.sources.files import energies, read_csv
from lib.energies.hull import UNKNOWN, Resolution, distance_errors, mean_absolute_error
from lib.energies.potentials import potential_class
from lib.energies.relaxation import single_points

RECORD = ROOT / "lib" / "data" / "fitness_ta_w_b.json"
SYSTEM = frozenset({"B", "Ta", "W"})  # of the record


def on_record(potential: str) -> pd.DataFrame:
    """The phases of Ta-W-B in the Materials Project's formation energies and in a potential's, eV/atom.

    Total energies are single points at the Materials Project's geometries; formation energies count from its ground
    states of the elements.

    Returns:
        As :func:`lib.energies.hull.formation_energy_errors`; no line where nothing is on record for these weights.
    """
    record = json.loads(RECORD.read_text())
    weights = potential_class(potential).card.weights_sha256
    totals = next((entry["energies"] for entry in record["potentials"] if entry["weights_sha256"] == weights), None)
    phases = pd.DataFrame(record["phases"])
    if totals is None:
        return phases.head(0).assign(ours=[], error=[])
    return referred_to_elements(phases, np.array(totals))


def referred_to_elements(
    phases: pd.DataFrame, totals: np.ndarray, references: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Phases (id, formula, reference) with formation energies from total ones, eV/atom; phases of other elements, or
    without an energy, are left out.

    Args:
        totals: (n,) eV/atom. Those of the elements' crystals of lowest reference energy are what is counted from.
        references: symbol -> eV/atom, for elements without a crystal.

    Returns:
        As :func:`lib.energies.hull.formation_energy_errors`.
    """
    compositions = [Composition(formula) for formula in phases["formula"]]
    zero = dict(references or {})
    for row in np.argsort(-phases["reference"].to_numpy(float), kind="stable"):  # the lowest has the last word
        if len(compositions[row]) == 1 and np.isfinite(totals[row]):
            zero[str(compositions[row].elements[0])] = float(totals[row])
    ours = [
        total - sum(c.get_atomic_fraction(e) * zero.get(str(e), np.nan) for e in c)
        for c, total in zip(compositions, totals, strict=True)
    ]
    found = phases[["id", "formula", "reference"]].assign(ours=ours)
    return found.assign(error=found["ours"] - found["reference"]).dropna().reset_index(drop=True)


def before(potential: str) -> tuple[pd.DataFrame, Resolution, str, frozenset[str]]:
    """What is on record for a potential: the phases, the resolution, what it was measured on, and for what system."""
    compared = on_record(potential)
    if compared.empty:
        return compared, UNKNOWN, "nothing, so that its error is not known", SYSTEM
    distances = distance_errors(compared, SYSTEM)
    return compared, Resolution.of(distances), f"{len(distances)} Ta-W-B compounds of the Materials Project", SYSTEM


def fitness(compared: pd.DataFrame, elements: Sequence[str], potential: str) -> pd.DataFrame:
    """How well a potential does in a system, on formation energies and on distances from the hull.

    Args:
        compared: known phases, as :func:`lib.energies.hull.formation_energy_errors` returns them.

    Returns:
        Two rows: potential, quantity, n, error (mean absolute), bias (mean), rank_correlation (Spearman's), each with
        its 95 % interval, single_low and single_high (where one more error lies), and trained_on. eV/atom.
    """
    compounds = compared[compared["formula"].map(lambda formula: len(Composition(formula)) > 1).astype(bool)]
    parts = {"formation energy": compounds, "distance from the hull": distance_errors(compared, elements)}
    return pd.DataFrame([fitness_row(potential, quantity, errors) for quantity, errors in parts.items()])


def fitness_row(potential: str, quantity: str, errors: pd.DataFrame) -> dict[str, object]:
    """A line of :func:`fitness`, from what :mod:`lib.energies.hull` finds of formation energies or of distances."""
    rates = {"error": mean_absolute_error(errors), "bias": mean(errors["error"].to_numpy())}
    rates["rank_correlation"] = rank_correlation(errors["reference"], errors["ours"], errors["formula"].to_numpy())
    single = Resolution.of(errors).single
    row = {"potential": potential, "quantity": quantity, "n": len(errors)} | cells(rates)
    row |= {"single_low": single.ci_low, "single_high": single.ci_high}
    return row | {"trained_on": potential_class(potential).card.trained_on}


def read_reference_phases(path: Path, elements: Sequence[str]) -> CrystalTable:
    """Known compounds of a system with reference formation energies, to measure a potential's error on.

    Args:
        path: csv file with the columns material_id, formula and e_form (eV/atom), all of one reference; the folder
            `cifs` beside it holds `<material_id>.cif`. Rows without such a file are passed over.
        elements: of the system; other phases are passed over.

    Raises:
        BadInput: the file or a CIF does not read, or no row has a crystal.
    """
    frame = read_csv(path, ["material_id", "formula", "e_form"]).drop_duplicates("material_id")
    found = [{element.symbol for element in parse_formula(formula)} for formula in frame["formula"]]
    inside = [system <= set(elements) for system in found]
    cifs = {name: path.parent / "cifs" / f"{name}.cif" for name in frame.loc[inside, "material_id"] if name}
    cifs = {name: cif for name, cif in cifs.items() if cif.is_file()}
    if not cifs:
        raise BadInput(f"no row of {path} has its crystal in {path.parent / 'cifs'}; put <material_id>.cif files there")
    rows = frame.set_index("material_id", drop=False).loc[list(cifs)]
    return CrystalTable.from_structures(
        [read_one(decoded(cif.read_bytes()), "cif", cif.name) for cif in cifs.values()],
        id=list(cifs),
        formation_energy=energies(rows["e_form"], rows["material_id"], path),
        energy_kind=f"formation energies of {path.name}",
    )


def measured(
    reference: Path, elements: Sequence[str], references: Mapping[str, float], potential: str, *, n_workers: int
) -> tuple[pd.DataFrame, Resolution, str]:
    """The phases of a csv of :func:`read_reference_phases` in its energies and in a potential's.

    Args:
        references: symbol -> energy of the element by the potential, eV/atom, for elements without a crystal there.

    Returns:
        The phases, the resolution, and what it was measured on, in words: as :func:`before`.
    """
    phases = read_reference_phases(reference, elements)
    totals = single_points(list(phases.structures()), potential, n_workers=n_workers)
    columns = {"id": phases.id, "formula": phases.reduced_formula, "reference": phases.formation_energy}
    compared = referred_to_elements(pd.DataFrame(columns), totals, references)
    distances = distance_errors(compared, elements)
    return compared, Resolution.of(distances), f"{len(distances)} compounds of {reference.name}"
