"""Dismai-Bench as a user runs it: `make report PROFILE=dismai_smoke`, then what it left behind."""

from __future__ import annotations

import html
import json
import shutil
import time

import pandas as pd
import pytest
from conftest import make

from lib.core.files import ROOT
from lib.core.parameters import profile_notebooks
from lib.dismai.score import ITSELF

RUN = "dismai_smoke_of_the_tests"
LIMIT_SECONDS = 900  # two minutes on two free cores
STEPS = ["30_dismai_datasets", "31_dismai_entrants", "32_dismai_bench", "33_cryingan_study"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench():
    """The folder of the run."""
    folder = ROOT / "outputs" / RUN
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    done = make("report", "PROFILE=dismai_smoke", f"RUN={RUN}")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert time.monotonic() - started < LIMIT_SECONDS
    return folder


def test_every_notebook_left_its_page_and_its_findings_head_the_index(bench):
    assert profile_notebooks("dismai_smoke", STEPS) == STEPS
    assert sorted(path.stem for path in bench.glob("manifests/*.json")) == STEPS
    assert all((bench / f"html/{step}.html").stat().st_size for step in STEPS)
    found = [s for path in bench.glob("manifests/*.json") for s in json.loads(path.read_text())["findings"]]
    head = html.unescape((bench / "index.html").read_text())
    assert len(found) >= 4 and all(sentence in head for sentence in found)


def test_every_number_stands_beside_floor_and_baselines(bench):
    table = pd.read_csv(bench / "tables/dismai_scores.csv")
    for dataset in ("alloy_300K_wide", "alloy_1500K_wide"):
        rows = table[table.dataset == dataset].set_index("entrant")
        assert {"CryinGAN", "transformer", "shuffled lattice", "uniform", ITSELF} <= set(rows.index)
        assert (rows.trainings.dropna() == 2).all() and (rows.asked[["CryinGAN", "transformer"]] == 12).all()
        assert rows.normalised["shuffled lattice"] == pytest.approx(1, abs=0.2)
        assert rows.failed.notna().all() and (rows.failed_low <= rows.failed).all()
    scores = {score["id"]: score for score in json.loads((bench / "scores.json").read_text())}
    assert scores[f"{RUN}.shuffled.alloy_300K"]["value"] > scores[f"{RUN}.floor.alloy_300K"]["value"]
    assert f"{RUN}.cryingan.d_cluster_300K" in scores and f"{RUN}.mc.energy_300K" in scores


def test_a_second_report_does_nothing(bench):
    before = {path: path.stat().st_mtime_ns for path in bench.rglob("*") if path.is_file()}
    done = make("report", "PROFILE=dismai_smoke", f"RUN={RUN}")
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr
    assert {path: path.stat().st_mtime_ns for path in bench.rglob("*") if path.is_file()} == before
