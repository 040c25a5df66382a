"""Scores that no notebook writes, in the `scores.json` of a run of their own, where `make publish` finds them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from lib.core.files import ROOT, write_json
from lib.core.machine import measured_by

TESTS = ROOT / "outputs" / "tests"  # what is measured of the tests themselves


def merge(folder: Path, scores: Iterable[Mapping[str, object]]) -> Path:
    """Put scores among those of a folder's `scores.json`, in the place of any that have their ids."""
    path = folder / "scores.json"
    known = {score["id"]: score for score in json.loads(path.read_text())} if path.exists() else {}
    known |= {score["id"]: score for score in scores}
    return write_json(path, sorted(known.values(), key=lambda score: score["id"]))


def note(id: str, value: float, unit: str, *, n: int, command: str) -> None:
    """Put a score of the tests, which has no interval, among the others of `outputs/tests`."""
    about = measured_by(command)
    merge(TESTS, [{"id": id, "value": value, "unit": unit, "n": n, "ci_low": None, "ci_high": None} | about])
