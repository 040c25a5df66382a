"""What every crystal from outside must be: numbers that are finite, elements that exist, atoms in places of their own.

All functions raise :class:`lib.core.errors.BadInput` with a sentence that names what is wrong; whoever reads a file
puts the file's name before it.
"""

import math
import re
from collections.abc import Sequence

import numpy as np
from pymatgen.core import Lattice
from scipy.spatial import cKDTree

from lib.core.errors import BadInput
from lib.crystals.elements import NUMBERS, SYMBOLS

SAME_PLACE = 0.1  # Å; nearer than this two atoms are one, or one of them is an error
WITH_ISOTOPES = NUMBERS | {"D": 1, "T": 1}  # deuterium and tritium
NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?:\(\d+\))?")  # with its uncertainty, as CIF has it
CELL = ("a", "b", "c", "alpha", "beta", "gamma")  # Å, degrees
FLAT = 1e-3  # volume of a cell to the product of its lengths


def number(text: str, what: str) -> float:
    """A finite number from its text; an uncertainty in brackets is passed over. Raises BadInput if it is none; the
    sentence begins with `what` and the text."""
    found = NUMBER.fullmatch(text)
    value = float(found[1]) if found else math.nan
    if not math.isfinite(value):
        raise BadInput(f"{what} {text} is no finite number; correct it")
    return value


def element(symbol: str, what: str = "an atom") -> int:
    """The atomic number of an element, of hydrogen for D and T. Raises BadInput if there is no such element."""
    if symbol not in WITH_ISOTOPES:
        raise BadInput(f"{what} is {symbol!r}, which is no element; write a symbol such as Ta")
    return WITH_ISOTOPES[symbol]


def cell(parameters: Sequence[float], names: Sequence[str] = CELL) -> np.ndarray:
    """(3, 3) rows a, b, c in Å from three lengths (Å) and three angles (degrees). Raises BadInput if one is not finite
    or out of range, or the angles close no cell; the sentence has its name of `names`."""
    for i, (name, value) in enumerate(zip(names, parameters, strict=True)):
        low, high = (0, math.inf) if i < 3 else (0, 180)
        if not low < value < high:  # nor is nan
            must = "finite and above 0 Å" if i < 3 else "between 0 and 180 degrees"
            raise BadInput(f"{name} {value:g} must be {must}")
    cosines = np.cos(np.radians(parameters[3:]))
    if 1 - (cosines**2).sum() + 2 * cosines.prod() < FLAT**2:
        angles = ", ".join(f"{angle:g}" for angle in parameters[3:])
        raise BadInput(f"the angles {angles} degrees close no cell; correct them")
    return Lattice.from_parameters(*parameters).matrix


def closest(lattice: np.ndarray, frac_coords: np.ndarray, radius: float) -> tuple[int, int, float] | None:
    """The two atoms nearest to each other, and their distance in Å, if it is below a radius; periodic images count.

    An atom and its own image are a pair of equal indices. The time grows with the number of atoms, not its square. With
    a radius (Å) below half the distance of lattice planes the answer is exact.
    """
    spacing = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    if spacing.min() <= 2 * radius:  # skewed, or truly small: only the reduced cell tells
        reduced = Lattice(lattice).get_lll_reduced_lattice().matrix
        frac_coords, lattice = frac_coords @ lattice @ np.linalg.inv(reduced), reduced
        spacing = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
        shortest = np.linalg.norm(lattice, axis=1).min()
        if shortest < radius:
            return 0, 0, float(shortest)
    wrapped = frac_coords % 1.0
    wrapped[wrapped == 1.0] = 0.0  # of a tiny negative number
    pairs = cKDTree(wrapped, boxsize=1.0).query_pairs(min(radius / spacing.min(), 0.5), p=np.inf, output_type="ndarray")
    if not len(pairs):
        return None
    apart = wrapped[pairs[:, 0]] - wrapped[pairs[:, 1]]
    distances = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=1)
    nearest = distances.argmin()
    if distances[nearest] >= radius:
        return None
    return int(pairs[nearest, 0]), int(pairs[nearest, 1]), float(distances[nearest])


def check(lattice: np.ndarray, species: Sequence[int], frac_coords: np.ndarray, labels: Sequence[str] = ()) -> None:
    """Nothing, if lattice (3, 3), rows in Å, atomic numbers (atoms,) and coordinates (atoms, 3) are a crystal.

    Atoms are named by their labels (atoms,), what the file calls them, else by symbol and place. Raises BadInput if
    there is no atom, an unknown one or one without coordinates, the cell is not finite or flat, or atoms coincide.
    """
    species, frac_coords = np.asarray(species), np.asarray(frac_coords, dtype=float)
    if not len(species):
        raise BadInput("it has no atoms; add them")
    if frac_coords.size != 3 * len(species):
        raise BadInput(f"it has {len(species)} atoms but {frac_coords.size} coordinates, not three an atom; correct it")
    frac_coords = frac_coords.reshape(-1, 3)
    unknown = ~np.isin(species, np.arange(1, len(SYMBOLS)))
    if unknown.any():
        raise BadInput(f"it has an atom of atomic number {species[unknown][0]}, which is no element; correct it")
    if not np.isfinite(lattice).all():
        raise BadInput(f"its cell {np.asarray(lattice).tolist()} is no finite number throughout; correct it")

    def name(i: int) -> str:
        return labels[i] if len(labels) else f"{SYMBOLS[species[i]]}{i + 1}"

    wrong = ~np.isfinite(frac_coords).all(axis=1)
    if wrong.any():
        first = int(wrong.argmax())
        raise BadInput(f"its atom {name(first)} has coordinates {frac_coords[first].tolist()}; give finite numbers")
    if abs(np.linalg.det(lattice)) <= FLAT * np.linalg.norm(lattice, axis=1).prod():
        raise BadInput(f"its cell {np.asarray(lattice).tolist()} is flat; give three vectors in three directions")
    pair = closest(lattice, frac_coords, SAME_PLACE)
    if pair:
        one, other, distance = pair
        names = f"{name(one)} and {name(other)}" if one != other else f"{name(one)} and its image in the next cell"
        raise BadInput(f"its atoms {names} coincide, {distance:.2g} Å apart; remove one or correct the cell")
