"""Where crystals come from: the embedded set, AFLOW, MP-20, a user's own files or entries, all as a CrystalTable."""

from importlib import import_module

import pandas as pd

from lib.core.errors import BadInput
from lib.core.parameters import Params
from lib.core.run import Run
from lib.crystals.mapped import IN_MEMORY
from lib.crystals.table import CrystalTable
from lib.datasets.shards import in_shards
from lib.symmetry.cells import SETTING


def load(params: Params, run: Run) -> CrystalTable:
    """The crystals of `params.source` (of notebook 01), unfiltered, each in its reduced, primitive, right-handed cell.
    Raises BadInput if the source is missing, damaged or holds no crystal."""
    table = import_module(f"lib.datasets.sources.{params.source}").load(params, run)
    if not len(table):
        raise BadInput(f"the source '{params.source}' holds no usable crystal; check its parameters")
    if table.about.get("setting") == SETTING:
        return table
    if len(table) <= IN_MEMORY:
        return table.standardised()
    raw = table.to_parquet(run.resume / "raw.parquet")
    return in_shards("standard_cells", raw, run.resume / "standard_cells", params.n_workers)


def facts(table: CrystalTable) -> pd.DataFrame:
    """What a table says about itself, one row a fact."""
    about = {"crystals": len(table), "energies": table.energy_kind} | dict(table.about)
    about.pop("columns", None)  # their meaning stands in the file
    return pd.json_normalize(about, sep=": ").T.rename_axis("fact").rename(columns={0: "value"})
