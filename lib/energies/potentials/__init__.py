"""Interatomic potentials: a file each, and the registry by which the rest of the project knows them.

A potential is loaded once a process, and only after it has passed the gate (:mod:`lib.energies.potentials.gate`).
"""

from __future__ import annotations

import functools
import importlib.metadata
import warnings

from lib.core.errors import BadInput
from lib.energies.potentials.chgnet import CHGNet
from lib.energies.potentials.gate import admit
from lib.energies.potentials.imported import imported
from lib.energies.potentials.interface import Potential
from lib.energies.potentials.m3gnet import M3GNet
from lib.energies.potentials.sevennet import SevenNet0, SevenNetL3I5

DEFAULT_POTENTIAL = "chgnet"
POTENTIALS: dict[str, type[Potential]] = {
    "chgnet": CHGNet,
    "sevennet-0": SevenNet0,
    "sevennet-l3i5": SevenNetL3I5,
    "m3gnet": M3GNet,
}


@functools.cache
def potential_class(name: str = DEFAULT_POTENTIAL) -> type[Potential]:
    """The class of the potential called `name`, or of the ASE calculator at the import path `name`.

    Raises:
        BadInput: there is no such potential, or its package is not installed.
    """
    if ":" in name:
        return imported(name)
    if name not in POTENTIALS:
        raise BadInput(
            f"potential {name!r} is not known; choose one of {', '.join(sorted(POTENTIALS))}, or module:Class of an "
            "ASE calculator"
        )
    package = POTENTIALS[name].card.package
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        install = f"install it with pip install '.[{name}]'"
        raise BadInput(f"potential {name} needs the package {package}; {install}") from error
    return POTENTIALS[name]


@functools.cache
def load_potential(name: str = DEFAULT_POTENTIAL) -> Potential:
    """The potential called `name`, loaded once a process.

    Raises:
        BadInput: there is no such potential, its weights are others, or it does not pass the gate.
    """
    warnings.filterwarnings("ignore", module="chgnet|torch|pymatgen|e3nn|sevenn")
    warnings.filterwarnings("ignore", message="Only FixAtoms")  # pymatgen of the symmetry constraint, at every step
    potential = potential_class(name)()
    admit(potential, name)
    return potential


def potential_provenance(name: str = DEFAULT_POTENTIAL) -> dict[str, str]:
    """Name, package version and sha256 of the weights of a potential."""
    return potential_class(name).card.provenance


def energy_kind_of(name: str) -> str:
    """The scale of a potential's formation energies: "chgnet-0.3.0 formation energy"."""
    return f"{potential_class(name).card.name.lower().replace(' ', '-')} formation energy"
