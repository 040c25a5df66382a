"""Scores of generated structures, whoever made them: the benchmark's metrics with floors, baselines and intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from lib.core.errors import BadInput
from lib.core.stats import Rate, cells, mean, share
from lib.core.streams import numpy_stream
from lib.crystals.table import CrystalTable
from lib.dismai.comparison import cosine_similarity, distance_of_means, energy_distance, floor, nearest, normalised
from lib.dismai.silicon import MissingPotential
from lib.dismai.systems import Described, System, system_of

GENERATED = 1000  # structures of each model in the paper
LOW = 0.95  # quantile of the training energies
ITSELF = "training itself (validation set)"


@dataclass(frozen=True)
class Reference:
    """A data set that generated structures are compared with.

    Attributes:
        dataset: its name.
        training, validation: its two parts.
        n: structures of each baseline.
        seed: draws the baselines.
    """

    dataset: str
    training: CrystalTable
    validation: CrystalTable
    n: int = GENERATED
    seed: int = 0

    @classmethod
    def read(cls, dataset: str, folder: Path, **how) -> Reference:
        """The data set that notebook 30 left in a folder.

        Raises:
            BadInput: it is not there.
        """
        paths = [folder / f"{dataset}_{part}.parquet" for part in ("train", "validation")]
        for path in paths:
            if not path.exists():
                known = sorted({p.stem.rsplit("_", 1)[0] for p in folder.glob("*_validation.parquet")})
                raise BadInput(
                    f"{path} is missing; run notebook 30, or name another data set"
                    + (f": {', '.join(known)}" if known else "")
                )
        return cls(dataset, *map(CrystalTable.from_parquet, paths), **how)

    @cached_property
    def system(self) -> System:
        """The material."""
        return system_of(self.dataset, self.training)

    @cached_property
    def features(self) -> Mapping[str, np.ndarray]:
        """Metric -> (n, D) of the training structures, which are relaxed already."""
        return self.system.describe(list(self.training.structures()), relaxed=False).features

    @cached_property
    def trivial(self) -> Mapping[str, Sequence[Structure]]:
        """Baselines by name."""
        return self.system.trivial(self.training, self.n, numpy_stream(self.seed, self.dataset, "baselines"))

    @cached_property
    def anchors(self) -> Mapping[str, float]:
        """Metric -> distance of the baseline without any knowledge, as it is."""
        return self._anchors(relaxed=False)

    @cached_property
    def anchors_relaxed(self) -> Mapping[str, float]:
        """The same after relaxation."""
        return self._anchors(relaxed=True)

    def _anchors(self, relaxed: bool) -> Mapping[str, float]:
        described = self.system.describe(self.trivial[self.system.anchor], relaxed)
        return {m: distance_of_means(described.features[m], self.features[m]).value for m in self.system.metrics}


def score(name: str, structures: Sequence[Structure | None], reference: Reference) -> pd.DataFrame:
    """A line a metric, as generated and, where the material is relaxed, relaxed.

    Returns:
        entrant, dataset, state, metric; value, low, high: the distance with its interval; n: accepted of `asked`;
        floor, random: what further training structures and the anchor have; normalised: 0 at the floor, 1 at the
        anchor; cosine: similarity of the means; energy_distance; nearest: median distance from the nearest training
        structure, 0 for copies; failed, vacancies, close: shares with intervals as columns `_low`, `_high`, `close` of
        those that came, `vacancies` of those accepted; steps: mean number of relaxation steps; energy: mean, eV/atom;
        costly: see :func:`costly`; off_site, empty: of alloys, accepted or not, the mean distance of the atoms from the
        lattice (Å) and the share of empty sites; failures: why, with counts. Where the potential is missing there are
        no lines of relaxed structures.
    """
    states = {"as generated": False} | ({"relaxed": True} if reference.system.relaxes else {})
    lines = []
    for state, relaxed in states.items():
        try:
            described = reference.system.describe(structures, relaxed)
            anchors = reference.anchors_relaxed if relaxed else reference.anchors
        except MissingPotential as missing:
            print(f"{name} is scored as generated alone: {missing}")
            continue
        facts = _facts(described)
        if relaxed == reference.system.relaxes:
            facts |= cells({"costly": costly(described, reference.training.formation_energy)})
        for metric in reference.system.metrics:
            training, found = reference.features[metric], described.features[metric]
            distance = distance_of_means(found, training)
            least, random = floor(training, len(found)), anchors[metric]
            lines.append(
                {
                    "entrant": name,
                    "dataset": reference.dataset,
                    "state": state,
                    "metric": metric,
                    "value": distance.value,
                    "low": distance.ci_low,
                    "high": distance.ci_high,
                    "n": distance.n,
                    "asked": len(structures),
                    "floor": least,
                    "random": random,
                    "normalised": normalised(distance.value, least, random),
                    "cosine": cosine_similarity(found, training),
                    "energy_distance": energy_distance(found, training),
                    "nearest": float(np.median(nearest(found, training))) if len(found) else np.nan,
                    **facts,
                }
            )
    return pd.DataFrame(lines)


def _facts(described: Described) -> dict[str, object]:
    """What is said of a set beside its distances."""
    hits = {"failed": np.array([bool(why) for why in described.failures])}
    hits["close"] = described.of_all["close"][np.isfinite(described.of_all["close"])] > 0  # of those that came
    if "vacancies" in described.facts:
        hits["vacancies"] = described.facts["vacancies"] > 0
    rates = {name: share(values, np.arange(len(values))) for name, values in hits.items()}
    if "steps" in described.facts:
        rates["steps"] = _finite_mean(described.facts["steps"])
    rates["energy"] = _finite_mean(described.facts.get("energy", np.zeros(0)))
    rates |= {name: _finite_mean(values) for name, values in described.of_all.items() if name != "close"}
    kinds = Counter(" ".join(w for w in why.split() if not w.isdigit()) for why in described.failures if why)
    return cells(rates) | {"failures": "; ".join(f"{why}: {n}" for why, n in kinds.most_common())}


def costly(described: Described, training: np.ndarray) -> Rate:
    """Share of the structures that are not below the energy (eV/atom) that 95 % of the training structures stay below:
    Figure 8's question. One that failed or has vacancies is not; where the training energies are not known, none is.
    """
    if not np.isfinite(training).all():
        return Rate(np.nan, np.nan, np.nan, 0)
    below = np.zeros(len(described.failures), dtype=bool)
    energy = described.facts.get("energy", np.nan)
    below[[not why for why in described.failures]] = energy < np.quantile(training, LOW)  # nan is not below
    return share(~below, np.arange(len(below)))


def _finite_mean(values: np.ndarray) -> Rate:
    values = np.asarray(values, dtype=float)
    return mean(values[np.isfinite(values)])


def baselines(reference: Reference) -> pd.DataFrame:
    """The scores of the validation set and of every answer that needs no learning."""
    sets = {ITSELF: list(reference.validation.structures()), **reference.trivial}
    return pd.concat([score(name, several, reference) for name, several in sets.items()], ignore_index=True)


def over_trainings(table: pd.DataFrame) -> pd.DataFrame:
    """One line for the trainings of an entrant, with their means.

    Intervals of several trainings are those of the mean over trainings (Student's t), or the mean ones of their
    structures where these are wider; `least` and `largest` are those of the distances, which the paper has. A single
    training keeps its intervals, which say nothing of what another training would give.

    Args:
        table: of :func:`score`, with a column `training`.
    """
    keys = ["entrant", "dataset", "state", "metric"]
    numbers = [name for name in table if name not in (*keys, "failures", "training")]
    ends = {name: (f"{name}_low", f"{name}_high") for name in numbers if f"{name}_low" in table}
    lines = []
    for key, several in table.groupby(keys, sort=False):
        line = dict(zip(keys, key, strict=True)) | several[numbers].mean().to_dict()
        line |= {"trainings": len(several), "failures": " | ".join(several.failures)}
        line |= {name: int(several[name].sum()) for name in ("n", "asked")}
        if len(several) > 1:
            for name, (low, high) in ({"value": ("low", "high")} | ends).items():
                found = mean(several[name].dropna())
                least = -np.inf if name == "energy" else 0.0  # all others are shares, lengths and counts
                line[low] = max(np.fmin(line[low], found.ci_low), least)  # in this order nan stays nan
                line[high] = np.fmax(line[high], found.ci_high)
            line |= {"least": several.value.min(), "largest": several.value.max()}
        lines.append(line)
    return pd.DataFrame(lines)


def _final(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of relaxed structures where a material is relaxed, else those of structures as generated."""
    return table[(table.state == "relaxed") | ~table.dataset.isin(table.dataset[table.state == "relaxed"])]


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Rank of each entrant (rows) on each data set (columns), 1 the best: by its mean rank over the distances, relaxed
    where the material is relaxed. Equal ones share a rank; an entrant without any accepted structure comes last. None
    has one that was not asked, nor any of a data set of which no entrant has an accepted structure."""
    final = _final(table)
    of_metric = final.groupby(["dataset", "metric"]).value.rank(na_option="bottom")
    mean_rank = final.assign(rank=of_metric).groupby(["entrant", "dataset"])["rank"].mean().unstack()
    scored = final.groupby("dataset").value.count() > 0
    place = mean_rank.rank(method="min").mul(scored.astype(float).where(scored))  # nan where all failed
    return place.astype("Int64").rename_axis(columns=None)


def sentences(means: pd.DataFrame, references: Mapping[str, Reference]) -> list[str]:
    """A finding a data set and distance: every entrant's with its interval, the nearest first, beside the answer
    without any knowledge and the floor.

    Args:
        means: of :func:`over_trainings`.
        references: by data set.
    """
    found = []
    for (dataset, state, metric), lines in _final(means).groupby(["dataset", "state", "metric"], sort=False):
        there = lines[lines.n > 0].sort_values("value")
        words = [
            f"{x.entrant} {x.value:.3f} ({x.low:.3f} to {x.high:.3f}; {100 * x.failed:.0f} % failed)"
            for x in there.itertuples()
        ]
        words.append(f"{references[dataset].system.anchor} {lines.random.iloc[0]:.3f}")
        words += [f"floor {there.floor.min():.4f}"] if len(there) else []
        words += [f"{name}: every structure failed" for name in lines[lines.n == 0].entrant]
        found.append(f"{dataset}, {metric} {state}: {'; '.join(words)}.")
    return found
