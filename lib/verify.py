"""Whether a fresh run gives the published numbers again, cell by cell.

    make report PROFILE=quick
    make verify RUN=quick
    make bench && make verify RUN=benchmarks

Every cell of every table in `outputs/published/<run>/` and every score is *reproduced* (the same), *within tolerance*,
*deviates*, is *missing* from the fresh run, or is *not compared* (times, and single samples where the machine is
another: a training that differs in the last digit ends in another sample). Figures are looked for, not compared.
What is tolerated depends on the machine and is declared in TOLERANCES and the lines below it, and nowhere else.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lib.commands import command
from lib.report import OUTPUTS, PARAMS
from lib.run import BadInput, replacing


@dataclass(frozen=True)
class Tolerance:
    """How far a number may lie from the published one.

    Attributes:
        relative, absolute: of a number without an interval; the larger counts.
        roots: of a whole number, in units of the square root of the published one, as counts scatter.
        widths: by how many widths of its published interval a number may lie outside it; ends of an interval may
            differ by 1 + `widths` widths. None where an interval excuses nothing.
    """

    relative: float
    absolute: float
    roots: float
    widths: float | None


EXACT = Tolerance(relative=0, absolute=0, roots=0, widths=None)
ROUNDING = Tolerance(relative=1e-5, absolute=1e-6, roots=0, widths=None)
TOLERANCES = {
    "the same machine": EXACT,  # processor, packages and n_workers are those of the published run
    "another CPU": Tolerance(relative=0.05, absolute=1e-3, roots=2, widths=0),
    "a GPU": Tolerance(relative=0.15, absolute=1e-2, roots=3, widths=0.5),  # its sums come in no fixed order
}
NOTHING_TRAINED = ("01_aflow_ingest", "02_polymorph_dataset")  # ROUNDING is all that another machine may bring
SAME_EVERYWHERE = ("n", "parameters", "steps", "batch")  # columns that no machine changes
SPEEDS = "benchmarks"  # this table's numbers, and what they may differ by on any machine; their ranges are not compared
SPEED = Tolerance(relative=0.5, absolute=0, roots=0, widths=None)
TIMES = re.compile(r"\b(seconds|minutes|hours|\w+/s|GiB|memory|date|commit|machine)\b|^s$|^low$|^high$", re.IGNORECASE)
SAMPLES = re.compile(  # tables with a line a sample, or made of a few; their rates stand in others
    r"match_verdicts_(generation|modification)|\w+_structures|best_candidates|vasp_inputs|preoptimised_counts|table_3_(cells|hull_distances)"
)

STATUSES = ("reproduced", "within tolerance", "deviates", "missing", "not compared")
REPRODUCED, WITHIN, DEVIATES, MISSING, NOT_COMPARED = STATUSES
COLUMNS = ["table", "row", "column", "published", "fresh", "status"]
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
INTERVAL = re.compile(rf"({NUMBER.pattern})[^()\d]*\((?:95 % interval )?({NUMBER.pattern}) to ({NUMBER.pattern})")
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
    frames = []
    for path in sorted(published.glob("tables/*.csv")):
        notebook = maker.get(f"tables/{path.name}")
        kind = kinds.get(notebook, widest)
        tolerance = TOLERANCES[kind]
        if notebook in NOTHING_TRAINED and tolerance != EXACT:
            tolerance = ROUNDING
        if path.stem == SPEEDS:
            tolerance = SPEED
        other = fresh / "tables" / path.name
        whole = tolerance in (EXACT, ROUNDING) or not SAMPLES.fullmatch(path.stem) or not other.exists()
        frames.append(compare_tables(read_table(path), read_table(other), tolerance, whole))
        frames[-1].insert(0, "table", path.stem)
    theirs = {score["id"]: score for score in _scores(old) + list(scores)}
    ours = {score["id"]: score for score in _scores(new) + _read_json(fresh / "scores.json", [])}
    frames.append(compare_tables(_score_table(theirs), _score_table(ours, only=theirs), TOLERANCES[widest]))
    frames[-1].insert(0, "table", "scores")
    figures = [path.name for path in sorted(published.glob("figures/*"))]
    there = [(fresh / "figures" / name).exists() for name in figures]
    present = pd.DataFrame({"table": "figures", "row": figures, "column": "file", "published": "present"})
    present["fresh"] = ["present" if one else "" for one in there]
    present["status"] = [REPRODUCED if one else MISSING for one in there]
    remarks = [f"{name}: {kind}, as against the published run" for name, kind in kinds.items()]
    return pd.concat([*frames, present], ignore_index=True)[COLUMNS], remarks + _differing_parameters(old, new)


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
        names = (name for name in before if name in now and name not in ("run", "n_workers", "device"))
        remarks += [
            f"{notebook}: {name} was {before[name]!r} and is {now[name]!r}"
            for name in names
            if before[name] != now[name]
        ]
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
    return json.loads(path.read_text()) if path.exists() else default


# ------------------------------------------------------------------------------------------------ one table


def read_table(path: Path) -> pd.DataFrame:
    """A csv file as text; a frame without columns where it is missing or has none."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, FileNotFoundError):
        return pd.DataFrame()


def compare_tables(
    published: pd.DataFrame, fresh: pd.DataFrame, tolerance: Tolerance, whole: bool = True
) -> pd.DataFrame:
    """Compare two tables of text.

    Rows belong together that have the same labels: the first columns that tell the published rows apart and hold no
    fractional numbers; where there are none, rows of the same place.

    Args:
        whole: False where the rows are single samples, which are not compared.

    Returns:
        One line a cell, and one for each row or column that the fresh table has more: COLUMNS less the table.
    """
    labels = _labels(published)
    rows, others = _by_label(published, labels), _by_label(fresh, labels)
    intervals = _intervals(list(published.columns))
    lines = []
    for label, row in rows.items():
        other = others.get(label, {})
        for column, cell in row.items():
            found = other.get(column)
            exempt = TIMES.search(column) or any(TIMES.search(part) for part in (*label, row.get("unit", "")))
            if not whole or exempt:
                status = NOT_COMPARED
            elif found is None:
                status = MISSING
            elif column in SAME_EVERYWHERE:
                status = REPRODUCED if same(cell, found) else DEVIATES
            else:
                ends = [row[name] for name in intervals[column][:2]] if column in intervals else ["", ""]
                status = compare_cells(cell, found, tolerance, ends, is_end=column.endswith(("_low", "_high")))
            lines.append((", ".join(label), column, cell, "" if found is None else found, status))
    if whole:
        lines += [(", ".join(label), "", "", "a row more", DEVIATES) for label in others if label not in rows]
        more = [column for column in fresh.columns if column not in published.columns]
        lines += [("", column, "", "a column more", DEVIATES) for column in more]
    return pd.DataFrame(lines, columns=COLUMNS[1:])


def _labels(table: pd.DataFrame) -> list[str]:
    """The shortest run of columns from the left without fractional numbers that tells the rows apart."""
    for i, column in enumerate(table.columns):
        if table[column].map(lambda cell: _number(cell) is not None and not cell.lstrip("-").isdigit()).any():
            break
        if not table.duplicated(list(table.columns[: i + 1])).any():
            return list(table.columns[: i + 1])
    return []


def _by_label(table: pd.DataFrame, labels: list[str]) -> dict[tuple[str, ...], dict[str, str]]:
    records = table.to_dict("records")
    if not labels or not set(labels) <= set(table.columns):
        return {(f"row {i}",): record for i, record in enumerate(records)}
    again = [(f"once more ({n})",) * (n > 0) for n in table.groupby(labels).cumcount()]
    return {(*(record[name] for name in labels), *more): record for record, more in zip(records, again, strict=True)}


def _intervals(columns: list[str]) -> dict[str, tuple[str, str]]:
    """Column -> the columns of its interval's ends; the ends belong to it, too."""
    found = {}
    for place, low in enumerate(columns):
        high = f"{low.removesuffix('_low')}_high"
        if place and low.endswith("_low") and high in columns:
            value = columns[place - 1] if low == "ci_low" else low.removesuffix("_low")
            found |= dict.fromkeys((value, low, high), (low, high))
    return found


def compare_cells(
    published: str, fresh: str, tolerance: Tolerance, interval: Iterable[str] = ("", ""), *, is_end: bool = False
) -> str:
    """The status of one cell: a number, or words with numbers such as "0.355 (0.30 to 0.42)".

    Args:
        interval: the ends of the published number's interval, in words; empty where it has none.
        is_end: whether the cell is itself an end of that interval.
    """
    if same(published, fresh):
        return REPRODUCED
    if NUMBER.split(published) != NUMBER.split(fresh):
        return DEVIATES
    ends: dict[int, tuple[list[str], bool]] = {}  # start of a number -> its interval, and whether it is an end of it
    if _number(published) is not None:
        ends[0] = list(interval), is_end
    for match in INTERVAL.finditer(published):
        ends |= {match.start(group): ([match[2], match[3]], group > 1) for group in (1, 2, 3)}
    pairs = zip(NUMBER.finditer(published), NUMBER.findall(fresh), strict=True)
    near = (_near(known[0], found, tolerance, *ends.get(known.start(), (["", ""], False))) for known, found in pairs)
    return WITHIN if all(near) else DEVIATES


def _near(published: str, fresh: str, tolerance: Tolerance, interval: list[str], is_end: bool) -> bool:
    a, b = float(published), float(fresh)
    low, high = (_number(end) for end in interval)
    if low is not None and high is not None and tolerance.widths is not None:
        slack = tolerance.widths * (high - low)
        return abs(a - b) <= high - low + slack if is_end else low - slack <= b <= high + slack
    allowed = max(tolerance.absolute, tolerance.relative * abs(a))
    if published.isdigit() and fresh.isdigit():
        allowed = tolerance.roots * math.sqrt(a)
    return abs(a - b) <= allowed


def same(one: str, other: str) -> bool:
    """Whether two cells are the same text or the same number."""
    numbers = _number(one), _number(other)
    return one == other or (None not in numbers and numbers[0] == numbers[1])


def _number(cell: str) -> float | None:
    return float(cell) if NUMBER.fullmatch(cell) else None


# ------------------------------------------------------------------------------------------------ a run


def counts(cells: pd.DataFrame) -> pd.DataFrame:
    """How many cells of each table have each status."""
    table = pd.crosstab(cells["table"], cells["status"]).reindex(columns=list(STATUSES), fill_value=0)
    return table.loc[cells["table"].unique()]


def verify_run(run: str, outputs: Path = OUTPUTS) -> tuple[pd.DataFrame, list[str]]:
    """:func:`verify` of `outputs/<run>/`, written to its `verify.csv`.

    Raises:
        BadInput: nothing is published under that name, or the fresh run does not exist.
    """
    published, fresh = outputs / "published" / run, outputs / run
    if run == "published" or not (published / "tables").is_dir():
        known = ", ".join(sorted(path.parent.name for path in outputs.glob("published/*/tables")))
        raise BadInput(f"no run {run!r} is published; verify one of {known or 'those that make publish has copied'}")
    if not list(fresh.glob("tables/*.csv")):
        profile = next((m["profile"] for m in _notebooks(published).values() if "profile" in m), run)
        profile = profile if (PARAMS / profile).is_dir() else "quick"
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


if __name__ == "__main__":
    main()
