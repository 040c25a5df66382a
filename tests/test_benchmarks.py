"""The benchmarks' references agree with the library, and each benchmark runs and leaves scores; no time is asserted."""

import json
import math

import numpy as np
import pytest
import torch

from benchmarks import imports, matcher, multigraph, paper_unet, pbc_loss, periodic
from benchmarks.models import TINY_UNET, trainer
from benchmarks.suite import BenchmarkParams, bench, main
from benchmarks.timing import Result, in_turns, ratios, repeated
from lib.core.errors import BadInput
from lib.core.machine import machine
from lib.core.run import Run
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.models.losses import pbc_loss as of_library
from lib.models.paper_state import PaperTensors
from lib.models.unet import PaperNet, UNetSizes
from lib.studies.score import graph_of

IDS = {
    "imports": ["speed.import_seconds"],
    "pbc_loss": ["speed.pbc_loss_ratio"],
    "hull": ["hull.entries_per_s"],
    "house": ["house.largest_file", "house.lib_lines"],
    "relaxation": [
        f"relax.{n}"
        for n in ("batch_differs_angstrom", "batch_differs_mev", "batch_ratio_cpu", "batch_ratio_one_process", "lost")
    ],
    "matcher": ["speed.matcher_ratio", "speed.matcher_ratio_two_processes"],
    "multigraph": ["score.graph.ms_per_crystal", "score.graph.python_ratio"],
    "paper_unet": [f"speed.paper_unet.{n}" for n in ("cpu_ratio", "train_per_s_h200", "sample_per_s_h200")],
    "scale": [f"aflow.{n}" for n in ("groups_3p5m_peak_gib", "groups_3p5m_seconds", "open_2p1m_seconds")],
    "aflow": [f"aflow.{n}" for n in ("ingest_entries_per_s", "standardised_per_s", "reading_ratio")],
    "disordered": [f"dismai.{n}" for n in ("fingerprint_ratio", "score_1000_seconds")],
    "periodic": [
        f"speed.periodic.{n}" for n in ("cpu_train_ratio", "cpu_sample_ratio", "train_per_s_h200", "seconds_10k_h200")
    ],
}
FIELDS = {"id", "value", "unit", "n", "ci_low", "ci_high", "machine", "command", "commit"}


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """Runs write below a temporary folder."""
    monkeypatch.setattr(Run.__init__, "__defaults__", (tmp_path,))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", IDS)
def test_every_benchmark_runs_and_leaves_scores(outputs, name):
    repetitions = 2 if name == "relaxation" else 5  # each starts two processes with a potential
    params = BenchmarkParams(only=[name], tiny=True, repetitions=5, n_workers=1, device="cpu")
    table = bench(params.model_copy(update={"repetitions": repetitions}))
    scores = json.loads((outputs / "benchmarks" / "scores.json").read_text())
    assert [score["id"] for score in scores] == sorted(IDS[name]) == sorted(table.id)
    for score in scores:
        assert set(score) - {"reason"} == FIELDS
        assert score["command"] == "make bench" and score["machine"] == machine()
        if score["id"].endswith("_h200"):
            assert score["value"] is None and "CUDA" in score["reason"]
        elif name in ("scale", "house"):  # once, as it takes minutes at its true size; counted
            assert score["n"] and score["value"] > 0 and score["ci_low"] is None
        elif score["id"] in ("relax.lost", "relax.batch_differs_mev", "relax.batch_differs_angstrom"):
            assert score["n"] == 5 and 0 <= score["value"] < 0.01
        else:
            assert score["n"] >= repetitions and 0 < score["ci_low"] <= score["value"] <= score["ci_high"]
    assert (outputs / "benchmarks" / "tables" / "benchmarks.csv").read_text().count("\n") == 1 + len(IDS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name, module", [("paper_unet", paper_unet), ("periodic", periodic)])
def test_what_is_measured_on_a_gpu_runs_anywhere(outputs, name, module):
    results = list(module.alone(Run(BenchmarkParams(tiny=True, device="cpu", repetitions=5, n_workers=1))))
    assert [result.id for result in results] == [id for id in IDS[name] if id.endswith("_h200")]
    assert all(result.value > 0 and result.n == 5 for result in results)


@pytest.mark.slow
def test_a_benchmark_by_itself_leaves_the_other_scores_alone(outputs, capsys):
    path = outputs / "benchmarks" / "scores.json"
    path.parent.mkdir()
    path.write_text(json.dumps([{"id": "speed.matcher_ratio", "value": 7.0}, {"id": "speed.pbc_loss_ratio"}]))
    main(["--only", "pbc_loss", "--tiny"])
    matcher_score, loss_score = json.loads(path.read_text())
    assert matcher_score == {"id": "speed.matcher_ratio", "value": 7.0}
    assert loss_score["value"] > 0
    assert "speed.pbc_loss_ratio" in capsys.readouterr().out


def test_a4_atom_by_atom_is_the_librarys_loss():
    prediction, target = pbc_loss.atoms(9, 7, seed=1)
    n_sites = [7, 1, 4, 6, 2, 7, 7, 7, 7]
    mask = torch.arange(7) < torch.tensor(n_sites)[:, None]
    kinds = ((target == 0) | (target == 1)).sum(-1)[mask]
    assert set(kinds.tolist()) == {0, 1, 2, 3}, "usual atoms, faces, edges and vertices"
    naive = pbc_loss.value_and_gradient(lambda p: pbc_loss.naive_loss(p, target, n_sites), prediction)
    lib = pbc_loss.value_and_gradient(lambda p: of_library(p, target, mask), prediction)
    for a, b in zip(naive, lib, strict=True):
        torch.testing.assert_close(a, b)
    assert naive[1].abs().sum() > 0


def test_plain_network_is_the_papers():
    net = PaperNet(PaperTensors(), TINY_UNET)
    plain = paper_unet.plain_twin(net, TINY_UNET)
    assert [id(p) for p in plain.parameters()] == [id(p) for p in net.parameters()]
    with pytest.raises(ValueError):
        paper_unet.plain_twin(net, UNetSizes(16, (1, 2), 2, (1, 2), 16, 16))


def test_plain_network_has_the_papers_number_of_parameters():
    with torch.device("meta"):
        plain = paper_unet.PlainNet(UNetSizes(), 22)
    assert sum(p.numel() for p in plain.parameters()) == 304_781_763


def test_a_plain_network_that_differs_is_noticed(outputs):
    with trainer(Run(BenchmarkParams(tiny=True)), "paper", 4, on_cpu=True) as ours:
        plain = paper_unet.plain_twin(ours.net, TINY_UNET)
        before = [p.clone() for p in ours.net.parameters()]
        paper_unet.check(ours, plain)
        assert all(torch.equal(a, b) for a, b in zip(before, ours.net.parameters(), strict=True))
        plain.middle[0].attends = False
        with pytest.raises(AssertionError):
            paper_unet.check(ours, plain)


def test_pairs_to_match_are_half_matches_and_checked():
    table = CrystalTable.from_parquet(EMBEDDED)
    pairs = matcher.pairs_of(table, 24, np.random.default_rng(2))
    answers = matcher.plain(pairs)
    assert len(pairs) == 24 and sum(default for default, _ in answers) == 12
    matcher.check(answers, matcher.of_library(pairs, n_workers=1))
    matcher.check(answers, matcher.plain_in(pairs, n_workers=2))
    wrong = [(default, rms + 1e-3) for default, rms in answers]
    with pytest.raises(BadInput, match="another answer"):
        matcher.check(answers, wrong)
    assert any(math.isnan(rms) for _, rms in answers)


def test_the_plain_reading_of_the_multigraph_is_the_librarys():
    run = Run(BenchmarkParams(tiny=True))
    for unit in multigraph.few(run):
        edges, cosines = multigraph.plain(unit, 4.0)
        _, graph = graph_of([unit], 4.0)
        lengths = [length for several in edges for _, _, length, _ in several]
        np.testing.assert_allclose(np.sort(lengths), np.sort(graph.distance.numpy()), atol=1e-4)
        np.testing.assert_allclose(np.sort(cosines), np.sort(graph.cosine.numpy()), atol=2e-3)


def test_import_cells_are_those_of_every_notebook():
    cells = imports.import_cells()
    assert "06_match_tables" in cells and all("lib" in source for source in cells.values())
    assert {"lib", "lib.core.run", "lib.datasets.sources.aflow"} <= set(imports.modules())


def test_jobs_take_turns_after_a_warm_up():
    calls = []
    times = in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}
    assert ratios({"a": [2.0, 9.0], "b": [1.0, 3.0]}, of="a", to="b") == [2.0, 3.0]
    counted, times = repeated(lambda: calls.append("c"), at_least=0.001)
    counted()
    assert calls.count("c") == times + 2


def test_a_line_knows_whether_its_target_is_reached():
    line = Result("speed.matcher_ratio", "something", "x")
    assert line.of([1.0, 4.0, 3.5]).reached and not line.of([1.0, 2.0, 9.0]).reached
    assert line.of([1.0, 4.0, 3.5]).interval == (1.0, 4.0)
    assert Result("speed.import_seconds", "seconds", "s").of([4.0]).reached
    assert line.without("no GPU").reached is None and "no GPU" in line.without("no GPU").in_words()
