"""The polymorph set that ships with the project (built by :mod:`lib.datasets.build_embedded`; energies are
CHGNet's)."""

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.parameters import Params
from lib.core.run import Run
from lib.crystals.table import CrystalTable

EMBEDDED = ROOT / "lib" / "data" / "embedded.parquet"


def load(params: Params, run: Run) -> CrystalTable:
    """The embedded set. Raises BadInput if the file is missing or damaged."""
    if not EMBEDDED.exists():
        raise BadInput(f"{EMBEDDED} is missing; check it out again or run `python -m lib.build_embedded assemble`")
    return CrystalTable.from_parquet(run.input(EMBEDDED))
