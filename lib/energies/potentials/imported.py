"""Any ASE calculator by its import path, such as ase.calculators.emt:EMT."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Sequence

from ase import Atoms

from lib.core.errors import BadInput
from lib.energies.potentials.interface import Card, Evaluation, Potential


def imported(path: str) -> type[Potential]:
    """The potential that the ASE calculator at `module:Class` is.

    Which elements it knows, it says by failing; what it was fitted to is for the user to know.

    Raises:
        BadInput: there is no such class, or it cannot be made.
    """
    module, _, name = path.partition(":")
    try:
        calculator = getattr(importlib.import_module(module), name)
        calculator()  # one that needs arguments says so here
    except Exception as error:  # a module of the user's own raises errors of any kind
        raise BadInput(
            f"potential {path} cannot be made ({error}); give module:Class of an ASE calculator that takes no arguments"
        ) from error
    package = module.split(".")[0]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a module of the user's own
        package, version = "ase", importlib.metadata.version("ase")

    class Imported(Potential):
        """One crystal at a time."""

        card = Card(
            name=f"{name} of {package} {version}",
            package=package,
            weights="the calculator's own",
            weights_sha256=f"none: {path} of {package} {version}",
            licence="the calculator's own",
            trained_on="not known here",
            energies="the calculator's own",
            source="not known here",
            knows=frozenset(range(1, 119)),
        )

        def __init__(self) -> None:
            super().__init__()
            self.calculator = calculator()

        def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation]:
            found = []
            for atoms in crystals:
                atoms = atoms.copy()
                atoms.calc = self.calculator
                try:
                    values = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
                except Exception as error:  # calculators raise errors of many kinds for elements that they don't know
                    raise ValueError(f"{name}: {error}") from error
                found.append(Evaluation(*values))
            return found

    return Imported
