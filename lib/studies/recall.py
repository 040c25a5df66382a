"""How often the default command finds the ground state of compounds that its model has never seen.

    python -m lib.recall benchmarks/recall.yaml --out outputs/recall

Compounds are drawn from the test set of a run (notebook 02) whose training set is the weights': those of few atoms that
the Materials Project puts on its convex hull, none of which AFLOW's prototypes are named for or the embedded set holds.
Each is asked for by its formula alone. Beside :func:`lib.generation.generate.generate` stand two other ways to spend
its CPU time on relaxations by the same potential, ranked by the same rules: substitution, the most alike templates of
the training set first, one for each choice of sites; and random symmetric crystals (PyXtal, Fredericks et al.,
10.1016/j.cpc.2020.107810) of any space group. All three try the same numbers of formula units. A relaxation that has
begun in time may end.

A compound is found where StructureMatcher matches the DFT crystal at its default tolerances; strictly, where volume and
space group agree, too (:mod:`lib.metrics.matching`). The potential has been trained on crystals of the Materials
Project, so that what it ranks first is no evidence for compounds unknown to it.

Every answer is kept as it comes in OUT/answers, and the same command goes on where it was interrupted. The tables are
tables/ground_state_recall.csv, with a line a compound and way, and tables/ground_state_scores.csv; the scores go to
scores.json.
"""

import argparse
import importlib.util
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from pydantic import Field
from pymatgen.core import Structure

from lib.core import stats
from lib.core.commands import command
from lib.core.errors import BadInput
from lib.core.files import parquet_flaw, read_json, replacing, write_json
from lib.core.machine import measured_by
from lib.core.parameters import Params, validated
from lib.core.strict_yaml import read_yaml
from lib.core.workers import progress
from lib.crystals.table import CrystalTable, atomic_volumes
from lib.crystals.validity import reason_invalid, reason_unusable
from lib.datasets.sources.embedded import EMBEDDED
from lib.energies.potentials import DEFAULT_POTENTIAL, load_potential
from lib.energies.relaxation import FMAX, MAX_STEPS, relax
from lib.generation.answers import distinct
from lib.generation.generate import DEFAULT_WEIGHTS, generate
from lib.generation.known import reported_formulas
from lib.generation.proposals import MOST_UNITS, Asked, structure_of
from lib.generation.requests import Request
from lib.generation.ship import Shipped, default_weights
from lib.metrics.matching import compare
from lib.retrieval.baselines import symmetric_crystal
from lib.retrieval.candidates import candidates
from lib.retrieval.site_statistics import Candidate
from lib.retrieval.templates import ElementRanking
from lib.symmetry.spacegroups import N_SPACE_GROUPS
from lib.symmetry.wyckoff import free_atoms
from lib.training.checkpoints import load_weights

MOST_SITES = 20  # of a cell, as in MP-20
MOST_CHOICES = 60  # of sites that substitution may get to, for each number of formula units
WAYS = {"default": "", "substitution": ".substitution_same_cpu", "random": ".random_same_cpu"}


class RecallParams(Params):
    """What is drawn and asked."""

    notebook: ClassVar[str] = "recall"

    data: Path = Path("outputs/mp20_cpu/data")  # train.parquet and test.parquet of notebook 02
    mp20: Path = Path("data/mp_20/train.parquet")  # with material_id and e_above_hull
    compounds: int = Field(40, ge=1)
    most_sites: int = Field(12, ge=1)  # in the primitive cell of a compound
    structures: int = Field(20, ge=1)
    potential: str = DEFAULT_POTENTIAL


def drawn(params: RecallParams) -> tuple[CrystalTable, CrystalTable]:
    """The compounds, and the training set. Raises BadInput if the training set is not that of the weights, or too few
    compounds fit."""
    train, test = (CrystalTable.from_parquet(params.data / f"{name}.parquet") for name in ("train", "test"))
    shipped = Shipped.within(load_weights(default_weights(DEFAULT_WEIGHTS["generation"]), "cpu")[1])
    if not np.array_equal(atomic_volumes(train).round(3), shipped.volumes):
        raise BadInput(f"{params.data} does not hold the training set of the weights; give that of params/mp20_cpu")
    if flaw := parquet_flaw(params.mp20):
        raise BadInput(f"{params.mp20} does not read as parquet ({flaw}); check the parameter 'mp20', or get it again")
    hull = pd.read_parquet(params.mp20, columns=["material_id", "e_above_hull"]).set_index("material_id")
    stable = hull["e_above_hull"].reindex(test.id).to_numpy() <= 0
    embedded = CrystalTable.from_parquet(EMBEDDED)
    held = np.concatenate([train.reduced_formula, embedded.reduced_formula, sorted(reported_formulas())])
    fits = stable & (test.n_sites <= params.most_sites) & ~np.isin(test.reduced_formula, held)
    fits &= np.array([set(test.species_of(row).tolist()) <= set(shipped.elements) for row in range(len(test))])
    rows = np.random.default_rng(params.seed).permutation(np.flatnonzero(fits))
    _, first = np.unique(test.reduced_formula[rows], return_index=True)
    rows = rows[np.sort(first)]
    if len(rows) < params.compounds:
        raise BadInput(f"{len(rows)} compounds fit and {params.compounds} are asked for; ask for fewer")
    return test.take(rows[: params.compounds]), train


def starts_by_substitution(formula: str, train: CrystalTable) -> Iterator[Structure]:
    """The templates of the most alike elements first, whatever their number of formula units."""
    ranking, found = ElementRanking(train), []
    facts = {"id": ["0"], "formation_energy": [np.nan], "space_group": [1], "energy_kind": "unknown"}
    for species in _cells(formula):
        blind = CrystalTable.from_structures([structure_of(free_atoms(species))], **facts)
        several = candidates(blind, ranking, MOST_CHOICES, use_space_group=False)[0]
        found += [one for one in several if one.source == "template"]
    return (structure_of(one.unit) for one in sorted(found, key=lambda one: -one.score))


def starts_at_random(formula: str, rng: np.random.Generator) -> Iterator[Structure]:
    """Random symmetric crystals of 1 to MOST_UNITS formula units without end; what PyXtal cannot make is drawn anew."""
    cells = list(_cells(formula))
    while True:
        species = cells[rng.integers(len(cells))]
        if (crystal := symmetric_crystal(species, int(rng.integers(1, N_SPACE_GROUPS + 1)), rng)) is not None:
            yield crystal


def _cells(formula: str) -> Iterator[np.ndarray]:
    """Atomic numbers of 1 to MOST_UNITS formula units, as far as they fit the model."""
    request = Request.parse(formula)
    yield from (species for z in range(1, MOST_UNITS + 1) if len(species := request.species(z)) <= MOST_SITES)


def within(end: float, starts: Iterator[Structure], volumes: np.ndarray, potential: str) -> list[Structure]:
    """Structures relaxed until the process has taken so many seconds of CPU time, and ranked."""
    results = []
    while time.process_time() < end and (start := next(starts, None)) is not None:
        if not reason_invalid(start, volumes):
            results.append(relax(start, potential, fmax=FMAX, max_steps=MAX_STEPS))
    results = [result for result in results if not reason_unusable(result.failure, result.structure, volumes)]
    found, energy = [result.structure for result in results], np.array([result.energy for result in results])
    asked = [Asked(0, 1, Candidate(free_atoms(np.array(s.atomic_numbers)), 0.0), np.nan) for s in found]
    return [found[i] for i in distinct(asked, found, [""] * len(found), energy)[0]]


def places(structures: Sequence[Structure], target: Structure) -> dict[str, int]:
    """Rank of the first structure that matches, by either match; 0 where none does."""
    verdicts = [compare(structure, target) for structure in structures]
    kinds = ("default", "strict")
    return {k: next((i for i, v in enumerate(verdicts, 1) if v[f"match_{k}"]), 0) for k in kinds}


def measured_ways() -> list[str]:
    """Those of WAYS that the installed packages allow."""
    return [way for way in WAYS if way != "random" or importlib.util.find_spec("pyxtal")]


def measure(params: RecallParams, folder: Path) -> pd.DataFrame:
    """A line for each compound and way: id, formula, way, seconds (CPU), structures, default and strict (ranks)."""
    kept, asked = folder / "params.json", params.model_dump(mode="json")
    if kept.exists() and read_json(kept) != asked:
        raise BadInput(f"{folder} holds a measurement with other parameters; choose another folder for --out")
    load_potential(params.potential)
    targets, train = drawn(params)
    by, rows = (atomic_volumes(train), params.potential), []
    write_json(kept, asked)  # what cannot be measured leaves the folder free
    for row in progress(range(len(targets)), desc="ground states", unit="compound"):
        formula, name, target = str(targets.reduced_formula[row]), str(targets.id[row]), targets.structure(row)
        seconds = np.nan
        for way in measured_ways():
            path = folder / "answers" / f"{name}_{way}.json"
            if not path.exists():
                begun = time.process_time()
                if way == "default":
                    how = {"n": params.structures, "relax": params.potential, "seed": params.seed, "n_workers": 1}
                    structures = generate(formula, **how).structures
                elif way == "substitution":
                    structures = within(begun + seconds, starts_by_substitution(formula, train), *by)
                else:
                    starts = starts_at_random(formula, np.random.default_rng([params.seed, row]))
                    structures = within(begun + seconds, starts, *by)
                taken = time.process_time() - begun
                found = {"seconds": round(taken, 2), "structures": len(structures)} | places(structures, target)
                write_json(path, {"id": name, "formula": formula, "way": way} | found)
            rows.append(read_json(path))
            seconds = rows[-1]["seconds"] if way == "default" else seconds
    return pd.DataFrame(rows)


def recall(answers: pd.DataFrame) -> pd.DataFrame:
    """Recall of each way, and of the default less the others, within the first 1, 5 or any, with intervals."""
    lines = []
    by_way = dict(iter(answers.groupby("way")))
    formulas = by_way["default"]["formula"].to_numpy()
    for kind, most in itertools.product(("default", "strict"), (1, 5, np.inf)):
        hits = {way: few[kind].between(1, most).to_numpy() for way, few in by_way.items()}
        rates = {way: stats.share(hits[way], formulas) for way in by_way}
        for way in set(by_way) - {"default"}:
            rates[f"default - {way}"] = stats.paired_difference(hits["default"], hits[way], formulas)
        first = {"match": kind, "within": "any" if most == np.inf else f"first {most}"}
        lines += [{"way": way, **first, **vars(rate)} for way, rate in rates.items()]
    return pd.DataFrame(lines)


def scores(answers: pd.DataFrame, table: pd.DataFrame, params: RecallParams, command: str) -> list[dict[str, object]]:
    """Rows of `scores.json`."""

    def rate(way: str, first: str) -> stats.Rate:
        chosen = table[(table["way"] == way) & (table["match"] == "default") & (table["within"] == first)].iloc[0]
        return stats.Rate(*map(float, chosen[["value", "ci_low", "ci_high"]]), int(chosen["n"]))

    what = f"{params.structures} structures, relaxed with {params.potential}"
    found = {"generate.recall_at_1": (rate("default", "first 1"), f"share of ground states ranked first ({what})")}
    for way in measured_ways():
        found[f"generate.recall_any{WAYS[way]}"] = (rate(way, "any"), f"share of ground states found ({way}; {what})")
    seconds = answers.loc[answers["way"] == "default", "seconds"].to_numpy()
    found["generate.cpu_seconds"] = (stats.mean(seconds), f"s a formula on one core ({what})")
    about = measured_by(command)
    rows = [{"id": id, "unit": unit} | vars(rate) | about for id, (rate, unit) in found.items()]
    for way in set(WAYS) - set(measured_ways()):
        nothing = dict.fromkeys(("value", "ci_low", "ci_high", "n")) | {"unit": "share of ground states found"}
        reason = {"reason": "PyXtal is not installed; pip install '.[recall]'"}
        rows.append({"id": f"generate.recall_any{WAYS[way]}"} | nothing | reason | about)
    return rows


@command()
def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m lib.recall", description=__doc__.splitlines()[0])
    parser.add_argument("params", type=Path, help="yaml file, such as benchmarks/recall.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, such as outputs/recall")
    given = parser.parse_args()
    params = validated(RecallParams, read_yaml(given.params))
    answers = measure(params, given.out)
    table = recall(answers)
    for name, frame in {"ground_state_recall": answers, "ground_state_scores": table}.items():
        with replacing(given.out / "tables" / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=False)
    words = f"python -m lib.recall {given.params} --out {given.out}"
    write_json(given.out / "scores.json", scores(answers, table, params, words))
    print(table.to_string(index=False, float_format="{:.3f}".format))
