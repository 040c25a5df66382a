"""Random coordinates in the cell of a training crystal, drawn several times: the draw whose atoms are furthest apart.

Structures that physics would never take are left out before anything is compared, as in random structure searching
(Pickard and Needs, 10.1088/0953-8984/23/5/053201).
"""

from pathlib import Path

from pymatgen.core import Structure

from lib.core.streams import numpy_stream
from lib.crystals.table import CrystalTable
from lib.retrieval.baselines import random_in_training_cell, smallest_distance

N_DRAWS = 20


def fit(training: CrystalTable, validation: CrystalTable, *, folder: Path, **_) -> None:
    """Keep the training crystals for their cells and volumes."""
    training.to_parquet(folder / "cells.parquet")


def sample(requests: CrystalTable, *, folder: Path, seed: int, **_) -> list[Structure | None]:
    """The best spaced of N_DRAWS structures a request."""
    cells, rng = CrystalTable.from_parquet(folder / "cells.parquet"), numpy_stream(seed, "random cells")
    draws = zip(*(random_in_training_cell(requests, cells, rng) for _ in range(N_DRAWS)), strict=True)
    return [max(several, key=smallest_distance) for several in draws]
