"""What needs no model: random coordinates, random crystals of a space group, and templates with other elements."""

import numpy as np
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.crystals.elements import SYMBOLS
from lib.crystals.table import CrystalTable, atomic_volumes, predicted_volumes
from lib.retrieval.templates import ElementRanking


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


def rattled(crystals: CrystalTable, rng: np.random.Generator, displacement: float, strain: float) -> list[Structure]:
    """Each crystal in a strained cell with displaced atoms: what leaves a minimum without a model.

    Args:
        displacement: standard deviation of each atom's displacement along each axis, Å.
        strain: standard deviation of the six components of a symmetric strain.
    """
    structures = []
    for i in range(len(crystals)):
        upper = np.triu(rng.normal(0, strain, (3, 3)))
        lattice = crystals.lattice[i] @ (np.eye(3) + (upper + upper.T) / (1 + np.eye(3)))
        moved = rng.normal(0, displacement, (crystals.n_sites[i], 3)) @ np.linalg.inv(lattice)
        structures.append(Structure(Lattice(lattice), crystals.species_of(i), crystals.frac_coords_of(i) + moved))
    return structures


def smallest_distance(structure: Structure) -> float:
    """Å between the two nearest atoms, periodic; infinite where there is one alone."""
    return float((structure.distance_matrix + np.diag(np.full(len(structure), np.inf))).min())


def random_symmetric(targets: CrystalTable, rng: np.random.Generator) -> list[Structure | None]:
    """A random crystal of each target's space group and atoms, with volumes as PyXtal chooses them.

    Source: Fredericks et al., 10.1016/j.cpc.2020.107810. None where the group cannot hold the atoms.

    Raises:
        BadInput: PyXtal is not installed.
    """
    pairs = zip(targets.space_group.tolist(), map(targets.species_of, range(len(targets))), strict=True)
    return [symmetric_crystal(species, group, rng, primitive=True) for group, species in pairs]


def symmetric_crystal(
    species: np.ndarray, group: int, rng: np.random.Generator, *, primitive: bool = False
) -> Structure | None:
    """A random crystal of a space group, in its primitive cell; None where PyXtal finds none.

    Args:
        species: (n_sites,) atomic numbers of the conventional cell, or of the primitive one where that is said.

    Raises:
        BadInput: PyXtal is not installed.
    """
    try:
        from pyxtal import pyxtal
        from pyxtal.msg import Comp_CompatibilityError, VolumeError
    except ImportError as error:
        raise BadInput("random symmetric crystals need the package pyxtal; pip install '.[recall]'") from error
    elements, counts = np.unique(species, return_counts=True)
    crystal = pyxtal()
    try:
        symbols, counts = SYMBOLS[elements].tolist(), counts.tolist()
        crystal.from_random(3, group, symbols, counts, random_state=rng, conventional=not primitive)
    except (Comp_CompatibilityError, VolumeError):
        return None
    return crystal.to_pymatgen().get_primitive_structure() if crystal.valid else None


def substituted_in_turn(targets: CrystalTable, training: CrystalTable) -> list[Structure | None]:
    """Training crystals with the targets' elements: the requests of one formula take the templates in turn, those of
    the most alike elements first and none twice, whatever group and energy they ask for; None where there are no more.
    """
    ranking, found = ElementRanking(training), [None] * len(targets)
    for formula in np.unique(targets.formula):
        rows = np.flatnonzero(targets.formula == formula)
        (templates,) = ranking.templates(targets.take(rows[:1]), len(rows), use_space_group=False)
        for row, template in zip(rows, templates, strict=False):
            found[row] = ranking.substituted(template)
    return found


def _random_atoms(lattice: np.ndarray, species: np.ndarray, rng: np.random.Generator) -> Structure:
    return Structure(Lattice(lattice), species.tolist(), rng.random((len(species), 3)))
