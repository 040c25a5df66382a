"""The two seams: what a representation of crystals and what a method must offer, whichever they are.

A trainer, a sampler or a network asks nothing else of them. :mod:`lib.training.registry` lists those that there are;
`tests/test_conformance.py` holds each to what is said here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
import torch
from pymatgen.core import Structure
from torch import Tensor, nn

from lib.core.errors import BadInput
from lib.core.streams import Streams
from lib.crystals.table import CrystalTable
from lib.models.batch import Batch, Conditions
from lib.symmetry.orbits import Rows
from lib.symmetry.wyckoff import AsymmetricUnit


class Representation(Protocol):
    """How crystals are states x (B, n_rows, 3), and the geometry in which x_0 is carried to x_1.

    What is not abstract here is right where a row is an atom of its own and no symmetry is kept.
    """

    time_scale: float  # what times in [0, 1] are multiplied by before a network sees them
    n_sites: int  # the most atoms of a crystal
    n_rows: int  # rows of a state before it is trimmed; the last are the lattice

    @classmethod
    @abstractmethod
    def fit(cls, table: CrystalTable, multiple: int = 1) -> Representation:
        """Sizes and statistics of a training table; `multiple`: what the network needs the number of atom rows to be.
        Raises BadInput if the table is empty."""

    @abstractmethod
    def state(self) -> dict:
        """What a checkpoint keeps: the arguments that make this representation again."""

    @abstractmethod
    def pack(self, table: CrystalTable) -> Batch:
        """A table's crystals as states, with the conditions that they meet. Raises BadInput if one has more atoms than
        the representation has rows."""

    def initial(self, table: CrystalTable) -> tuple[Tensor, Tensor]:
        """x_0 and species_0 of :class:`lib.models.batch.Batch` for a table's crystals, which are to be modified; it
        raises as :meth:`pack`."""
        batch = self.pack(table)
        return batch.x_1, batch.conditions.species

    def request(
        self,
        species: Sequence[np.ndarray],
        space_group: np.ndarray,
        energy: np.ndarray,
        units: Sequence[AsymmetricUnit] | None = None,
    ) -> Batch:
        """Crystals to be made, x_1 zero.

        Args:
            species: atomic numbers of each crystal's atoms.
            space_group, energy: (B,) as in :class:`lib.models.batch.Conditions`.
            units: the sites that the atoms are kept to, by a representation that has orbits.

        Raises:
            BadInput: a crystal has more atoms than the representation has rows, or an impossible space group.
        """
        conditions = Conditions.pack(species, space_group, energy, self.n_sites)
        return Batch(torch.zeros(len(conditions), self.n_rows, 3), conditions)

    @abstractmethod
    def decode(self, x: Tensor, batch: Batch) -> list[Structure | None]:
        """Structures of states (B, R, 3); None where the numbers make no crystal."""

    @abstractmethod
    def rows(self, batch: Batch) -> Tensor:
        """(B, R) which rows are a crystal's own, so that noise and loss do not depend on the padding."""

    def trim(self, batch: Batch, largest: tuple[int, int] | None = None) -> Batch:
        """The batch without padding that none of its crystals needs, where the network can take any number of rows;
        `largest` are the most orbits and atoms of a crystal, where they are known: to ask a GPU is to wait."""
        return batch

    def align(self, batch: Batch) -> Batch:
        """The batch with the atoms of x_1 in the order that suits x_0, if there is one."""
        return batch

    def forget(self, batch: Batch, share: float, generator: torch.Generator) -> Batch:
        """The batch with the space group of a random share of its crystals left open, and the energy of another."""
        return replace(batch, conditions=batch.conditions.forget(share, generator))

    def freed(self, batch: Batch) -> Batch:
        """The same crystals, kept to no symmetry."""
        return batch

    def constrain(self, x: Tensor, batch: Batch) -> Tensor:
        """States (B, R, 3) brought to the symmetry that is asked for."""
        return x

    @abstractmethod
    def noise(self, kind: str, like: Tensor, streams: Streams) -> Tensor:
        """Noise in the shape of `like` (B, R, 3), "normal" or "uniform"."""

    @abstractmethod
    def velocity(self, x_0: Tensor, x_1: Tensor) -> Tensor:
        """dx_t/dt (B, R, 3) on the way from x_0 to x_1."""

    @abstractmethod
    def advance(self, x: Tensor, change: Tensor) -> Tensor:
        """x moved by a change, both (B, R, 3)."""

    def interpolate(self, x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
        """x_t (B, R, 3) at times t (B,) on the way from x_0 to x_1."""
        return self.advance(x_0, t[:, None, None] * self.velocity(x_0, x_1))

    @abstractmethod
    def velocity_loss(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """(B,) how far predicted velocities (B, R, 3) are from the true ones."""


class EuclideanRepresentation(Representation, Protocol):
    """One whose states also have a vector space z (B, R, C), in which diffusion adds noise and regression answers."""

    # prediction_type, spacing: the defaults of lib.methods.diffusion.Diffusion
    prediction_type: str
    spacing: str

    @abstractmethod
    def to_euclidean(self, x: Tensor) -> Tensor:
        """States (B, R, 3) as vectors (B, R, C)."""

    @abstractmethod
    def from_euclidean(self, z: Tensor) -> Tensor:
        """Inverse of :meth:`to_euclidean`; a vector that is no state becomes the nearest one."""

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor, conditions: Conditions) -> Tensor:
        """(B,) how far predicted vectors (B, R, C) are from the true ones."""


@dataclass(frozen=True)
class Draw(Rows):
    """All that is random in the losses of a batch. It is drawn for the whole batch before processes share its rows."""

    t: Tensor  # (B,) times
    noise: Tensor | None = None  # (B, R, C) what the crystals are mixed with; None where nothing is


class Method(Protocol):
    """A way to learn and to sample, made of a representation and the options of its
    :class:`lib.training.registry.MethodEntry`."""

    # names of those that sample knows, the first of which is the default
    samplers: ClassVar[tuple[str, ...]] = ()
    few_steps: ClassVar[str | None] = None  # the one for samples in as few steps as possible; None for the default
    # further options of sample, of those that lib.generation.sampling.TrainedModel.generate has
    options: ClassVar[tuple[str, ...]] = ()
    # whether the network sees vectors (EuclideanRepresentation.to_euclidean) in place of states
    euclidean: ClassVar[bool] = False
    predicts_velocity: ClassVar[bool] = False  # whether it predicts velocities in place of vectors

    @abstractmethod
    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        """What is random for this batch; no number depends on how its rows are shared later."""

    @abstractmethod
    def losses(self, net: nn.Module, batch: Batch, draw: Draw) -> Tensor:
        """(B,) losses of the crystals; `net` answers (states, times (B,), batch)."""

    @abstractmethod
    def sample(self, net: nn.Module, batch: Batch, streams: Streams, steps: int, sampler: str | None = None) -> Tensor:
        """States (B, R, 3) of new crystals, as asked for by the batch, whose x_1 gives their shape alone. Raises
        BadInput if the sampler is not known or `steps` impossible."""


def checked_sampler(method: Method, sampler: str | None) -> str:
    """The sampler, or the method's default. Raises BadInput if the method does not know it."""
    if sampler not in (None, *method.samplers):
        raise BadInput(f"sampler {sampler!r} is not known; choose one of {', '.join(method.samplers)}")
    return sampler or method.samplers[0]
