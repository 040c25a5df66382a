"""The true crystal wins before a distorted one, by energy and by the model's own loss; the invalid never win."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.core import Structure

import lib.generation.ranking
from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable, atomic_volumes
from lib.datasets.sources.embedded import EMBEDDED
from lib.energies.relaxation import single_point
from lib.generation.ranking import best_by_model, best_of
from lib.generation.sampling import TrainedModel, load_model
from lib.models.transformer import TransformerSizes
from lib.training.spec import TrainSettings, make_spec
from lib.training.trainer import Trainer


@pytest.fixture(scope="module")
def embedded() -> CrystalTable:
    return CrystalTable.from_parquet(EMBEDDED)


@pytest.fixture(scope="module")
def volumes(embedded) -> np.ndarray:
    return atomic_volumes(embedded)


@pytest.fixture(scope="module")
def lowest(embedded) -> list[Structure]:
    """The lowest crystals of three formulas, of four to six atoms."""
    small = embedded.take((embedded.n_sites >= 4) & (embedded.n_sites <= 6))
    rows = [np.flatnonzero(small.formula == formula) for formula in np.unique(small.formula)[:40:15]]
    return [small.structure(few[small.formation_energy[few].argmin()]) for few in rows]


def distorted(structure: Structure, seed: int, by: float = 0.35) -> Structure:
    """Atoms moved by `by` Å each."""
    rng = np.random.default_rng(seed)
    shift = rng.normal(size=(len(structure), 3))
    shift *= by / np.linalg.norm(shift, axis=1, keepdims=True)
    return Structure(structure.lattice, structure.species, structure.cart_coords + shift, coords_are_cartesian=True)


def crushed(structure: Structure) -> Structure:
    return structure.copy().scale_lattice(structure.volume / 5)


def test_the_lowest_energy_wins_and_the_invalid_never_do(lowest, volumes, tmp_path):
    candidates = [
        [distorted(lowest[0], 0), None, lowest[0], distorted(lowest[0], 1)],
        [lowest[1], crushed(lowest[1])],
        [None, crushed(lowest[2])],
        [],
    ]
    best = best_of(candidates, volumes=volumes, finished=tmp_path)
    assert best.index.tolist() == [2, 0, -1, -1]
    assert best.structures == [lowest[0], lowest[1], None, None]
    assert best.scores[:2] == pytest.approx([single_point(s) for s in lowest[:2]], abs=1e-5)
    assert np.isnan(best.scores[2:]).all()
    files = list(tmp_path.iterdir())
    assert len(files) == 4, "the valid ones"
    for file in files:  # marks that only files read back can bear: the order is turned round
        file.write_text(json.dumps(-json.loads(file.read_text())))
    assert best_of(candidates, volumes=volumes, finished=tmp_path).index[0] != 2


def test_a_relaxed_candidate_is_judged_by_where_it_ends(lowest, volumes, tmp_path):
    """The distorted one falls back towards where it came from; a failed one loses, whatever its energy."""
    near = distorted(lowest[0], 0, by=0.1)
    settings = {"volumes": volumes, "finished": tmp_path, "fmax": 0.05, "keep_symmetry": False, "n_workers": 1}
    before = single_point(near)
    best = best_of([[near], [near, lowest[0]]], relaxed=True, **settings)
    assert best.scores[0] < before - 1e-3
    assert best.structures[0] != near and best.structures[0].composition == near.composition
    (moved,) = [file for file in tmp_path.iterdir() if json.loads(file.read_text())["displacement"] > 0.02]
    results = json.loads(moved.read_text())
    moved.write_text(json.dumps(results | {"failure": "lost", "energy": -99.0}))
    failed = best_of([[near], [near, lowest[0]]], relaxed=True, **settings)
    assert failed.index.tolist() == [0, 1]
    assert failed.structures[0] == near and failed.scores[0] == pytest.approx(before, abs=1e-5)
    collapsed = results | {"structure": crushed(near).as_dict(), "energy": -99.0}
    moved.write_text(json.dumps(collapsed))
    assert best_of([[near, lowest[0]]], relaxed=True, **settings).index.tolist() == [1]
    moved.write_text(json.dumps(results | {"failure": "lost", "start_energy": -99.0}))
    assert best_of([[near, lowest[0]]], relaxed=True, **settings).index.tolist() == [1]


# ------------------------------------------------------------------ by the model


@pytest.fixture(scope="module")
def few(embedded) -> CrystalTable:
    """Sixteen crystals of many groups."""
    small = embedded.take((embedded.n_sites >= 4) & (embedded.n_sites <= 6))
    _, first = np.unique(small.space_group, return_index=True)
    return small.take(first[:16])


@pytest.fixture(scope="module")
def model(few, tmp_path_factory) -> TrainedModel:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    spec = make_spec("generation", "transformer", "cfm_uniform", few, TransformerSizes(32, 2, 4))
    settings = TrainSettings(300, 16, 5e-3, 10, 0.95, "fp32", 300, 300, forget=0.5)
    Trainer(spec, few, few, settings, path, torch.device("cpu")).run()
    return load_model(path)


@pytest.mark.slow
def test_a_model_finds_the_crystals_it_knows_before_noise(few, model, volumes, tmp_path, monkeypatch):
    known = list(few.structures())
    candidates = [[distorted(s, seed, 1.0), s, distorted(s, 100 + seed, 1.0)] for seed, s in enumerate(known)]
    monkeypatch.setattr(lib.generation.ranking, "reason_invalid", lambda structure, _: "" if structure else "none")
    request = few.space_group, few.formation_energy
    how = {"volumes": volumes, "n_draws": 16, "resume": tmp_path}
    best = best_by_model([*candidates, [None]], model, *(np.append(v, v[:1]) for v in request), **how)
    assert (best.index[:-1] == 1).mean() > 0.7
    assert best.index[-1] == -1 and best.structures[-1] is None
    assert np.isfinite(best.scores[:-1]).all()
    alone = best_by_model([[s] for s in known], model, *request, **how | {"batch_size": 5, "resume": None})
    won = best.index[:-1] == 1
    assert alone.scores[won] == pytest.approx(best.scores[:-1][won], rel=1e-4), "neither neighbours nor batch matter"
    otherwise = best_by_model([[s] for s in known], model, request[0][::-1].copy(), request[1], **how)
    assert np.abs(otherwise.scores - alone.scores).max() > 1e-3, "the request is heard"
    (batch,) = [file for file in tmp_path.glob("*_0.json") if len(json.loads(file.read_text())) == 3 * len(known)]
    batch.write_text(json.dumps([1.0, 2.0, 0.0] * len(known)))
    again = best_by_model([*candidates, [None]], model, *(np.append(v, v[:1]) for v in request), **how)
    assert (again.index[:-1] == 2).all(), "what is finished is not computed again"


def test_only_flows_that_know_crystals_without_symmetry_rank(few, model, volumes):
    spec = replace(model.spec, method="wrapped")
    other = replace(model, spec=spec, method=spec.build()[1])
    request = few.space_group[:1], few.formation_energy[:1]
    with pytest.raises(BadInput, match="generation_transformer_wrapped .*flow matching"):
        best_by_model([[None]], other, *request, volumes=volumes)
    bound = replace(model, about={"settings": {"forget": 0.0}})
    with pytest.raises(BadInput, match="'transformer_forget'"):
        best_by_model([[None]], bound, *request, volumes=volumes)
