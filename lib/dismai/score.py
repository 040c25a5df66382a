"""Scores of generated structures, whoever made them: the benchmark's metrics with floors, baselines and intervals.

    python -m lib.dismai score structures.extxyz --dataset alloy_300K_wide --data outputs/dismai/data

prints a table, and with `--out NAME` writes NAME.json and NAME.html. The data sets are those that notebook 30 leaves in
the run's `data` folder.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from lib.core.commands import Help, command
from lib.core.errors import BadInput
from lib.core.files import replacing, write_json
from lib.core.stats import Rate, cells, mean, share
from lib.core.streams import numpy_stream
from lib.crystals.exchange import read_structures
from lib.crystals.table import CrystalTable
from lib.dismai.comparison import distance_of_means, energy_distance, floor, nearest, normalised
from lib.dismai.systems import Described, System, system_of

GENERATED = 1000  # structures of each model in the paper
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
        anchor; energy_distance; nearest: median distance from the nearest training structure, 0 for copies; failed,
        vacancies, close: shares with intervals as columns `_low`, `_high`; steps: mean number of relaxation steps;
        energy: mean, eV/atom; failures: why, with counts.
    """
    states = {"as generated": False} | ({"relaxed": True} if reference.system.relaxes else {})
    lines = []
    for state, relaxed in states.items():
        described = reference.system.describe(structures, relaxed)
        anchors = reference.anchors_relaxed if relaxed else reference.anchors
        facts = _facts(described)
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
                    "energy_distance": energy_distance(found, training),
                    "nearest": float(np.median(nearest(found, training))) if len(found) else np.nan,
                    **facts,
                }
            )
    return pd.DataFrame(lines)


def _facts(described: Described) -> dict[str, object]:
    """What is said of a set beside its distances."""
    every = np.arange(len(described.failures))
    shares = {"failed": np.array([bool(why) for why in described.failures]), "close": described.close > 0}
    rates = {name: share(hits, every) for name, hits in shares.items()}
    if "vacancies" in described.facts:
        rates["vacancies"] = share(described.facts["vacancies"] > 0, np.arange(len(described.facts["vacancies"])))
    if "steps" in described.facts:
        rates["steps"] = _finite_mean(described.facts["steps"])
    rates["energy"] = _finite_mean(described.facts.get("energy", np.zeros(0)))
    kinds = Counter(" ".join(w for w in why.split() if not w.isdigit()) for why in described.failures if why)
    return cells(rates) | {"failures": "; ".join(f"{why}: {n}" for why, n in kinds.most_common())}


def _finite_mean(values: np.ndarray) -> Rate:
    values = np.asarray(values, dtype=float)
    return mean(values[np.isfinite(values)])


def baselines(reference: Reference) -> pd.DataFrame:
    """The scores of the validation set and of every answer that needs no learning."""
    sets = {ITSELF: list(reference.validation.structures()), **reference.trivial}
    return pd.concat([score(name, several, reference) for name, several in sets.items()], ignore_index=True)


def over_trainings(table: pd.DataFrame) -> pd.DataFrame:
    """One line for the trainings of an entrant: means, and the least and largest value as `low` and `high`, as in the
    paper; a single training keeps its interval.

    Args:
        table: of :func:`score`, with a column `training`.
    """
    keys = ["entrant", "dataset", "state", "metric"]
    numbers = [name for name in table if name not in (*keys, "failures", "training")]
    lines = []
    for key, several in table.groupby(keys, sort=False):
        line = dict(zip(keys, key, strict=True)) | several[numbers].mean().to_dict()
        line |= {"trainings": len(several), "failures": " | ".join(several.failures)}
        line |= {name: int(several[name].sum()) for name in ("n", "asked")}
        if len(several) > 1:
            line |= {"low": several.value.min(), "high": several.value.max()}
        lines.append(line)
    return pd.DataFrame(lines)


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Rank of each entrant (rows) on each data set (columns), 1 the best: by its mean rank over the distances, relaxed
    where the material is relaxed. Equal ones share a rank; an entrant without any accepted structure comes last."""
    final = table[(table.state == "relaxed") | ~table.dataset.isin(table.dataset[table.state == "relaxed"])]
    of_metric = final.groupby(["dataset", "metric"]).value.rank(na_option="bottom")
    mean_rank = final.assign(rank=of_metric).groupby(["entrant", "dataset"])["rank"].mean().unstack()
    return mean_rank.rank(method="min").astype(int).rename_axis(columns=None)


def main() -> None:
    """Score structures of any program against a data set of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m lib.dismai", description=__doc__, formatter_class=Help)
    commands = parser.add_subparsers(dest="command", required=True)
    scoring = commands.add_parser("score", help="score a file of structures", formatter_class=Help)
    scoring.add_argument("file", type=Path, help="extended XYZ, CIF, zip file or folder")
    scoring.add_argument("--dataset", required=True, help="such as alloy_300K_wide")
    scoring.add_argument("--data", type=Path, default=Path("outputs/dismai/data"), help="where notebook 30 left it")
    scoring.add_argument("--asked", type=int, help="structures that were asked for; those missing have failed")
    scoring.add_argument("--out", type=Path, help="write OUT.json and OUT.html")
    with command():
        arguments = parser.parse_args()
        reference = Reference.read(arguments.dataset, arguments.data)
        left_out: dict[str, str] = {}
        structures: list[Structure | None] = list(read_structures([arguments.file], left_out).values())
        structures += [None] * len(left_out)
        if arguments.asked is not None and arguments.asked < len(structures):
            raise BadInput(
                f"{arguments.file} holds {len(structures)} structures, more than the {arguments.asked} asked for"
            )
        structures += [None] * ((arguments.asked or len(structures)) - len(structures))
        table = score(arguments.file.stem, structures, reference)
        print(table.drop(columns=["entrant", "dataset"]).T.to_string(header=False))
        if arguments.out:
            write_json(arguments.out.with_suffix(".json"), table.to_dict("records"))
            with replacing(arguments.out.with_suffix(".html")) as temporary:
                temporary.write_text(table.to_html(index=False))
