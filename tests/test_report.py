"""Notebooks run, pages made, runs gathered and published: against real papermill, real pages, a real browser."""

from __future__ import annotations

import fcntl
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lib.core import parameters
from lib.core.errors import BadInput
from lib.core.files import ROOT, write_json
from lib.core.parameters import notebook_parameters
from lib.core.run import Run, duration_in_words
from lib.generation.sampling import load_model
from lib.generation.ship import read_card, training_in_words, write_card
from lib.report import pages
from lib.report import runs as report
from lib.studies.params import DatasetParams, TrainGenerationParams
from lib.studies.study_params import AblationParams


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Empty folders in place of the repository's notebooks, parameters and outputs."""
    for name in ("notebooks", "params/small", "outputs"):
        (tmp_path / name).mkdir(parents=True)
    for module in (pages, report):
        monkeypatch.setattr(module, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(report, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setattr(parameters, "PROFILES", tmp_path / "params")
    (tmp_path / "params" / "small" / "_common.yaml").write_text("notebooks: [01_one, 02_two]\nseed: 7\n")
    return tmp_path


def add_notebook(repository, *cells: str, markdown: str = "# A heading\n\ntext", name: str = "01_one"):
    first = nbformat.v4.new_code_cell("run = 'other'\nseed = 0\nsteps = 0", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(markdown), first, *map(nbformat.v4.new_code_cell, cells)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, repository / "notebooks" / f"{name}.ipynb")
    (repository / "params" / "small" / f"{name}.yaml").write_text("steps: 3\n")
    return repository / "notebooks" / f"{name}.ipynb"


def made_run(repository, name: str = "mine") -> Run:
    """A run with the manifests of two notebooks, one figure and two tables."""
    run = Run(DatasetParams(run=name), root=repository / "outputs")
    run.figure(Figure(figsize=(4, 3)), "figure_3_coordinates", "Distribution of x < y.")
    run.table(pd.DataFrame({"set": ["train"], "n": [12]}), "split", "The split.")
    run.finish()
    run = Run(TrainGenerationParams(run=name), root=repository / "outputs")
    frame = pd.DataFrame({"method": [f"m{i}" for i in range(40)], "match rate": [1 / 3] + [None] * 39})
    run.table(frame, "table_1_generation", "Match rates & such.")
    run.score("mine.match", 0.25, "fraction", n=200, ci=(0.2, 0.31))
    run.finding("CFM < 3 points", None)
    run.score("mine.lost", None, "fraction", reason="no GPU here")
    run.finish()
    return run


def test_parameters_are_the_common_ones_and_the_notebooks_own(repository):
    add_notebook(repository)
    assert notebook_parameters("01_one", "small") == {"seed": 7, "steps": 3}
    assert notebook_parameters("02_two", "small") == {"seed": 7}, "no file: the defaults"
    with pytest.raises(BadInput, match="'smal' .*choose one of small"):
        notebook_parameters("01_one", "smal")


@pytest.mark.slow
def test_execute_runs_a_notebook_and_notes_time_and_memory(repository):
    folder = repository / "outputs" / "fresh"
    add_notebook(
        repository,
        "import json, pathlib, time\nblock = bytearray(300 * 2**20)\ntime.sleep(1)",
        f"folder = pathlib.Path({str(folder / 'manifests')!r})\nfolder.mkdir()",
        "facts = dict(notebook='01_one', seed=seed, steps=steps, run=run, seconds=0, peak_gib=0)\n"
        "facts |= dict(scores=[], outputs={}, commit='c', dirty=False, hardware={'cpu': 'x'}, packages={})\n"
        "facts |= dict(parameters={'seed': seed})\n"
        "(folder / '01_one.json').write_text(json.dumps(facts))\nprint('six', 2 * steps)",
    )
    add_notebook(repository, name="02_two")
    page = report.execute("01_one", "small", "fresh")
    assert "six 6" in page.read_text()
    manifest = json.loads((folder / "manifests" / "01_one.json").read_text())
    assert (manifest["seed"], manifest["steps"], manifest["run"], manifest["profile"]) == (7, 3, "fresh", "small")
    assert 1 < manifest["seconds"] < 60
    assert 0.3 < manifest["peak_gib"] < 4
    index = (folder / "index.html").read_text()
    assert "02_two" in index.split("Still to come")[1].split("</p>")[0] and "html/01_one.html" in index


def test_failing_notebook_keeps_its_page_and_tells_the_error(repository):
    add_notebook(repository, "print('so far so good')", "raise KeyError('no such thing')", "print('never')")
    with pytest.raises(BadInput, match=r"01_one .*\[\d+\]: KeyError: 'no such thing'") as failure:
        report.execute("01_one", "small", "broken")
    page = repository / "outputs" / "broken" / "html" / "01_one.partial.html"
    assert str(page) in str(failure.value)
    outputs = re.sub(r"(?s)<div class=.input_area.>.*?</div>", "", page.read_text())
    assert "so far so good" in outputs and "no such thing" in outputs and "never" not in outputs
    assert not page.with_name("01_one.html").exists()


@pytest.mark.slow
def test_a_killed_kernel_is_one_sentence(repository):
    add_notebook(repository, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(BadInput, match="01_one was killed, .*memory.*same command again") as failure:
        report.execute("01_one", "small", "killed")
    assert "\n" not in str(failure.value)


def test_an_executed_notebook_that_cannot_be_written_is_named(repository):
    path = add_notebook(repository)
    (repository / "outputs" / "full" / "notebooks" / path.name).mkdir(parents=True)  # as a full disk: no file there
    with pytest.raises(BadInput, match=f"/full/notebooks/{path.name}: .*; free"):
        report.execute("01_one", "small", "full")


@pytest.mark.slow
def test_snakemake_finds_the_interpreter_in_a_folder_of_any_name(tmp_path):
    folder = tmp_path / "it's my repo [v2] (new) & $HOME"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("Snakefile", "notebooks", "params", "lib"):
        (folder / name).symlink_to(ROOT / name)
    python = folder / ".venv" / "bin" / "python"
    python.symlink_to(sys.executable)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", folder / ".venv" / "pyvenv.cfg")
    (folder / ".venv" / "lib").symlink_to(Path(sys.prefix) / "lib")
    line = "-m snakemake --cores 1 -n -p --config profile=smoke run=any -- outputs/any/html/01_aflow_ingest.html"
    done = subprocess.run([python, *shlex.split(line)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if "-m lib.report execute" in line]
    assert shlex.split(line.removeprefix("Shell command: "))[:4] == [str(python), "-m", "lib.report", "execute"]


def test_two_processes_cannot_write_one_run(repository):
    add_notebook(repository)
    folder = repository / "outputs" / "busy"
    folder.mkdir()
    with (folder / ".lock").open("w") as other, pytest.raises(BadInput, match="another process"):
        fcntl.flock(other, fcntl.LOCK_SH)
        report.execute("01_one", "small", "busy")


@pytest.mark.parametrize("name", ["", "..", "published", "a/b"])
def test_only_a_run_of_its_own_is_gathered_and_published(repository, name):
    write_json(repository / "outputs" / name / "scores.json", [])
    write_json(repository / "outputs" / name / "manifests" / "01_one.json", {})
    for does in (report.index, report.publish):
        with pytest.raises(BadInput, match="parameter 'run' of the run got"):
            does(name)
    with pytest.raises(BadInput, match="parameter 'run' of the run got"):
        report.execute("01_one", "small", name)


def test_what_cannot_be_read_of_a_run_is_named(repository):
    with pytest.raises(BadInput, match="no notebook '01_on'; name one of 01_one"):
        add_notebook(repository)
        report.execute("01_on", "small", "mine")
    made_run(repository)
    manifest = next((repository / "outputs" / "mine" / "manifests").glob("*.json"))
    whole, made = manifest.read_text(), repository / "outputs" / "mine" / "tables" / "split.csv"
    for broken in ("[]", "{}"):
        manifest.write_text(broken)
        with pytest.raises(BadInput, match=f"{manifest} is no manifest .*; delete it and give the same command again"):
            report.index("mine")
    manifest.write_text(whole)
    for content in (b"\x00\xff\xfe", b'a,b\n1,2,3\n"x'):
        made.write_bytes(content)
        with pytest.raises(BadInput, match="split.csv is gone or damaged .*; delete .*manifests/.*.json, "):
            report.index("mine")
    made.unlink()
    with pytest.raises(BadInput, match="split.csv is gone or damaged .*; delete .*manifests/.*.json, "):
        report.index("mine")
    manifest.write_text(whole[:100])
    with pytest.raises(BadInput, match=f"{manifest} is damaged .*; delete it and give the same command again"):
        report.index("mine")


@pytest.mark.parametrize(
    "tex", [r"x_t = t\,x_1 + (1-t)\,x_0", r"\frac{1}{N}\sum_i \min_{k \in \{-1,0,1\}^3} \| \hat x_i - x_i + k \|"]
)
def test_formulas_are_pictures_on_the_baseline(tex):
    picture = pages.formula_picture(tex)
    width, height, depth = (float(v) for v in re.findall(r"(?:width|height|align):(-?[\d.]+)em", picture))
    assert picture.startswith('<img class="formula"') and "data:image/svg+xml;base64," in picture
    assert width > height > 0.5 and -height < depth < 0


def test_formula_beyond_mathtext_is_shown_as_text():
    assert pages.formula_picture(r"\begin{cases} a < b").startswith('<code class="formula">\\begin{cases} a &lt; b')


def test_pages_do_not_say_where_the_repository_lies(repository):
    path = add_notebook(repository)
    notebook = nbformat.read(path, 4)
    text = f"{ROOT}/lib/models/batch.py:61: UserWarning"
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", name="stderr", text=text)]
    nbformat.write(notebook, path)
    page = pages.write_page(path, repository / "outputs" / "html" / "01_one.html").read_text()
    assert "lib/models/batch.py:61" in page and str(ROOT) not in page


def test_page_is_self_contained(repository, browser):
    path = add_notebook(repository, markdown="# Title\n\nWith $x^2$ and `code`.\n\n$$\\sum_i y_i$$\n\n[link](x.html)")
    notebook = nbformat.read(path, 4)
    bar = "".join(f"\rtraining: {i}%" for i in range(101))
    notebook.cells[1].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text=bar),
        nbformat.v4.new_output("execute_result", {"text/html": "<table><tr>" + "<td>wide cell</td>" * 40 + "</table>"}),
    ]
    notebook.cells[1].source = "long = '" + "x" * 300 + "'"
    nbformat.write(notebook, path)
    page = pages.write_page(path, repository / "outputs" / "html" / "01_one.html")
    text = page.read_text()
    assert "training: 100%" in text and "training: 99%" not in text
    assert "<title>Title</title>" in text
    questions = {"images": "document.images.length", "width": "document.body.scrollWidth"}
    visit = browser.visit(page.as_uri(), widths=[390], questions=questions)
    assert not visit.errors
    assert [url for url in visit.requests if not url.startswith("data:")] == [page.as_uri()]
    assert visit.answers[390]["images"] == 2 and visit.answers[390]["width"] <= 390


def test_index_begins_with_findings_and_the_leading_results_and_folds_the_rest(repository):
    made_run(repository)
    text = report.index("mine").read_text()
    found = text.index("CFM &lt; 3 points")
    assert found < text.index('id="tables-table_1_generation"') < text.index("<details>")
    assert text.index("<details>") < text.index('id="figures-figure_3_coordinates"') < text.index('id="scores"')
    assert text.count('id="tables-table_1_generation"') == 1
    assert "Distribution of x &lt; y." in text and "Match rates &amp; such." in text
    assert "0.333" in text and "10 more rows" in text
    assert "0.25 fraction (0.2 to 0.31)" in text and "not measured: no GPU here" in text
    manifest = json.loads((repository / "outputs/mine/manifest.json").read_text())
    assert list(manifest["notebooks"]) == ["02_polymorph_dataset", "04_train_generation"]


def test_every_link_and_picture_of_the_index_is_there(repository, browser):
    made_run(repository)
    page = report.index("mine")
    targets = set(re.findall(r'(?:href|src)="([^"]+)"', page.read_text())) - {"data:,"}
    for name in {target for target in targets if target.startswith("html/")}:
        (page.parent / name).parent.mkdir(exist_ok=True)
        (page.parent / name).touch()
    assert {"html/02_polymorph_dataset.html", "figures/figure_3_coordinates.png", "tables/split.csv"} <= targets
    ids = set(re.findall(r' id="([^"]+)"', page.read_text()))
    assert not [t for t in targets if not (t[1:] in ids if t.startswith("#") else (page.parent / t).exists())]
    questions = {"width": "document.body.scrollWidth"}
    visit = browser.visit(page.as_uri(), widths=[390, 1200], questions=questions)
    assert not visit.errors and all(visit.answers[width]["width"] <= width for width in (390, 1200))


def test_small_numbers_beside_large_ones_keep_their_digits(tmp_path):
    """Distances of several metrics in one column; and energies of one kind keep one number of decimals."""
    distances, energies = [0.0128, 0.3623, 0.1, 0.05, 0.0, 142.02], [-12.345, -0.012, -9.87, -11.0, -10.0, -12.0]
    pd.DataFrame({"x": range(6), "d": distances, "e": energies}).to_csv(tmp_path / "t.csv", index=False)
    html = report._table(tmp_path / "t.csv")["html"]
    cells = re.findall(r"<td>(.*?)</td>", html)
    assert cells[1::3] == ["0.013", "0.362", "0.100", "0.050", "0.000", "142.0"]
    assert cells[2::3] == ["-12.35", "-0.01", "-9.87", "-11.00", "-10.00", "-12.00"]


@pytest.mark.parametrize(("n", "rows", "hidden"), [(30, 30, 0), (31, 31, 0), (32, 30, 2)])
def test_a_table_never_hides_a_single_row(tmp_path, n, rows, hidden):
    pd.DataFrame({"x": range(n)}).to_csv(tmp_path / "t.csv", index=False)
    table = report._table(tmp_path / "t.csv")
    assert (table["html"].count("<tr") - 1, table["hidden"]) == (rows, hidden)


def test_tables_read_as_sentences_and_sensible_numbers(tmp_path):
    claim = "unresolved: " + "a long claim, " * 20 + "whole"
    frame = pd.DataFrame({"row": ["a", "b"], "claim": [claim, "b"], "n": 200, "energy": [-0.021234567, -7e-19]})
    frame = frame.assign(count=[11190.0, None], far=[171.129, 5.0], small=[1.23456e-5, 0], published=None)
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = report._table(tmp_path / "t.csv")
    cells = re.findall(r"<t[dh]>(.*?)</t[dh]>", table["html"])
    assert cells[:7] == ["row", "claim", "energy", "count", "far", "small", "a"] and claim in cells
    assert cells[8:12] == ["-0.021", "11,190", "171.1", "1.23e-05"]
    assert cells[14:16] == ["0.000", "–"]
    assert table["common"] == [("n", "200")]


def test_long_tables_with_a_line_a_sample_are_files_only(tmp_path):
    for name in ("match_verdicts_generation", "match_rates"):
        pd.DataFrame({"target": [f"t{i}" for i in range(300)]}).to_csv(tmp_path / f"{name}.csv", index=False)
    assert "t0" not in report._table(tmp_path / "match_verdicts_generation.csv")["html"]
    assert "t0" in report._table(tmp_path / "match_rates.csv")["html"]


def test_a_table_without_columns_has_nothing_to_show(tmp_path):
    pd.DataFrame().to_csv(tmp_path / "empty.csv", index=False)
    assert "nothing to show" in report._table(tmp_path / "empty.csv")["html"]


def test_figures_in_the_index_keep_the_size_they_were_drawn_for(repository):
    made_run(repository)
    with Image.open(repository / "outputs/mine/figures/figure_3_coordinates.png") as image:
        inches = image.width / 150
    assert f'width="{round(96 * inches)}"' in report.index("mine").read_text()


def test_run_scores_add_up_times_and_take_the_largest_memory_of_the_report(repository):
    made_run(repository)
    Run(AblationParams(run="mine"), root=repository / "outputs").finish()
    times = {"02_polymorph_dataset": (10.5, 1.25), "04_train_generation": (20.0, 3.5), "13_ablation": (99.0, 9.9)}
    for name, (seconds, peak) in times.items():
        path = repository / "outputs/mine/manifests" / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": seconds, "peak_gib": peak}))
    report.index("mine")
    scores = {score["id"]: score for score in json.loads((repository / "outputs/mine/scores.json").read_text())}
    assert scores["mine.seconds"]["value"] == 30.5 and scores["mine.seconds"]["unit"] == "s"
    assert scores["mine.peak_gib"]["value"] == 3.5 and scores["mine.first_page_seconds"]["value"] == 10.5
    assert scores["mine.match"]["ci_high"] == 0.31
    fields = {"id", "value", "unit", "n", "ci_low", "ci_high", "machine", "command", "commit"}
    assert all(fields <= set(score) for score in scores.values())


def test_a_run_of_the_notebook_that_became_four_is_told_what_to_do(repository, capsys):
    made_run(repository)
    assert not capsys.readouterr().out and report.index("mine") and not capsys.readouterr().out
    path = repository / "outputs/mine/manifests" / "04_train_generation.json"
    path.write_text(path.read_text().replace("04_train_generation", "10_model_study"))
    assert report.index("mine").exists()
    assert re.search("10_model_study.*13_ablation.*`make study`", capsys.readouterr().out)


def test_index_of_an_unknown_run_says_what_to_do(repository):
    with pytest.raises(BadInput, match="make report RUN=nowhere"):
        report.index("nowhere")


def test_publish_merges_scores_and_renews_the_readme(repository, small_weights):
    published, readme = repository / "outputs/published", repository / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    published.mkdir()
    score = {"unit": "s", "n": 1, "ci_low": None, "ci_high": None, "machine": "m", "command": "c", "commit": "x"}
    (published / "scores.json").write_text(
        json.dumps([score | {"id": "a", "value": 1.0}, score | {"id": "b", "value": 2.0}])
    )
    (repository / "outputs/tests").mkdir()
    (repository / "outputs/tests/scores.json").write_text(json.dumps([score | {"id": "b", "value": 3.0}]))
    (repository / "outputs/tests/tables").mkdir()
    (repository / "outputs/tests/tables/resources_generation.csv").write_text(
        "model,steps,seconds\nlong,1000,100.4\nshort,500,22.4\nonly used,0,1.0\n"
    )
    weights = Path(shutil.copy(small_weights, repository))
    write_card(weights, ["b"], repository / "none yet")
    report.publish("tests", readme_path=readme, weights=repository)
    assert "| `b` | 3 s | 1 | m |" in read_card(weights)
    values = {s["id"]: s["value"] for s in json.loads((published / "scores.json").read_text())}
    assert values == {"a": 1.0, "b": 3.0}
    text = readme.read_text()
    assert text.startswith("before\n<!-- results -->\n") and text.endswith("\n<!-- /results -->\nafter\n")
    assert "old" not in text
    page = (published / "scores.md").read_text()
    assert "| `b` | 3 s | 1 |  | `c` | m | x |" in page and "On a GPU" not in page
    assert f"| `{weights.name}` | {training_in_words(load_model(weights).about)} |" in page
    assert "| `tests`, 2 networks for generation | 1,500 steps in 2 min 03 s |" in page
    with pytest.raises(BadInput, match="make the run first"):
        report.publish("nowhere", readme_path=readme, weights=repository)


def test_published_runs_stay_small_and_whole(repository, monkeypatch):
    readme = repository / "README.md"
    readme.write_text("<!-- results -->\n<!-- /results -->\n")
    made_run(repository)
    report.index("mine")
    monkeypatch.setattr(report, "_time_second_run", lambda run: None)
    published = report.publish("mine", readme_path=readme, weights=repository / "none")
    kept = {str(path.relative_to(published / "mine")) for path in published.glob("mine/**/*.*")}
    assert {"index.html", "scores.json", "figures/figure_3_coordinates.png", "tables/split.csv"} <= kept
    assert not [name for name in kept if name.endswith(".svg")]
    of_all = sum(path.stat().st_size for path in published.rglob("*") if path.is_file())
    monkeypatch.setattr(report, "PUBLISHED_LIMIT", of_all + 10_000)
    report.publish("mine", readme_path=readme, weights=repository / "none")  # in place of itself
    (published / "another").mkdir()
    (published / "another" / "table.csv").write_bytes(bytes(of_all))
    with pytest.raises(BadInput, match="would hold"):
        report.publish("mine", readme_path=readme, weights=repository / "none")
    shutil.rmtree(published / "another")
    monkeypatch.setattr(report, "PUBLISHED_LIMIT", 20_000)
    before = sorted(published.rglob("*"))
    with pytest.raises(BadInput, match="'mine', .* 0.02 MB; remove .*: .*index.html"):
        report.publish("mine", readme_path=readme, weights=repository / "none")
    assert sorted(published.rglob("*")) == before


def test_readme_without_its_marks_is_refused(repository):
    readme = repository / "README.md"
    readme.write_text("nothing here")
    with pytest.raises(BadInput, match="put them back"):
        report.readme(readme)
    assert readme.read_text() == "nothing here"


@pytest.mark.parametrize("seconds, words", [(4.2, "4 s"), (61, "1 min 01 s"), (7265, "2 h 01 min")])
def test_durations_are_readable(seconds, words):
    assert duration_in_words(seconds) == words
