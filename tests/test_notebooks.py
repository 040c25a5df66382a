"""The notebooks as files: parameters agree everywhere, no outputs, small cells, quick imports, formulas render."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from conftest import rock_salt, table

from lib.core import parameters
from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.parameters import (
    PROFILES,
    STUDIES,
    STUDY,
    Params,
    literal_assignments,
    notebook_parameters,
    profile_notebooks,
    validated,
)
from lib.core.strict_yaml import read_yaml
from lib.profiles import MODELS, checked_values
from lib.report import pages
from lib.studies.params import MatchParams

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILE_NAMES = sorted(path.name for path in PROFILES.iterdir())
IMPORT_SECONDS = 8  # of processor time; 4 to 5 on a quiet machine, most of it torch
notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def parameter_cell(path: Path) -> dict[str, object]:
    """Names and values of the cell tagged `parameters`, which may hold nothing but literals."""
    source = next(c.source for c in cells(path, "code") if "parameters" in c.metadata.get("tags", []))
    return {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse(source).body}


def test_all_notebooks_of_the_paper_are_there():
    numbers = [path.stem[:2] for path in NOTEBOOKS]
    assert numbers[:10] == [f"0{i}" for i in range(10)]
    assert {path.stem for path in NOTEBOOKS} == set(MODELS)
    assert [path.stem for path in NOTEBOOKS][10:14] == STUDIES


@notebooks
def test_nothing_executed_is_committed(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert not [c.id for c in notebook.cells if c.get("outputs") or c.get("execution_count")]
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert notebook.metadata.kernelspec.name == "python3"


@notebooks
def test_begins_with_a_title_and_ends_with_its_manifest(path):
    notebook = nbformat.read(path, 4)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith(f"# {path.stem[:2]}")
    assert notebook.cells[-1].source.strip().rstrip(";") == "run.finish()"


@notebooks
def test_parameter_cell_shows_the_models_defaults(path):
    model, values = MODELS[path.stem], parameter_cell(path)
    assert set(values) == set(model.model_fields)
    source = next(c.source for c in cells(path, "code") if "parameters" in c.metadata.get("tags", []))
    assert literal_assignments([source]) == set(values)
    assert validated(model, values) == model() == model(**notebook_parameters(path.stem, "quick"))


@pytest.mark.parametrize("profile", PROFILE_NAMES)
def test_profiles_hold_what_differs_from_the_defaults_and_is_possible(profile):
    common = read_yaml(PROFILES / profile / "_common.yaml")
    assert profile_notebooks(profile, MODELS) == common.pop("notebooks")
    assert profile_notebooks(profile, MODELS, STUDY) == common.pop("study", STUDIES)
    assert set(common) <= set(Params.model_fields)
    assert Params(**common).run == profile
    for name, model in MODELS.items():
        path = PROFILES / profile / f"{name}.yaml"
        values, defaults = validated(model, notebook_parameters(name, profile)), model()
        own = read_yaml(path) if path.exists() else {}
        assert not set(own) & set(Params.model_fields), f"{path} repeats what _common.yaml is for"
        repeated = [key for key in [*own, *common] if getattr(values, key) == getattr(defaults, key)]
        assert not repeated and bool(own) == path.exists(), f"{path} repeats defaults: {repeated}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("notebooks: [10_model_study]\n", "10_model_study has become four .* 13_ablation, .* 'study: "),
        ("seed: 1\n", "lists no notebooks to run; add the line 'notebooks: .01_aflow_ingest, .*'"),
        ("notebooks: []\n", "lists no notebooks to run"),
        ("notebooks: [06_match_table]\n", "no notebook '06_match_table'; name 06_match_tables"),
        ("notebooks: [6]\n", "no notebook 6; name one of 01_aflow_ingest, "),
        (
            "notebooks: [01_aflow_ingest]\n",
            "07_inference.yaml: there is no notebook '07_inference'; name 07_inference_wbta",
        ),
    ],
)
def test_a_profile_that_names_no_notebooks_is_told_what_to_write(text, words, tmp_path, monkeypatch):
    monkeypatch.setattr(parameters, "PROFILES", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "07_inference.yaml").write_text("n_energies: 3\n")
    (tmp_path / "mine" / "_common.yaml").write_text(text)
    with pytest.raises(BadInput, match=words):
        profile_notebooks("mine", [name for name in MODELS if name > "01"])


@pytest.mark.parametrize("notebook", ["09_vasp_hull_analysis", "10_what_must_be_told"])
def test_a_misspelt_value_of_any_notebook_that_runs_is_told_before_the_first(notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(parameters, "PROFILES", tmp_path)
    shutil.copytree(PROFILES / "smoke", tmp_path / "smoke")
    assert set(checked_values("smoke")) == set(MODELS)
    (tmp_path / "smoke" / f"{notebook}.yaml").write_text("n_answrs: 3\n")
    with pytest.raises(BadInput, match=f"'n_answrs' is not known in {notebook[:2]}"):
        checked_values("smoke")


@pytest.mark.parametrize(
    ("notebook", "asked", "words"),
    [
        ("06_match_tables", "networks: [paper]", "asks for the generation model 'paper_cfm_normal', and 04_train_gen"),
        (
            "06_match_tables",
            "modification_long_model: transformer_cfm_noise",
            "modification model .*_noise_long., and 05",
        ),
        ("07_inference_wbta", "models: {ddim: paper_ddpm}", "asks for the generation model 'paper_ddpm', and 04_tr"),
    ],
)
def test_a_model_that_nobody_trains_is_told_before_the_first_notebook(notebook, asked, words, tmp_path, monkeypatch):
    monkeypatch.setattr(parameters, "PROFILES", tmp_path)
    shutil.copytree(PROFILES / "mine", tmp_path / "mine")
    path = tmp_path / "mine" / f"{notebook}.yaml"
    kept = [line for line in path.read_text().splitlines() if not line.startswith(asked.split(":")[0] + ":")]
    path.write_text("\n".join([*kept, asked]))
    with pytest.raises(BadInput, match=words):
        checked_values("mine")


@pytest.mark.parametrize(
    "name", ["04_train_generation.yml", "04_train_generation.YAML", "04_train_generation.yaml.txt"]
)
def test_a_file_of_a_profile_that_would_not_be_read_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setattr(parameters, "PROFILES", tmp_path)
    shutil.copytree(PROFILES / "quick", tmp_path / "quick")
    (tmp_path / "quick" / name).write_text("steps: 3\n")
    with pytest.raises(BadInput, match=f"{name} is not read; name it 04_train_generation.yaml"):
        checked_values("quick")


@pytest.mark.slow
def test_changed_values_run_again_what_they_reach_and_comments_nothing(tmp_path):
    for name in ("Snakefile", "notebooks", "params", "lib"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    snakefile, profile = tmp_path / "Snakefile", tmp_path / "params" / "smoke"
    snakefile.write_text(re.sub('"{sys.executable:q} -m lib.report .*"', '"touch {output:q}"', snakefile.read_text()))

    def jobs(*options: str) -> set[str]:
        line = "-m snakemake --cores 1 --nolock --rerun-triggers mtime input params --config profile=smoke run=any"
        command = [sys.executable, *line.split(), *options]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return set(re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, re.M)) - {"report", "study"}

    common = (profile / "_common.yaml").read_text()
    (profile / "_common.yaml").write_text(common.replace("  - 03_pbc_loss\n", "").replace("  - 13_ablation\n", ""))
    assert "06_match_tables" in (first := jobs()) and "03_pbc_loss" not in first, "the list says what runs"
    assert not first & set(STUDIES) and jobs("--", "study") == {*STUDIES[:3], "14_uniform_or_normal"}, (
        "the study has a list of its own"
    )
    (profile / "07_inference_wbta.yaml").open("a").write("# a comment\n")
    assert not jobs("--dry-run")
    (profile / "07_inference_wbta.yaml").open("a").write("n_energies: 3\n")
    assert jobs("--dry-run") == {"07_inference_wbta", "08_preoptimise", "09_vasp_hull_analysis"}
    (profile / "09_vasp_hull_analysis.yaml").open("a").write("seeed: 3\n")
    with pytest.raises(subprocess.CalledProcessError) as stopped:
        jobs()
    assert "'seeed' is not known in 09" in stopped.value.stderr, "before the first notebook runs"


def test_what_papermill_passes_of_a_whole_profile_is_taken():
    """papermill by hand puts the list of notebooks of `_common.yaml` among the parameters."""
    given = read_yaml(PROFILES / "smoke" / "_common.yaml") | read_yaml(PROFILES / "smoke" / "06_match_tables.yaml")
    assert validated(MatchParams, given) == validated(MatchParams, notebook_parameters("06_match_tables", "smoke"))


@notebooks
def test_code_is_calls_not_programs(path):
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.body[0].lineno < 5, f"{node.name} in {cell.id} is longer than five lines"
            assert not isinstance(node, ast.ClassDef), f"{cell.id} defines a class"


def test_what_every_step_of_a_run_loads_is_little():
    """Snakemake reads a profile each time, and each notebook is run by a process of its own."""
    code = "import sys, lib.profiles, lib.report.runs, papermill\nprint({'torch', 'lark'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_imports_are_quick():
    """Those of all notebooks, one after another in one fresh process: none alone takes longer than all together."""
    code = ["import time"]
    for path in NOTEBOOKS:
        imports = "\n".join(c.source for c in cells(path, "code") if re.search(r"^(from|import) ", c.source, re.M))
        statements = [s for s in ast.parse(imports).body if isinstance(s, ast.Import | ast.ImportFrom)]
        code += [*map(ast.unparse, statements), f"print({path.stem!r}, round(time.process_time(), 1))"]
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], cwd=ROOT, check=True, capture_output=True, text=True)
    seconds = float(done.stdout.split()[-1])
    assert seconds < IMPORT_SECONDS, f"imports take {seconds} s of processor time:\n{done.stdout}"


@pytest.mark.slow
@notebooks
def test_formulas_render_without_network(path, tmp_path):
    page = pages.write_page(path, tmp_path / "page.html").read_text()
    unset = re.findall(r'<code class="formula">(.*?)</code>', page)
    assert not unset, f"matplotlib's mathtext cannot set {unset}"


@pytest.mark.slow
def test_misspelt_parameter_stops_the_run_with_a_hint(tmp_path):
    path = ROOT / "notebooks" / "01_aflow_ingest.ipynb"
    values = notebook_parameters(path.stem, "smoke") | {"run": "misspelt", "min_site": 4}
    with pytest.raises(papermill.PapermillExecutionError) as failure:
        papermill.execute_notebook(path, tmp_path / "out.ipynb", values, cwd=ROOT, progress_bar=False)
    assert failure.value.ename == "BadInput"
    assert "'min_site' is not known" in failure.value.evalue and "'min_sites'" in failure.value.evalue


def test_formulas_seen_in_training_are_told_in_lowest_terms():
    """Notebook 07 says of which formulas the training set has crystals, whatever the formula units of their cells."""
    source = "\n".join(c.source for c in cells(ROOT / "notebooks" / "07_inference_wbta.ipynb", "code"))
    line = next(line for line in source.splitlines() if line.startswith('changes["seen in training"]'))
    known = {"changes": pd.DataFrame({"formula": ["AlNi", "AlNi3"]}), "train": table([rock_salt(5.0, "Al", "Ni")])}
    exec(line, known)
    assert known["changes"]["seen in training"].tolist() == [True, False]
