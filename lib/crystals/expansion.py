"""The atoms that a setting's operations make of the sites of a file, and which of several settings is meant."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from pymatgen.core import Lattice, Structure

from lib.crystals.structure_checks import SAME_PLACE
from lib.symmetry.settings import Setting

IMPOSSIBLE = 0.65  # times the sum of covalent radii (Cordero et al., 10.1039/b801115j): no bond is shorter
MUCH = 1.3  # times an impossible distance must the atoms of the best setting be apart
SHORT = 0.9  # times the sum of covalent radii: few bonds are shorter
CLEARLY = 1.08  # times the distance in another setting that is short
SAME_DISTANCE = 0.01  # times the sum of covalent radii


@dataclass
class Expanded:
    """The atoms of one setting: their places, and which site each comes from."""

    setting: Setting
    frac_coords: np.ndarray
    site: np.ndarray


def expand(setting: Setting, lattice: np.ndarray, frac_coords: np.ndarray) -> Expanded:
    """The atoms that the operations make of the sites; one within SAME_PLACE of a special position is put onto it."""
    if len(setting.rotations) == 1:
        return Expanded(setting, frac_coords, np.arange(len(frac_coords)))
    found, site = [], []
    for i, place in enumerate(frac_coords):
        images = setting.rotations @ place + setting.translations
        shifts = np.round(images - place)
        near = np.linalg.norm((images - shifts - place) @ lattice, axis=1) < SAME_PLACE
        images = setting.rotations @ (images - shifts)[near].mean(axis=0) + setting.translations
        apart = images[:, None] - images[None]
        same = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=2) < SAME_PLACE
        distinct = images[same.argmax(axis=1) == np.arange(len(images))]
        found.append(distinct)
        site += [i] * len(distinct)
    return Expanded(setting, np.concatenate(found) % 1.0, np.array(site))


def likeliest(
    possible: Sequence[Expanded], lattice: np.ndarray, species: np.ndarray, formula_decides: bool
) -> list[Expanded]:
    """The setting that is meant, by the distances that each gives; several where nothing speaks for one of them.

    Settings with impossible distances are left out. Of several it is the first in the order of the tables, if both of
    these hold: its sites lie on positions of higher symmetry, so that it has fewer atoms, or the formula has ruled out
    others before; and compared with each other setting it keeps every pair of elements as far apart, and one pair
    clearly further. Settings that give the same crystal need no choice.

    Args:
        lattice, species: (3, 3) rows a, b, c in Å, and (sites,) atomic numbers.
        formula_decides: whether the formula has ruled out a setting.
    """
    if len(possible) == 1:
        return list(possible)
    apart = [_apart(atoms, lattice, species) for atoms in possible]
    shortest = np.array([min(distances[0] for distances in own.values()) for own in apart])
    sound = np.flatnonzero(shortest >= min(IMPOSSIBLE, shortest.max() / MUCH)).tolist()
    possible, apart = [possible[i] for i in sound], [apart[i] for i in sound]
    first, alike = possible[0], len({_reduced(species[atoms.site]) for atoms in possible}) == 1
    for atoms, others in zip(possible, apart, strict=True):
        favoured = alike and (formula_decides or len(first.site) < len(atoms.site)) and _keeps_apart(apart[0], others)
        if not (favoured or _same(apart[0], others)):
            return possible
    return [first]


def _apart(atoms: Expanded, lattice: np.ndarray, species: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """For each pair of elements the sorted distances of its atoms in Å, in units of the sum of covalent radii."""
    species = species[atoms.site]
    distances = Structure(Lattice(lattice), species.tolist(), atoms.frac_coords).distance_matrix
    np.fill_diagonal(distances, np.linalg.norm(Lattice(lattice).get_lll_reduced_lattice().matrix, axis=1).min())
    numbers, found = np.unique(species), {}
    for i, one in enumerate(numbers):
        for other in numbers[i:]:
            between = np.sort(distances[np.ix_(species == one, species == other)], axis=None)
            found[one, other] = between / (covalent_radii[one] + covalent_radii[other])
    return found


def _reduced(species: np.ndarray) -> tuple:
    numbers, counts = np.unique(species, return_counts=True)
    return tuple(numbers.tolist()), tuple((counts // np.gcd.reduce(counts)).tolist())


def _same(one: dict[tuple[int, int], np.ndarray], other: dict[tuple[int, int], np.ndarray]) -> bool:
    """Whether two crystals have the same distances, so that they differ by their origin or axes alone."""
    return all(len(a) == len(other[pair]) and np.abs(a - other[pair]).max() < SAME_DISTANCE for pair, a in one.items())


def _keeps_apart(one: dict[tuple[int, int], np.ndarray], other: dict[tuple[int, int], np.ndarray]) -> bool:
    shortest = [(one[pair][0], other[pair][0]) for pair in one]
    return all(a > b - SAME_DISTANCE for a, b in shortest) and any(a > CLEARLY * b and b < SHORT for a, b in shortest)
