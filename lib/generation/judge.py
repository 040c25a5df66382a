"""Which of several choices of sites is the crystal, learnt from crystals of the training set; no potential is asked.

Crystals that are alone with their counts and space group stand for requests without a template. A model fills the most
probable sites of each, as it fills those of a request; StructureMatcher says which of the results match the crystal,
and gradient boosting (Friedman 2001, 10.1214/aos/1013203451) learns to predict that, as it does of templates
(:mod:`lib.retrieval.template_ranking`). So what it takes for wrong are crystals on wrong sites and crystals on the
right ones whose atoms the model has misplaced.

It sees the place of the sites among the most probable ones, how many orbits and free coordinates they have, and how
usual contacts, coordination and volume are (:meth:`lib.retrieval.template_features.TemplateFeatures.environment`); of
the composition only the numbers of elements and atoms, so that crystals of other elements teach it.

On the 66 of 580 validation crystals of MP-20 whose counts and group no training crystal has, up to 20 choices were
filled once each in 20 steps. The first choice matches at CSP tolerances in 12 %, the best by this judge (60 crystals
with 12 choices each) and by CHGNet's energy in 15, by the model's loss in 9, the lowest of CHGNet's first 8 after 20
steps of relaxation in 23, any in 36, one on the crystal's own sites in 36. No difference from the first choice is
resolved but that of the last two. As a shortlist the first five by any judge (29 % hold a match) are no better than the
first five by probability.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.core.workers import progress
from lib.crystals.table import CrystalTable
from lib.generation.ranking import Best, Candidates, lowest, valid_places
from lib.metrics.matching import match_many
from lib.retrieval.template_features import LocalEnvironments, TemplateFeatures
from lib.retrieval.template_ranking import Forests, expected_scores, fitted_forests
from lib.retrieval.templates import by_count
from lib.symmetry.wyckoff import AsymmetricUnit, positions

Units = Sequence[Sequence[AsymmetricUnit]]


def alone(training: CrystalTable) -> np.ndarray:
    """Rows of the crystals whose counts per cell and space group no other crystal has."""
    counts = (tuple(by_count(training.species_of(row))[1].tolist()) for row in range(len(training)))
    keys = list(zip(counts, training.space_group.tolist(), strict=True))
    times = Counter(keys)
    return np.flatnonzero([times[key] == 1 for key in keys])


@dataclass(frozen=True)
class LearntJudge:
    """Expects of each candidate the share of the three match tolerances that it meets.

    Attributes:
        features: of the training set.
        forests: regressions of that share; none where there was no valid candidate to learn from, and then the first
            valid one wins.
    """

    features: TemplateFeatures
    forests: Forests

    @classmethod
    def learn(
        cls,
        features: TemplateFeatures,
        crystals: CrystalTable,
        candidates: Candidates,
        units: Units,
        *,
        seed: int = 42,
        n_workers: int = 2,
        **matching,
    ) -> LearntJudge:
        """From crystals of the training set and what a model has made of the sites proposed for each.

        Args:
            candidates: for each crystal one structure for each of its units; None where the model gave none.
            units: for each crystal its choices of sites, the most probable first.
            matching: settings of :func:`lib.metrics.matching.match_many`.
        """
        places, described = _described(features, candidates, units)
        targets = (crystals.structure(i) for i, _ in places)
        verdicts = match_many(targets, (candidates[i][j] for i, j in places), n_workers=n_workers, **matching)
        return cls(features, fitted_forests([(described, verdicts)], seed, n_workers)[0] if places else [])

    def best(self, candidates: Candidates, units: Units) -> Best:
        """The candidate that most is expected of, for each request; scores are negative, so that the lowest wins.

        Args:
            candidates, units: as for :meth:`learn`.
        """
        places, described = _described(self.features, candidates, units)
        expected = expected_scores(self.forests, described) if self.forests and places else -described["place"]
        structures = [candidates[i][j] for i, j in places]
        return lowest(candidates, places, structures, [(-one,) for one in expected])


def _described(
    features: TemplateFeatures, candidates: Candidates, units: Units
) -> tuple[list[tuple[int, int]], pd.DataFrame]:
    """Request and place of each valid candidate, and its features."""
    places = valid_places(candidates, features.volumes)
    if not places:
        return [], pd.DataFrame({"place": []})
    facts = {"formation_energy": np.zeros(len(places)), "space_group": np.ones(len(places), int)}  # are not looked at
    names, structures = [f"{i}_{j}" for i, j in places], [candidates[i][j] for i, j in places]
    table = CrystalTable.from_structures(structures, id=names, energy_kind="none", **facts)
    bar = progress(enumerate(places), total=len(places), desc="describing candidates", unit="crystal")
    rows = [_of_sites(units[i][j]) | _of_atoms(features, table, row) | {"place": j} for row, (i, j) in bar]
    return places, pd.DataFrame(rows, dtype=np.float32)


def _of_sites(unit: AsymmetricUnit) -> dict[str, float]:
    orbits = Counter(site.species for site in unit.sites)
    free = sum(positions(unit.symmetry)[site.position].n_free for site in unit.sites)
    return {"orbits": len(unit.sites), "orbits of an element": max(orbits.values()), "free coordinates": free}


def _of_atoms(features: TemplateFeatures, table: CrystalTable, row: int) -> dict[str, float]:
    elements, counts = by_count(table.species_of(row))
    around = LocalEnvironments.of(table, row)
    numbers = {"elements": len(elements), "atoms": counts.sum()}
    return numbers | features.environment(elements, counts / counts.sum(), around)
