"""The notebooks of the score model as a user runs them: `make report PROFILE=score_smoke`."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from conftest import make

from lib.core.files import ROOT
from lib.core.parameters import profile_notebooks
from lib.report import runs as report

RUN = "score_smoke_of_the_tests"


@pytest.mark.slow
def test_the_companions_chain_makes_its_figures_tables_and_scores():
    folder = ROOT / "outputs" / RUN
    shutil.rmtree(folder, ignore_errors=True)
    done = make("report", "PROFILE=score_smoke", f"RUN={RUN}")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    steps = [path.stem for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert sorted(path.stem for path in folder.glob("manifests/*.json")) == profile_notebooks("score_smoke", steps)
    made = {report.label_of(path.name).rstrip("abc") for path in folder.rglob("figures/figure_*.svg")}
    assert {f"Figure {i}" for i in range(1, 8)} <= made
    ways = ("score model", "random", "substitution")
    levels = ("letters", "composition", "sites")
    expected = {f"{level}: {way}" for level in levels for way in ways}
    assert set(pd.read_csv(folder / "tables/score_levels.csv").row) == expected
    new = pd.read_csv(folder / "tables/table_3_new_crystals.csv")
    assert set(new.system) == {"Fe-Ta-Sn"} and len(new) == 5, "published, two levels of the model, and two without"
    scores = {score["id"]: score for score in json.loads((folder / "scores.json").read_text())}
    assert all(scores[f"score.{level}.match_csp"]["n"] for level in levels)
    assert {"score.fd_chgnet", "score.known_recovered", "score.new_resolved_below_hull"} <= set(scores)
