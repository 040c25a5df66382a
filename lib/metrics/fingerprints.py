"""Fingerprints of what surrounds an atom: how likely each coordination number is, and how alike its motif.

The neighbours are those of CrystalNN (Pan et al., 10.1021/acs.inorgchem.0c02996): Voronoi faces weighted by solid
angle, electronegativity difference and distance. The fingerprint is matminer's `CrystalNNFingerprint` "ops" (Zimmermann
and Jain, 10.1039/C9RA07755C) to 1e-6, from one tessellation a structure in place of one an atom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from pymatgen.core import Element
from pymatgen.core.molecule_structure_comparator import CovalentRadius

from lib.core.errors import BadInput
from lib.metrics.order_parameters import MOTIFS, TABLE, order_parameter
from lib.metrics.voronoi import voronoi_faces

MOST_NEIGHBOURS = 24
LABELS = [f"{name} CN_{cn}" for cn in range(1, MOST_NEIGHBOURS + 1) for name in ("wt", *MOTIFS.get(cn, ()))]
"""Names of the 61 numbers: of each coordination number its likelihood, then that times each of its motifs."""
_LIKELIHOOD = np.array([LABELS.index(f"wt CN_{cn}") for cn in range(1, MOST_NEIGHBOURS + 1)])
_LARGEST_DIFFERENCE = 3.3  # of two elements' electronegativities


@dataclass(frozen=True)
class Bonding:
    """What counts as a neighbour.

    Attributes:
        distance_cutoffs: Å beyond the sum of two radii at which a neighbour begins to count less, and at which it ends;
            None for no limit.
        x_diff_weight: what a difference in electronegativity adds to a face's weight.
        porous_adjustment: whether faces far from the atom count less.
        charges: oxidation state by atomic number. Where they are given, atoms with charges of one sign are no
            neighbours, and radii are ionic.
    """

    distance_cutoffs: tuple[float, float] | None = (0.5, 1.0)
    x_diff_weight: float = 3.0
    porous_adjustment: bool = True
    charges: Mapping[int, int] | None = None

    def radius(self, number: int) -> float:
        """The radius of an element, Å: ionic where its charge is known and tabulated, else covalent.

        Raises:
            BadInput: charges are given and this element has none.
        """
        element = Element.from_Z(number)
        if self.charges is not None:
            if number not in self.charges:
                raise BadInput(f"{element.symbol} has no oxidation state here; add it to the charges")
            if self.charges[number] in element.ionic_radii:
                return float(element.ionic_radii[self.charges[number]])
        return float(CovalentRadius.radius.get(element.symbol, element.atomic_radius))

    def bonds(self, one: int, other: int) -> bool:
        """Whether two elements may be neighbours."""
        return self.charges is None or self.charges[one] * self.charges[other] <= 0


CHEMICAL = Bonding()
GEOMETRIC = Bonding(distance_cutoffs=None, x_diff_weight=0.0, porous_adjustment=False)


@dataclass(frozen=True)
class Neighbours:
    """Neighbours of the atoms of a structure, those of one atom after those of another, the surest first.

    Attributes:
        offsets: (n + 1,) first neighbour of each atom.
        index: (P,) which atom each neighbour is.
        vector: (P, 3) from the atom to it, Å.
        weight: (P,) in (0, 1].
    """

    offsets: np.ndarray
    index: np.ndarray
    vector: np.ndarray
    weight: np.ndarray

    @property
    def atom(self) -> np.ndarray:
        """(P,) whose neighbour each is."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def direction(self) -> np.ndarray:
        """(P, 3) unit vectors from the atom to each."""
        return self.vector / np.linalg.norm(self.vector, axis=1, keepdims=True)

    def most_likely(self) -> Neighbours:
        """As many of each atom's as its most likely coordination number says; the smaller of two that are equal."""
        likely = likelihoods(self)
        found = [self.offsets[i] + np.arange(cn) for i, cn in enumerate(likely.argmax(1).tolist())]
        kept = np.concatenate([np.zeros(0, int), *found])
        offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in found])])
        return Neighbours(offsets, self.index[kept], self.vector[kept], self.weight[kept])


def find_neighbours(
    lattice: np.ndarray, frac_coords: np.ndarray, species: np.ndarray, bonding: Bonding = CHEMICAL
) -> Neighbours:
    """CrystalNN's neighbours of every atom.

    Args:
        lattice: (3, 3) rows in Å.
        frac_coords: (n, 3).
        species: (n,) atomic numbers.

    Raises:
        BadInput: see :func:`lib.metrics.voronoi.voronoi_faces` and :meth:`Bonding.radius`.
    """
    kinds, kind = np.unique(species, return_inverse=True)
    numbers = kinds.tolist()
    radius = np.array([bonding.radius(number) for number in numbers])
    x = np.array([Element.from_Z(number).X for number in numbers])
    difference = np.nan_to_num(np.sqrt(np.abs(x[:, None] - x) / _LARGEST_DIFFERENCE))
    bonds = np.array([[bonding.bonds(one, other) for other in numbers] for one in numbers])
    faces = voronoi_faces(lattice, frac_coords)
    pair = kind[faces.atom], kind[faces.neighbour]
    chosen = bonds[pair]
    atom, pair = faces.atom[chosen], tuple(side[chosen] for side in pair)
    weight = _scaled(faces.solid_angle[chosen], atom)
    if bonding.porous_adjustment:
        area = faces.area[chosen]
        weight = np.where(area > 0, weight * faces.solid_angle[chosen] / np.where(area > 0, area, 1), 0)
    weight = _scaled(weight * (1 + bonding.x_diff_weight * difference[pair]), atom)
    if bonding.distance_cutoffs:
        begin, end = bonding.distance_cutoffs
        beyond = np.linalg.norm(faces.vector[chosen], axis=1) - radius[pair[0]] - radius[pair[1]]
        weight = weight * (1 + np.cos(np.pi * np.clip((beyond - begin) / (end - begin), 0, 1))) / 2
    order = np.lexsort((-weight, atom))
    order = order[weight.round(3)[order] > 0]
    offsets = np.searchsorted(atom[order], np.arange(len(species) + 1))
    index, vector = faces.neighbour[chosen][order], faces.vector[chosen][order]
    return Neighbours(offsets, index, vector, weight.round(3)[order])


def _scaled(weight: np.ndarray, atom: np.ndarray) -> np.ndarray:
    """Weights in units of the largest of each atom."""
    largest = np.zeros(atom.max(initial=-1) + 1)
    np.maximum.at(largest, atom, weight)
    return weight / largest[atom]


def likelihoods(neighbours: Neighbours) -> np.ndarray:
    """(n, 25) likelihood of each coordination number from 0 to 24."""
    likely = _fingerprints(neighbours.offsets, neighbours.direction, neighbours.weight, TABLE[:0])[:, _LIKELIHOOD]
    return np.concatenate([1 - likely.sum(1, keepdims=True), likely], axis=1)


def fingerprints(neighbours: Neighbours) -> np.ndarray:
    """(n, 61) numbers of each atom, named by LABELS."""
    return _fingerprints(neighbours.offsets, neighbours.direction, neighbours.weight, TABLE)


def fractions(neighbours: Neighbours, species: np.ndarray, of: Sequence[int]) -> np.ndarray:
    """(n, len(of) * 24) shares that some elements have of the neighbours at coordination numbers 1 to 24.

    They are 0 where a number has no likelihood, as in Dismai-Bench's interfaces (10.1039/D4DD00100A, 4.3.1).

    Args:
        species: (n,) atomic numbers.
        of: atomic numbers.
    """
    n = len(neighbours.offsets) - 1
    found = np.zeros((n, len(of), MOST_NEIGHBOURS + 1))
    likely = _fingerprints(neighbours.offsets, neighbours.direction, neighbours.weight, TABLE[:0])[:, _LIKELIHOOD] > 0
    rank = np.arange(len(neighbours.index)) - neighbours.offsets[neighbours.atom] + 1
    near = rank <= MOST_NEIGHBOURS
    for place, number in enumerate(of):
        np.add.at(found[:, place], (neighbours.atom[near], rank[near]), species[neighbours.index[near]] == number)
    counts = np.arange(1, MOST_NEIGHBOURS + 1)
    return (found.cumsum(2)[:, :, 1:] / counts * likely[:, None]).reshape(n, -1)


@njit(cache=True)
def _below(x):
    """Share of the area of a quarter of the unit disc that lies left of x."""
    return 2 / np.pi * (x * np.sqrt(1 - x * x) + np.arcsin(x))


@njit(cache=True)
def _fingerprints(offsets, directions, weights, motifs):  # pragma: no cover (compiled)
    """(n, 61); motifs that are left out are zero.

    A coordination number counts where the weights drop after so many neighbours, by the area of the quarter disc
    between the weight of the last neighbour and that of the next.
    """
    n = len(offsets) - 1
    found = np.zeros((n, len(TABLE) + MOST_NEIGHBOURS))
    for i in range(n):
        first, last = offsets[i], offsets[i + 1]
        for cn in range(1, min(MOST_NEIGHBOURS, last - first) + 1):
            here = weights[first + cn - 1]
            after = weights[first + cn] if first + cn < last else 0.0
            if here == after:
                continue
            likely, place = _below(here) - _below(after), _LIKELIHOOD[cn - 1]
            found[i, place] = likely
            for motif in motifs:
                if int(motif[0]) == cn:
                    place += 1
                    found[i, place] = likely * order_parameter(motif, directions[first : first + cn])
    return found
