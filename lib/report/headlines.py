"""Six published results in words for the README, and the page of every published score.

Both are made from `outputs/published/scores.json`, so that they follow each newly published run. A result stands beside
the strongest of the baselines that were measured on the same targets.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lib.core.run import duration_in_words, score_in_words
from lib.report.goals import beside, machine_of


@dataclass(frozen=True)
class Headline:
    """One result of the README."""

    question: str  # what was measured, in words
    score: str  # id of the result
    baselines: Mapping[str, str]  # id of each baseline on the same targets, and what it is called
    details: str  # where the whole table is, below `outputs/published`
    percent: bool = True  # whether the value is a share; else it is a number such as a correlation


HEADLINES = (
    Headline(
        "Table 1 on MP-20: a crystal is found again from its elements, space group and energy",
        "mp20_cpu.generation.match_default",
        {
            "mp20_cpu.generation.substitution_match_default": "substitution",
            "mp20_cpu.generation.random_match_default": "random coordinates",
        },
        "mp20_cpu/tables/table_1_generation.csv",
    ),
    Headline(
        "Table 1 on the embedded set, the row that is best on validation crystals",
        "quick.generation.match_default",
        {
            "quick.generation.substitution_match_default": "substitution",
            "quick.generation.random_match_default": "random coordinates",
        },
        "quick/tables/table_1_generation.csv",
    ),
    Headline(
        "MP-20, from the composition alone (CSP tolerances)",
        "mp20.composition.match_csp",
        {
            "mp20.substitution.composition.match_csp": "substitution",
            "mp20.choice.composition.match_csp": "template chosen by a ranking model",
        },
        "mp20_cpu/tables/study_settings.csv",
    ),
    Headline(
        "Of a formula that the model has not seen, the DFT ground state is among the default command's 20 structures",
        "generate.recall_any",
        {
            "generate.recall_any.substitution_same_cpu": "substitution, relaxed, same CPU time",
            "generate.recall_any.random_same_cpu": "random symmetric crystals, relaxed, same CPU time",
        },
        "recall/tables/ground_state_scores.csv",
    ),
    Headline(
        "Modification on MP-20: from a polymorph to the lowest one, where the two do not match yet (CSP tolerances)",
        "mp20.modification.match_csp",
        {"mp20.modification.substitution.match_csp": "substitution"},
        "mp20_cpu/tables/study_modification.csv",
    ),
    Headline(
        "Does the energy of the answers follow the energy asked for? (mean rank correlation)",
        "mp20.control.energy_spearman",
        {"mp20.control.by_energy.energy_spearman": "template chosen by its energy"},
        "mp20_cpu/tables/study_energy_within.csv",
        percent=False,
    ),
)


def headline_table(scores: Sequence[Mapping], folder: str = "outputs/published") -> str:
    """The results of :data:`HEADLINES` as a Markdown table; one without a measured value or baseline is left out.

    Scores are rows of a `scores.json`; links from the README name the published runs by `folder`.
    """
    measured = {score["id"]: score for score in scores if score["value"] is not None}
    rows = []
    for headline in HEADLINES:
        baselines = [measured[name] for name in headline.baselines if name in measured]
        if headline.score not in measured or not baselines:
            continue
        result, best = measured[headline.score], max(baselines, key=lambda score: score["value"])
        against = f"{headline.baselines[best['id']]}: {_number(best, headline.percent)}"
        if best["n"] != result["n"]:
            against += f", n = {best['n']:,}"
        link = f"[{headline.question}]({folder}/{headline.details})"
        rows.append(f"| {link} | {_number(result, headline.percent)} | {against} | {result['n']:,} |")
    heading = ["| result (95 % interval) | model | strongest baseline | n |", "|---|---|---|---|"]
    return "\n".join([*heading, *rows]) if rows else ""


def _number(score: Mapping, percent: bool) -> str:
    factor, digits, unit = (100, 1, " %") if percent else (1, 2, "")
    value, low, high = (f"{factor * score[key]:.{digits}f}" for key in ("value", "ci_low", "ci_high"))
    return f"{value}{unit} ({low} to {high})"


def score_page(scores: Sequence[Mapping], published: Path, weights: Path) -> str:
    """A Markdown page of every published score (rows of a `scores.json`), and of how long the trainings took; it takes
    the folders of the published runs and of the weights that ship.
    """
    values = {score["id"]: score["value"] for score in scores}
    runs = {path.parent.name: json.loads(path.read_text())["notebooks"] for path in published.glob("*/manifest.json")}
    pages = {run: {notebook["commit"][:7] for notebook in notebooks.values()} for run, notebooks in runs.items()}
    text = "# Every published score\n\nWritten by `make publish`; the same as `scores.json`, for reading. "
    text += (
        "Intervals are 95 %. `n` counts what was measured: structures, pairs, requests, repetitions; of those of one "
        "formula the intervals take account. A target was set before anything was measured. A commit in brackets is "
        "older than the pages of the run that the command names: compare such a score with others of that commit.\n\n"
    )
    for where in ("CPU", "GPU"):
        rows = [
            f"| `{score['id']}` | {score_in_words(score)} | {'' if score['n'] is None else score['n']} | "
            f"{beside(score, values)} | `{score['command']}` | {score['machine']} | {_commit(score, pages)} |"
            for score in scores
            if machine_of(score) == where
        ]
        heading = [f"## On a {where}", "", "| score | value | n | target | command | machine | commit |"]
        text += "\n".join([*heading, "|---|---|---|---|---|---|---|", *rows, "", ""]) if rows else ""
    return text + _training_table(published, weights)


def _commit(score: Mapping, pages: Mapping[str, set[str]]) -> str:
    """The commit that measured a score, in brackets where no page of its run (name -> commits) is of that commit."""
    commit, run = score["commit"][:7], re.search(r"(?:RUN|PROFILE)=(\w+)$", score["command"])
    measured = score["value"] is not None and run and run[1] in pages
    return f"({commit})" if measured and commit not in pages[run[1]] else commit


def _training_table(published: Path, weights: Path) -> str:
    """How long the shipped weights were trained, and the networks of each published run together."""
    from lib.generation.sampling import load_model  # torch comes with it
    from lib.generation.ship import training_in_words

    files = sorted(weights.rglob("*.safetensors"))
    rows = [f"| `{file.name}` | {training_in_words(load_model(file).about)} |" for file in files]
    for path in sorted(published.glob("*/tables/resources_*.csv")):
        table = pd.read_csv(path).query("steps > 0")
        if len(table):
            run, task = path.parts[-3], path.stem.removeprefix("resources_")
            spent = f"{table.steps.sum():,} steps in {duration_in_words(table.seconds.sum())}"
            rows.append(f"| `{run}`, {len(table)} networks for {task} | {spent} |")
    heading = ["## How long trainings took, on the machines above", "", "| trained | for |", "|---|---|"]
    return "\n".join([*heading, *rows, ""])
