"""Which sites the atoms of a composition take: those of templates, then positions that the space group's crystals take.

The group and the composition leave a choice of Wyckoff positions. Crystals of the same counts and group make it as a
rule alike, whatever their elements: on 1,128 structures held out of MP-20 by formula the training structure whose
elements are most alike has the right positions in 92 % (up to the choice of the origin). Where there is none, the most
probable positions of the group are (:meth:`lib.retrieval.site_statistics.SiteStatistics.assignments`) in 31 % (n = 62).
Distances of elements learnt for this purpose (neighbourhood components, Goldberger et al. 2004) choose no better: 90 %
either way (n = 513).
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lib.crystals.table import CrystalTable
from lib.retrieval.site_statistics import (
    Candidate,
    EnergyStatistics,
    SiteStatistics,
    generic_unit,
    in_any_axes,
    positions_by_element,
)
from lib.retrieval.template_ranking import LearntRanking
from lib.retrieval.templates import Ranking, Template, by_count, substituted_unit
from lib.symmetry.subgroups import described_in
from lib.symmetry.wyckoff import AsymmetricUnit, free_atoms

TRIED = 4  # templates that are looked at for each candidate that is wanted


FROM = {
    "template": "",
    "nearest template": "; the most alike template",
    "energy ranking": "; template by energy",
    "own": "; the target's own sites",
    "none": "; no sites",
}


@dataclass(frozen=True)
class Ask:
    """What a model is told of a target, beside its atoms."""

    group: bool = True  # whether the space group is asked for; else the template gives it
    energy: bool = True  # whether the formation energy is asked for; else no template is chosen by it
    # where they come from: "template" and "energy ranking" (of the best template by these rankings), "nearest template"
    # (of the most alike elements), "own" (the target's, which is no fair request but shows what the choice of sites
    # costs), or "none" (every atom moves by itself)
    sites: Literal["template", "nearest template", "energy ranking", "own", "none"] = "template"
    untold: Literal["", "group", "energy"] = ""  # a condition that the sites are chosen by and the network is not told

    @property
    def label(self) -> str:
        """The row of tables, such as "composition, group, energy; no sites"."""
        conditions = ", group" * self.group + ", energy" * self.energy
        untold = f"; network not told the {self.untold}" if self.untold else ""
        return f"composition{conditions}{FROM[self.sites]}{untold}"


def request(ask: Ask, targets: CrystalTable, rankings: Mapping[str, Ranking]) -> dict[str, object]:
    """The atoms, space groups, energies and units of targets, as :meth:`lib.generation.sampling.TrainedModel.generate`
    takes them.

    Where the group is not asked for it is that of the template, and 0 (none) where there is no template. Rankings of
    the templates are by :attr:`Ask.sites`.
    """
    unknown = np.full(len(targets), np.nan)
    energy = targets.formation_energy if ask.energy else unknown
    groups = targets.space_group if ask.group else np.zeros(len(targets), int)
    units: Sequence[AsymmetricUnit] | None = None
    if ask.sites == "own":
        units = targets.asymmetric_units
    elif ask.sites != "none":
        asked = replace(targets, formation_energy=energy)
        best = best_candidates(asked, rankings[ask.sites], use_space_group=ask.group)
        units = [one.unit for one in best]
        if not ask.group:
            groups = np.array([one.unit.symmetry if one.source == "template" else 0 for one in best])
    return {
        "species": [targets.species_of(i) for i in range(len(targets))],
        "space_group": np.zeros_like(groups) if ask.untold == "group" else groups,
        "energy": unknown if ask.untold == "energy" else energy,
        "units": units,
    }


def best_candidates(targets: CrystalTable, ranking: Ranking, *, use_space_group: bool = True) -> list[Candidate]:
    """The first of :func:`candidates` for each target."""
    return [several[0] for several in candidates(targets, ranking, 1, use_space_group=use_space_group)]


def candidates(
    targets: CrystalTable, ranking: Ranking, n: int, *, use_space_group: bool = True
) -> list[list[Candidate]]:
    """At most n candidates for each target's atoms, no two of which differ by the choice of the origin alone.

    Those of templates come first, in the order of their ranking, then the positions that the group's training crystals
    occupy most often, then atoms without symmetry. The target's own coordinates and cell are not looked at, nor, unless
    `use_space_group`, its group: candidates then have that of their template.
    """
    templates = ranking.templates(targets, TRIED * n, use_space_group=use_space_group)
    found: list[list[Candidate]] = []
    for i, several in enumerate(templates):
        species, group = targets.species_of(i), int(targets.space_group[i]) if use_space_group else None
        proposed = (one for template in several for one in _of_template(ranking, template, group))
        if group is not None:
            proposed = itertools.chain(proposed, _enumerated(ranking.training, group, species))
        found.append(_different(proposed, n) or [Candidate(free_atoms(species), 0.0, source="free")])
    return found


def retrieved_candidates(
    ranking: LearntRanking, species: np.ndarray, n: int, space_groups: Sequence[int] | None, energy: float
) -> list[Candidate]:
    """At most n different candidates of templates for the atoms, those of highest score first.

    Args:
        species: (n_sites,) atomic numbers of a primitive cell.
        space_groups: those that are asked for; None for any.
        energy: asked for, eV/atom; nan for any.
    """
    groups = [None] if space_groups is None else list(space_groups)
    ranked = ranking.ranked([species] * len(groups), groups, [energy] * len(groups))
    several = [(group, template) for group, of_group in zip(groups, ranked, strict=True) for template in of_group]
    several.sort(key=lambda one: -one[1].score)
    return _different((one for group, template in several for one in _of_template(ranking, template, group)), n)


def _of_template(ranking: Ranking, template: Template, group: int | None) -> list[Candidate]:
    """A template's sites with other elements; where the asked group is a subgroup of its own, as described in that."""
    training, row = ranking.training, template.row
    unit, name = _unit_of(training, row), str(training.id[row])
    source = "template" if group is None or training.space_group[row] == group else "supergroup"
    return [
        Candidate(substituted_unit(one, template.replaced, ranking.volumes), template.score, name, source)
        for one in ([unit] if source == "template" else described_in(unit, group))
    ]


def _different(proposed: Iterator[Candidate], n: int) -> list[Candidate]:
    """The first n whose units do not differ from one before by the choice of origin and axes alone."""
    chosen: dict[tuple, Candidate] = {}
    while len(chosen) < n and (one := next(proposed, None)):
        taken = positions_by_element(one.unit)
        chosen.setdefault((*taken, one.unit.symmetry, in_any_axes(one.unit.symmetry, list(taken.values()))), one)
    return list(chosen.values())


@functools.lru_cache(maxsize=2**17)  # milliseconds each, and asked for again and again; tables by identity
def _unit_of(table: CrystalTable, row: int) -> AsymmetricUnit:
    return table.unit_of(row)


def _enumerated(training: CrystalTable, space_group: int, species: np.ndarray) -> Iterator[Candidate]:
    """Positions of a group that hold the atoms and give no higher symmetry, the most probable first."""
    elements, _ = by_count(species)
    for _, taken in _statistics(training, space_group).assignments(space_group, species):
        yield Candidate(generic_unit(space_group, elements, taken), 0.0)


@functools.lru_cache(maxsize=2**8)  # tables by identity
def _statistics(training: CrystalTable, space_group: int) -> SiteStatistics:
    """Of the crystals of a group in a training set, without energies."""
    return SiteStatistics.fit(training.take(training.space_group == space_group), EnergyStatistics({}, 0.0))
