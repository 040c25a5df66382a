"""Sites where no template exists: the most probable ones, filled by a model and judged (notebook 13)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pymatgen.core import Structure

from lib.crystals.table import CrystalTable
from lib.generation.judge import LearntJudge, Units, alone
from lib.retrieval.candidates import candidates
from lib.retrieval.site_statistics import Candidate
from lib.retrieval.template_features import TemplateFeatures
from lib.retrieval.templates import ElementRanking

Filled = list[list[Structure | None]]
FEW_FREE = (6, 12)  # free coordinates up to which a crystal has few, and some


def filled(
    targets: CrystalTable,
    units: Units,
    sample: Callable[..., list[Structure | None]],
    groups: Sequence[Sequence[int]] | None = None,
) -> Filled:
    """What a model makes of several choices of sites for each target, which is asked for by its group and energy.

    Args:
        units: for each target its choices.
        sample: :meth:`lib.generation.sampling.TrainedModel.generate` with its settings.
        groups: the space group that is asked for with each choice, where it is not the target's; 0 for none.
    """
    lengths = [len(several) for several in units]
    every = [unit for several in units for unit in several]
    if not every:
        return [[] for _ in units]
    asked = targets.take(np.repeat(np.arange(len(targets)), lengths))
    species = [asked.species_of(i) for i in range(len(asked))]
    of_choice = asked.space_group if groups is None else np.array([group for several in groups for group in several])
    drawn = iter(sample(species=species, space_group=of_choice, energy=asked.formation_energy, units=every))
    return [[next(drawn) for _ in several] for several in units]


def judge_of(
    features: TemplateFeatures,
    sample: Callable[..., list[Structure | None]],
    n_crystals: int,
    n_sites: int,
    *,
    rng: np.random.Generator,
    **settings,
) -> LearntJudge:
    """A judge that has learnt from crystals of the training set that are alone with their counts and group.

    Their sites are proposed as if they were not in the training set; the model has seen them.

    Args:
        sample: as for :func:`filled`.
        n_crystals, n_sites: so many crystals, each with so many choices of sites.
        settings: of :meth:`lib.generation.judge.LearntJudge.learn`.
    """
    training = features.training
    chosen = np.sort(rng.permutation(alone(training))[:n_crystals])
    crystals, rest = training.take(chosen), training.take(np.setdiff1d(np.arange(len(training)), chosen))
    units = units_of(candidates(crystals, ElementRanking(rest), n_sites))
    return LearntJudge.learn(features, crystals, filled(crystals, units, sample), units, **settings)


def units_of(several: Sequence[Sequence[Candidate]]) -> Units:
    """The units of several candidates of each target."""
    return [[one.unit for one in few] for few in several]


def by_free_coordinates(targets: CrystalTable) -> dict[str, np.ndarray]:
    """Name of a subset -> ids of the targets whose atoms have so many free coordinates."""
    free = np.array([sum(len(site.parameters) for site in unit.sites) for unit in targets.asymmetric_units])
    low, high = FEW_FREE
    names = [f"up to {low} free", f"{low + 1} to {high} free", f"over {high} free"]
    of = np.searchsorted(FEW_FREE, free)
    return {name: targets.id[of == i] for i, name in enumerate(names)}


def at_random(several: Sequence[Sequence[Structure | None]], rng: np.random.Generator) -> list[Structure | None]:
    """One of the candidates of each target, whichever."""
    return [few[rng.integers(len(few))] if few else None for few in several]
