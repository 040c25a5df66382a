"""Which sites the atoms of a composition take in a space group, learnt from the crystals of a training set.

The group and the composition leave a choice of Wyckoff positions. Crystals of the same counts and group make it as a
rule alike, whatever their elements: on 1,128 structures held out of MP-20 by formula the training structure whose
elements are most alike has the right positions in 92 % (up to the choice of the origin). Where there is none, the
positions that the group's crystals occupy most often are right in 39 % (n = 130).
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace

import numpy as np
import spglib

from lib.baselines import best_templates
from lib.crystals import SYMPREC, CrystalTable, atomic_volumes
from lib.wyckoff import AsymmetricUnit, Site, assignments, free_atoms, positions, primitive_operations

MAX_ASSIGNMENTS = 20_000


def units_for(
    targets: CrystalTable, training: CrystalTable, *, use_space_group: bool = True
) -> tuple[list[AsymmetricUnit], list[str]]:
    """Sites for each target's atoms in its space group; the target's own coordinates and cell are not looked at.

    Args:
        targets: of several templates with the same elements the one nearest in formation energy is taken, unless that
            is nan.
        use_space_group: whether the group is asked for; else it is the template's.

    Returns:
        One unit a target, and where it comes from: "template" (with the template's free parameters, and its cell scaled
        to the volume of the elements), "enumerated" (free parameters and cell are placeholders), or "free" where the
        group cannot hold the atoms: they are then left without symmetry.

    Raises:
        BadInput: the training set is empty.
    """
    templates = best_templates(targets, training, use_space_group=use_space_group)
    volumes, usage = atomic_volumes(training), _Usage(training)
    units, sources = [], []
    for i, template in enumerate(templates):
        species = targets.species_of(i)
        if template is not None:
            unit, source = _substituted(_unit_of(training, template[0]), template[1], volumes), "template"
        elif use_space_group:
            unit, source = usage.most_usual(int(targets.space_group[i]), species), "enumerated"
        else:
            unit, source = None, "free"
        units.append(unit or free_atoms(species))
        sources.append(source if unit else "free")
    return units, sources


def requests_by_condition(targets: CrystalTable, training: CrystalTable) -> dict[str, dict[str, object]]:
    """What a model may be told of each target, from everything to nothing but its atoms.

    Returns:
        Name -> space_group, energy and units for :meth:`lib.sampling.TrainedModel.generate`. Where the energy is not
        given, no template is chosen by it; where the group is not, the template gives it, too. "the target's own sites"
        is no fair request but shows what the choice of sites costs.

    Raises:
        BadInput: the training set is empty.
    """
    blind = replace(targets, formation_energy=np.full(len(targets), np.nan))
    group, energy, unknown = targets.space_group, targets.formation_energy, blind.formation_energy
    requests = {
        "composition, group, energy": (group, energy, units_for(targets, training)[0]),
        "composition, group": (group, unknown, units_for(blind, training)[0]),
        "composition, energy": _with_lent_groups(targets, training),
        "composition": _with_lent_groups(blind, training),
        "composition, group, energy; no sites": (group, energy, None),
        "composition, group, energy; the target's own sites": (group, energy, targets.asymmetric_units),
    }
    return {name: dict(zip(("space_group", "energy", "units"), asked, strict=True)) for name, asked in requests.items()}


def _with_lent_groups(targets: CrystalTable, training: CrystalTable) -> tuple[np.ndarray, np.ndarray, list]:
    units, sources = units_for(targets, training, use_space_group=False)
    groups = [unit.symmetry if source == "template" else 0 for unit, source in zip(units, sources, strict=True)]
    return np.array(groups), targets.formation_energy, units


def _unit_of(table: CrystalTable, row: int) -> AsymmetricUnit:
    return AsymmetricUnit.of(table.lattice[row], table.frac_coords_of(row), table.species_of(row), SYMPREC)


def _substituted(unit: AsymmetricUnit, replaced: np.ndarray, volumes: np.ndarray) -> AsymmetricUnit:
    sites = tuple(Site(int(replaced[site.species]), site.position, site.parameters) for site in unit.sites)
    scale = np.cbrt(volumes[replaced[unit.species]].sum() / volumes[unit.species].sum())
    return AsymmetricUnit(unit.lattice * scale, unit.symmetry, sites)


class _Usage:
    """How often the crystals of each space group occupy its Wyckoff positions."""

    def __init__(self, training: CrystalTable) -> None:
        self.training = training

    @functools.cache  # noqa: B019 (lives as long as one call of units_for)
    def logarithms(self, space_group: int) -> np.ndarray:
        """Logarithm of the share of orbits on each position, one more than counted so that none is impossible."""
        rows = np.flatnonzero(self.training.space_group == space_group)
        units = (_unit_of(self.training, row) for row in rows)
        counts = Counter(site.position for unit in units if unit.symmetry == space_group for site in unit.sites)
        usage = np.array([counts[position] + 1 for position in range(len(positions(space_group)))])
        return np.log(usage / usage.sum())

    def most_usual(self, space_group: int, species: np.ndarray) -> AsymmetricUnit | None:
        """The most usual positions that hold the atoms and give no higher symmetry; None where there are none."""
        elements, counts = np.unique(species, return_counts=True)
        logarithms = self.logarithms(space_group)
        possible = assignments(space_group, tuple(counts.tolist()), MAX_ASSIGNMENTS)
        possible.sort(key=lambda taken: -sum(logarithms[list(of_element)].sum() for of_element in taken))
        for taken in possible:
            sites = zip(elements, taken, strict=True)
            unit = AsymmetricUnit(_generic_cell(space_group), space_group, _generic_sites(space_group, sites))
            if _keeps_its_group(unit):
                return unit
        return None


def _generic_sites(space_group: int, taken) -> tuple[Site, ...]:
    rng = np.random.default_rng(0)
    free = [position.n_free for position in positions(space_group)]
    return tuple(Site(int(z), p, rng.random(free[p])) for z, of_element in taken for p in of_element)


@functools.cache
def _generic_cell(space_group: int) -> np.ndarray:
    """A cell (3, 3) that has the symmetry of the group and no other."""
    rotations, _ = primitive_operations(space_group)
    skewed = 5 * np.eye(3) + np.random.default_rng(0).normal(size=(3, 3))
    return np.linalg.cholesky((rotations.transpose(0, 2, 1) @ (skewed @ skewed.T) @ rotations).mean(0))


def _keeps_its_group(unit: AsymmetricUnit) -> bool:
    try:
        found = spglib.get_symmetry_dataset((unit.lattice, unit.frac_coords, unit.species), symprec=1e-4)
    except spglib.error.SpglibError:
        return False
    return (
        found is not None
        and found.number == unit.symmetry
        and len(set(found.mapping_to_primitive)) == len(unit.species)
    )
