"""Rankings of templates that are learnt from the training set, or ask a potential.

Substitution takes the crystal whose elements are most alike (:class:`lib.retrieval.templates.ElementRanking`). Here
some crystals of the training set are compared with their templates of other formulas, StructureMatcher says which of
these match, and gradient boosting (Friedman 2001, 10.1214/aos/1013203451) learns to predict that from
:mod:`lib.retrieval.template_features`.

Where a space group is asked for, crystals of its supergroups are templates, too: see :mod:`lib.symmetry.subgroups`. On
987 targets held out of MP-20 by formula the template of highest score, with the elements replaced, matches 79.2 % given
the group and 70.3 % without it at CSP tolerances, where substitution matches 77.5 % and 66.8 %. On the embedded set,
whose formulas have tens of polymorphs of the same elements, learning gains nothing and is not used. There the asked
energy tells the polymorphs apart, if the potential that made the energies is asked (:class:`EnergyRanking`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from lib.core.errors import BadInput
from lib.core.streams import sequence
from lib.core.workers import progress, spread
from lib.crystals.table import CrystalTable
from lib.energies.hull import referred
from lib.energies.relaxation import single_points
from lib.metrics.matching import OUTCOME, VERDICTS, match_many
from lib.retrieval.template_features import ENERGY, TemplateFeatures
from lib.retrieval.templates import KERNEL, Ranking, Template, as_templates

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

MANY = 1e9  # more than any number of templates
N_FORESTS = 3  # that are averaged
KEYS = ["crystal", "formula", "asked", *OUTCOME]  # columns of examples that are no features
SETTINGS = {"max_iter": 300, "learning_rate": 0.1, "l2_regularization": 5.0, "min_samples_leaf": 100}
SETTINGS |= {"max_features": 0.3}  # of scikit-learn's HistGradientBoostingRegressor

Forests = Sequence["HistGradientBoostingRegressor"]


@dataclass(frozen=True)
class LearntRanking(Ranking):
    """The templates of highest expected match rate first.

    The score of a template is the share of the three match tolerances that it is expected to meet. Where nothing is
    learnt, scores and order are those of :class:`lib.retrieval.templates.ElementRanking`, templates of the asked group
    before all others.
    """

    features: TemplateFeatures  # of the training set
    # whether a group is asked for, and whether an energy is -> regressions of the score on the features; a kind of
    # request that is not here has none
    forests: Mapping[tuple[bool, bool], Forests]

    @property
    def training(self) -> CrystalTable:
        return self.features.training

    @property
    def volumes(self) -> np.ndarray:
        return self.features.volumes

    @classmethod
    def learn(
        cls,
        training: CrystalTable,
        examples: pd.DataFrame,
        held_out: pd.DataFrame,
        *,
        seed: int = 42,
        n_workers: int = 2,
        asked: Collection[bool] = (False, True),
    ) -> LearntRanking:
        """From the examples of :func:`examples_of` the same training set, where it is worth it by :func:`gains`, for
        requests with and without a group as `asked` says."""
        won = gains(held_out)
        kinds = [kind for kind in won.index[won.worth_it] if kind[0] in asked]
        taught = [_taught(examples[examples.asked == group], energy) for group, energy in kinds]
        return cls(TemplateFeatures(training), dict(zip(kinds, fitted_forests(taught, seed, n_workers), strict=True)))

    @classmethod
    def of_run(cls, folder: Path, **settings) -> LearntRanking:
        """:meth:`learn` of the training set of a run, from the examples that its notebook 04 has collected. Raises
        BadInput if the folder holds no such run."""
        names = ("train", "template_examples", "template_choices")
        train, examples, choices = (folder / "data" / f"{name}.parquet" for name in names)
        missing = [path for path in (train, examples, choices) if not path.is_file()]
        if missing:
            raise BadInput(f"{missing[0]} does not exist; name the folder of a run whose notebook 04 has ended")
        return cls.learn(CrystalTable.from_parquet(train), *map(pd.read_parquet, (examples, choices)), **settings)

    def ranked(
        self, species: Sequence[np.ndarray], space_groups: Sequence[int | None], energies: Sequence[float]
    ) -> list[list[Template]]:
        """The templates of each target's atoms, those of highest score first; space groups are asked for of all targets
        or of none (None), energies, eV/atom, where they are not nan."""
        asked = list(zip(species, space_groups, energies, strict=True))
        retrieved = [self.features.of(*target) for target in progress(asked, desc="ranking templates", unit="target")]
        found: list[list[Template]] = [[] for _ in asked]
        tables = {i: _table(features) for i, (_, features) in enumerate(retrieved) if features}
        if not tables:
            return found
        together = pd.concat(tables, names=["target", "place"])
        scores = np.exp(-together["unlike"] / KERNEL)
        judged = pd.DataFrame({"order": _likeness(together), "score": scores}, dtype=float)
        told = np.isfinite(np.asarray(energies))[together.index.get_level_values("target")]
        for energy in (False, True):
            forests = self.forests.get((space_groups[0] is not None, energy))
            if forests is not None and (told == energy).any():
                scores = expected_scores(forests, together[told == energy])
                judged.loc[told == energy] = np.stack([scores, scores], axis=1)
        for i, of_target in judged.groupby("target"):
            best = np.argsort(-of_target["order"].to_numpy(), kind="stable")
            found[i] = as_templates(retrieved[i][0].take(best), species[i], of_target["score"].to_numpy()[best])
        return found

    def templates(self, targets: CrystalTable, n: int, *, use_space_group: bool) -> list[list[Template]]:
        """See :meth:`lib.retrieval.templates.Ranking.templates`."""
        groups = targets.space_group.tolist() if use_space_group else [None] * len(targets)
        species = [targets.species_of(i) for i in range(len(targets))]
        return [several[:n] for several in self.ranked(species, groups, targets.formation_energy)]


@dataclass(frozen=True)
class EnergyRanking(Ranking):
    """Of the templates of highest score those first whose energy by a potential is nearest to the asked one.

    It costs a single point a template, and knows no energy but a potential's: where the data's are of another kind, or
    the potential has learnt from the targets themselves, its order is no fair prediction.
    """

    ranking: LearntRanking  # that gives the scores
    n_tried: int  # templates of each target whose energy, with the elements replaced, is calculated
    # the potential's energies of pure elements, eV/atom; the templates of a target with another element stay in the
    # order of `ranking`, and so do those of one that no energy is asked for
    references: Mapping[str, float]
    potential: str = "chgnet"  # name in lib.energies.potentials.POTENTIALS
    n_workers: int = 2
    finished: Path | None = None  # folder that keeps each energy as it comes

    @property
    def training(self) -> CrystalTable:
        return self.ranking.training

    @property
    def volumes(self) -> np.ndarray:
        return self.ranking.volumes

    def templates(self, targets: CrystalTable, n: int, *, use_space_group: bool) -> list[list[Template]]:
        """See :meth:`lib.retrieval.templates.Ranking.templates`; at most `n_tried`."""
        tried = self.ranking.templates(targets, self.n_tried, use_space_group=use_space_group)
        lengths = [len(several) for several in tried]
        row = np.repeat(np.arange(len(targets)), lengths)
        structures = [self.substituted(template) for several in tried for template in several]
        energies = single_points(structures, self.potential, n_workers=self.n_workers, finished=self.finished)
        apart = np.abs(referred(energies, targets.take(row), self.references) - targets.formation_energy[row])
        # an energy that is not known, nan, comes last; those of one target keep their order
        orders = [np.argsort(of_target, kind="stable") for of_target in np.split(apart, np.cumsum(lengths))]
        return [[several[i] for i in order[:n]] for several, order in zip(tried, orders[:-1], strict=True)]


def examples_of(training: CrystalTable, n: int, *, rng: np.random.Generator, **matching) -> pd.DataFrame:
    """The templates that n crystals (or all) of a training set have among those of other formulas, and whether they
    match by :func:`lib.metrics.matching.match_many`.

    Returns:
        One row a template: `crystal` (row of the training set), its reduced `formula`, `asked` (whether its space
        group was asked for), the columns of :func:`lib.metrics.matching.match_many`, and the features. Some of these
        are nan where no group is asked for.
    """
    features = TemplateFeatures(training)
    ranking = LearntRanking(features, {})
    crystals = np.sort(rng.permutation(len(training))[:n])
    tables, templates = [], []
    for row in progress(crystals.tolist(), desc="retrieving templates", unit="crystal"):
        species, formula = training.species_of(row), training.reduced_formula[row]
        for asked in (False, True):
            group = int(training.space_group[row]) if asked else None
            found, values = features.of(species, group, training.formation_energy[row], formula)
            tables.append(_table(values).assign(crystal=row, formula=formula, asked=asked))
            templates += [(row, one) for one in as_templates(found, species, found.mean)]
    targets = (training.structure(row) for row, _ in templates)
    verdicts = match_many(targets, (ranking.substituted(template) for _, template in templates), **matching)
    return pd.concat([pd.concat(tables, ignore_index=True), verdicts], axis=1)


def held_out_choices(examples: pd.DataFrame, *, folds: int = 3, seed: int = 42, n_workers: int = 2) -> pd.DataFrame:
    """The first template of each crystal of the examples, where the ranking is learnt from those of other formulas.

    Returns:
        One row for each crystal that has a template, `asked`, and ranking (`row`: "most alike", of the asked group
        where one is asked for; "learnt"; "learnt, energy told", of the crystal's own; "the best on offer", which looks
        at the verdicts), with the columns that :func:`lib.metrics.matching.rate_table` reads: `formula`, and the
        outcome.
    """
    from sklearn.model_selection import GroupKFold

    chosen = []
    for asked, of_kind in examples.groupby("asked"):
        alike = pd.Series(_likeness(of_kind), of_kind.index)
        scores = {told: alike.copy() for told in (False, True)}
        enough = of_kind.formula.nunique() >= folds  # else nothing is learnt, and the most alike is taken
        splits = list(GroupKFold(folds).split(of_kind, groups=of_kind.formula)) if enough else []
        taught = [_taught(few, told) for few in (of_kind.iloc[rows] for rows, _ in splits) for told in scores]
        forests = iter(fitted_forests(taught, seed, n_workers))
        for _, held in splits:
            for expected in scores.values():
                expected.iloc[held] = expected_scores(next(forests), of_kind.iloc[held])
        in_group = of_kind["asked group"].eq(1) if asked else pd.Series(True, of_kind.index)
        rankings = {"most alike": alike, "learnt": scores[False], "learnt, energy told": scores[True]}
        rankings["the best on offer"] = of_kind[VERDICTS].sum(axis=1)
        for row, score in rankings.items():
            best = of_kind.loc[score.groupby(of_kind.crystal).idxmax(), KEYS].assign(row=row)
            if row == "most alike":
                best.loc[~in_group[best.index], OUTCOME] = [False, False, False, np.nan, np.nan, "no template"]
            chosen.append(best)
    return pd.concat(chosen, ignore_index=True)


def gains(held_out: pd.DataFrame) -> pd.DataFrame:
    """What a learnt ranking gains over the most alike template in :func:`held_out_choices`, mean over crystals and the
    three match tolerances.

    Returns by `asked` and `told` (the group, the energy) n, gain, its standard error, and `worth_it`, whether it is
    more than two of these.
    """
    met = held_out.set_index(["asked", "crystal", "row"])[VERDICTS].mean(axis=1).unstack()
    won = {told: met[row] - met["most alike"] for told, row in ((False, "learnt"), (True, "learnt, energy told"))}
    won = pd.concat(won, names=["told"]).groupby(["asked", "told"]).agg(["size", "mean", "sem"])
    won.columns = ["n", "gain", "standard_error"]
    return won.assign(worth_it=won.gain > 2 * won.standard_error)


def _taught(examples: pd.DataFrame, told: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Features and verdicts of the examples; without the energy where it is not told."""
    return examples.drop(columns=KEYS if told else [*KEYS, *ENERGY]).dropna(axis=1, how="all"), examples[VERDICTS]


def fitted_forests(taught: Sequence[tuple[pd.DataFrame, pd.DataFrame]], seed: int, n_workers: int) -> list[Forests]:
    """Forests for each of several (features, verdicts): they predict the share of VERDICTS that is true."""
    seeds = [int(sequence(seed, "forest", i).generate_state(1)[0]) for i in range(N_FORESTS)]
    jobs = [(*one, SETTINGS | {"random_state": random_state}) for one in taught for random_state in seeds]
    if not jobs:
        return []
    with spread(min(n_workers, len(jobs))) as mapped:
        fitted = mapped(_forest, *zip(*jobs, strict=True))
        found = list(progress(fitted, total=len(jobs), desc="learning the ranking", unit="forest"))
    return [found[i : i + N_FORESTS] for i in range(0, len(jobs), N_FORESTS)]


def _forest(features: pd.DataFrame, verdicts: pd.DataFrame, settings: Mapping) -> HistGradientBoostingRegressor:
    from sklearn.ensemble import HistGradientBoostingRegressor  # takes long to import

    with threadpool_limits(1):  # threads that others keep waiting take fifty times as long
        return HistGradientBoostingRegressor(**settings).fit(features, verdicts[VERDICTS].mean(axis=1))


def expected_scores(forests: Forests, features: pd.DataFrame) -> np.ndarray:
    """(n,) the share of tolerances that each row is expected to meet."""
    with threadpool_limits(1):  # see _forest
        return np.mean([forest.predict(features[list(forest.feature_names_in_)]) for forest in forests], axis=0)


def _table(features: Mapping[str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame({name: np.asarray(values, np.float32) for name, values in features.items()})


def _likeness(features: Mapping[str, np.ndarray]) -> np.ndarray:
    """The higher, the more alike; templates of the asked group, where one is, before all others."""
    of_group = np.nan_to_num(np.asarray(features.get("asked group", 0.0), float))
    return of_group - np.asarray(features["more alike"], float) / MANY
