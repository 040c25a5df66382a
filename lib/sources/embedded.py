"""The polymorph set that ships with the project (built by :mod:`lib.build_embedded`; energies are CHGNet's)."""

from __future__ import annotations

from lib.crystals import CrystalTable
from lib.parameters import Params
from lib.run import ROOT, BadInput, Run

EMBEDDED = ROOT / "lib" / "data" / "embedded.parquet"


def load(params: Params, run: Run) -> CrystalTable:
    """The embedded set.

    Raises:
        BadInput: the file is missing or damaged.
    """
    if not EMBEDDED.exists():
        raise BadInput(f"{EMBEDDED} is missing; check it out again or run `python -m lib.build_embedded assemble`")
    return CrystalTable.from_parquet(run.input(EMBEDDED))
