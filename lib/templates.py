"""Which sites the atoms of a composition take in a space group, learnt from the crystals of a training set.

The group and the composition leave a choice of Wyckoff positions. Crystals of the same counts and group make it as a
rule alike, whatever their elements: on 1,128 structures held out of MP-20 by formula the training structure whose
elements are most alike has the right positions in 92 % (up to the choice of the origin). Where there is none, the
positions that the group's crystals occupy most often are right in 39 % (n = 130). Distances of elements learnt for this
purpose (neighbourhood components, Goldberger et al. 2004) choose no better: 90 % either way (n = 513).
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from lib.baselines import alike_templates
from lib.choice import Choice, Template, TemplateChoice
from lib.crystals import CrystalTable, atomic_volumes
from lib.descent import described_in
from lib.prior import Candidate, generic_unit, usage_logarithms, usual_assignments
from lib.run import BadInput, progress
from lib.wyckoff import AsymmetricUnit, Site, free_atoms, origin_shifts, positions, primitive_operations

T = TypeVar("T")
LENDERS = 4  # templates that are looked at for each choice of sites that is wanted


def units_for(
    targets: CrystalTable,
    training: CrystalTable,
    *,
    use_space_group: bool = True,
    choice: Choice | None = None,
) -> tuple[list[AsymmetricUnit], list[str]]:
    """Sites for each target's atoms in its space group; the target's own coordinates and cell are not looked at.

    Args:
        targets: of several templates with the same elements the one nearest in formation energy is taken, unless that
            is nan.
        use_space_group: whether the group is asked for; else it is the template's.
        choice: of the template, from the same training set; without one it is the most alike.

    Returns:
        One unit a target, and where it comes from: "template" (with the template's free parameters, and its cell scaled
        to the volume of the elements), "supergroup" (the same of a template of higher symmetry, which only a choice
        borrows), "enumerated" (free parameters and cell are placeholders), or "free" where the group cannot hold the
        atoms: they are then left without symmetry.

    Raises:
        BadInput: the training set is empty, or the choice is one of another.
    """
    asked = {"use_space_group": use_space_group, "choice": choice}
    found = [several[0] for several in alternatives(targets, training, 1, **asked)]
    return [unit for unit, _ in found], [source for _, source in found]


def alternatives(
    targets: CrystalTable,
    training: CrystalTable,
    n: int,
    *,
    use_space_group: bool = True,
    choice: Choice | None = None,
) -> list[list[tuple[AsymmetricUnit, str]]]:
    """At most n choices of sites for each target, and where each comes from; arguments and errors of :func:`units_for`.

    The most alike or most promising templates come first, one for each choice of positions that does not differ from
    another by the origin alone; then the positions that the group's crystals occupy most often.
    """
    if choice is None:
        n_templates = 1 if n == 1 else LENDERS * n
        templates = alike_templates(targets, training, n_templates, use_space_group=use_space_group)
    elif choice.lenders.training is training:
        templates = choice.templates(targets, LENDERS * n, use_space_group=use_space_group)
    else:
        raise BadInput("the choice of templates is one of another training set; learn it from this one")
    volumes, usage = atomic_volumes(training), _Usage(training)
    found: list[list[tuple[AsymmetricUnit, str]]] = []
    for i, several in enumerate(templates):
        species, group = targets.species_of(i), int(targets.space_group[i]) if use_space_group else None
        proposed = (lent for template in several for lent in _lent(training, template, group, volumes))
        if group is not None:
            proposed = itertools.chain(proposed, ((unit, "enumerated") for unit in usage.usual(group, species)))
        found.append(_different(proposed, n) or [(free_atoms(species), "free")])
    return found


def _different(proposed: Iterator[tuple[AsymmetricUnit, T]], n: int) -> list[tuple[AsymmetricUnit, T]]:
    """The first n units that do not differ from one before by the origin alone, with what comes with them."""
    chosen: list[tuple[AsymmetricUnit, T]] = []
    while len(chosen) < n and (one := next(proposed, None)):
        if not any(aligned(one[0], unit) for unit, _ in chosen):
            chosen.append(one)
    return chosen


@dataclass(frozen=True)
class LentSites:
    """Sites that a training set lends to compositions, where :class:`lib.prior.SitePrior` has statistics alone.

    What that is worth is measured by notebook 10.
    """

    choice: TemplateChoice

    @classmethod
    def of_run(cls, folder: Path, **settings) -> LentSites:
        """The training set of a run, and the choice of templates that its notebook 04 has learnt.

        Args:
            settings: of :meth:`lib.choice.TemplateChoice.learn`.

        Raises:
            BadInput: the folder holds no such run.
        """
        names = ("train", "template_examples", "template_choices")
        train, examples, choices = (folder / "data" / f"{name}.parquet" for name in names)
        missing = [path for path in (train, examples, choices) if not path.is_file()]
        if missing:
            raise BadInput(f"{missing[0]} does not exist; name the folder of a run whose notebook 04 has ended")
        training = CrystalTable.from_parquet(train)
        return cls(TemplateChoice.learn(training, *map(pd.read_parquet, (examples, choices)), **settings))

    def candidates(
        self, species: np.ndarray, n: int, space_groups: Sequence[int] | None = None, energy: float = np.nan
    ) -> list[Candidate]:
        """At most n different choices of sites for the atoms, the most promising first; none where nothing lends.

        Args:
            species: (n_sites,) atomic numbers of a primitive cell.
            space_groups: those that are asked for; None for any.
            energy: asked for, eV/atom; nan for any.

        Returns:
            Units with the free parameters of the template and its cell, scaled to the volume of the elements.
        """
        lenders = self.choice.lenders
        groups = [None] if space_groups is None else list(space_groups)
        promised = self.choice.promised([species] * len(groups), groups, [energy] * len(groups))
        several = [(group, *one) for group, of_group in zip(groups, promised, strict=True) for one in of_group]
        several.sort(key=lambda one: -one[2])
        proposed = (
            (unit, (promise, str(lenders.training.id[template[0]])))
            for group, template, promise in several
            for unit, _ in _lent(lenders.training, template, group, lenders.volumes)
        )
        return [Candidate(unit, *known) for unit, known in _different(proposed, n)]


def _lent(
    training: CrystalTable, template: Template, group: int | None, volumes: np.ndarray
) -> list[tuple[AsymmetricUnit, str]]:
    """What a template lends to a target, described in the asked group where its own is higher, and where it is from."""
    row, replaced = template
    unit = _unit_of(training, row)
    if group is None or training.space_group[row] == group:
        return [(substituted_unit(unit, replaced, volumes), "template")]
    return [(substituted_unit(described, replaced, volumes), "supergroup") for described in described_in(unit, group)]


def requests_by_condition(
    targets: CrystalTable, training: CrystalTable, choice: Choice | None = None
) -> dict[str, dict[str, object]]:
    """What a model may be told of each target, from everything to nothing but its atoms.

    Returns:
        Name -> space_group, energy and units for :meth:`lib.sampling.TrainedModel.generate`. Where the energy is not
        given, no template is chosen by it; where the group is not, the template gives it, too. "the target's own sites"
        is no fair request but shows what the choice of sites costs.

    Args:
        choice: as for :func:`units_for`.

    Raises:
        BadInput: as there.
    """
    blind = replace(targets, formation_energy=np.full(len(targets), np.nan))
    group, energy, unknown = targets.space_group, targets.formation_energy, blind.formation_energy
    return {
        "composition, group, energy": _request(group, energy, units_for(targets, training, choice=choice)[0]),
        "composition, group": _request(group, unknown, units_for(blind, training, choice=choice)[0]),
        "composition, energy": request_with_lent_groups(targets, training, choice),
        "composition": request_with_lent_groups(blind, training, choice),
        "composition, group, energy; no sites": _request(group, energy, None),
        "composition, group, energy; the target's own sites": _request(group, energy, targets.asymmetric_units),
    }


def request_with_lent_groups(
    targets: CrystalTable, training: CrystalTable, choice: Choice | None = None
) -> dict[str, object]:
    """A request as of :func:`requests_by_condition` in which the template gives the group; where there is none it is 0.

    Arguments and errors are those of :func:`units_for`.
    """
    units, sources = units_for(targets, training, use_space_group=False, choice=choice)
    groups = [unit.symmetry if source == "template" else 0 for unit, source in zip(units, sources, strict=True)]
    return _request(np.array(groups), targets.formation_energy, units)


def _request(space_group: np.ndarray, energy: np.ndarray, units: Sequence[AsymmetricUnit] | None) -> dict[str, object]:
    return {"space_group": space_group, "energy": energy, "units": units}


@functools.lru_cache(maxsize=2**17)  # milliseconds each, and asked for again and again; tables by identity
def _unit_of(table: CrystalTable, row: int) -> AsymmetricUnit:
    return table.unit_of(row)


def substituted_unit(unit: AsymmetricUnit, replaced: np.ndarray, volumes: np.ndarray) -> AsymmetricUnit:
    """Other elements on the same sites, which note whom they replace, and the cell scaled to what these take.

    Args:
        replaced: (119,) the element that takes the place of each.
        volumes: (119,) Å^3 an atom of each element takes.
    """
    sites = tuple(Site(int(replaced[s.species]), s.position, s.parameters, lender=s.species) for s in unit.sites)
    scale = np.cbrt(volumes[replaced[unit.species]].sum() / volumes[unit.species].sum())
    return AsymmetricUnit(unit.lattice * scale, unit.symmetry, sites)


@functools.lru_cache(maxsize=4)  # tables are compared by identity; several models learn from one
def training_templates(table: CrystalTable, n: int) -> list[list[AsymmetricUnit]]:
    """For each crystal up to n of the others that :func:`units_for` could have lent it, set beside its own sites.

    They are of other reduced formulas, and of the most alike ones those whose atoms take the crystal's own positions.

    Returns:
        Units with the sites of :attr:`CrystalTable.asymmetric_units` in the same order, but the parameters and the
        cell of the template.
    """
    units, volumes = table.asymmetric_units, atomic_volumes(table)
    candidates = alike_templates(table, table, 2 * n, use_space_group=True, other_formulas=True)
    found = []
    for unit, several in progress(list(zip(units, candidates, strict=True)), desc="aligning templates", unit="crystal"):
        fit = (aligned(substituted_unit(units[row], replaced, volumes), unit) for row, replaced in several)
        found.append([template for template in fit if template is not None][:n])
    return found


def aligned(template: AsymmetricUnit, unit: AsymmetricUnit) -> AsymmetricUnit | None:
    """The template with the sites of a crystal of the same group, in their order and as near to them as may be.

    The origin is chosen anew, and of an orbit's atoms the one that represents it. None where the template's atoms do
    not take the crystal's positions, whatever the origin.
    """
    if template.symmetry != unit.symmetry:
        return None
    wanted = Counter((site.species, site.position) for site in unit.sites)
    best, nearest = np.inf, None
    for shift, position_of in origin_shifts(unit.symmetry):
        classes: dict[tuple[int, int], list[Site]] = defaultdict(list)
        for site in template.sites:
            classes[site.species, position_of[site.position]].append(site)
        if {key: len(sites) for key, sites in classes.items()} != wanted:
            continue
        orbits = {key: [_orbit(unit.symmetry, site) + shift for site in sites] for key, sites in classes.items()}
        for drift in _drifts(unit, orbits):
            cost, sites = _nearest_sites(unit, classes, orbits, drift)
            if cost < best - 1e-9:
                best, nearest = cost, sites
    return None if nearest is None else AsymmetricUnit(template.lattice, unit.symmetry, nearest)


def _orbit(space_group: int, site: Site) -> np.ndarray:
    return positions(space_group)[site.position].atoms(site.parameters)


def _drifts(unit: AsymmetricUnit, orbits: dict[tuple[int, int], list[np.ndarray]]) -> np.ndarray:
    """(k, 3) shifts along axes without origin that bring an atom of the template to one of the crystal."""
    rotations, _ = primitive_operations(unit.symmetry)
    polar = rotations.mean(0)
    if not polar.any():
        return np.zeros((1, 3))
    rarest = min(orbits, key=lambda key: len(orbits[key]))
    site = next(site for site in unit.sites if (site.species, site.position) == rarest)
    return (_orbit(unit.symmetry, site)[0] - np.concatenate(orbits[rarest])) @ polar.T


def _nearest_sites(
    unit: AsymmetricUnit, classes: dict, orbits: dict, drift: np.ndarray
) -> tuple[float, tuple[Site, ...]]:
    """The unit's sites with the template's parameters, and the sum of squares by which these differ, atom by atom."""
    total, found = 0.0, {}
    for key, lent in classes.items():
        position = positions(unit.symmetry)[key[1]]
        places = [i for i, site in enumerate(unit.sites) if (site.species, site.position) == key]
        own = np.array([unit.sites[i].parameters for i in places])
        choices = [position.parameters_of(orbit + drift) for orbit in orbits[key]]
        gaps = [own[:, None] - several for several in choices]  # (sites, choices, d) for each lent site
        costs = [np.square(gap - np.round(gap)).sum(-1) for gap in gaps]
        cost = np.stack([several.min(axis=1) for several in costs], axis=1)
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            parameters = choices[column][costs[column][row].argmin()]
            found[places[row]] = Site(key[0], key[1], parameters, lender=lent[column].lender)
            total += position.multiplicity * cost[row, column]
    return total, tuple(found[i] for i in range(len(unit.sites)))


class _Usage:
    """How often the crystals of each space group occupy its Wyckoff positions."""

    def __init__(self, training: CrystalTable) -> None:
        self.training = training

    @functools.cache  # noqa: B019 (lives as long as one call of units_for)
    def logarithms(self, space_group: int) -> np.ndarray:
        """See :func:`lib.prior.usage_logarithms`."""
        rows = np.flatnonzero(self.training.space_group == space_group)
        units = (_unit_of(self.training, row) for row in rows)
        used = Counter(site.position for unit in units if unit.symmetry == space_group for site in unit.sites)
        return usage_logarithms(space_group, used)

    def usual(self, space_group: int, species: np.ndarray) -> Iterator[AsymmetricUnit]:
        """Positions that hold the atoms and give no higher symmetry, the most usual first."""
        elements, counts = np.unique(species, return_counts=True)
        usual = usual_assignments(space_group, elements, counts, self.logarithms(space_group))
        return (generic_unit(space_group, elements, taken) for taken in usual)
