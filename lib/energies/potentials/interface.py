"""What a potential is to the rest of the project: a card that says where it comes from, and energies of many crystals.

Energies are eV a cell, forces eV/Å and stresses eV/Å^3 with ASE's sign (positive where the cell would rather shrink).
"""

from __future__ import annotations

import importlib.metadata
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import chemical_symbols

from lib.core.errors import BadInput
from lib.core.files import sha256_of


@dataclass(frozen=True)
class Card:
    """Where a potential comes from, and what its energies are.

    Attributes:
        name: with its version, such as "CHGNet 0.3.0".
        package: that computes it, as it is installed by pip.
        weights: where they are, in words.
        weights_sha256: their checksum, which is the identity of the potential.
        licence: of code and weights.
        trained_on: its training data.
        energies: the method that its total energies imitate, and whether corrections are added to them. Two potentials
            never share a scale, even where these words agree.
        source: paper, as a DOI.
        knows: atomic numbers that it has learnt.
    """

    name: str
    package: str
    weights: str
    weights_sha256: str
    licence: str
    trained_on: str
    energies: str
    source: str
    knows: frozenset[int]

    @property
    def provenance(self) -> dict[str, str]:
        """Name, package with version and sha256 of the weights, for every file that holds its energies."""
        version = importlib.metadata.version(self.package)
        return {
            "potential": self.name,
            "package": f"{self.package} {version}",
            "weights_sha256": self.weights_sha256,
        }

    def check(self, path: Path) -> Path:
        """The file of weights, if it is the one that the card describes.

        Raises:
            BadInput: it holds other weights.
        """
        found = sha256_of(path)
        if found != self.weights_sha256:
            raise BadInput(
                f"{path} holds other weights than those of {self.name} (sha256 {found[:12]}…, not "
                f"{self.weights_sha256[:12]}…); install the version in constraints.txt, or remove the file"
            )
        return path


@dataclass(frozen=True)
class Evaluation:
    """Of one crystal: energy (eV a cell), forces (n_sites, 3) in eV/Å, stress (3, 3) in eV/Å^3."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray

    @property
    def results(self) -> dict[str, float | np.ndarray]:
        """As ASE's calculators hold them."""
        both = {"energy": self.energy, "free_energy": self.energy}
        return both | {"forces": self.forces, "stress": self.stress.flat[[0, 4, 8, 5, 2, 1]]}


class Potential(Calculator):
    """An ASE calculator that evaluates many crystals in one go as well."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]
    card: ClassVar[Card]

    @abstractmethod
    def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation]:
        """Energy, forces and stress of each crystal.

        Raises:
            ValueError, RuntimeError: a crystal is none that the potential can take.
        """

    def strangers(self, atoms: Atoms) -> str:
        """Why a crystal's elements are not the potential's, or ""."""
        unknown = sorted({int(number) for number in atoms.numbers} - self.card.knows)
        return f"{self.card.name} does not know {', '.join(chemical_symbols[z] for z in unknown)}" if unknown else ""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        if reason := self.strangers(atoms):
            raise ValueError(reason)
        (found,) = self.evaluate([atoms])
        self.results = found.results
