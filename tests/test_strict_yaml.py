"""YAML read strictly: what programs read in different ways is refused by name and line; so are senseless parameters."""

from __future__ import annotations

import pytest

from lib.core import parameters
from lib.core.errors import BadInput
from lib.core.parameters import notebook_parameters, validated
from lib.core.run import Run
from lib.core.strict_yaml import read_yaml
from lib.datasets.sources.files import read_references
from lib.report import runs as report
from lib.studies.params import (
    DatasetParams,
    InferenceParams,
    IngestParams,
    MatchParams,
    PreoptimiseParams,
    QuickstartParams,
    TrainGenerationParams,
)
from lib.studies.study_params import AblationParams


def read(tmp_path, content: str | bytes):
    path = tmp_path / "some.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("2.0e-3", 2e-3), ("1e3", 1000.0), (".5", 0.5), ("-12", -12), ("0", 0),
        ("true", True), ("null", None), ("", None), ("~", None), ("NaN", "NaN"), ("Y", "Y"), ("TaW2B5", "TaW2B5"),
        ("'012'", "012"), ('"yes"', "yes"), ("!!str 012", "012"), ("[1, [2.5, a]]", [1, [2.5, "a"]]),
        ("{a: 1, No: {b: c}}", {"a": 1, "No": {"b": "c"}}),
    ],
)  # fmt: skip
def test_what_can_be_read_in_one_way_is_read(tmp_path, text, value):
    found = read(tmp_path, f"# a comment\nx: {text}\n")["x"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    ["012", "-012", "10:00", "1:30.5", "0x10", "0b11", "1_000", "1_0.5", "yes", "No", "on", "OFF", "2026-01-01"]
    + [".inf", "-.Inf", ".nan", "1e400", "9" * 5000, "=", "!!int '3'", "!!binary aGk=", "!other 3"],
)
def test_what_can_be_read_in_several_ways_is_refused_by_name_and_line(tmp_path, text):
    for written in (f"steps: {text}", f"steps: [1, {text}]", f"steps: {{inner: {text}}}"):
        with pytest.raises(BadInput, match=r"some\.yaml, line 2: steps") as refusal:
            read(tmp_path, f"seed: 1\n{written}\n")
        assert "\n" not in str(refusal.value) and "write" in str(refusal.value)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 1\n", "k: {a: 1, a: 2}", "k:\n- a: 1\n  'a': 2", 'a: 1\n"a": 2'])
def test_a_key_that_stands_twice(tmp_path, text):
    with pytest.raises(BadInput, match=r"line \d: (k\.)?a stands twice"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "content",
    [
        "a: b\n\tc: 1\n",
        "a: [b\n",
        "- a\n- b\n",
        "hello\n",
        "a: !!python/object/apply:os.getcwd []\n",
        "a: b: c",
        "a: \0",
    ]
    + ["a: 1\n---\nb: 2\n", "a: &x 1\nb: *x\n", "a: &x [*x]\n", "a:\n  <<: {b: 1}\n", "? [a, b]\n: 1\n"]
    + ["a: " + 10_000 * "[", b"a: b # \xfc\n", "a: b\n".encode("utf-16")],
)
def test_a_file_that_does_not_read_is_named(tmp_path, content):
    with pytest.raises(BadInput, match=r"some\.yaml") as refusal:
        read(tmp_path, content)
    assert "\n" not in str(refusal.value)


def test_empty_files_marks_of_byte_order_and_files_that_are_none(tmp_path):
    assert read(tmp_path, "") == read(tmp_path, "# nothing\n") == {}
    assert read(tmp_path, b"\xef\xbb\xbfa: 1\r\nb: 2\r\n") == {"a": 1, "b": 2}
    for place in (tmp_path, tmp_path / "missing.yaml"):
        with pytest.raises(BadInput, match=place.name):
            read_yaml(place)


def test_energies_of_the_elements_are_read_strictly(tmp_path):
    path = tmp_path / "references.yaml"
    path.write_text("No: -1\nTa: -1.185e1\n")
    assert read_references(path) == {"No": -1, "Ta": -11.85}
    for text, word in (("Ta: -11\nTa: -12", "Ta stands twice"), ("Ta: 1:30", "Ta is 1:30"), ("Ta: 0x10", "Ta is 0x10"),
                       ("Ta: true", "Ta"), ("Ta:", "Ta"), ("Ta: [1]", "Ta")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(BadInput, match=word):
            read_references(path)


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        (IngestParams, "energy_window", [5, -5]),
        (IngestParams, "energy_window", [1, 1]),
        (IngestParams, "energy_window", [float("-inf"), 5]),
        (IngestParams, "aflow_sites", [60, 1]),
        (IngestParams, "aflow_sites", [0, 60]),
        (IngestParams, "aflow_url", "file:///etc/passwd"),
        (IngestParams, "aflow_catalogs", []),
        (IngestParams, "files_folder", ""),
        (IngestParams, "min_sites", True),
        (DatasetParams, "validation_fraction", float("nan")),
        (TrainGenerationParams, "learning_rate", float("inf")),
        (TrainGenerationParams, "learning_rate", ".inf"),
        (TrainGenerationParams, "steps", True),
        (TrainGenerationParams, "steps", None),
        (TrainGenerationParams, "steps", 10**30),
        (TrainGenerationParams, "epochs", False),
        (TrainGenerationParams, "networks", []),
        (TrainGenerationParams, "networks", ["paper", "paper"]),
        (TrainGenerationParams, "methods", []),
        (TrainGenerationParams, "channel_mult", []),
        (TrainGenerationParams, "channel_mult", [0, 1]),
        (TrainGenerationParams, "n_workers", 10**6),
        (MatchParams, "steps_scan", []),
        (MatchParams, "steps_scan", [0]),
        (InferenceParams, "formulas", []),
        (InferenceParams, "formulas", [False]),
        (InferenceParams, "formulas", ["TaB2", " "]),
        (InferenceParams, "formulas", ["TaXx"]),
        (InferenceParams, "potential", "chgnat"),
        (PreoptimiseParams, "finer", "none"),
        (QuickstartParams, "relax", "non"),
        (DatasetParams, "left_out", ["Xx"]),
        (InferenceParams, "experiments", []),
        (InferenceParams, "experiments", [[0.0, 0.0]]),
        (InferenceParams, "models", {}),
        (InferenceParams, "space_groups", []),
        (AblationParams, "ablation", {}),
        (AblationParams, "run", "published"),
    ],
)
def test_senseless_values_are_refused_by_the_name_of_the_parameter(model, name, value):
    with pytest.raises(BadInput, match=f"'{name}"):
        validated(model, {name: value})


def test_values_that_make_no_sense_together():
    for model, values in (
        (DatasetParams, {"validation_fraction": 0.6, "test_fraction": 0.5}),
        (TrainGenerationParams, {"networks": ["transformer"], "methods": ["ddpm"]}),
    ):
        with pytest.raises(BadInput, match="' and '|of 'methods'"):
            validated(model, values)


def test_truth_numbers_and_text_where_they_belong():
    assert validated(TrainGenerationParams, {"compile": True, "steps": 1e3, "seed": 10**15}).steps == 1000
    assert validated(AblationParams, {"ablation": {"a": {"see_templates": False}}}).ablation["a"]
    assert validated(QuickstartParams, {"relax": "none"}).relax == "none"


def test_what_papermill_read_by_itself_is_checked_as_far_as_it_shows():
    cells = ['run = "trial"\nsteps = 5', "# Parameters\nlearning_rate = float('nan')\nstpes = 9\n", ""]
    values = {"run": "trial", "steps": 5, "learning_rate": float("nan"), "stpes": 9}
    with pytest.raises(BadInput, match="(?s)'learning_rate'.*'stpes'|'stpes'.*'learning_rate'"):
        Run.start(TrainGenerationParams, {"In": cells} | values)


def test_published_is_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "OUTPUTS", tmp_path)
    for name in ("published", "Published", "../elsewhere"):
        with pytest.raises(BadInput, match="'run'"):
            report.execute("01_aflow_ingest", "smoke", name)
    assert not list(tmp_path.iterdir())


def test_a_run_of_the_files_is_checked_though_the_command_names_another(tmp_path, monkeypatch):
    monkeypatch.setattr(parameters, "PROFILES", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "_common.yaml").write_text("seed: 1\n")
    (tmp_path / "mine" / "01_aflow_ingest.yaml").write_text("run: published\n")
    with pytest.raises(BadInput, match="'run' .*'published'"):
        notebook_parameters("01_aflow_ingest", "mine")
