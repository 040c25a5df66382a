"""README and docs: short, with links that lead somewhere, commands that exist and examples that work."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lib.core.files import ROOT
from lib.crystals.table import CrystalTable
from lib.entrants import requests_of
from lib.report.headlines import HEADLINES, headline_table, score_page

PAGES = [ROOT / "README.md", ROOT / "THIRD_PARTY.md", *sorted((ROOT / "docs").glob("*.md"))]
NEW = {  # what the examples add
    "lib/entrants/lowest_energy.py",
    "lib/methods/middle_flow.py",
    "lib/models/pooled_net.py",
    "lib/datasets/sources/frames.py",
}
of_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page that are marked as this language; "" for those without a mark."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for mark, text in found if mark == language]


def top_level(path: Path) -> set[str]:
    """Names that a module defines or imports."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        names |= {alias.asname or alias.name for alias in getattr(node, "names", [])}
        names |= {getattr(node, "name", "")}
    return names


def source_of(module: str) -> Path:
    """The file that reads the words of `python -m module`: a command hands them on."""
    path = ROOT / module.replace(".", "/")
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    hands_on = re.search(r"^from (lib\.[\w.]+) import .*main$", path.read_text(), re.MULTILINE)
    return source_of(hands_on[1]) if hands_on and "argparse" not in path.read_text() else path


@of_pages
def test_pages_are_short(page):
    most = 1500 if page.name == "README.md" else 1200
    assert len(page.read_text().split()) <= most, f"{page.name} has more than {most} words"


@of_pages
def test_links_and_files_exist(page):
    text = page.read_text()
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    named = re.findall(r"`((?:lib|notebooks|tests|benchmarks|params)/[\w./]*\w)`", text)
    missing += [name for name in named if name not in NEW and not (ROOT / name).exists()]
    assert not missing


@of_pages
def test_commands_exist_with_their_options(page):
    text = page.read_text()
    for line in text.replace("\\\n", " ").splitlines():
        for module, rest in re.findall(r"-m ((?:lib|benchmarks)[\w.]*)([^`|]*)", line):
            assert "def main" in source_of(module).read_text(), f"{module} is no command"
            constants = {
                n.value for n in ast.walk(ast.parse(source_of(module).read_text())) if isinstance(n, ast.Constant)
            }
            unknown = [word for word in re.findall(r"--[a-z-]+", rest) if word not in constants]
            assert not unknown, f"{module} has no {unknown}"
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake (?!sure)(\w+)`?(?: [A-Z]+=|\s*(?:#|$|`|&&))", text, re.MULTILINE)) <= targets
    profiles = {path.name for path in (ROOT / "params").iterdir()}
    assert set(re.findall(r"PROFILE=(\w+)", text)) <= profiles


@of_pages
def test_examples_are_python_of_this_library(page):
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("lib."):
                path = ROOT / node.module.replace(".", "/")
                path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
                assert {alias.name for alias in node.names} <= top_level(path), f"not in {node.module}"


@of_pages
def test_diffs_apply(page):
    for text in blocks(page, "diff"):
        parts = re.split(r"^--- (\S+).*\n", text, flags=re.MULTILINE)[1:]
        for name, lines in zip(parts[::2], parts[1::2], strict=True):
            held = (ROOT / name).read_text().replace("\\n", "").replace('"', "")
            for line in lines.splitlines():
                if line[:1] in ("-", " ") and line[1:].strip():
                    assert line[1:].strip().replace('"', "") in held, f"{name} has no line {line[1:].strip()!r}"


@pytest.fixture(scope="module")
def crystals() -> CrystalTable:
    table = CrystalTable.from_parquet(ROOT / "lib/data/embedded.parquet")
    return table.take(np.arange(0, len(table), 100))


def test_the_example_of_an_entrant_answers(crystals, tmp_path):
    method: dict = {}
    exec(blocks(ROOT / "docs/add-entrant.md", "python")[0], method)
    method["fit"](crystals, crystals, folder=tmp_path)
    answers = method["sample"](requests_of(crystals), folder=tmp_path)
    for i, answer in enumerate(answers):
        assert sorted(answer.atomic_numbers) == sorted(crystals.species_of(i).tolist())


def test_the_example_of_a_data_set_reads(crystals, tmp_path):
    import ase.io
    from pymatgen.io.ase import AseAtomsAdaptor

    some = crystals.take(range(3))
    frames = [AseAtomsAdaptor.get_atoms(structure, msonable=False) for structure in some.structures()]
    for frame, name, energy in zip(frames, some.id, some.formation_energy, strict=True):
        frame.info = {"id": name, "formation_energy": float(energy)}
    ase.io.write(tmp_path / "frames.xyz", frames, format="extxyz")
    source: dict = {}
    exec(blocks(ROOT / "docs/add-data-set.md", "python")[0], source)
    params = SimpleNamespace(frames_path=tmp_path / "frames.xyz")
    table = source["load"](params, SimpleNamespace(input=lambda path: path))
    assert table.id.tolist() == some.id.tolist() and table.formula.tolist() == some.formula.tolist()
    assert table.formation_energy == pytest.approx(some.formation_energy)


def test_a_headline_stands_beside_its_strongest_baseline():
    first = HEADLINES[0]
    values = {first.score: 0.5, **dict(zip(first.baselines, (0.25, 0.125), strict=True))}
    scores = [{"id": i, "value": v, "ci_low": v / 2, "ci_high": 2 * v, "n": 1000} for i, v in values.items()]
    (row,) = headline_table(scores).splitlines()[2:]
    strongest, weaker = first.baselines.values()
    assert "50.0 % (25.0 to 100.0)" in row and f"{strongest}: 25.0 % (12.5 to 50.0)" in row and weaker not in row
    unmeasured = [score | {"value": None} if score["id"] == first.score else score for score in scores]
    assert headline_table(unmeasured) == headline_table([]) == ""


def test_scores_older_than_the_pages_of_their_run_stand_in_brackets(tmp_path):
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick/manifest.json").write_text(json.dumps({"notebooks": {"06": {"commit": "a" * 40}}}))
    score = {"value": 1.0, "unit": "", "n": 1, "ci_low": None, "ci_high": None, "machine": "m, 2 cores"}
    report, other = "make report PROFILE=quick", "make bench"
    of = [("new", report, "a"), ("old", report, "b"), ("other", other, "b"), ("elsewhere", f"{report} RUN=trial", "b")]
    scores = [score | {"id": name, "command": command, "commit": 40 * commit} for name, command, commit in of]
    page = score_page(scores, tmp_path, tmp_path / "no weights")
    shown = {
        line.split("`")[1]: line.split(" | ")[-1].strip(" |") for line in page.splitlines() if line.startswith("| `")
    }
    assert shown == {"new": "aaaaaaa", "old": "(bbbbbbb)", "other": "bbbbbbb", "elsewhere": "bbbbbbb"}


def test_the_readme_shows_six_results_of_the_published_scores():
    block = (ROOT / "README.md").read_text().split("<!-- results -->")[1].split("<!-- /results -->")[0]
    scores = json.loads((ROOT / "outputs/published/scores.json").read_text())
    assert block.strip() == headline_table(scores) and block.count("\n| [") == len(HEADLINES) == 6
