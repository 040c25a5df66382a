"""Whether a fresh run gives the published numbers again, cell by cell.

    make report PROFILE=quick
    make verify RUN=quick
    make bench && make verify RUN=benchmarks

Every cell of every table in `outputs/published/<run>/`, every score and every figure (by the numbers that it draws) is
*reproduced* (the same), *within tolerance*, *deviates*, is *missing* from the fresh run, or is *not compared*. It
stands in one of three lists (:data:`lib.report.comparison.LISTS`): what no machine changes; what scatters, as far as
its table's own intervals and counts say; and what is not compared: times, and single samples where the machine is
another, since a training that differs in the last digit ends in another sample. Which table is in which list, and how
far its numbers may differ, is declared in the lines below.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from lib.core.commands import command
from lib.core.errors import BadInput
from lib.core.files import read_json, replacing
from lib.core.parameters import PROFILES
from lib.report.comparison import (
    COLUMNS,
    DEVIATES,
    EXACT,
    MISSING,
    REPRODUCED,
    ROUNDING,
    STATUSES,
    WITHIN,
    Tolerance,
    compare_figures,
    compare_tables,
    read_table,
)
from lib.report.runs import OUTPUTS, SAMPLES

TOLERANCES = {
    "the same machine": EXACT,  # processor, packages and n_workers are those of the published run
    "another CPU": Tolerance(relative=0.05, absolute=1e-3, roots=3, widths=1),
    "a GPU": Tolerance(relative=0.15, absolute=1e-2, roots=4, widths=1.5),  # its sums come in no fixed order
}
NOTHING_TRAINED = ("01_aflow_ingest", "02_polymorph_dataset")  # ROUNDING is all that another machine may bring
COUNTED = re.compile(r"inference_\w+|preoptimised_\w+|table_3_\w+|study_(energy|improvement|group)_?\w*|\w*hull_\w+")
SPEEDS = "benchmarks"  # this table's numbers, and what they may differ by on any machine; their ranges are not compared
SPEED = Tolerance(relative=0.5, absolute=0, roots=0, widths=None)
SHOWN = 20


def verify(published: Path, fresh: Path, scores: Iterable[Mapping] = ()) -> tuple[pd.DataFrame, list[str]]:
    """Compare the published files of a run with a fresh run's.

    Args:
        published: folder with `manifest.json`, `tables/` and `figures/`.
        fresh: the same of the fresh run.
        scores: published scores of the run; those of its manifest unless given.

    Returns:
        One line a cell: table, row, column, published, fresh, status; and remarks on what the two runs do not share.
    """
    old, new = _notebooks(published), _notebooks(fresh)
    kinds = {name: machine_kind(old[name], new[name]) for name in old if name in new}
    widest = max(kinds.values(), key=list(TOLERANCES).index, default="another CPU")
    maker = {path: name for name, manifest in old.items() for path in manifest["outputs"]}
    tolerances = {name: TOLERANCES[kind] for name, kind in kinds.items()}
    tolerances |= {n: ROUNDING for n in NOTHING_TRAINED if n in tolerances and tolerances[n] != EXACT}
    frames = []
    for path in sorted(published.glob("tables/*.csv")):
        notebook = maker.get(f"tables/{path.name}")
        tolerance = tolerances.get(notebook, TOLERANCES[widest])
        if path.stem == SPEEDS:
            tolerance = SPEED
        other = fresh / "tables" / path.name
        whole = tolerance in (EXACT, ROUNDING) or not SAMPLES.fullmatch(path.stem) or not other.exists()
        counted = COUNTED.fullmatch(path.stem) is not None
        frames.append(compare_tables(read_table(path), read_table(other), tolerance, whole, counted))
        frames[-1].insert(0, "table", path.stem)
    theirs = {score["id"]: score for score in _scores(old) + list(scores)}
    ours = {score["id"]: score for score in _scores(new) + _read_json(fresh / "scores.json", [])}
    frames.append(compare_tables(_score_table(theirs), _score_table(ours, only=theirs), TOLERANCES[widest]))
    frames[-1].insert(0, "table", "scores")
    for path in sorted(published.glob("figures/*")):
        tolerance = tolerances.get(maker.get(f"figures/{path.name}"), TOLERANCES[widest])
        frames.append(compare_figures(path, fresh / "figures" / path.name, tolerance))
    remarks = [f"{name}: {kind}, as against the published run" for name, kind in kinds.items()]
    return pd.concat(frames, ignore_index=True)[COLUMNS], remarks + _differing_parameters(old, new)


def machine_kind(published: Mapping, fresh: Mapping) -> str:
    """Which of TOLERANCES holds between two manifests of one notebook."""
    if published["hardware"]["gpu"] or fresh["hardware"]["gpu"]:
        return "a GPU"
    same = published["hardware"]["cpu"] == fresh["hardware"]["cpu"] and published["packages"] == fresh["packages"]
    threads = [manifest["parameters"]["n_workers"] for manifest in (published, fresh)]
    return "the same machine" if same and threads[0] == threads[1] else "another CPU"


def _differing_parameters(old: Mapping[str, Mapping], new: Mapping[str, Mapping]) -> list[str]:
    remarks = []
    for notebook in old:
        before, now = (runs.get(notebook, {}).get("parameters", {}) for runs in (old, new))
        names = set(before) & set(now) - {"run", "n_workers", "device"}
        changed = [name for name in before if name in names and before[name] != now[name]]
        remarks += [f"{notebook}: {name} was {before[name]!r} and is {now[name]!r}" for name in changed]
    return remarks


def _notebooks(folder: Path) -> dict[str, dict]:
    """A run's manifests by notebook, also of an unfinished run."""
    single = [_read_json(path, {}) for path in sorted(folder.glob("manifests/*.json"))]
    return {m["notebook"]: m for m in single} or _read_json(folder / "manifest.json", {}).get("notebooks", {})


def _scores(notebooks: Mapping[str, Mapping]) -> list[Mapping]:
    return [score for manifest in notebooks.values() for score in manifest["scores"]]


def _score_table(scores: Mapping[str, Mapping], only: Iterable[str] | None = None) -> pd.DataFrame:
    chosen = [scores[name] for name in scores if only is None or name in only]
    rows = [[s["id"], s["unit"], *(s[c] for c in ("value", "ci_low", "ci_high", "n"))] for s in chosen]
    rows = [["" if cell is None else str(cell) for cell in row] for row in rows]
    return pd.DataFrame(rows, columns=["id", "unit", "value", "ci_low", "ci_high", "n"])


def _read_json(path: Path, default: object):
    return read_json(path) if path.exists() else default


def counts(cells: pd.DataFrame) -> pd.DataFrame:
    """How many cells of each table have each status."""
    table = pd.crosstab(cells["table"], cells["status"]).reindex(columns=list(STATUSES), fill_value=0)
    return table.loc[cells["table"].unique()]


def verify_run(run: str, outputs: Path = OUTPUTS) -> tuple[pd.DataFrame, list[str]]:
    """:func:`verify` of `outputs/<run>/`, written to its `verify.csv`. Raises BadInput if nothing is published under
    that name, or the fresh run does not exist."""
    published, fresh = outputs / "published" / run, outputs / run
    if run == "published" or not (published / "tables").is_dir():
        known = ", ".join(sorted(path.parent.name for path in outputs.glob("published/*/tables")))
        raise BadInput(f"no run {run!r} is published; verify one of {known or 'those that make publish has copied'}")
    if not list(fresh.glob("tables/*.csv")):
        profile = next((m["profile"] for m in _notebooks(published).values() if "profile" in m), run)
        profile = profile if (PROFILES / profile).is_dir() else "quick"
        name = "" if run == profile else f" RUN={run}"
        command = "bench" if run == SPEEDS else f"report PROFILE={profile}{name}"
        raise BadInput(f"there is no fresh run in {fresh}; make it first: make {command}")
    scores = [s for s in _read_json(outputs / "published" / "scores.json", []) if s["id"].startswith(f"{run}.")]
    cells, remarks = verify(published, fresh, scores)
    with replacing(fresh / "verify.csv") as temporary:
        cells.to_csv(temporary, index=False)
    return cells, remarks


@command()
def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m lib.verify", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a published run, such as quick")
    run = parser.parse_args().run
    cells, remarks = verify_run(run)
    print(*remarks, "", counts(cells).to_string(), sep="\n")
    wrong = cells[cells["status"].isin([DEVIATES, MISSING])]
    if len(wrong):
        print(f"\nThe first of {len(wrong)} cells that deviate or are missing; all are in outputs/{run}/verify.csv:")
        print(wrong.head(SHOWN).to_string(index=False, max_colwidth=40))
        sys.exit(1)
    done = cells["status"].value_counts()
    print(f"\nNothing deviates: {done.get(REPRODUCED, 0)} cells reproduced, {done.get(WITHIN, 0)} within tolerance.")
