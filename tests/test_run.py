"""The run context: what a user reads after a mistake, what a broken write leaves behind, what the manifest holds."""

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib.core.errors import BadInput
from lib.core.files import ROOT, replacing, write_json
from lib.core.parameters import literal_assignments, validated
from lib.core.run import Run
from lib.core.workers import do_all, worker_pool
from lib.figures.style import subplots
from lib.studies.params import DatasetParams, IngestParams, PbcLossParams
from lib.studies.study_params import AblationParams, TellingParams


@pytest.fixture
def run(tmp_path):
    return Run(PbcLossParams(run="trial", steps=7), root=tmp_path)


def python(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, **options
    )


# ------------------------------------------------------------------ parameters


def test_misspelt_parameter_is_named_with_the_right_spelling():
    with pytest.raises(BadInput, match="'stpes' .*03_pbc_loss; .*'steps'"):
        validated(PbcLossParams, {"stpes": 10})
    assert validated(PbcLossParams, {"n_bootstrap": 1000}) == PbcLossParams(), "what an older file of parameters holds"


def test_a_name_unlike_any_other_gets_the_list():
    with pytest.raises(BadInput, match="'zzz' .*03_pbc_loss; .*batch_size, .*steps"):
        validated(PbcLossParams, {"zzz": 1})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": 0}, ["'steps' of 03_pbc_loss got 0", "greater than or equal to 1"]),
        ({"norm_order": 2.0}, ["'norm_order'", "got 2.0", "less than 0"]),
        ({"seed": -1}, ["'seed'", "got -1"]),
        ({"device": "tpu"}, ["'device'", "'tpu'", "'auto', 'cpu' or 'cuda'"]),
        ({"batch_size": "many"}, ["'batch_size'", "'many'", "integer"]),
        ({"run": "../elsewhere"}, ["'run'", "'../elsewhere'"]),
        ({"run": ".."}, ["'run'", "'..'"]),
        ({"steps": 0, "seed": -1}, ["'steps'", "'seed'"]),
    ],
)
def test_impossible_value_names_key_value_and_what_is_allowed(values, words):
    with pytest.raises(BadInput) as caught:
        validated(PbcLossParams, values)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_parameters_that_do_not_fit_together_name_the_notebook_and_no_empty_key():
    with pytest.raises(BadInput) as caught:
        validated(IngestParams, {"source": "files"})
    assert str(caught.value).startswith("01_aflow_ingest") and "files_folder" in str(caught.value)


def test_numbers_that_yaml_reads_as_text_still_count():
    assert validated(PbcLossParams, {"norm_order": "-1e1"}).norm_order == -10


def test_start_takes_the_names_that_the_parameter_cells_assigned(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cells = ['run = "trial"\nseed = 3\nsteps = 5', "# Parameters\nsteps = 9\n", "import numpy as np", "the cell itself"]
    run = Run.start(PbcLossParams, {"In": cells, "run": "trial", "seed": 3, "steps": 9, "np": np})
    assert (run.params.run, run.params.seed, run.params.steps) == ("trial", 3, 9)
    assert not list(tmp_path.iterdir())  # nothing is written before there is something to write
    wide = pd.DataFrame({f"column {i}": [i] for i in range(40)})
    assert all(name in wide._repr_html_() for name in wide), "a notebook shows every column"


def test_a_script_of_a_few_lines_may_use_workers(tmp_path):
    lines = ["import math", "from lib.core.workers import worker_pool", "with worker_pool(1) as pool:"]
    lines += ["    print(list(pool.map(math.sqrt, [4.0, 9.0])))", "print(__file__)"]
    (tmp_path / "script.py").write_text("\n".join(lines))
    words = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "timeout": 60}
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, **words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[2.0, 3.0]") == 1 and "script.py" in done.stdout


def test_start_refuses_a_name_that_papermill_would_only_warn_of():
    cells = ['run = "trial"\nsteps = 5', "# Parameters\nstpes = 9\n", ""]
    with pytest.raises(BadInput, match="did you mean 'steps'"):
        Run.start(PbcLossParams, {"In": cells, "run": "trial", "steps": 5, "stpes": 9})


def test_a_corrected_parameters_cell_run_again_replaces_the_misspelt_one():
    cells = ["", 'run = "a"\nstpes = 5', "start", 'run = "a"\nsteps = 5', "start"]
    assert literal_assignments(cells) == {"run", "steps"}
    assert literal_assignments([*cells, "# Parameters\nseed = 1"]) == {"run", "steps", "seed"}


def test_only_cells_of_plain_assignments_are_parameters():
    cells = ["x = [1, 2]\ny = -3", "z = f(x)", "import os", "%matplotlib inline", "", "a = {'k': None}  # comment"]
    assert literal_assignments(cells) == {"x", "y", "a"}


def test_a_mistake_shows_as_one_sentence_in_a_notebook():
    assert BadInput("formula 'Xx' does not parse")._render_traceback_() == ["BadInput: formula 'Xx' does not parse"]


def test_cuda_without_a_gpu(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BadInput, match="'device' is 'cuda', but no GPU"):
        _ = Run(PbcLossParams(device="cuda"), root=tmp_path).device
    assert Run(PbcLossParams(), root=tmp_path).device.type == "cpu"


# ------------------------------------------------------------------ seeds


def test_same_seed_same_numbers_and_notebooks_differ(tmp_path):
    draws = [Run(PbcLossParams(seed=s), root=tmp_path).rng.random(4).tolist() for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert Run(IngestParams(seed=1), root=tmp_path).rng.random(4).tolist() != draws[0]
    study = [Run(model(seed=1), root=tmp_path).seed for model in (TellingParams, AblationParams)]
    assert study[0] == study[1], "one request has one answer in all notebooks of the study"


def test_libraries_without_generators_are_seeded_too(tmp_path):
    import random

    import torch

    def draw() -> tuple:
        Run(PbcLossParams(seed=5), root=tmp_path).seed_torch()
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw() == draw()


# ------------------------------------------------------------------ inputs


def test_missing_upstream_output_names_the_notebook_to_run(run):
    with pytest.raises(BadInput, match="run 02_polymorph_dataset .*train.parquet"):
        Run(PbcLossParams(run="never"), root=ROOT / "outputs").upstream("data/train.parquet", "02_polymorph_dataset")
    with pytest.raises(BadInput, match="run 04_train_generation first"):
        run.upstream("models/generation_paper_ddpm.safetensors", "04_train_generation")


# ------------------------------------------------------------------ writing


def test_replacing_puts_the_file_in_place_at_the_end(tmp_path):
    with replacing(tmp_path / "new" / "file.txt") as temporary:
        temporary.write_text("whole")
        written = temporary.stat().st_ino
        assert not (tmp_path / "new" / "file.txt").exists()
    assert (tmp_path / "new" / "file.txt").read_text() == "whole"
    assert (tmp_path / "new" / "file.txt").stat().st_ino == written, "renamed, not copied: it is never there in part"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.txt"]


def test_a_private_file_becomes_as_readable_as_any_other(tmp_path):
    (tmp_path / "other.txt").write_text("content")
    with replacing(tmp_path / "file.txt") as temporary:
        temporary.touch(mode=0o600)
    assert (tmp_path / "file.txt").stat().st_mode == (tmp_path / "other.txt").stat().st_mode


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_interrupted_write_keeps_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(failure), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise failure
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_killed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    code = f"""
        import os, signal
        from lib.core.files import replacing
        with replacing({str(path)!r}) as temporary:
            temporary.write_text("half of the n")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert python(code).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def full_disk(path: Path) -> Path:
    """Make the next `replacing(path)` of this process write to a device that is always full."""
    (path.parent / f".{os.getpid()}.{path.name}").symlink_to("/dev/full")
    return path


def writers() -> dict:
    frame = pd.DataFrame({"x": np.arange(1000)})

    def figure(run: Run, name: str) -> None:
        run.figure(plt.figure(), Path(name).stem, "empty")

    return {
        "a.json": lambda run, name: write_json(run.path(name), {"x": list(range(1000))}),
        "tables/b.csv": lambda run, name: run.table(frame, "b", "numbers"),
        "figures/c.svg": figure,
        "figures/d.png": figure,
    }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full, the full device of Linux, is missing")
@pytest.mark.parametrize("name", writers())
@pytest.mark.parametrize("old", [None, b"old"])
def test_full_disk_while_writing_leaves_nothing_half_written(run, name, old):
    path = run.path(name)
    if old:
        path.write_bytes(old)
    full_disk(path)
    with pytest.raises(BadInput, match="No space left on device; free") as caught:
        writers()[name](run, name)
    assert path.name in str(caught.value) and caught.value.__cause__.errno == errno.ENOSPC
    assert (path.read_bytes() if path.exists() else None) == old
    assert not [file for file in path.parent.iterdir() if file.name.startswith(".")]


@pytest.mark.slow
def test_file_size_limit_while_writing_a_crystal_table(tmp_path):
    """A limit of the system, as quotas set it: the parquet writer fails part way."""
    code = f"""
        import resource
        import numpy as np
        from pymatgen.core import Structure
        from lib.crystals.table import CrystalTable
        cubes = [Structure(np.eye(3) * a, ["Ta", "B"], np.random.rand(2, 3)) for a in np.random.rand(3000) + 3]
        table = CrystalTable.from_structures(
            cubes, id=range(3000), formation_energy=np.zeros(3000), space_group=np.ones(3000), energy_kind="none"
        )
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        table.to_parquet({str(tmp_path / "t.parquet")!r})
    """
    done = python(code)
    assert "BadInput: cannot write" in done.stderr and "t.parquet: " in done.stderr and "free some space" in done.stderr
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="cannot write"), replacing(tmp_path / "file" / "x.json"):
        pass


# ------------------------------------------------------------------ outputs and manifest


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_a_run_would_resume_from_goes_when_it_is_finished(run):
    (run.resume / "batch").write_bytes(b"1")
    assert (run.resume / "batch").exists() and run.resume.is_relative_to(run.folder)
    run.finish()
    run.finish()  # the cell may be run again
    assert [path for path in run.folder.glob(".*")] == []


def test_a_file_of_an_earlier_notebook_that_is_gone_or_cut_short_is_named(run):
    earlier = Run(DatasetParams(run="trial"), root=run.folder.parent)
    with pytest.raises(BadInput, match="run 02_polymorph_dataset first: .*train.parquet is missing$"):
        run.upstream("data/train.parquet", "02_polymorph_dataset")
    path = earlier.path("data/train.parquet")
    pd.DataFrame({"x": [1]}).to_parquet(path)
    whole = path.read_bytes()
    earlier.finish()
    remedy = "; delete .*manifests/02_polymorph_dataset.json and give the same command again"
    for rest in (whole[: len(whole) // 2], b""):
        path.write_bytes(rest)
        with pytest.raises(BadInput, match=f"train.parquet is damaged .*{remedy}"):
            run.upstream("data/train.parquet", "02_polymorph_dataset")
    path.unlink()
    with pytest.raises(BadInput, match=f"train.parquet is missing{remedy}"):
        run.upstream("data/train.parquet", "02_polymorph_dataset")
    with pytest.raises(BadInput, match="02_polymorph_dataset has ended without .*other.safetensors"):
        run.upstream("models/other.safetensors", "02_polymorph_dataset")


def test_manifest_holds_what_made_the_results(run, tmp_path):
    upstream = run.folder / "data" / "train.parquet"
    upstream.parent.mkdir(parents=True)
    pd.DataFrame({"x": [1]}).to_parquet(upstream)
    outside = tmp_path / "energies.csv"
    outside.write_text("1")
    run.upstream("data/train.parquet", "02_polymorph_dataset")
    run.input(outside)
    run.table(pd.DataFrame({"x": [1.5]}), "table_1", "A caption")
    run.figure(plt.figure(), "figure_1", "Another")
    run.path("models/never_written.safetensors")
    run.score("loss.match", 0.25, "fraction", n=200, ci=(0.2, 0.3))
    run.score("loss.vasp", None, "eV", reason="no VASP here")
    manifest = run.finish()

    assert json.loads((run.folder / "manifests" / "03_pbc_loss.json").read_text()) == manifest
    assert manifest["parameters"] == run.params.model_dump() and manifest["parameters"]["steps"] == 7
    assert manifest["seed"] == run.seed and manifest["seconds"] >= 0 and manifest["peak_gib"] > 0.01
    assert manifest["inputs"] == {"data/train.parquet": sha256(upstream), str(outside): sha256(outside)}
    assert manifest["outputs"] == {
        name: {"caption": caption, "sha256": sha256(run.folder / name)}
        for name, caption in {
            "tables/table_1.csv": "A caption",
            "figures/figure_1.svg": "Another",
            "figures/figure_1.png": "Another",
        }.items()
    }
    assert {"torch", "pymatgen-core", "spglib"} <= manifest["packages"].keys()
    assert len(manifest["commit"]) == 40 or manifest["commit"] == "unknown"
    assert manifest["hardware"]["cores"] >= 1 and manifest["hardware"]["memory_gib"] > 0
    match, vasp = manifest["scores"]
    assert (match["id"], match["value"], match["n"], match["ci_low"], match["ci_high"]) == (
        "loss.match",
        0.25,
        200,
        0.2,
        0.3,
    )
    assert set(match) == {"id", "value", "unit", "n", "ci_low", "ci_high", "machine", "command", "commit"}
    assert vasp["value"] is None and vasp["reason"] == "no VASP here"


def test_a_figure_drawn_twice_is_the_same_file(run):
    sums = []
    for _ in range(2):
        figure, axes = subplots()
        axes.plot([0, 1], [1, 0])
        run.figure(figure, "line", "A line")
        sums.append([sha256(run.folder / f"figures/line.{suffix}") for suffix in ("svg", "png")])
    assert sums[0] == sums[1]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_score_without_a_number_needs_a_reason(run, value):
    with pytest.raises(ValueError, match="score x has no value and no reason"):
        run.score("x", value, "fraction")
    run.score("x", value, "fraction", reason="nothing matched")
    assert run.finish()["scores"][0]["value"] is None


def _torch_threads(_: int) -> set[int]:
    import torch

    info = torch.__config__.parallel_info()  # of OpenMP and, where torch has it, of MKL
    return {torch.get_num_threads(), *map(int, re.findall(r"get_max_threads\(\) : (\d+)", info))}


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_a_worker_has_one_thread_and_the_parent_keeps_its_own(monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    with worker_pool(1) as pool:
        assert list(pool.map(_torch_threads, [0])) == [{1}]
    assert os.environ[variable] == "2"


@pytest.mark.parametrize("n_workers", [1, 2])
def test_all_of_no_tasks_is_done(n_workers):
    do_all(os.abort, [], n_workers, desc="nothing")
