"""Random coordinates, as a baseline that needs no training; the other one, substitution, is in
:mod:`lib.retrieval.templates`."""

import numpy as np
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable, atomic_volumes, predicted_volumes


def random_in_target_cell(targets: CrystalTable, rng: np.random.Generator) -> list[Structure]:
    """The target's cell and atoms at uniform random coordinates: the cell is given away."""
    return [_random_atoms(targets.lattice[i], targets.species_of(i), rng) for i in range(len(targets))]


def random_in_training_cell(targets: CrystalTable, training: CrystalTable, rng: np.random.Generator) -> list[Structure]:
    """The cell of a random training structure with as many sites, or the nearest number of them, scaled to the
    predicted volume, atoms at random. Raises BadInput if the training set is empty."""
    if not len(training):
        raise BadInput("the training set is empty, so there is no cell to take from it; loosen the filters of 01")
    volumes = predicted_volumes(targets, atomic_volumes(training))
    structures = []
    for i, n_sites in enumerate(targets.n_sites):
        difference = np.abs(training.n_sites - n_sites)
        cell = training.lattice[rng.choice(np.flatnonzero(difference == difference.min()))]
        scale = (volumes[i] / np.abs(np.linalg.det(cell))) ** (1 / 3)
        structures.append(_random_atoms(cell * scale, targets.species_of(i), rng))
    return structures


def smallest_distance(structure: Structure) -> float:
    """Å between the two nearest atoms, periodic; infinite where there is one alone."""
    return float((structure.distance_matrix + np.diag(np.full(len(structure), np.inf))).min())


def _random_atoms(lattice: np.ndarray, species: np.ndarray, rng: np.random.Generator) -> Structure:
    return Structure(Lattice(lattice), species.tolist(), rng.random((len(species), 3)))
