"""Which template to borrow, learnt from what the crystals of a training set could have borrowed from each other.

Substitution borrows from the crystal whose elements are most alike (:func:`lib.baselines.element_distances`). Here some
crystals of the training set are offered the most alike templates of other formulas, StructureMatcher says which of
these would have matched them, and gradient boosting (Friedman 2001, 10.1214/aos/1013203451) learns to foresee it: from
how alike the elements are and in which properties they differ, from how many alike crystals stand on the same sites,
from what the substitution does to bond lengths and coordination, and, where an energy is asked for, from how far from
it the template lies.

Where a space group is asked for, templates of its supergroups are offered, too: see :mod:`lib.descent`. On 987 targets
held out of MP-20 by formula the learnt choice, borrowed as it is, matches 79.2 % given the group and 70.3 % without it
at CSP tolerances, where substitution matches 77.5 % and 66.8 %. On the embedded set, whose formulas have tens of
polymorphs of the same elements, it wins nothing and is not used. There the asked energy tells them apart, if the
potential that made the energies is asked (:class:`EnergyChoice`).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pymatgen.core import Structure
from threadpoolctl import threadpool_limits

from lib.baselines import by_count, element_distances, most_alike_orders, replacement, substituted, templates_by_counts
from lib.cells import reduced
from lib.crystals import SYMBOLS, CrystalTable, atomic_volumes
from lib.descent import supergroups
from lib.elements import FEATURE_NAMES, standardised_features
from lib.hull import referred
from lib.matching import OUTCOME, VERDICTS, match_many
from lib.prior import KERNEL, canonical
from lib.relaxation import DEFAULT_POTENTIAL, single_points
from lib.run import BadInput, progress, worker_pool
from lib.streams import sequence
from lib.wyckoff import AsymmetricUnit

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

OFFERED = 20  # templates a target, the most alike ones
OFFERED_OF_GROUP = 10  # of the asked group at least, if there are as many
VOTE_KERNELS = (0.05, 0.1, 0.2, 0.4)  # of element_distances, mean over atoms, beyond the most alike template's
OCCUPANT_KERNELS = (0.3, 1.0)  # of element_distances, for one element
FAR = 9.0  # more than any element_distances: there is no such template
MANY = 1e9  # more than any number of templates
NEIGHBOUR = 1.2  # times the distance of the nearest atom
RADIUS = 1.4  # Å, what an element's radius is drawn to where few contacts tell
FEW = 4.0  # crystals that the mean over all elements counts as beside an element's own
IMAGES = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
N_FORESTS = 3  # that are averaged
ENERGY = ["energy apart", "energy above", "nearer in energy", "nearer in energy, same elements"]
KEYS = ["crystal", "formula", "asked", *OUTCOME]  # columns of examples that are no features
SETTINGS = {"max_iter": 300, "learning_rate": 0.1, "l2_regularization": 5.0, "min_samples_leaf": 100}
SETTINGS |= {"max_features": 0.3}  # of scikit-learn's HistGradientBoostingRegressor

_canonical = functools.cache(canonical)
Template = tuple[int, np.ndarray]  # as of lib.baselines.alike_templates
Forests = Sequence["HistGradientBoostingRegressor"]


@dataclass(frozen=True)
class Offer:
    """The n templates that a target may borrow, the most alike first.

    Attributes:
        templates: as of :func:`lib.baselines.alike_templates`.
        features: name -> (n,) what is known of each before it is borrowed.
    """

    templates: list[Template]
    features: Mapping[str, np.ndarray]


class Lenders:
    """A training set, and what is looked up in it to judge the templates that it lends."""

    def __init__(self, training: CrystalTable) -> None:
        self.training = training
        self.distance, self.properties = element_distances(), standardised_features()
        self.templates = templates_by_counts(training)
        self.elements = [by_count(training.species_of(row))[0] for row in range(len(training))]
        self.taken = [_taken(*pair) for pair in zip(training.asymmetric_units, self.elements, strict=True)]
        self.above = _above_the_lowest(training)
        self.volumes = atomic_volumes(training)
        rows = progress(range(len(training)), desc="surroundings", unit="crystal")
        self.surroundings = [Surroundings.of(training, row) for row in rows]
        self.radii = _radii(self.elements, self.surroundings)
        self.coordination = _coordination(self.elements, self.surroundings)

    def offer(
        self, species: np.ndarray, space_group: int | None = None, energy: float = np.nan, without: str = ""
    ) -> Offer:
        """What a target may borrow.

        Args:
            species: (n_sites,) the target's.
            space_group: asked for, so that only its crystals and those of its supergroups lend; None: all do.
            energy: asked for, eV/atom; nan: none is.
            without: a reduced formula that does not lend.
        """
        elements, counts = by_count(species)
        rows, lenders = self.templates.get(tuple(counts), (np.zeros(0, int), np.zeros((0, len(counts)), int)))
        allowed = self.training.reduced_formula[rows] != without
        if space_group is not None:
            allowed &= np.isin(self.training.space_group[rows], list(supergroups(space_group)))
        rows, lenders = rows[allowed], lenders[allowed]
        if not len(rows):
            return Offer([], {})
        lent = most_alike_orders(self.distance, elements, counts, lenders)
        shares = counts / counts.sum()
        further = self.training.formation_energy[rows] - energy
        order = np.lexsort((np.abs(further), np.round(self.distance[elements, lent] @ shares, 6)))
        rows, lent, further = rows[order], lent[order], further[order]
        apart = self.distance[elements, lent]  # (m, k), of all m templates
        kinds = self._kinds(rows, lent)
        features = _alikeness(apart, apart @ shares) | _votes(apart @ shares, kinds) | _occupants(apart, kinds)
        features |= self._group(rows, apart @ shares, space_group) | self._origin(rows)
        offered = np.arange(len(rows)) < OFFERED
        if space_group is not None:
            offered |= features["asked group"] & (features["of the group before"] < OFFERED_OF_GROUP)
        features = {name: values[offered] for name, values in features.items()}
        rows, lent = rows[offered], lent[offered]
        features |= _energy(further[offered], lent)
        features |= self._exchange(elements, shares, lent)
        features |= _as_columns(
            self._strain(elements, shares, int(row), one) for row, one in zip(rows, lent, strict=True)
        )
        return Offer([(int(row), replacement(one, elements)) for row, one in zip(rows, lent, strict=True)], features)

    def _kinds(self, rows: np.ndarray, lent: np.ndarray) -> np.ndarray:
        """(m,) numbers of the sites that the target's elements would stand on, equal up to the choice of the origin."""
        numbers: dict[tuple, int] = {}
        found = []
        for row, elements in zip(rows.tolist(), lent, strict=True):
            symmetry = self.training.asymmetric_units[row].symmetry
            taken = tuple(self.taken[row][element] for element in elements.tolist())
            found.append(numbers.setdefault((symmetry, _canonical(symmetry, taken)), len(numbers)))
        return np.array(found)

    def _group(self, rows: np.ndarray, mean: np.ndarray, space_group: int | None) -> dict[str, np.ndarray]:
        if space_group is None:
            return {}
        same = self.training.space_group[rows] == space_group
        return {
            "asked group": same,
            "beyond the group's": mean - mean[same].min(initial=FAR),
            "of the group before": np.cumsum(same) - same,
        }

    def _origin(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        units = [self.training.asymmetric_units[row] for row in rows]
        return {
            "group": self.training.space_group[rows],
            "sites": self.training.n_sites[rows],
            "orbits": np.array([len(unit.sites) for unit in units]),
            "free parameters": np.array([sum(len(site.parameters) for site in unit.sites) for unit in units]),
            "above the lowest": self.above[rows],
        }

    def _exchange(self, elements: np.ndarray, shares: np.ndarray, lent: np.ndarray) -> dict[str, np.ndarray]:
        own = self.properties[elements]
        change = np.abs(own - self.properties[lent]).max(axis=1)  # (n, 22)
        mean = np.broadcast_to(shares @ own, change.shape)
        return {
            f"{name}, {what}": column
            for what, table in (("mean", mean), ("change", change))
            for name, column in zip(FEATURE_NAMES, table.T, strict=True)
        }

    def _strain(self, elements: np.ndarray, shares: np.ndarray, row: int, lent: np.ndarray) -> dict[str, float]:
        """What the substitution does to contacts and coordination, weighed by who is whose neighbour."""
        place = [self.elements[row].tolist().index(element) for element in lent]
        around = self.surroundings[row]
        contacts, near = around.contacts[np.ix_(place, place)], around.near[np.ix_(place, place)]
        neighbours = around.neighbours[place]
        scale = np.cbrt((self.volumes[elements] @ shares) / (self.volumes[lent] @ shares))
        before, after = (np.log(contacts / (self.radii[z][:, None] + self.radii[z])) for z in (lent, elements))
        after = after + np.log(scale)
        usual, spread = self.coordination
        unusual = (neighbours - usual[elements]) / spread[elements]
        electronegativity = self.properties[elements, FEATURE_NAMES.index("electronegativity")]
        contrast = np.abs(electronegativity[:, None] - electronegativity)
        anion, cation = electronegativity.argmax(), electronegativity.argmin()
        return {
            "shortest contact": after.min(),
            "shortest contact, template": before.min(),
            "contact change": np.abs(after - before).max(),
            "neighbour contact": shares @ (near * after).sum(1),
            "neighbour contact, deviation": shares @ (near * np.abs(after)).sum(1),
            "neighbour contact, least": (near * after).sum(1).min(),
            "neighbour contact, most": (near * after).sum(1).max(),
            "coordination": shares @ neighbours,
            "coordination of the anion": neighbours[anion],
            "coordination of the cation": neighbours[cation],
            "coordination, deviation": shares @ np.abs(unusual),
            "coordination, largest deviation": np.abs(unusual).max(),
            "coordination, deviation of the anion": unusual[anion],
            "coordination, deviation of the cation": unusual[cation],
            "coordination, template's deviation": shares @ np.abs((neighbours - usual[lent]) / spread[lent]),
            "neighbours alike": shares @ np.diag(near),
            "neighbours, contrast": shares @ (near * contrast).sum(1),
            "neighbours, contrast above chance": shares @ (near * contrast).sum(1) - shares @ contrast @ shares,
            "neighbours of anion and cation": near[anion, cation],
            "neighbours of anions": near[anion, anion],
            "neighbours of cations": near[cation, cation],
            "scale": scale,
            "volume": around.volume * scale**3 / (self.volumes[elements] @ shares),
        }


@dataclass(frozen=True)
class Surroundings:
    """Who is near whom in a crystal of k elements (:func:`lib.baselines.by_count`).

    Attributes:
        contacts: (k, k) Å, the shortest distances.
        near: (k, k) shares of the elements among an element's neighbours.
        neighbours: (k,) number of them: atoms up to NEIGHBOUR times as far as the nearest.
        volume: Å^3 per atom.
    """

    contacts: np.ndarray
    near: np.ndarray
    neighbours: np.ndarray
    volume: float

    @classmethod
    def of(cls, table: CrystalTable, row: int) -> Surroundings:
        """A crystal's, by the images in the adjacent cells, which are near enough where the cell is reduced."""
        lattice, frac_coords = reduced(table.lattice[row], table.frac_coords_of(row))
        species = table.species_of(row)
        elements, counts = by_count(species)
        apart = frac_coords[:, None] - frac_coords
        distances = np.linalg.norm((apart - np.round(apart))[:, :, None] @ lattice + IMAGES @ lattice, axis=-1)
        distances[distances < 1e-6] = np.inf
        near = distances < NEIGHBOUR * distances.min(axis=(1, 2), keepdims=True)  # (n, n, images)
        of = elements[:, None] == species  # (k, n)
        contacts = [[distances[np.ix_(a, b)].min() for b in of] for a in of]
        share = near.sum(2) / near.sum((1, 2))[:, None]
        neighbours = of @ near.sum((1, 2)) / counts
        return cls(
            np.array(contacts), of @ share @ of.T / counts[:, None], neighbours, float(table.volume_per_atom[row])
        )


class Choice(ABC):
    """Chooses what to borrow from the training set of its `lenders`."""

    lenders: Lenders

    @abstractmethod
    def templates(self, targets: CrystalTable, n: int, *, use_space_group: bool) -> list[list[Template]]:
        """At most n templates for each target, the best first; an energy of nan is not asked for."""

    def borrowed(self, row: int, replaced: np.ndarray) -> Structure:
        """A training crystal with other elements; see :func:`lib.baselines.substituted`."""
        return substituted(self.lenders.training, row, replaced, self.lenders.volumes)

    def substitution(self, targets: CrystalTable, *, use_space_group: bool) -> list[Structure | None]:
        """:func:`lib.baselines.substitution` with the chosen template; None where nothing is on offer."""
        best = self.templates(targets, 1, use_space_group=use_space_group)
        return [self.borrowed(*few[0]) if few else None for few in best]


@dataclass(frozen=True)
class TemplateChoice(Choice):
    """Chooses what to borrow from a training set: for requests that name a space group, and for those that do not.

    Attributes:
        lenders: the training set.
        forests: whether a group is asked for, and whether an energy is -> regressions of the share of the three match
            tolerances that a template meets, on its features. Where there are none the most alike template is taken, of
            the asked group if it has any.
    """

    lenders: Lenders
    forests: Mapping[tuple[bool, bool], Forests]

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
    ) -> TemplateChoice:
        """From the examples of :func:`examples_of` the same training set, where it is worth it by :func:`gains`.

        Args:
            asked: whether a group will be asked for; nothing is learnt for other requests.
        """
        won = gains(held_out)
        kinds = [kind for kind in won.index[won.worth_it] if kind[0] in asked]
        taught = [(examples[examples.asked == group], energy) for group, energy in kinds]
        return cls(Lenders(training), dict(zip(kinds, _fit(taught, seed, n_workers), strict=True)))

    def promised(
        self, species: Sequence[np.ndarray], space_groups: Sequence[int | None], energies: Sequence[float]
    ) -> list[list[tuple[Template, float]]]:
        """What targets are offered, the most promising first.

        Args:
            species: (n_sites,) of each target.
            space_groups: asked for, of all targets or of none (None).
            energies: asked for, eV/atom; nan where none is.

        Returns:
            For each target its templates, and the share of the three match tolerances that each is expected to meet.
            Where nothing is learnt the most alike come first, with exp(-d / KERNEL) as in
            :class:`lib.prior.SitePrior`, templates of the asked group before all others.
        """
        asked = list(zip(species, space_groups, energies, strict=True))
        offers = [
            self.lenders.offer(*of_target) for of_target in progress(asked, desc="choosing templates", unit="target")
        ]
        found: list[list[tuple[Template, float]]] = [[] for _ in offers]
        tables = {i: _table(offer.features) for i, offer in enumerate(offers) if offer.templates}
        if not tables:
            return found
        together = pd.concat(tables, names=["target", "place"])
        judged = pd.DataFrame(
            {"order": _likeness(together), "promise": np.exp(-together["unlike"] / KERNEL)}, dtype=float
        )
        told = np.isfinite(np.asarray(energies))[together.index.get_level_values("target")]
        for energy in (False, True):
            forests = self.forests.get((space_groups[0] is not None, energy))
            if forests is not None and (told == energy).any():
                promise = _promise(forests, together[told == energy])
                judged.loc[told == energy] = np.stack([promise, promise], axis=1)
        for i, of_target in judged.groupby("target"):
            best = np.argsort(-of_target["order"].to_numpy(), kind="stable")
            found[i] = [(offers[i].templates[place], float(of_target["promise"].iloc[place])) for place in best]
        return found

    def templates(self, targets: CrystalTable, n: int, *, use_space_group: bool) -> list[list[Template]]:
        """See :meth:`Choice.templates`; the most promising come first."""
        groups = targets.space_group.tolist() if use_space_group else [None] * len(targets)
        species = [targets.species_of(i) for i in range(len(targets))]
        promised = self.promised(species, groups, targets.formation_energy)
        return [[template for template, _ in several[:n]] for several in promised]


@dataclass(frozen=True)
class EnergyChoice(Choice):
    """Of the most promising templates those whose energy, as borrowed, is nearest to the asked one by a potential.

    It costs a single point a template, and knows no energy but a potential's: where the data's are of another kind, or
    the potential has learnt from the targets themselves, what it chooses is no fair prediction.

    Attributes:
        choice: which templates are promising.
        n_tried: how many of them are borrowed and judged for each target.
        references: the potential's energies of pure elements, eV/atom; a target with another element is left to
            `choice`, and so is one that no energy is asked for.
        potential: name in :data:`lib.relaxation.POTENTIALS`.
        finished: folder that keeps each energy as it comes.
    """

    choice: TemplateChoice
    n_tried: int
    references: Mapping[str, float]
    potential: str = DEFAULT_POTENTIAL
    n_workers: int = 2
    finished: Path | None = None

    @property
    def lenders(self) -> Lenders:
        return self.choice.lenders

    def templates(self, targets: CrystalTable, n: int, *, use_space_group: bool) -> list[list[Template]]:
        """At most n of the templates tried for each target, the nearest in energy first."""
        tried = self.choice.templates(targets, self.n_tried, use_space_group=use_space_group)
        lengths = [len(several) for several in tried]
        row = np.repeat(np.arange(len(targets)), lengths)
        borrowed = [self.borrowed(*template) for several in tried for template in several]
        energies = single_points(borrowed, self.potential, n_workers=self.n_workers, finished=self.finished)
        apart = np.abs(referred(energies, targets.take(row), self.references) - targets.formation_energy[row])
        # an energy that is not known, nan, comes last; those of one target keep their order
        orders = [np.argsort(of_target, kind="stable") for of_target in np.split(apart, np.cumsum(lengths))]
        return [[several[i] for i in order[:n]] for several, order in zip(tried, orders[:-1], strict=True)]


def examples_of(training: CrystalTable, n: int, *, rng: np.random.Generator, **matching) -> pd.DataFrame:
    """What n crystals of a training set are offered by those of other formulas, and what it would be worth to them.

    Args:
        n: crystals drawn; all where there are fewer.
        matching: settings of :func:`lib.matching.match_many`.

    Returns:
        One row an offered template: `crystal` (row of the training set), its reduced `formula`, `asked` (whether its
        space group was asked for), the columns of :func:`lib.matching.match_many`, and the features. Some of these are
        nan where no group is asked for.

    Raises:
        BadInput: the training set is empty.
    """
    if not len(training):
        raise BadInput("the training set is empty, so nothing can be learnt of its templates; loosen the filters of 01")
    lenders = Lenders(training)
    crystals = np.sort(rng.permutation(len(training))[:n])
    tables, offered = [], []
    for row in progress(crystals.tolist(), desc="offering templates", unit="crystal"):
        for asked in (False, True):
            group = int(training.space_group[row]) if asked else None
            offer = lenders.offer(
                training.species_of(row), group, training.formation_energy[row], training.reduced_formula[row]
            )
            about = {"crystal": row, "formula": training.reduced_formula[row], "asked": asked}
            tables.append(_table(offer.features).assign(**about))
            offered += [(row, template) for template in offer.templates]
    targets = (training.structure(row) for row, _ in offered)
    candidates = (substituted(training, *template, lenders.volumes) for _, template in offered)
    verdicts = match_many(targets, candidates, **matching)
    return pd.concat([pd.concat(tables, ignore_index=True), verdicts], axis=1)


def held_out_choices(examples: pd.DataFrame, *, folds: int = 3, seed: int = 42, n_workers: int = 2) -> pd.DataFrame:
    """What each crystal of the examples borrows where only those of other formulas teach.

    Returns:
        One row for each crystal that is offered anything, `asked`, and way to choose (`row`: "most alike", of the asked
        group where one is asked for; "learnt"; "learnt, energy told", of the crystal's own; "the best on offer", which
        looks at the verdicts), with the columns that :func:`lib.matching.rate_table` reads: `formula`, and the outcome
        of what is borrowed.
    """
    from sklearn.model_selection import GroupKFold

    chosen = []
    for asked, of_kind in examples.groupby("asked"):
        alike = pd.Series(_likeness(of_kind), of_kind.index)
        promises = {told: alike.copy() for told in (False, True)}
        enough = of_kind.formula.nunique() >= folds  # else nobody teaches, and the most alike is taken
        splits = list(GroupKFold(folds).split(of_kind, groups=of_kind.formula)) if enough else []
        taught = [(few, told) for few in (of_kind.iloc[rows] for rows, _ in splits) for told in promises]
        forests = iter(_fit(taught, seed, n_workers))
        for _, held in splits:
            for promise in promises.values():
                promise.iloc[held] = _promise(next(forests), of_kind.iloc[held])
        in_group = of_kind["asked group"].eq(1) if asked else pd.Series(True, of_kind.index)
        scores = {
            "most alike": alike,
            "learnt": promises[False],
            "learnt, energy told": promises[True],
            "the best on offer": of_kind[VERDICTS].sum(axis=1),
        }
        for row, score in scores.items():
            best = of_kind.loc[score.groupby(of_kind.crystal).idxmax(), KEYS].assign(row=row)
            if row == "most alike":
                best.loc[~in_group[best.index], OUTCOME] = [False, False, False, np.nan, np.nan, "no template"]
            chosen.append(best)
    return pd.concat(chosen, ignore_index=True)


def gains(held_out: pd.DataFrame) -> pd.DataFrame:
    """What a learnt choice wins over the most alike template, mean over crystals and the three match tolerances.

    Args:
        held_out: of :func:`held_out_choices`.

    Returns:
        By `asked` and `told` (the group, the energy): n, gain, its standard error, and `worth_it`, whether it is more
        than two of these.
    """
    met = held_out.set_index(["asked", "crystal", "row"])[VERDICTS].mean(axis=1).unstack()
    won = {told: met[row] - met["most alike"] for told, row in ((False, "learnt"), (True, "learnt, energy told"))}
    won = pd.concat(won, names=["told"]).groupby(["asked", "told"]).agg(["size", "mean", "sem"])
    won.columns = ["n", "gain", "standard_error"]
    return won.assign(worth_it=won.gain > 2 * won.standard_error)


def _fit(taught: Sequence[tuple[pd.DataFrame, bool]], seed: int, n_workers: int) -> list[Forests]:
    """Forests for each of several (examples, whether the energy is told)."""
    seeds = [int(sequence(seed, "forest", i).generate_state(1)[0]) for i in range(N_FORESTS)]
    jobs = [(*one, SETTINGS | {"random_state": random_state}) for one in taught for random_state in seeds]
    if not jobs:
        return []
    with worker_pool(min(n_workers, len(jobs))) as pool:  # threads that others keep waiting take fifty times as long
        fitted = pool.map(_forest, *zip(*jobs, strict=True))
        found = list(progress(fitted, total=len(jobs), desc="learning what to borrow", unit="forest"))
    return [found[i : i + N_FORESTS] for i in range(0, len(jobs), N_FORESTS)]


def _forest(examples: pd.DataFrame, told: bool, settings: Mapping) -> HistGradientBoostingRegressor:
    from sklearn.ensemble import HistGradientBoostingRegressor  # takes long to import

    known = examples.drop(columns=KEYS if told else [*KEYS, *ENERGY]).dropna(axis=1, how="all")
    return HistGradientBoostingRegressor(**settings).fit(known, examples[VERDICTS].mean(axis=1))


def _promise(forests: Forests, features: pd.DataFrame) -> np.ndarray:
    """(n,) the share of tolerances that each template is expected to meet."""
    with threadpool_limits(1):  # see _fit
        return np.mean([forest.predict(features[list(forest.feature_names_in_)]) for forest in forests], axis=0)


def _table(features: Mapping[str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame({name: np.asarray(values, np.float32) for name, values in features.items()})


def _likeness(features: Mapping[str, np.ndarray]) -> np.ndarray:
    """The higher, the more alike; templates of the asked group, where one is, before all others."""
    of_group = np.nan_to_num(np.asarray(features.get("asked group", 0.0), float))
    return of_group - np.asarray(features["more alike"], float) / MANY


def _as_columns(rows: Iterator[dict[str, float]]) -> dict[str, np.ndarray]:
    rows = list(rows)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _alikeness(apart: np.ndarray, mean: np.ndarray) -> dict[str, np.ndarray]:
    """How unlike the elements (m, k) are, and how many templates are more alike."""
    return {
        "unlike": mean,
        "unlike, beyond the least": mean - mean.min(),
        "more alike": np.arange(len(mean)),
        "unlike, most": apart.max(axis=1),
        "kept elements": (apart == 0).sum(axis=1),
    }


def _votes(mean: np.ndarray, kinds: np.ndarray) -> dict[str, np.ndarray]:
    """Shares of the templates on the same sites, the more alike the more they weigh."""
    found = {"templates": np.full(len(kinds), len(kinds)), "kinds of sites": np.full(len(kinds), kinds.max() + 1)}
    found["on these sites"] = np.bincount(kinds)[kinds]
    for width in VOTE_KERNELS:
        weights = np.exp(-(mean - mean.min()) / width)
        found[f"votes, {width:g}"] = (np.bincount(kinds, weights) / weights.sum())[kinds]
    return found


def _occupants(apart: np.ndarray, kinds: np.ndarray) -> dict[str, np.ndarray]:
    """How much the occupants of each of the sites are like the target's, over all crystals on these sites."""
    n, tiny = np.bincount(kinds), 1e-6
    nearest = np.full((len(n), apart.shape[1]), FAR)
    np.minimum.at(nearest, kinds, apart)
    found = {"nearest occupants, most": nearest.max(1)[kinds], "nearest occupants": nearest.sum(1)[kinds]}
    for width in OCCUPANT_KERNELS:
        alike = np.exp(-apart / width)
        here = np.stack([np.bincount(kinds, column) for column in alike.T], axis=1) / n[:, None]
        gain = np.log((here + tiny) / (alike.mean(axis=0) + tiny))
        logarithm = np.log(n) + np.log(here + tiny).sum(axis=1)
        share = np.exp(logarithm - logarithm.max())
        found[f"occupants, {width:g}"] = (logarithm - logarithm.max())[kinds]
        found[f"occupants, share, {width:g}"] = (share / share.sum())[kinds]
        found[f"occupants, gain, {width:g}"] = gain.sum(axis=1)[kinds]
        found[f"occupants, least gain, {width:g}"] = gain.min(axis=1)[kinds]
    return found


def _energy(above: np.ndarray, lent: np.ndarray) -> dict[str, np.ndarray]:
    """How far the templates lie above the asked energy (eV/atom), and how many lie nearer to it."""
    nearer = np.abs(above) < np.abs(above)[:, None]
    same = (lent == lent[:, None]).all(axis=-1)
    return dict(zip(ENERGY, (np.abs(above), above, nearer.sum(axis=1), (nearer & same).sum(axis=1)), strict=True))


def _taken(unit: AsymmetricUnit, elements: np.ndarray) -> dict[int, tuple[int, ...]]:
    """The numbers of the positions that each element stands on."""
    return {int(z): tuple(sorted(site.position for site in unit.sites if site.species == z)) for z in elements}


def _above_the_lowest(training: CrystalTable) -> np.ndarray:
    """(n,) eV/atom above the lowest crystal of the same reduced formula."""
    _, group = np.unique(training.reduced_formula, return_inverse=True)
    lowest = np.full(group.max(initial=0) + 1, np.inf)
    np.minimum.at(lowest, group, training.formation_energy)
    return training.formation_energy - lowest[group]


def _radii(elements: Sequence[np.ndarray], surroundings: Sequence[Surroundings]) -> np.ndarray:
    """(119,) Å, so that the shortest contacts of two elements that are neighbours are the sums of two of them."""
    pairs, contacts = [], []
    for numbers, around in zip(elements, surroundings, strict=True):
        for a, b in zip(*np.nonzero(np.triu(around.near + around.near.T)), strict=True):
            pairs.append((numbers[a], numbers[b]))
            contacts.append(around.contacts[a, b])
    normal, wanted = FEW * np.eye(len(SYMBOLS)), np.full(len(SYMBOLS), FEW * RADIUS)
    for (a, b), contact in zip(pairs, contacts, strict=True):
        for here, there in ((a, b), (b, a)):
            normal[here, [here, there]] += 1
            wanted[here] += contact
    return np.linalg.solve(normal, wanted)


def _coordination(
    elements: Sequence[np.ndarray], surroundings: Sequence[Surroundings]
) -> tuple[np.ndarray, np.ndarray]:
    """(119,), (119,) usual number of neighbours of each element, and how much it varies."""
    numbers = np.concatenate(elements)
    neighbours = np.concatenate([around.neighbours for around in surroundings])
    overall, spread = neighbours.mean(), neighbours.var() + 1
    n = np.bincount(numbers, minlength=len(SYMBOLS)) + FEW
    mean = (np.bincount(numbers, neighbours, len(SYMBOLS)) + FEW * overall) / n
    variance = (np.bincount(numbers, (neighbours - mean[numbers]) ** 2, len(SYMBOLS)) + FEW * spread) / n
    return mean, np.sqrt(variance)
