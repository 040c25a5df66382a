"""A fresh run against the published one: what is the same, what is tolerated, what deviates, and what is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from conftest import make

from lib.core.errors import BadInput
from lib.core.files import ROOT, write_json
from lib.core.parameters import validated
from lib.core.run import Run
from lib.report.comparison import EXACT, LISTS, ROUNDING, compare_cells, compare_tables
from lib.report.verify import TOLERANCES, counts, verify, verify_run
from lib.studies.params import PbcLossParams

PUBLISHED = ROOT / "outputs" / "published" / "quick"
CPU, GPU = TOLERANCES["another CPU"], TOLERANCES["a GPU"]
RATE = "0.355 (0.30 to 0.42)"


def manifest(notebook: str, tables: list[str], **changes) -> dict:
    return {
        "notebook": notebook,
        "parameters": {"run": "small", "n_workers": 2, "device": "auto", "n_targets": 200},
        "hardware": {"cpu": "EPYC", "gpu": None},
        "packages": {"torch": "2.13.0"},
        "profile": "quick",
        "outputs": {f"tables/{name}.csv": {} for name in tables},
        "scores": [],
    } | changes


@pytest.fixture
def outputs(tmp_path):
    """A published run of two notebooks and a fresh one that equals it."""
    score = {"id": "small.match", "value": 0.4, "unit": "rate", "n": 200, "ci_low": 0.3, "ci_high": 0.5}
    seconds = {"id": "small.seconds", "value": 100.0, "unit": "s", "n": 1, "ci_low": None, "ci_high": None}
    for folder in (tmp_path / "published" / "small", tmp_path / "small"):
        (folder / "tables").mkdir(parents=True)
        (folder / "figures").mkdir()
        (folder / "figures" / "one.svg").write_text("<svg/>")
        (folder / "tables" / "funnel.csv").write_text("step,structures,mean\nall,100,1.5\nsome,64,2.5\n")
        rates = "row,n,default,csp,csp_low,csp_high,seconds\na,200,0.355 (0.30 to 0.42),0.4,0.3,0.5,3.1\n"
        (folder / "tables" / "rates.csv").write_text(rates + "b,200,0.000 (0.00 to 0.05),0.1,0.05,0.2,3.2\n")
        (folder / "tables" / "match_verdicts_generation.csv").write_text("row,target,match\na,x,True\na,y,False\n")
        (folder / "tables" / "nothing.csv").write_text("\n")
        late = manifest("06_match_tables", ["rates", "match_verdicts_generation", "nothing"], scores=[score])
        notebooks = {"02_polymorph_dataset": manifest("02_polymorph_dataset", ["funnel"]), "06_match_tables": late}
        write_json(folder / "manifest.json", {"run": "small", "notebooks": notebooks})
        write_json(folder / "scores.json", [score, seconds])
    (tmp_path / "published" / "small" / "scores.json").rename(tmp_path / "published" / "scores.json")
    return tmp_path


def change(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def on_another_cpu(outputs) -> None:
    path = outputs / "small" / "manifest.json"
    path.write_text(path.read_text().replace("EPYC", "Xeon"))


def statuses(cells: pd.DataFrame) -> dict[str, int]:
    return cells.status.value_counts().to_dict()


def test_an_equal_run_is_reproduced(outputs):
    cells, remarks = verify_run("small", outputs)
    assert set(cells.status) == {"reproduced", "not compared"}
    compared = cells[cells.status == "reproduced"]
    assert compared.groupby("table").size().to_dict() == {
        "figures": 1,
        "funnel": 6,
        "match_verdicts_generation": 6,
        "rates": 12,
        "scores": 6,
    }
    assert set(cells[cells.status == "not compared"].column) >= {"seconds"}
    assert all("the same machine" in remark for remark in remarks) and len(remarks) == 2
    written = pd.read_csv(outputs / "small" / "verify.csv", keep_default_na=False)
    assert written.status.tolist() == cells.status.tolist()


@pytest.mark.parametrize(
    ("table", "old", "new", "row", "column"),
    [
        ("funnel", "some,64", "some,65", "some", "structures"),
        ("rates", "0.355", "0.356", "a", "default"),
        ("match_verdicts_generation", "a,y,False", "a,y,True", "a, y", "match"),
    ],
)
def test_one_altered_cell_deviates_on_the_same_machine(outputs, table, old, new, row, column):
    change(outputs / "small" / "tables" / f"{table}.csv", old, new)
    cells, _ = verify_run("small", outputs)
    wrong = cells[cells.status == "deviates"]
    assert wrong[["table", "row", "column"]].to_numpy().tolist() == [[table, row, column]]
    assert counts(cells).loc[table, "deviates"] == 1


def test_time_may_differ_anywhere(outputs):
    change(outputs / "small" / "tables" / "rates.csv", "3.1", "99")
    change(outputs / "small" / "scores.json", "100.0", "999.0")
    assert "deviates" not in statuses(verify_run("small", outputs)[0])


def test_another_cpu_is_held_to_intervals_and_data_to_rounding(outputs):
    on_another_cpu(outputs)
    tables = outputs / "small" / "tables"
    change(tables / "rates.csv", "0.355 (0.30 to 0.42)", "0.41 (0.35 to 0.47)")
    change(tables / "rates.csv", ",0.1,0.05,0.2,", ",0.27,0.16,0.3,")
    change(tables / "funnel.csv", "2.5", "2.500001")
    change(tables / "funnel.csv", "100", "101")
    change(tables / "match_verdicts_generation.csv", "a,y,False", "a,z,True")
    cells, remarks = verify_run("small", outputs)
    cells = cells.set_index(["table", "row", "column"])
    status = cells.status.to_dict()
    assert status["rates", "a", "default"] == "within tolerance"
    assert status["rates", "b", "csp"] == "deviates", "more than the width of the published interval"
    assert status["rates", "b", "csp_high"] == "within tolerance", "less than a width from the published end"
    assert status["funnel", "some", "mean"] == "within tolerance"
    assert status["funnel", "all", "structures"] == "deviates", "nothing was trained: counts are counts"
    assert set(cells.loc["match_verdicts_generation"].status) == {"not compared"}
    assert any("another CPU" in remark for remark in remarks)


def test_what_is_missing_and_what_is_more_is_found(outputs):
    on_another_cpu(outputs)
    fresh = outputs / "small"
    (fresh / "tables" / "match_verdicts_generation.csv").unlink()
    (fresh / "figures" / "one.svg").unlink()
    change(fresh / "tables" / "rates.csv", "\nb,", "\nc,")
    change(fresh / "tables" / "funnel.csv", "some,64,2.5\n", "some,64,2.5\nsome,64,2.5\n")
    write_json(fresh / "scores.json", [])
    path = fresh / "manifest.json"
    path.write_text(path.read_text().replace("small.match", "small.other"))
    cells, _ = verify_run("small", outputs)
    missing = cells[cells.status == "missing"].groupby("table").size().to_dict()
    assert missing == {"match_verdicts_generation": 6, "figures": 1, "rates": 6, "scores": 6}
    more = cells[cells.status == "deviates"]
    assert more[["table", "row", "fresh"]].to_numpy().tolist() == [
        ["funnel", "some, once more (1)", "a row more"],
        ["rates", "c", "a row more"],
    ]


def test_other_parameters_are_said(outputs):
    change(outputs / "small" / "manifest.json", '"n_targets": 200', '"n_targets": 50')
    remarks = verify_run("small", outputs)[1]
    assert any(remark.endswith(": n_targets was 200 and is 50") for remark in remarks)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, "the same machine"),
        ({"packages": {"torch": "2.14.0"}}, "another CPU"),
        ({"parameters": {"n_workers": 4}}, "another CPU"),
        ({"hardware": {"cpu": "Xeon", "gpu": None}}, "another CPU"),
        ({"hardware": {"cpu": "EPYC", "gpu": "H200"}}, "a GPU"),
    ],
)
def test_kinds_of_machine(outputs, change, kind):
    path = outputs / "small" / "manifest.json"
    notebooks = json.loads(path.read_text())["notebooks"]
    notebooks["06_match_tables"] |= change
    write_json(path, {"notebooks": notebooks})
    assert f"06_match_tables: {kind}, as against the published run" in verify_run("small", outputs)[1]


@pytest.mark.parametrize(
    ("published", "fresh", "tolerance", "status"),
    [
        ("0.10", "0.1", EXACT, "reproduced"),
        ("0.1", "0.1000001", EXACT, "deviates"),
        ("0.1", "0.1000001", ROUNDING, "within tolerance"),
        ("2.0", "2.09", CPU, "within tolerance"),
        ("2.0", "2.11", CPU, "deviates"),
        ("2.0", "2.11", GPU, "within tolerance"),
        ("-5e-16", "-6e-17", CPU, "within tolerance"),
        ("3", "4", CPU, "within tolerance"),
        ("167", "164", CPU, "within tolerance"),
        ("48", "78", CPU, "within tolerance"),
        ("48", "90", CPU, "deviates"),
        ("48", "49", EXACT, "deviates"),
        ("0", "1", CPU, "within tolerance"),
        ("0", "12", CPU, "deviates"),
        ("", "0.1", CPU, "deviates"),
        ("True", "False", GPU, "deviates"),
        ("a", "b", GPU, "deviates"),
        (RATE, "0.47 (0.41 to 0.53)", CPU, "within tolerance"),
        (RATE, "0.50 (0.42 to 0.54)", CPU, "deviates"),
        (RATE, "0.50 (0.44 to 0.56)", GPU, "within tolerance"),
        (RATE, "0.36 (0.10 to 0.48)", CPU, "deviates"),
        (RATE, "0.360", CPU, "deviates"),
        ("a less b is -2.0 points (95 % interval -4.0 to +1.0, n = 200)",) * 2 + (EXACT, "reproduced"),
        (
            "a less b is -2.0 points (95 % interval -4.0 to +1.0, n = 200)",
            "a less b is +0.5 points (95 % interval -2.0 to +3.0, n = 200)",
            CPU,
            "within tolerance",
        ),
        (
            "a less b is -2.0 points (95 % interval -4.0 to +1.0, n = 200)",
            "a less b is +3.5 points (95 % interval -1.0 to +4.0, n = 200)",
            CPU,
            "deviates",
        ),
        ("unresolved: a less b is 2.0 points", "a matches more often than b: 2.0 points", GPU, "deviates"),
    ],
)
def test_cells(published, fresh, tolerance, status):
    assert compare_cells(published, fresh, tolerance) == status


def test_rows_are_found_by_their_labels_and_n_is_exact():
    published = pd.DataFrame({"row": ["a", "a", "b"], "n_sites": ["1", "2", "1"], "n": ["9", "9", "9"]})
    fresh = published.iloc[[2, 0, 1]].reset_index(drop=True)
    assert statuses(compare_tables(published, fresh, EXACT)) == {"reproduced": 9}
    fresh.loc[0, "n"] = "10"
    assert statuses(compare_tables(published, fresh, GPU)) == {"reproduced": 8, "deviates": 1}


@pytest.mark.slow
def test_the_published_quick_run_equals_itself():
    scores = json.loads((ROOT / "outputs/published/scores.json").read_text())
    cells, _ = verify(PUBLISHED, PUBLISHED, [score for score in scores if score["id"].startswith("quick.generation")])
    assert set(cells.status) == {"reproduced", "not compared"}
    assert set(cells.table) >= {"table_1_generation", "table_2_modification", "scores", "figures"}
    tables = [path for path in PUBLISHED.glob("tables/*.csv") if path.read_text().count("\n") > 1]  # with a row
    assert set(cells.table) == {path.stem for path in tables} | {"scores", "figures"}
    assert len(cells) > 1000 and (cells.status == "not compared").mean() < 0.1


@pytest.mark.slow
def test_one_altered_number_of_the_published_quick_run_is_found(tmp_path):
    shutil.copytree(PUBLISHED / "tables", tmp_path / "tables")
    shutil.copytree(PUBLISHED / "figures", tmp_path / "figures")
    shutil.copy(PUBLISHED / "manifest.json", tmp_path)
    path = tmp_path / "tables" / "table_1_generation.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[3, "csp"] = "9.999 (0.00 to 0.05)"
    table.to_csv(path, index=False)
    wrong = verify(PUBLISHED, tmp_path)[0].query("status == 'deviates'")
    assert wrong[["table", "row", "column"]].to_numpy().tolist() == [["table_1_generation", table.row[3], "csp"]]


def test_speeds_may_differ_by_half(tmp_path):
    published, fresh = tmp_path / "published" / "benchmarks", tmp_path / "benchmarks"
    shutil.copytree(ROOT / "outputs/published/benchmarks", published)
    with pytest.raises(BadInput, match="make it first: make bench"):
        verify_run("benchmarks", tmp_path)
    shutil.copytree(published, fresh)
    path = fresh / "tables" / "benchmarks.csv"
    table = pd.read_csv(path)
    for factor, status in ((0.6, "within tolerance"), (0.4, "deviates")):
        altered = table.assign(value=table.value * factor, low=0, high=1e9, machine="another")
        altered.to_csv(path, index=False)
        cells = verify_run("benchmarks", tmp_path)[0]
        found = cells[cells.row.isin(table.id[table.unit == "x"])].set_index("column").status
        assert set(found["value"]) == {status}
        assert set(found[["low", "high", "machine"]]) == {"not compared"}
        assert set(found["reached"]) == {"reproduced"}


def test_a_run_that_is_not_there_is_said(outputs):
    with pytest.raises(BadInput, match="'other' .*verify one of small"):
        verify_run("other", outputs)
    shutil.rmtree(outputs / "small")
    with pytest.raises(BadInput, match="make report PROFILE=quick RUN=small"):
        verify_run("small", outputs)


@pytest.mark.slow
def test_command_line_and_make():
    done = subprocess.run([sys.executable, "-m", "lib.verify", "absent"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "no run 'absent' is published" in done.stderr and "Traceback" not in done.stderr
    done = make("verify", "RUN=absent")
    assert done.returncode and "no run 'absent' is published" in done.stderr


def test_each_score_moved_by_two_widths_of_its_interval_is_found(tmp_path):
    for folder in ("published", "fresh"):
        (tmp_path / folder / "tables").mkdir(parents=True)
        write_json(tmp_path / folder / "manifest.json", {"notebooks": {}})
    scores = [s for s in json.loads((ROOT / "outputs/published/scores.json").read_text()) if s["ci_low"] is not None]
    scores = [s for s in scores if s["unit"] not in ("s", "x") and not s["unit"].endswith("/s")]
    for direction in (2, -2):
        moved = [s | {"value": s["value"] + direction * (s["ci_high"] - s["ci_low"])} for s in scores]
        write_json(tmp_path / "fresh" / "scores.json", moved)
        cells = verify(tmp_path / "published", tmp_path / "fresh", scores)[0].query("column == 'value'")
        assert len(cells) == len(scores) > 20 and set(cells.status) == {"deviates"}
    write_json(tmp_path / "fresh" / "scores.json", scores)
    cells = verify(tmp_path / "published", tmp_path / "fresh", scores)[0]
    assert set(cells.status) == {"reproduced"} and set(cells["list"]) <= set(LISTS)


CLAIM = "95 % interval {}, n = 200)"
ABOVE, BELOW = "+171.1 (+71 to +271)", "-171.1 (-271 to -71)"
UNDECIDED = "unresolved: a less b is +2.0 points (" + CLAIM.format("-1.0 to +5.0")


@pytest.mark.parametrize(
    ("published", "fresh", "status"),
    [
        (
            "+171.1 (+71 to +271): above the hull (x, n = 1)",
            "+140.0 (+40 to +240): above the hull (x, n = 2)",
            "within tolerance",
        ),
        (
            "+171.1 (+71 to +271): above the hull (x, n = 1)",
            "+70.0 (-30 to +170): unresolved (x, n = 2)",
            "within tolerance",
        ),
        (f"{ABOVE}: above the hull (x, n = 1)", "+140.0 (+40 to +240): above the hull (x, n = 2)", "within tolerance"),
        (f"{ABOVE}: above the hull (x, n = 1)", "+70.0 (-30 to +170): unresolved (x, n = 2)", "within tolerance"),
        (f"{ABOVE}: above the hull (x, n = 1)", "no valid structure (n = 20)", "within tolerance"),
        (f"{ABOVE}: above the hull (x, n = 1)", f"{ABOVE}: below the hull (x, n = 1)", "deviates"),
        (f"{ABOVE}: above the hull (x, n = 1)", f"{BELOW}: below the hull (x, n = 1)", "deviates"),
        ("no valid structure (n = 20)", f"{BELOW}: below the hull (x, n = 1)", "deviates"),
        ("-30.0 (-130 to +70): unresolved (x, n = 1)", "-30.0 (-130 to +70): below the hull (x, n = 1)", "deviates"),
        (UNDECIDED, "a matches more often than b: +4.0 points (" + CLAIM.format("+0.5 to +7.5"), "within tolerance"),
        (UNDECIDED, "a matches more often than b: +2.0 points (" + CLAIM.format("-1.0 to +5.0"), "deviates"),
        (UNDECIDED, "a matches more often than b: +14.0 points (" + CLAIM.format("+11.0 to +17.0"), "deviates"),
    ],
)
def test_verdicts_follow_from_their_numbers_and_move_to_neighbours_alone(published, fresh, status):
    one, other = (pd.DataFrame({"row": ["a"], "ours": [cell]}) for cell in (published, fresh))
    assert compare_tables(one, other, CPU).status.tolist()[1] == status


def test_a_verdict_column_follows_from_the_numbers_of_its_row():
    row = {"row": ["a"], "difference": ["0.02 (-0.01 to 0.05)"], "verdict": ["unresolved"]}
    published, fresh = pd.DataFrame(row), pd.DataFrame(row | {"verdict": ["more"]})
    assert compare_tables(published, fresh, CPU).status.tolist() == ["reproduced", "reproduced", "deviates"]
    moved = pd.DataFrame(row | {"verdict": ["more"], "difference": ["0.04 (0.01 to 0.07)"]})
    assert compare_tables(published, moved, CPU).status.tolist()[1:] == ["within tolerance"] * 2


def test_outcomes_that_are_few_may_come_and_go_on_another_machine(outputs):
    on_another_cpu(outputs)
    for folder in ("published/small", "small"):
        (outputs / folder / "tables" / "preoptimised_outcomes.csv").write_text("outcome,structures\nusable,17\nodd,1\n")
    change(outputs / "small" / "tables" / "preoptimised_outcomes.csv", "odd,1", "other,2")
    cells = verify_run("small", outputs)[0].query("table == 'preoptimised_outcomes'")
    assert "deviates" not in set(cells.status) and "missing" not in set(cells.status)
    change(outputs / "small" / "tables" / "preoptimised_outcomes.csv", "other,2", "other,40")
    assert "deviates" in set(verify_run("small", outputs)[0].query("table == 'preoptimised_outcomes'").status)


def test_figures_are_compared_by_what_they_draw(outputs):
    def drawn(*heights) -> None:
        figure, axes = plt.subplots()
        axes.bar(range(len(heights)), heights)
        run = Run(validated(PbcLossParams, {"run": "small"}), outputs)
        run.figure(figure, "one", "bars")

    drawn(1.0, 2.0, 3.0)
    (outputs / "published" / "small" / "figures" / "one.svg").unlink()
    shutil.copy(outputs / "small" / "figures" / "one.png", outputs / "published" / "small" / "figures" / "one.png")
    assert verify_run("small", outputs)[0].set_index("table").status["figures"] == "reproduced"
    drawn(1.0, 2.1, 3.0)
    assert verify_run("small", outputs)[0].set_index("table").status["figures"] == "deviates"
    on_another_cpu(outputs)
    assert verify_run("small", outputs)[0].set_index("table").status["figures"] == "within tolerance"
    drawn(4.0, 6.0, 9.0)
    assert verify_run("small", outputs)[0].set_index("table").status["figures"] == "deviates"
