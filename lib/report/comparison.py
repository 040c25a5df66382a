"""Two tables, cells or figures of one kind compared: reproduced, within tolerance, deviating or missing.

Verdicts in words scatter with their numbers: to the neighbouring verdict, and never to one that the cell's own numbers
do not have.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from lib.energies.hull import verdict


@dataclass(frozen=True)
class Tolerance:
    """How far a number may lie from the published one."""

    # relative, absolute: of a number without an interval; the larger counts
    relative: float
    absolute: float
    roots: float  # of a whole number, in units of the square root of the two numbers' sum, as counts scatter
    # how many widths of its published interval a number, and each end of the interval, may differ by, and as much as
    # the shown digits leave open. None where an interval excuses nothing
    widths: float | None


EXACT = Tolerance(relative=0, absolute=0, roots=0, widths=None)
ROUNDING = Tolerance(relative=1e-5, absolute=1e-6, roots=0, widths=None)
SAME_EVERYWHERE = ("n", "parameters", "steps", "batch")  # columns; but n where it counts outcomes
DIRECTIONS = ("less", "unresolved", "more")  # verdicts, in the order in which they are neighbours
BELOW, UNRESOLVED, ABOVE, NO_FIND = "below the hull", "unresolved", "above the hull", "no find"
DISTANCE = re.compile(r"[-+][\d.]+ \(([-+]\d+) to ([-+]\d+)\):")  # begins a cell of Table 3
POINTS = re.compile(r"[-+][\d.]+ points.*")
BEST_OF_FEW = ("distance", "distance_low", "distance_high", "finds", "source", "known as")
"""Columns of Table 3's cells; their verdict is compared."""
TIMES = re.compile(r"\b(seconds|minutes|hours|\w+/s|GiB|memory|date|commit|machine)\b|^s$|^low$|^high$", re.IGNORECASE)
LISTS = ("no machine changes it", "scatters within its interval", "not compared")

STATUSES = ("reproduced", "within tolerance", "deviates", "missing", "not compared")
REPRODUCED, WITHIN, DEVIATES, MISSING, NOT_COMPARED = STATUSES
COLUMNS = ["table", "row", "column", "published", "fresh", "list", "status"]
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
INTERVAL = re.compile(rf"({NUMBER.pattern})[^()\d]*\((?:95 % interval )?({NUMBER.pattern}) to ({NUMBER.pattern})")


def read_table(path: Path) -> pd.DataFrame:
    """A csv file as text; a frame without columns where it is missing or has none."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, FileNotFoundError):
        return pd.DataFrame()


def compare_tables(
    published: pd.DataFrame, fresh: pd.DataFrame, tolerance: Tolerance, whole: bool = True, counted: bool = False
) -> pd.DataFrame:
    """Compare two tables of text: a line a cell, and one for each row or column that the fresh table has more.

    Rows belong together that have the same labels: the first columns that tell the published rows apart and hold no
    fractional numbers; where there are none, rows of the same place. The columns are COLUMNS less the table.

    Args:
        whole: False where the rows are single samples, which are not compared.
        counted: whether n counts outcomes, so that it scatters, and a row may come and go whose counts are few.
    """
    labels = _labels(published)
    rows, others = _by_label(published, labels), _by_label(fresh, labels)
    intervals = _intervals(list(published.columns))
    lines = []
    same_everywhere = tolerance in (EXACT, ROUNDING)
    for label, row in rows.items():
        other = others.get(label, {})
        if counted and not same_everywhere and label not in others:
            other = {name: "0" if cell.isdigit() else cell for name, cell in row.items()}
        for column, cell in row.items():
            found = other.get(column)
            exempt = TIMES.search(column) or any(TIMES.search(part) for part in (*label, row.get("unit", "")))
            exact = column in SAME_EVERYWHERE and not (counted and column == "n")
            kept = LISTS[0 if exact or same_everywhere else 1]
            if not whole or exempt or (counted and not same_everywhere and column in BEST_OF_FEW):
                status, kept = NOT_COMPARED, LISTS[2]
            elif found is None:
                status = MISSING
            elif verdicts := _verdicts(cell, found, tolerance, other):
                status = verdicts
            elif exact:
                status = REPRODUCED if same(cell, found) else DEVIATES
            else:
                ends = [row[name] for name in intervals[column][:2]] if column in intervals else ["", ""]
                status = compare_cells(cell, found, tolerance, ends, is_end=column.endswith(("_low", "_high")))
            lines.append((", ".join(label), column, cell, "" if found is None else found, kept, status))
    if whole:
        for label, other in others.items():
            if label not in rows:
                few = [_near("0", cell, tolerance, ["", ""], False) for cell in other.values() if cell.isdigit()]
                status = WITHIN if counted and not same_everywhere and few and all(few) else DEVIATES
                lines.append((", ".join(label), "", "", "a row more", LISTS[1], status))
        more = [column for column in fresh.columns if column not in published.columns]
        lines += [("", column, "", "a column more", LISTS[0], DEVIATES) for column in more]
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
        decimals = max(len(text.partition(".")[2]) for text in (published, *interval))
        return abs(a - b) <= tolerance.widths * (high - low) + 10.0**-decimals + 1e-9
    allowed = max(tolerance.absolute, tolerance.relative * abs(a))
    if published.isdigit() and fresh.isdigit():
        allowed = tolerance.roots * math.sqrt(a + b)
    return abs(a - b) <= allowed


def _verdicts(published: str, fresh: str, tolerance: Tolerance, row: Mapping[str, str]) -> str | None:
    """The status of a cell with a verdict in words, which must follow from the numbers of the fresh cell's row; None
    where it has none, or where its numbers have to decide."""
    said = [_said(cell) for cell in (published, fresh)]
    if said == [None, None]:
        return None
    if not _follows(fresh, said[1], row):
        return DEVIATES
    if same(published, fresh):
        return REPRODUCED
    if tolerance.widths is None:
        return DEVIATES
    if BELOW in said:  # a find is a find in both, or unresolved in one
        return WITHIN if {*said} <= {BELOW, UNRESOLVED} else DEVIATES
    if said[0] in DIRECTIONS and said[1] in DIRECTIONS:
        apart = abs(DIRECTIONS.index(said[0]) - DIRECTIONS.index(said[1])) > 1
        claims = [POINTS.search(cell) for cell in (published, fresh)]
        if apart or None in claims:
            return DEVIATES if apart or published.split() != [said[0]] else WITHIN
        return compare_cells(claims[0][0], claims[1][0], tolerance)
    return WITHIN  # above the hull, unresolved, known or without a candidate: no find either way


def _said(cell: str) -> str | None:
    """The verdict that a cell ends in or is a sentence of."""
    if UNRESOLVED in cell:
        return UNRESOLVED
    if found := re.search(r"below the hull|above the hull", cell):
        return found[0]
    if found := re.fullmatch(r"(more|less)|.* matches (more|less) often than .*", cell):
        return found[1] or found[2]
    return NO_FIND if re.match(r"no valid structure|none |not asked|known as", cell) else None


def _follows(cell: str, said: str | None, row: Mapping[str, str]) -> bool:
    """Whether a verdict is that of the cell's own numbers, or its row's, as far as the shown digits tell."""
    shown = DISTANCE.match(cell)
    ends = [float(x) for x in shown.groups()] if shown else []
    of_row = [_number(row.get(name, "")) for name in ("distance_low", "distance_high")]
    if not ends and cell == row.get("says") and None not in of_row:
        ends = [1000 * end for end in of_row]
    if ends and said in (BELOW, UNRESOLVED, ABOVE):
        return said in {verdict(ends[0] + by, ends[1] + by) for by in (-0.5, 0, 0.5)}
    interval = INTERVAL.search(cell) or INTERVAL.search(row.get("difference", "") if cell == row.get("verdict") else "")
    if said not in DIRECTIONS or not interval:
        return True
    low, high = float(interval[2]), float(interval[3])
    shown = 10.0 ** -len(interval[2].partition(".")[2])
    possible = {UNRESOLVED} if low <= shown and high >= -shown else set()
    possible |= {"more"} if low >= 0 else {"less"} if high <= 0 else set()
    return said in possible


def compare_figures(published: Path, fresh: Path, tolerance: Tolerance) -> pd.DataFrame:
    """Whether a figure is there and, of a png, whether what it draws has the numbers of the published one.

    A series' mean may differ by the tolerance or by half the scatter of its values, its number of values as counts do.
    """
    cell = {"table": "figures", "row": published.name, "column": "file", "published": "present"}
    kept = LISTS[0 if tolerance in (EXACT, ROUNDING) else 1]
    if not fresh.exists():
        return pd.DataFrame([cell | {"fresh": "", "list": kept, "status": MISSING}])
    old, new = (_described(path) for path in (published, fresh))
    status = REPRODUCED if old == new or not old else DEVIATES
    if status == DEVIATES and tolerance != EXACT and len(old) == len(new):
        half = 0.5 if tolerance.widths else 0
        near = [
            abs(n - m) <= tolerance.roots * math.sqrt(n + m)
            and abs(a - b) <= max(tolerance.absolute, tolerance.relative * abs(a), half * spread)
            for (n, a, spread), (m, b, _) in zip(old, new, strict=True)
        ]
        status = WITHIN if all(near) else DEVIATES
    return pd.DataFrame([cell | {"fresh": "present", "list": kept, "status": status}])


def _described(path: Path) -> list[list[float]]:
    """What :func:`lib.core.run.drawn_numbers` says of a figure; empty for a picture without it."""
    if path.suffix != ".png":
        return []
    with Image.open(path) as image:
        return json.loads(image.info.get("Description", "[]"))


def same(one: str, other: str) -> bool:
    """Whether two cells are the same text or the same number."""
    numbers = _number(one), _number(other)
    return one == other or (None not in numbers and numbers[0] == numbers[1])


def _number(cell: str) -> float | None:
    return float(cell) if NUMBER.fullmatch(cell) else None
