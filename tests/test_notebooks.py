"""The notebooks as files: parameters agree everywhere, no outputs, small cells, quick imports, formulas render."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

import lib.params
from lib import report
from lib.run import ROOT, Params, literal_assignments, validated

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted(path.name for path in (ROOT / "params").iterdir())
COMMON = set(Params.model_fields)
MODELS = {
    model.notebook: model
    for model in vars(lib.params).values()
    if inspect.isclass(model) and issubclass(model, Params) and "notebook" in vars(model)
}
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
def test_parameter_cell_holds_the_models_fields_with_quicks_values(path):
    model, values = MODELS[path.stem], parameter_cell(path)
    assert set(values) == set(model.model_fields)
    source = next(c.source for c in cells(path, "code") if "parameters" in c.metadata.get("tags", []))
    assert literal_assignments([source]) == set(values)
    quick = report.parameters(path.stem, "quick")
    assert validated(model, values) == validated(model, quick)


@pytest.mark.parametrize("profile", PROFILES)
@notebooks
def test_profiles_hold_exactly_the_parameters_and_they_are_possible(path, profile):
    model = MODELS[path.stem]
    own = yaml.safe_load((ROOT / "params" / profile / f"{path.stem}.yaml").read_text()) or {}
    common = yaml.safe_load((ROOT / "params" / profile / "_common.yaml").read_text())
    assert set(common) == COMMON
    assert set(own) == set(model.model_fields) - COMMON
    validated(model, common | own)


def test_every_parameter_file_belongs_to_a_notebook():
    known = {f"{path.stem}.yaml" for path in NOTEBOOKS} | {"_common.yaml"}
    strangers = [path for path in (ROOT / "params").glob("*/*") if path.name not in known]
    assert not strangers


@notebooks
def test_code_is_calls_not_programs(path):
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.body[0].lineno < 5, f"{node.name} in {cell.id} is longer than five lines"
            assert not isinstance(node, ast.ClassDef), f"{cell.id} defines a class"


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


@notebooks
def test_formulas_render_without_network(path, tmp_path):
    page = report.write_page(path, tmp_path / "page.html").read_text()
    unset = re.findall(r'<code class="formula">(.*?)</code>', page)
    assert not unset, f"matplotlib's mathtext cannot set {unset}"


@pytest.mark.slow
def test_misspelt_parameter_stops_the_run_with_a_hint(tmp_path):
    path = ROOT / "notebooks" / "01_aflow_ingest.ipynb"
    values = report.parameters(path.stem, "smoke") | {"run": "misspelt", "min_site": 4}
    with pytest.raises(papermill.PapermillExecutionError) as failure:
        papermill.execute_notebook(path, tmp_path / "out.ipynb", values, cwd=ROOT, progress_bar=False)
    assert failure.value.ename == "BadInput"
    assert "'min_site' is not known" in failure.value.evalue and "'min_sites'" in failure.value.evalue
