"""A start from weights: lower loss than from nothing, the parent's representation, clear refusals, exact resumption."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import lib.training.trainer
from lib.core.errors import BadInput
from lib.core.files import sha256_of
from lib.core.parameters import validated
from lib.core.run import Run
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.figures.model import learning_curves
from lib.generation.sampling import load_model
from lib.models.transformer import TransformerSizes
from lib.studies.learning_curve import NOTHING, WEIGHTS, curve_points, curve_scores, share_of
from lib.studies.model_plan import curves, trainers
from lib.studies.params import TrainGenerationParams, TrainModificationParams
from lib.training.checkpoints import Parent, copy_weights, load_weights, save_weights
from lib.training.spec import TrainSettings, make_spec
from lib.training.trainer import Trainer

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
SMALL = TransformerSizes(32, 2, 4)
SETTINGS = {"batch_size": 16, "validate_every": 20, "precision": "fp32", "learning_rate": 2e-3, "warmup_steps": 5}
NETWORK = {"networks": ["transformer"], "methods": ["cfm_uniform"], "long_model": None, "long_steps": None}
NETWORK |= {"transformer_width": 32, "transformer_blocks": 2, "transformer_heads": 4, "transformer_templates": False}


@pytest.fixture(scope="module")
def embedded() -> CrystalTable:
    table = CrystalTable.from_parquet(EMBEDDED)
    return table.take((table.n_sites >= 4) & (table.n_sites <= 6))


@pytest.fixture(scope="module")
def old(embedded) -> CrystalTable:
    """What the parent learns from: alloys of Mo, Ta, V and W."""
    inside = np.isin(embedded.species, [23, 42, 73, 74])
    return embedded.take(np.logical_and.reduceat(inside, embedded.offsets[:-1])).take(range(100))


@pytest.fixture(scope="module")
def new(embedded) -> CrystalTable:
    """What the child learns from: W with an element that the parent never saw, and energies of another kind."""
    both = embedded.has_element(41) & embedded.has_element(74)
    return replace(embedded.take(both).take(range(60)), energy_kind="mine")


@pytest.fixture(scope="module")
def weights(old, tmp_path_factory):
    """A finished transformer, as it is shipped: half precision."""
    path = tmp_path_factory.mktemp("weights") / "shipped.safetensors"
    spec = make_spec("generation", "transformer", "cfm_uniform", old, SMALL)
    full = path.with_name("full.safetensors")
    settings = TrainSettings(steps=200, ema_decay=0.95, **SETTINGS | {"validate_every": 200})
    Trainer(spec, old, old, settings, full, CPU).run()
    tensors, about = load_weights(full, CPU)
    save_weights(path, {name: tensor.half() for name, tensor in tensors.items()}, about)
    return path


def run_of(tmp_path, model=TrainGenerationParams, **values):
    params = NETWORK | SETTINGS | {"steps": 20, "ema_decay": 0.9, "run": "trial", "n_workers": 1} | values
    return Run(validated(model, params), root=tmp_path)


def only(tmp_path, new, **values) -> Trainer:
    (trainer,) = trainers(run_of(tmp_path, **values), "generation", new, new)
    return trainer


def test_from_weights_starts_lower_and_stays_lower(new, weights, tmp_path):
    tuned = only(tmp_path / "a", new, init_weights=weights)
    bare = Trainer(tuned.spec, new, new, tuned.settings, tmp_path / "bare.safetensors", CPU)  # losses compare
    assert tuned._validate()["validation"] < 0.8 * bare._validate()["validation"], "before any step"
    assert tuned.run()["validation"].iloc[-1] < bare.run()["validation"].iloc[-1]


def test_half_precision_weights_are_taken_over(new, weights, tmp_path):
    tuned = only(tmp_path, new, init_weights=weights)
    shipped, _ = load_weights(weights, CPU)
    for name, parameter in tuned.net.named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, shipped[name].float())
        assert torch.equal(tuned.ema[name], parameter)


def test_the_representation_is_the_parents_with_volumes_of_new_elements(old, new, weights, tmp_path):
    tuned, parent = only(tmp_path, new, init_weights=weights), Parent.read(weights)
    fresh = make_spec("generation", "transformer", "cfm_uniform", new, SMALL).state
    for name in ("n_sites", "lattice_mean", "lattice_std"):
        assert tuned.spec.state[name] == parent.spec.state[name] != fresh[name] or name == "n_sites"
    volumes, before = np.array(tuned.spec.state["volumes"]), np.array(parent.spec.state["volumes"])
    changed = np.flatnonzero(volumes != before)
    assert changed.tolist() == [41], "niobium, which the parent never saw; its tungsten stays"
    assert volumes[41] == fresh["volumes"][41]


def test_metadata_name_the_parent_and_both_kinds_of_energy(old, new, weights, tmp_path, capsys):
    tuned = only(tmp_path, new, init_weights=weights, steps=2)
    tuned.run()
    said = capsys.readouterr().out
    assert f"({old.energy_kind})" in said and "(mine)" in said
    about = json.loads(tuned.path.with_suffix(".json").read_text())
    assert about["data"]["energy_kind"] == "mine"
    model = "generation_transformer_cfm_uniform"
    expected = {"file": weights.name, "model": model, "sha256": sha256_of(weights), "energy_kind": old.energy_kind}
    assert about["parent"] == expected == load_model(tuned.path).about["parent"]
    only(tmp_path / "same", replace(new, energy_kind=old.energy_kind), init_weights=weights)
    assert "fine-tuned on another" not in capsys.readouterr().out


class Killed(Exception):
    """Stands for kill -9 between two steps."""


def killed_at(trainer, step, monkeypatch):
    take = trainer._train_step

    def dies(*args):
        if trainer.step == step:
            raise Killed
        return take(*args)

    monkeypatch.setattr(trainer, "_train_step", dies)
    with pytest.raises(Killed):
        trainer.run()


def test_a_killed_fine_tuning_resumes_to_the_same_weights(new, weights, tmp_path, monkeypatch):
    how = {"init_weights": weights, "steps": 8, "checkpoint_every": 4}
    whole = only(tmp_path / "whole", new, **how)
    whole.run()
    killed_at(only(tmp_path / "killed", new, **how), 6, monkeypatch)
    resumed = only(tmp_path / "killed", new, **how)
    _, about = load_weights(resumed._resume_path, CPU)
    assert about["parent"]["sha256"] == sha256_of(weights) and about["step"] == 4
    resumed.run()
    expected, found = (load_weights(t.path, CPU)[0] for t in (whole, resumed))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_checkpoint_of_another_start_is_refused(new, weights, tmp_path, monkeypatch):
    how = {"steps": 8, "checkpoint_every": 4}
    tuned = only(tmp_path, new, init_weights=weights, **how)
    killed_at(tuned, 6, monkeypatch)
    other = only(tmp_path, new, **how)
    other.spec = tuned.spec
    with pytest.raises(BadInput, match=r"shipped.safetensors \(\w{8}\).*delete it"):
        other.run()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"transformer_width": 64}, "another network: their sizes.width is 32, here it is 64"),
        ({"transformer_blocks": 1}, "another network: their sizes.blocks is 2, here it is 1"),
        ({"methods": ["cfm_normal"]}, "generation_transformer_cfm_uniform, which is not trained here"),
        ({"num_train_timesteps": 10}, "another network: their num_train_timesteps is 1000, here it is 10"),
        ({"init_weights": "nowhere.safetensors"}, "nowhere.safetensors do not exist; name a finished model's"),
    ],
)
def test_weights_that_do_not_fit_are_refused(new, weights, tmp_path, values, said):
    with pytest.raises(BadInput, match=said):
        only(tmp_path, new, **{"init_weights": weights} | values)


def test_weights_of_another_start_are_refused(new, weights, tmp_path):
    run = run_of(tmp_path, TrainModificationParams, methods=["cfm_noise"], init_weights=weights)
    with pytest.raises(BadInput, match="modification_transformer_cfm_noise.*choose"):
        list(trainers(run, "modification", new, new))


def test_a_generator_learns_to_modify(new, tmp_path):
    parent = only(tmp_path / "a", new, methods=["cfm_normal"])
    parent.run()
    how = {"methods": ["cfm_noise"], "init_weights": parent.path}
    (child,) = trainers(run_of(tmp_path / "b", TrainModificationParams, **how), "modification", new, new)
    net = parent.spec.build()[2]
    assert child.parent.about["model"] == "generation_transformer_cfm_normal"
    batch = child.data.batch(*child.data.epoch(0))
    copy_weights(net, load_weights(parent.path, CPU)[0], parent.path)
    given = batch.x_1, torch.full((len(batch),), 300.0)
    torch.testing.assert_close(child.net(*given, batch), net(*given, batch), msg="it begins as the generator")
    child.run()
    unseen = replace(batch, x_0=None)
    assert not torch.allclose(child.net(*given, batch), child.net(*given, unseen)), "and ends by looking at x_0"
    assert load_weights(child.path, CPU)[1]["parent"]["sha256"] == child.parent.about["sha256"]


@pytest.mark.parametrize("network", ["paper", "periodic"])
def test_modification_models_start_from_weights_too(new, tmp_path, network):
    how = {"networks": [network], "methods": ["cfm"], "model_channels": 16, "steps": 1, "finished": None}
    (parent,) = trainers(run_of(tmp_path / "a", TrainModificationParams, **how), "modification", new, new)
    parent.run()
    again = run_of(tmp_path / "b", TrainModificationParams, **how | {"seed": 1}, init_weights=parent.path)
    (tuned,) = trainers(again, "modification", new.take(range(40)), new)
    assert tuned.spec == parent.spec, "the state is the parent's, not that of the 40"
    assert all(torch.equal(p, parent.ema[name]) for name, p in tuned.net.named_parameters())


def test_a_finished_model_is_taken_as_it_is_where_it_learnt_from_the_same_crystals(old, new, weights, tmp_path):
    name = "generation_transformer_cfm_uniform.safetensors"
    finished = tmp_path / "finished"
    finished.mkdir()
    (finished / name).write_bytes(weights.read_bytes())
    taken = only(tmp_path / "a", old, finished=finished, transformer_width=64)
    assert taken.run()["step"].tolist() == [200] and taken.spec.sizes == SMALL, "the file says what the model is"
    assert taken.path.read_bytes() == weights.read_bytes()
    assert curves([taken]).crystals.tolist() == [200 * 16]
    with pytest.raises(BadInput, match="learnt from other crystals.*set 'finished' to null"):
        only(tmp_path / "b", new, finished=finished)
    assert only(tmp_path / "c", new, finished=finished, init_weights=weights).parent, "it is to be trained further"
    assert only(tmp_path / "d", new, finished=finished, methods=["cfm_normal"]).settings.steps == 20


def test_crystals_larger_than_the_weights_take_are_refused(embedded, weights, tmp_path):
    whole = CrystalTable.from_parquet(EMBEDDED)
    large = whole.take(np.flatnonzero(whole.n_sites > 10)[:20])
    with pytest.raises(BadInput, match=r"\d\d atoms .* 6; lower max_sites"):
        only(tmp_path, large, init_weights=weights)


def test_shares_are_nested_and_hold_whole_formulas(embedded):
    small, large = (share_of(embedded, share, 1) for share in (0.1, 0.5))
    assert set(small) < set(large) and 0.1 <= len(small) / len(embedded) < 0.2 <= 0.5 <= len(large) / len(embedded)
    inside = np.isin(embedded.reduced_formula, embedded.reduced_formula[small])
    assert (np.flatnonzero(inside) == small).all()
    assert set(share_of(embedded, 0.1, 2)) != set(small)


@pytest.fixture(scope="module")
def curve(new, weights, tmp_path_factory):
    """The whole curve at tiny size: run, its points and scores."""
    asked = {"init_weights": weights, "compare_from_nothing": True, "learning_curve": [0.4], "curve_targets": 10}
    run = run_of(tmp_path_factory.mktemp("curve"), **asked)
    points = curve_points(run, list(trainers(run, "generation", new, new)), new, new)
    for point in points:
        point.trainer.run()
    return run, points, *curve_scores(run, points, new)


def test_the_curve_has_both_starts_at_every_share(curve, new):
    run, points, scores, claims = curve
    assert [(point.start, point.share) for point in points] == [
        *((WEIGHTS, 0.4), (WEIGHTS, 1.0)),
        *((NOTHING, 0.4), (NOTHING, 1.0)),
    ]
    assert points[1].trainer.name == "generation_transformer_cfm_uniform", "the notebook's model is one of them"
    assert all(point.trainer.spec == points[0].trainer.spec for point in points), "one representation: losses compare"
    assert [bool(point.trainer.parent) for point in points] == [True, True, False, False]
    assert scores.crystals.tolist() == [len(share_of(new, 0.4, run.seed)), len(new)] * 2
    assert (scores.n == 10).all() and (scores.loss_low <= scores.loss).all() and (scores.loss <= scores.loss_high).all()
    assert scores.default.between(0, 1).all() and scores.default_high.notna().all()
    assert scores.loss[1] < scores.loss[3], "weights help"
    assert (claims.a + claims.b).unique().tolist() == [points[1].trainer.name + points[3].trainer.name]


def test_the_curves_figure_shows_every_point_with_its_interval(curve):
    *_, scores, _ = curve
    panels = learning_curves(scores).axes
    for axes, column in zip(panels, ["loss", "default"], strict=True):
        assert [bars.get_label() for bars in axes.containers] == ["from weights", "from nothing"]
        for bars, (_, part) in zip(axes.containers, scores.groupby("start", sort=False), strict=True):
            line, _, (intervals,) = bars
            assert line.get_xydata() == pytest.approx(part[["crystals", column]].to_numpy(float))
            ends = [segment[:, 1] for segment in intervals.get_segments()]
            assert np.array(ends) == pytest.approx(part[[f"{column}_low", f"{column}_high"]].to_numpy())


def test_no_curve_where_none_is_asked_for(new, tmp_path):
    run = run_of(tmp_path)
    assert curve_points(run, list(trainers(run, "generation", new, new)), new, new) == []
    scores, claims = curve_scores(run, [], new)
    assert isinstance(scores, pd.DataFrame) and not len(scores) and not len(claims)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"compare_from_nothing": True}, "compares with a start from weights; give 'init_weights'"),
        ({"learning_curve": [0.5], "networks": ["periodic"]}, "'learning_curve' trains the transformer; add it"),
        ({"learning_curve": [0.5], "networks": ["periodic", "transformer"], "methods": ["ddpm"]}, "and a 'cfm' method"),
        ({"learning_curve": [1.5]}, "parameter 'learning_curve.0'"),
    ],
)
def test_impossible_curves_are_refused(values, said):
    with pytest.raises(BadInput, match=said):
        validated(TrainGenerationParams, NETWORK | values)


def test_a_finished_curve_is_not_trained_again(curve, new, monkeypatch):
    run = curve[0]
    monkeypatch.setattr(lib.training.trainer.Trainer, "_train_step", lambda *_: pytest.fail("trained again"))
    for point in curve_points(run, list(trainers(run, "generation", new, new)), new, new):
        point.trainer.run()


def test_no_steps_keep_the_weights_as_they_are(new, weights, tmp_path):
    kept = only(tmp_path, new, init_weights=weights, steps=0)
    history = kept.run()
    assert history.step.tolist() == [0] and np.isfinite(history.validation).all()
    (before, _), (after, about) = (load_weights(path, CPU) for path in (weights, kept.path))
    assert all(torch.equal(before[name].float(), after[name]) for name in before)
    assert about["parent"]["sha256"] == sha256_of(weights)
    with pytest.raises(BadInput, match="'steps' is 0"):
        run_of(tmp_path, steps=0)
