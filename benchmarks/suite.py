"""Run the benchmarks, print one table, and leave scores where `make publish RUN=benchmarks` finds them.

python -m benchmarks                              all of them: half an hour on two cores
python -m benchmarks --only pbc_loss --only matcher
python -m benchmarks --tiny                       the same code at sizes that say nothing, to see that it runs
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from typing import ClassVar, Literal

import pandas as pd
from pydantic import Field

from benchmarks.scores import merge
from benchmarks.timing import Result
from lib.core.commands import command
from lib.core.machine import machine
from lib.core.parameters import Params, validated
from lib.core.run import Run
from lib.report.goals import TARGETS

Name = Literal[
    "imports",
    "pbc_loss",
    "matcher",
    "paper_unet",
    "periodic",
    "house",
    "multigraph",
    "relaxation",
    "disordered",
    "scale",
    "aflow",
    "hull",
    "relaxation",
    "disordered",
]


class BenchmarkParams(Params):
    """What to measure, and how often; each number is a median over the repetitions."""

    notebook: ClassVar[str] = "benchmarks"
    command: ClassVar[str] = "make bench"

    run: str = Field("benchmarks", pattern=r"^\w[\w.-]*$")
    only: list[Name] = list(Name.__args__)
    repetitions: int = Field(6, ge=5)  # the range of six is a 97 % interval for their median
    tiny: bool = False


def bench(params: BenchmarkParams) -> pd.DataFrame:
    """Measure, print each number when it is there, and write `outputs/<run>/`; returns the table.

    Scores of a benchmark that is not among `params.only` stay as they were.
    """
    run = Run(params)
    run.seed_torch()
    results: list[Result] = []
    for name in params.only:
        for result in import_module(f"benchmarks.{name}").measure(run):
            print(result.in_words(), flush=True)
            results.append(result)
            run.score(result.id, result.value, result.unit, n=result.n, ci=result.interval, reason=result.reason)
    table = pd.DataFrame([asdict(result) for result in results])
    table["target"] = [TARGETS[r.id].in_words() if r.id in TARGETS else "" for r in results]
    table["reached"] = [result.reached for result in results]
    table["machine"] = machine()
    run.table(table, "benchmarks", "Speed: each number beside its target")
    merge(run.folder, run.finish()["scores"])
    return table


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=Name.__args__, help="one benchmark; may be given again")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing, to see that it runs")
    parser.add_argument("--run", help="name of the folder in outputs/; benchmarks")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value}
    table = bench(validated(BenchmarkParams, given))
    shown = table[["id", "value", "unit", "low", "high", "n", "target", "reached"]]
    print(f"\n{machine()}\n\n{shown.to_string(index=False, float_format='{:.4g}'.format, na_rep='–')}")
