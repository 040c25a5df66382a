"""The paper's representation: a 64 x 3 matrix of coordinates and lattice vectors (section 2.1, equation 1)."""

from __future__ import annotations

import numpy as np
import torch
from pymatgen.core import Structure
from torch import Tensor

from lib.core.streams import Streams, normal, uniform
from lib.crystals.lattices import to_structure, upright
from lib.crystals.table import CrystalTable
from lib.models.batch import Batch, Conditions, coordinate_rows
from lib.models.interfaces import EuclideanRepresentation
from lib.models.losses import PAPER_SITES, l1_paper

PAPER_ROWS = 64


class PaperTensors(EuclideanRepresentation):
    """X (B, 64, 3) = 60 rows of fractional coordinates, a padding row, and 3 lattice rows in Å.

    As published, values are raw, noise and loss include the padding, and coordinates lie on a line, not on the torus.
    """

    n_sites = PAPER_SITES
    n_rows = PAPER_ROWS
    time_scale = 1.0  # flow matching feeds t in [0, 1] to a sinusoid made for 0..1000
    prediction_type, spacing = "epsilon", "leading"

    @classmethod
    def fit(cls, table: CrystalTable, multiple: int = 1) -> PaperTensors:
        return cls()  # nothing is taken from the training table

    def state(self) -> dict:
        return {}

    def pack(self, table: CrystalTable) -> Batch:
        """Matrices of a table; lattices are turned so that a lies along x and b in the xy plane."""
        conditions, x = Conditions.of(table, PAPER_SITES), coordinate_rows(table, PAPER_ROWS)
        x[:, 61:] = upright(table.lattice)
        return Batch(torch.from_numpy(x), conditions)

    def decode(self, x: Tensor, batch: Batch) -> list[Structure | None]:
        """Structures of states (B, 64, 3); None where the lattice rows make no cell."""
        values, species = x.detach().double().cpu().numpy(), batch.conditions.species.cpu().numpy()
        return [to_structure(v[61:], s[s > 0], v[: np.count_nonzero(s)]) for v, s in zip(values, species, strict=True)]

    def rows(self, batch: Batch) -> Tensor:
        """(B, 64) all of them, as padding is noised and learnt like atoms."""
        return torch.ones(len(batch), self.n_rows, dtype=torch.bool, device=batch.x_1.device)

    def noise(self, kind: str, like: Tensor, streams: Streams) -> Tensor:
        """N(0, 1) or U(0, 1) over all 64 rows, padding included."""
        return {"normal": normal, "uniform": uniform}[kind](like, streams)

    def velocity(self, x_0: Tensor, x_1: Tensor) -> Tensor:
        return x_1 - x_0

    def advance(self, x: Tensor, change: Tensor) -> Tensor:
        return x + change

    def interpolate(self, x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(x_0, x_1, t[:, None, None])

    def to_euclidean(self, x: Tensor) -> Tensor:
        return x

    from_euclidean = to_euclidean

    def loss(self, prediction: Tensor, target: Tensor, conditions: Conditions) -> Tensor:
        """(B,) the published L1: sum over rows and xyz over n_sites, half for coordinates and half for the lattice.

        It teaches the median of a noise or a velocity, not the mean of sections 5.2 and 5.3: of several crystals that
        meet the same conditions, samples then favour the likeliest (25 in 100 become 5 in the tests).
        """
        return l1_paper(prediction, target, conditions.n_sites)

    def velocity_loss(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """(B,) the same for velocities."""
        return self.loss(prediction, target, batch.conditions)
