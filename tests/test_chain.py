"""The notebooks as a user runs them: `make study PROFILE=smoke`, report included, then what it left behind."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import make

from lib.core.files import ROOT, sha256_of
from lib.crystals.table import CrystalTable
from lib.report import runs as report

SHIPPED = (ROOT / "lib" / "weights" / "generation_mp20.safetensors").exists()  # what 00 needs
STEPS = sorted(path.stem for path in (ROOT / "notebooks").glob("[01]*.ipynb"))  # those of smoke
STEPS = [step for step in STEPS if SHIPPED or not step.startswith("00")]
PAGES = ["index.html", *(f"html/{step}.html" for step in STEPS)]
LIMIT_SECONDS = 1500  # a fifth of it on two free cores; machines of half their speed, with other work, have been seen


def test_runs_in_minutes_and_says_where_the_report_is(chain):
    assert str(chain.folder / "index.html") in chain.output
    assert chain.seconds < LIMIT_SECONDS or os.environ.get("KEEP_CHAIN")


def test_every_notebook_left_its_manifest_and_page(chain):
    assert sorted(path.stem for path in chain.folder.glob("manifests/*.json")) == STEPS
    assert [page for page in PAGES if not (chain.folder / page).stat().st_size] == []


def test_manifests_tell_inputs_outputs_and_what_it_took(chain):
    for step, manifest in json.loads((chain.folder / "manifest.json").read_text())["notebooks"].items():
        assert manifest["parameters"]["run"] == chain.folder.name and manifest["profile"] == "smoke"
        assert manifest["seconds"] > 0 and 0.1 < manifest["peak_gib"] < 8, step
        assert {"commit", "packages", "hardware", "seed"} <= set(manifest)
        wrong = [n for n, about in manifest["outputs"].items() if about["sha256"] != sha256_of(chain.folder / n)]
        assert not wrong, f"{step}: files changed after they were registered"
        uncaptioned = [
            n for n, about in manifest["outputs"].items() if n[:4] in ("figu", "tabl") and not about["caption"]
        ]
        assert not uncaptioned, step


def test_findings_head_the_index(chain):
    notebooks = json.loads((chain.folder / "manifest.json").read_text())["notebooks"]
    found = {step: manifest["findings"] for step, manifest in notebooks.items() if manifest["findings"]}
    assert {step[:2] for step in found} == {"00", "01", "02", "03", "06", "07", "09", "14"}
    assert len(found["06_match_tables"]) == 6
    head = html.unescape((chain.folder / "index.html").read_text().split("<figure")[0])
    assert all(sentence in head for sentences in found.values() for sentence in sentences)


def test_the_papers_figures_and_tables_are_all_there(chain):
    made = {report.label_of(path.name) for path in chain.folder.rglob("*.*") if path.suffix in (".svg", ".csv")}
    assert {label.rstrip("abc") for label in made} - {""} == {
        "Figure 1",
        "Figure 2",
        "Figure 3",
        "Figure 4",
        "Table 1",
        "Table 2",
        "Table 3",
    }


def test_files_named_in_the_readme_exist(chain):
    table = (ROOT / "README.md").read_text().split("## From the paper's figures to files")[1].split("\n## ")[0]
    rows = re.findall(r"^\| .*? \| .*? \| \[`(.*?)`\]\((.*?)\) \| (.*?) \|$", table, re.M)
    assert len(rows) >= 7
    structures = {
        "structures/generated/*.cif": CrystalTable.from_parquet(chain.folder / "data/generated.parquet"),
        "structures/vasp/*/POSCAR": CrystalTable.from_parquet(chain.folder / "data/preoptimised.parquet"),
    }
    for notebook, link, files in rows:
        assert (ROOT / link).stem == notebook and (ROOT / link).exists()
        missing = {name for name in re.findall(r"`(.*?)`", files) if not list(chain.folder.glob(name))}
        missing -= {name for name, table in structures.items() if not len(table)}  # of barely trained models
        assert not missing, f"{notebook} makes no {missing}"


def test_no_training_formula_is_in_validation(chain):
    train, validation = (CrystalTable.from_parquet(chain.folder / f"data/{n}.parquet") for n in ("train", "validation"))
    assert len(train) and len(validation)
    assert not set(train.reduced_formula) & set(validation.reduced_formula)


def test_tables_compare_models_with_baselines_and_the_paper(chain):
    for name in ("table_1_generation", "table_2_modification"):
        table = pd.read_csv(chain.folder / f"tables/{name}.csv")
        text = table.to_csv().lower()
        assert all(word in text for word in ("paper", "periodic", "substitution", "published")), name


def test_second_report_does_nothing_and_is_quick(chain):
    before = {path: path.stat().st_mtime_ns for path in chain.folder.rglob("*") if path.is_file()}
    started = time.monotonic()
    for target in ("report", "study"):
        done = make(target, "PROFILE=smoke", f"RUN={chain.folder.name}")
        assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr
    assert time.monotonic() - started < 60
    assert {path: path.stat().st_mtime_ns for path in chain.folder.rglob("*") if path.is_file()} == before


def test_missing_file_is_made_again_with_what_depends_on_it(chain):
    def left(*options: str) -> set[str]:
        words = [
            sys.executable,
            "-m",
            "snakemake",
            "-n",
            "--cores",
            "1",
            "--nolock",
            "--rerun-triggers",
            "mtime",
            "input",
            "params",
        ]
        words += ["--config", "profile=smoke", f"run={chain.folder.name}", *options]
        out = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return set(re.findall(r"^(\d\d_\w+|report|study) +\d+$", out, re.M))

    assert left() == set()
    assert left("--forcerun", "08_preoptimise") == {"08_preoptimise", "09_vasp_hull_analysis", "report"}
    assert left("--forcerun", "03_pbc_loss") == {"03_pbc_loss", "report"}
    assert left("--forcerun", "11_does_it_obey", "--", "study") == {"11_does_it_obey", "study"}


@pytest.mark.slow
def test_profile_that_does_not_exist_is_refused():
    done = make("report", "PROFILE=quik")
    assert done.returncode and "'quik'" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("run", ["../elsewhere", ".."])
def test_run_outside_of_outputs_is_refused(run):
    done = make("report", "PROFILE=smoke", f"RUN={run}")
    assert done.returncode and f"'{run}'" in done.stdout + done.stderr
    assert not (ROOT / "elsewhere").exists()


@pytest.mark.parametrize("name", PAGES)
def test_page_in_a_browser(chain, browser, name):
    page = chain.folder / name
    questions = {
        "broken": "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src.slice(0, 99))",
        "images": "document.images.length",
        "width": "document.documentElement.scrollWidth",
        "font": "parseFloat(getComputedStyle(document.body).fontSize)",
        "links": "[...document.links].map(a => a.href).filter(h => h.startsWith('file:')).map(h => h.split('#')[0])",
        "blank": """[...document.querySelectorAll("crystal-view canvas")].filter(c => {
            const copy = new OffscreenCanvas(c.width, c.height).getContext("2d", {willReadFrequently: true});
            copy.drawImage(c, 0, 0);
            return !copy.getImageData(0, 0, c.width, c.height).data.some(v => v);
        }).length""",
    }
    visit = browser.visit(page.as_uri(), widths=(390, 1200), questions=questions)
    assert visit.errors == []
    assert [url for url in visit.requests if not url.startswith(("data:", chain.folder.as_uri()))] == []
    for width, answers in visit.answers.items():
        assert answers["broken"] == [] and answers["images"] > 0 and answers["blank"] == 0
        assert answers["width"] <= width and answers["font"] >= 15
    missing = [link for link in answers["links"] if not Path(link.removeprefix("file://")).exists()]
    assert not missing


def test_drawn_and_turnable_structures_are_in_the_gallery(chain):
    page = (chain.folder / "html/07_inference_wbta.html").read_text()
    assert "<crystal-view" in page and "customElements.define" in page


def test_published_copy_is_small_and_complete(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "OUTPUTS", tmp_path)
    shutil.copytree(chain.folder, tmp_path / chain.folder.name, ignore=shutil.ignore_patterns("models", "data"))
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    monkeypatch.setenv("MAKEFLAGS", f"--old-file=.venv/ready BIN={Path(sys.executable).parent}")
    published = report.publish(chain.folder.name, readme_path=tmp_path / "README.md", weights=tmp_path)
    copied = published / chain.folder.name
    names = {str(path.relative_to(copied)) for path in copied.rglob("*") if path.is_file()}
    assert {*PAGES, "manifest.json", "tables/table_1_generation.csv"} <= names
    assert sum(path.stat().st_size for path in published.rglob("*")) < 6e6
    scores = {score["id"]: score for score in json.loads((published / "scores.json").read_text())}
    run = chain.folder.name
    assert 0 < scores[f"{run}.second_run_seconds"]["value"] < 30
    assert scores[f"{run}.seconds"]["value"] > 0 and 0 < scores[f"{run}.peak_gib"]["value"] < 8
    assert f"`{run}.seconds`" in (published / "scores.md").read_text()
