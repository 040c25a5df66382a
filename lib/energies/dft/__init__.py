"""Energies from first principles: VASP and GPAW behind one form of a finished calculation."""

from pathlib import Path

from lib.energies.dft import gpaw, vasp
from lib.energies.dft.calculation import Calculation


def read_calculations(folder: Path) -> tuple[list[Calculation], list[str]]:
    """All finished calculations below a folder, of either code, and a sentence for each that cannot be used.

    Raises:
        BadInput: the folder does not exist.
    """
    of_vasp, problems = vasp.read_calculations(folder)
    of_gpaw, more = gpaw.read_calculations(folder)
    return of_vasp + of_gpaw, problems + more
