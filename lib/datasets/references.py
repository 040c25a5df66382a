"""Energies of the elements from which a potential counts formation energies, so that they are of the data's kind.

    python -m lib.references outputs/mp20_cpu/data/train.parquet --data "MP-20 (Materials Project)" --licence CC-BY-4.0

What a model was asked for is of its data's kind, what a potential says of its answer is not. Counted from energies of
the elements that fit the data best (:func:`lib.energies.hull.fitted_references`), the two can be compared, up to the
error that is kept beside them. The command keeps them in `lib/data/element_energies.json`, for whoever has not the data
at hand.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from lib.core.commands import command
from lib.core.errors import BadInput
from lib.core.files import ROOT, write_json
from lib.crystals.table import CrystalTable, element_shares
from lib.datasets.sources.embedded import EMBEDDED
from lib.energies.hull import fitted_references, referred
from lib.energies.potentials import DEFAULT_POTENTIAL, potential_provenance
from lib.energies.relaxation import single_points

KEPT = ROOT / "lib" / "data" / "element_energies.json"
CRYSTALS_OF_AN_ELEMENT = 10  # from which its energy is fitted
CRYSTALS_OF_THE_ERROR = 300  # others, by which the fit is judged


def fitted_to(table: CrystalTable, potential: str, *, rng: np.random.Generator, **how) -> dict[str, float]:
    """:func:`lib.energies.hull.fitted_references` of a potential to CRYSTALS_OF_AN_ELEMENT of a table's crystals of
    each element, drawn by `rng`, as they are (:func:`lib.energies.relaxation.single_points`): symbol -> eV/atom."""
    return _fitted(table.take(_some_of_each_element(table, rng)), potential, **how)


def of_kind(energy_kind: str, potential: str) -> dict[str, float]:
    """Symbol -> eV/atom for data of this kind: those that are kept, else those that the embedded set records.

    Empty where both are of another version of the potential.
    """
    weights = potential_provenance(potential)["weights_sha256"]
    kept = json.loads(KEPT.read_text()).get(energy_kind, {})
    if kept.get("weights_sha256") == weights:
        return kept["energies"]
    embedded = CrystalTable.from_parquet(EMBEDDED).about
    return dict(embedded["element_energies_eV_per_atom"]) if embedded["weights_sha256"] == weights else {}


def keep(table: CrystalTable, potential: str, *, data: str, licence: str, seed: int = 42, path: Path = KEPT) -> dict:
    """Fit the energies to a table and keep them under its kind of energy; returns what is kept.

    Beside them stands the mean distance, eV/atom, of the potential's formation energies from the data's, of crystals
    that the fit has not seen. Raises BadInput if the table has no formation energies of a known kind, or no crystals
    but those of the fit.
    """
    if table.energy_kind == "unknown" or not np.isfinite(table.formation_energy).any():
        raise BadInput("the table has no formation energies of a known kind; give one that notebook 02 wrote")
    rng = np.random.default_rng(seed)
    seen = _some_of_each_element(table, rng)
    unseen = rng.permutation(np.setdiff1d(np.arange(len(table)), seen))[:CRYSTALS_OF_THE_ERROR]
    if not len(unseen):
        raise BadInput(f"all {len(table)} crystals are needed for the fit and none is left to judge it; give more")
    fitted, others = _fitted(table.take(seen), potential), table.take(unseen)
    totals = single_points(list(others.structures()), potential)
    distance = np.abs(referred(totals, others, fitted) - others.formation_energy)
    entry = potential_provenance(potential) | {"data": data, "licence": licence, "crystals": len(seen)}
    entry |= {"error": round(float(np.nanmean(distance)), 4), "n_error": int(np.isfinite(distance).sum())}
    entry["energies"] = {symbol: round(value, 5) for symbol, value in sorted(fitted.items())}
    known = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, known | {table.energy_kind: entry})
    return entry


def _fitted(some: CrystalTable, potential: str, **how) -> dict[str, float]:
    return fitted_references(some, single_points(list(some.structures()), potential, **how))


def _some_of_each_element(table: CrystalTable, rng: np.random.Generator) -> np.ndarray:
    shares = element_shares(table)[:, np.unique(table.species)]
    return np.unique(np.concatenate([rng.permutation(np.flatnonzero(c))[:CRYSTALS_OF_AN_ELEMENT] for c in shares.T]))


@command()
def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m lib.references", description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="crystals with formation energies, as notebook 02 writes them")
    parser.add_argument("--potential", default=DEFAULT_POTENTIAL)
    parser.add_argument("--data", required=True, help="the data in words")
    parser.add_argument("--licence", required=True, help="of the data")
    given = parser.parse_args()
    entry = keep(CrystalTable.from_parquet(given.table), given.potential, data=given.data, licence=given.licence)
    print(f"{len(entry['energies'])} elements, fitted to {entry['crystals']} crystals, in {KEPT}")
    print(f"mean distance of {entry['n_error']} other crystals: {1000 * entry['error']:.0f} meV/atom")
