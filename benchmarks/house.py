"""How large lib is, and docs/house.svg: its rooms, and which of them each one imports from. Read off the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import seaborn
from matplotlib.figure import Figure

from benchmarks.timing import Result
from lib.core.files import ROOT
from lib.core.run import Run
from lib.figures.style import BLUE, GREY, subplots

MODULES = sorted((ROOT / "lib").rglob("*.py"))
ROOMS = re.findall(r"^\| `(\w+)`", (ROOT / "docs/how-it-is-built.md").read_text(), re.MULTILINE)
DRAWING = ROOT / "docs/house.svg"


def imported(source: str) -> set[str]:
    """Full names of the modules that a piece of Python imports, wherever the import stands."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms(source: str) -> set[str]:
    """Rooms of lib that a piece of Python imports from."""
    parts = (name.split(".") for name in imported(source))
    return {part[1] for part in parts if part[0] == "lib" and len(part) > 1}


def room_of(path: Path) -> str:
    """The room that a module lies in, or "commands" for those beside the rooms."""
    parts = path.relative_to(ROOT / "lib").parts
    return parts[0] if len(parts) > 1 else "commands"


def sizes() -> pd.DataFrame:
    """One row a module: `module`, `room` and `lines`."""
    names = [str(path.relative_to(ROOT)) for path in MODULES]
    lines = [len(path.read_text().splitlines()) for path in MODULES]
    return pd.DataFrame({"module": names, "room": map(room_of, MODULES), "lines": lines})


def imports() -> pd.DataFrame:
    """(room, room) how many modules of the row's room import from the column's."""
    order = [*ROOMS, "commands"]
    table = pd.DataFrame(0, index=order, columns=order)
    for path in MODULES:
        for room in rooms(path.read_text()) & set(ROOMS) - {room_of(path)}:
            table.loc[room_of(path), room] += 1
    return table


def draw() -> Figure:
    """Left the lines of each room, right its imports, which the rule allows below the diagonal alone."""
    table, lines = imports(), sizes().groupby("room").lines.agg(["sum", "size"]).reindex([*ROOMS, "commands"])
    figure, (bars, grid) = subplots(1, 2, width=9, height=5, width_ratios=(1, 2.6))
    bars.barh(range(len(lines)), -lines["sum"], color=BLUE)
    for i, (n, files) in enumerate(lines.itertuples(index=False)):
        bars.text(-n - 40, i, f"{n:,} in {files}", ha="right", va="center", fontsize=7.5)
    bars.set(ylim=(len(lines) - 0.5, -0.5), xlim=(-1.6 * lines["sum"].max(), 0), title="lines in files")
    bars.set_axis_off()
    shade = {"cmap": seaborn.light_palette(BLUE, as_cmap=True), "linewidths": 0.5, "linecolor": "#eeeeee"}
    seaborn.heatmap(table, mask=table == 0, annot=True, fmt="d", cbar=False, ax=grid, annot_kws={"size": 8}, **shade)
    grid.axline((0, 0), slope=1, color=GREY, lw=0.8)
    grid.set_title("how many modules of a room (row) import from another (column)")
    grid.grid(False)
    grid.tick_params(length=0)
    return figure


def measure(run: Run) -> Iterator[Result]:
    """See the module's first line."""
    table = sizes()
    largest = table.loc[table.lines.idxmax()]
    for id, what, value in (
        ("house.lib_lines", f"lines of Python in lib, {len(table)} files", table.lines.sum()),
        ("house.largest_file", f"lines of the longest, {largest.module}", largest.lines),
    ):
        yield Result(id, what, "lines", float(value), n=len(table))  # counted, so that there is no interval
    if not run.params.tiny:
        draw().savefig(DRAWING, metadata={"Date": None})
