"""Training resumes exactly, refuses foreign checkpoints, and the finished model generates."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import lib.studies.model_plan
import lib.training.spec
import lib.training.trainer
from lib.core.errors import BadInput
from lib.core.run import Run
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.generation.sampling import load_model
from lib.methods.flow import FlowMatching
from lib.models.transformer import TransformerSizes
from lib.models.unet import UNetSizes
from lib.studies.model_plan import n_processes_of, trainers
from lib.studies.params import TrainGenerationParams, TrainModificationParams
from lib.training.checkpoints import load_weights, raw_path, save_weights
from lib.training.spec import ModelSpec, TrainSettings, make_spec
from lib.training.trainer import Trainer, learning_rate

SIZES = UNetSizes(16, (1, 2), 1, (2,), 8, 8)
SMALL = TransformerSizes(32, 2, 4, templates=True)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def table() -> CrystalTable:
    """Some groups of small polymorphs."""
    embedded = CrystalTable.from_parquet(EMBEDDED)
    embedded = embedded.take((embedded.n_sites >= 4) & (embedded.n_sites <= 6))
    return embedded.take(np.isin(embedded.formula, np.unique(embedded.formula)[:6]))


def trainer(table, path, spec=None, **changes) -> Trainer:
    spec = spec or make_spec("generation", "periodic", "cfm_uniform", table, SIZES)
    settings = {"steps": 8, "batch_size": 16, "precision": "fp32", "validate_every": 4, "checkpoint_every": 4} | changes
    return Trainer(spec, table, table.take(range(10)), TrainSettings(**settings), path, CPU)


def test_a_model_samples_at_the_precision_that_it_was_trained_at_on_a_gpu_alone(table, tmp_path):
    spec = make_spec("generation", "transformer", "cfm_normal", table, SMALL)
    trainer(
        table, tmp_path / "m.safetensors", spec, steps=20, learning_rate=5e-3, ema_decay=0.5, precision="bf16"
    ).run()
    model = load_model(tmp_path / "m.safetensors", CPU)
    assert model.precision == "fp32"
    few = table.take(range(4))
    request = [few.species_of(i) for i in range(4)], few.space_group, few.formation_energy
    lattices = [
        np.array([s.lattice.matrix for s in replace(model, precision=precision).generate(*request, steps=4)])
        for precision in ("fp32", "bf16", "bf16")
    ]
    assert 0 < np.abs(lattices[0] - lattices[1]).max() < 0.2, "rounded, in ångström"
    assert (lattices[1] == lattices[2]).all()


def test_an_interrupted_sampling_keeps_its_batches(table, tmp_path, monkeypatch):
    spec = make_spec("modification", "periodic", "cfm", table, SIZES)
    path, kept = tmp_path / "m.safetensors", tmp_path / "kept"
    trainer(table, path, spec, steps=1).run()
    few = table.take(range(6))
    request = [few.species_of(i) for i in range(6)], few.space_group, few.formation_energy
    options = {"steps": 3, "batch_size": 2, "x_0": few}
    expected = load_model(path).generate(*request, **options)
    sample, batches = FlowMatching.sample, []

    def dies_in_the_third(*args, **settings):
        batches.append(len(args[2]))
        if len(batches) == 3:
            raise Killed
        return sample(*args, **settings)

    monkeypatch.setattr(FlowMatching, "sample", dies_in_the_third)
    with pytest.raises(Killed):
        load_model(path).generate(*request, resume=kept, **options)
    assert load_model(path).generate(*request, resume=kept, **options) == expected
    assert len(batches) == 4, "only the batch that was missing is sampled again"
    load_model(path).generate(*request, resume=kept, seed=1, **options)
    assert len(batches) == 7, "another request finds nothing of this one"
    trainer(table, tmp_path / "longer.safetensors", spec, steps=2).run()
    load_model(tmp_path / "longer.safetensors").generate(*request, resume=kept, **options)
    assert len(batches) == 10, "nor does another model"


class Killed(Exception):
    """Stands for kill -9 between two steps or batches."""


def killed_at(step: int, victim: Trainer) -> None:
    """Train until a step, and no further."""
    train_step = victim._train_step

    def dies(*args):
        if victim.step == step:
            raise Killed
        return train_step(*args)

    victim._train_step = dies
    with pytest.raises(Killed):
        victim.run()
    assert not victim.path.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "network", "method", "changes"),
    [
        ("generation", "periodic", "cfm_uniform", {"validate_matches": 3}),
        ("modification", "periodic", "diffusion", {"precision": "bf16"}),
        ("generation", "transformer", "cfm_uniform", {"precision": "bf16", "forget": 0.3, "validate_matches": 3}),
        ("modification", "transformer", "cfm_noise", {"precision": "fp16", "learning_rate": 1e-2}),
    ],
)
def test_12_steps_are_7_and_a_kill_and_5(table, tmp_path, task, network, method, changes):
    """Killed within a later epoch than the first, between two validations."""
    spec = make_spec(task, network, method, table, SMALL if network == "transformer" else SIZES)
    changes = {"steps": 12, "validate_every": 4, "checkpoint_every": 7, "batch_size": 30, "keep_raw": True} | changes
    whole, path = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    expected_history = trainer(table, whole, spec, **changes).run()
    killed_at(7, trainer(table, path, spec, **changes))
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["step"] == 7 and about["settings"]["steps"] == 12, "a checkpoint's configuration, for people"
    torch.manual_seed(1)  # nothing may depend on the global generator
    history = trainer(table, path, spec, **changes).run()
    for one, other in [(whole, path), (raw_path(whole), raw_path(path))]:
        expected, resumed = load_weights(one, CPU)[0], load_weights(other, CPU)[0]
        assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    pd.testing.assert_frame_equal(history, expected_history, check_exact=True)
    assert not path.with_suffix(".resume").exists()


def test_fp16_takes_up_the_scale_of_its_gradients(table, tmp_path):
    path = tmp_path / "m.safetensors"
    victim = trainer(table, path, precision="fp16")
    killed_at(6, victim)
    assert victim.scaler.get_scale() > 1
    again = trainer(table, path, precision="fp16")
    again._resume()
    assert again.scaler.state_dict() == victim.scaler.state_dict() | {"_growth_tracker": 4}


def test_matching_changes_nothing_but_the_history(table, tmp_path, monkeypatch):
    plain, matched = tmp_path / "plain.safetensors", tmp_path / "matched.safetensors"
    history = trainer(table, plain).run()
    with_rates = trainer(table, matched, validate_matches=5).run()
    pd.testing.assert_frame_equal(with_rates[list(history)], history, check_exact=True)
    assert set(with_rates) - set(history) == {"match_default", "match_csp", "match_strict"}
    assert with_rates["match_csp"].between(0, 1).all()
    one, other = load_weights(plain, CPU)[0], load_weights(matched, CPU)[0]
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("task", "network", "method"),
    [
        ("generation", "paper", "cfm_uniform"),
        ("modification", "periodic", "cfm"),
        ("modification", "transformer", "cfm_noise"),
    ],
)
def test_a_network_that_finds_the_crystals_matches_them(table, tmp_path, monkeypatch, task, network, method):
    spec = make_spec(task, network, method, table, SMALL if network == "transformer" else SIZES)
    seer = trainer(table, tmp_path / "m.safetensors", spec, validate_matches=4)
    rows = tuple(part[:4] for part in seer.validation.validation())
    x_1 = seer.validation.batch(*rows).x_1
    monkeypatch.setattr(seer.method.__class__, "sample", lambda *_, **__: x_1)
    assert seer._match_rates(*rows) == {"match_default": 1.0, "match_csp": 1.0, "match_strict": 1.0}
    monkeypatch.setattr(seer.method.__class__, "sample", lambda *_, **__: 0 * x_1)
    assert seer._match_rates(*rows)["match_default"] < 1


def test_raw_weights_are_a_model_of_their_own(table, tmp_path):
    path = tmp_path / "m.safetensors"
    finished = trainer(table, path, keep_raw=True, ema_decay=0.5)
    finished.run()
    raw, averaged = load_model(raw_path(path)), load_model(path)
    last, mean = (dict(model.net.named_parameters()) for model in (raw, averaged))
    assert all(torch.equal(last[name], p) for name, p in finished.net.named_parameters())
    assert any(not torch.equal(last[name], mean[name]) for name in last)
    trainer(table, tmp_path / "n.safetensors").run()
    assert not raw_path(tmp_path / "n.safetensors").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_compiled_networks_train_to_the_same_checkpoint(table, tmp_path, monkeypatch):
    monkeypatch.setattr(lib.training.spec, "COMPILER", "eager")  # traces like the true one, and is done in seconds
    spec = make_spec("generation", "transformer", "cfm_uniform", table, TransformerSizes(32, 1, 2, 1, 8))
    changes = {"steps": 4, "validate_every": 4, "checkpoint_every": 2}
    expected = trainer(table, tmp_path / "plain.safetensors", spec, **changes).run()
    path = tmp_path / "compiled.safetensors"
    killed_at(2, trainer(table, path, spec, compile=True, **changes))
    history = trainer(table, path, spec, **changes).run()  # goes on without
    assert set(load_weights(path, CPU)[0]) == set(load_weights(tmp_path / "plain.safetensors", CPU)[0])
    np.testing.assert_allclose(history, expected, rtol=1e-4)
    load_model(path)


def test_compiling_without_a_compiler_is_refused(table, tmp_path, monkeypatch):
    monkeypatch.setattr(lib.training.spec.shutil, "which", lambda _: None)
    with pytest.raises(BadInput, match=r"needs a C\+\+ compiler"):
        trainer(table, tmp_path / "m.safetensors", compile=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_step_does_not_wait_for_the_gpu(table, tmp_path):
    spec = make_spec("generation", "periodic", "cfm_uniform", table, SIZES)
    settings = TrainSettings(steps=8, batch_size=16, validate_every=8)
    busy = Trainer(spec, table, table, settings, tmp_path / "m.safetensors", torch.device("cuda"))
    init, target = busy.data.epoch(0)
    busy._train_step(init[:16], target[:16])
    torch.cuda.set_sync_debug_mode("error")
    try:
        busy._train_step(init[16:32], target[16:32])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_finished_model_is_not_trained_again(table, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    first = trainer(table, path).run()
    monkeypatch.setattr(lib.training.trainer.Trainer, "_train_step", lambda *_: pytest.fail("trained again"))
    assert trainer(table, path).run()["training"].tolist() == first["training"].tolist()


def test_a_checkpoint_of_another_model_is_refused(table, tmp_path):
    path = tmp_path / "m.safetensors"
    trainer(table, path).run()
    other = make_spec("generation", "periodic", "cfm_uniform", table, UNetSizes(24, (1, 2), 1, (2,), 8, 8))
    with pytest.raises(BadInput, match="another model: .*sizes"):
        trainer(table, path, other).run()


def test_weights_of_another_architecture_are_refused(table, tmp_path):
    path = tmp_path / "m.safetensors"
    trainer(table, path).run()
    tensors, about = load_weights(path, CPU)
    about["spec"]["sizes"]["model_channels"] = 24
    save_weights(path, tensors, about)
    with pytest.raises(BadInput, match="another architecture"):
        load_model(path)


def test_damaged_weights_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"not weights")
    with pytest.raises(BadInput, match="cannot be read"):
        load_model(path)


@pytest.mark.parametrize("task_and_method", [("generation", "cfm_uniform"), ("modification", "cfm")])
def test_validation_sees_one_fixed_batch(table, tmp_path, task_and_method):
    spec = make_spec(task_and_method[0], "periodic", task_and_method[1], table, SIZES)
    data = Trainer(spec, table, table, TrainSettings(steps=1, batch_size=2), tmp_path / "m.safetensors", CPU).validation
    init, target = data.validation()
    assert len(init) == len(target) == 8, "four training batches"
    again = data.validation()
    assert (init == again[0]).all() and (target == again[1]).all()


def test_the_long_model_is_trained_besides_the_short_one(table, tmp_path):
    how = {"networks": ["periodic"], "long_model": "periodic_cfm_uniform", "steps": 3, "long_steps": 7}
    params = TrainGenerationParams(run="trial", validate_every=2, **how)
    trained = list(trainers(Run(params, root=tmp_path), "generation", table, table))
    steps = {t.name: (t.settings.steps, t.settings.validate_every) for t in trained}
    assert steps["generation_periodic_cfm_uniform_long"] == (7, 5)
    names = {f"generation_periodic_{method}" for method in params.methods}
    assert {name: steps.pop(name) for name in names} == dict.fromkeys(names, (3, 2))
    assert len(steps) == 1


def test_a_long_model_may_start_from_weights_that_are_otherwise_kept(table, tmp_path, monkeypatch):
    monkeypatch.setattr(lib.studies.model_plan, "parent_of", lambda *_: None)
    how = {"networks": ["periodic"], "long_model": "periodic_cfm_uniform", "steps": 0, "long_steps": 7}
    params = TrainGenerationParams(run="trial", validate_every=2, init_weights="any.safetensors", **how)
    trained = {t.name: t.settings for t in trainers(Run(params, root=tmp_path), "generation", table, table)}
    assert trained["generation_periodic_cfm_uniform_long"].validate_every == 2
    assert trained["generation_periodic_cfm_uniform"].steps == 0


def test_a_nan_names_the_step_the_crystals_and_the_last_checkpoint(table, tmp_path, monkeypatch):
    victim = trainer(table, tmp_path / "m.safetensors", steps=40, validate_every=40, checkpoint_every=3)
    losses, batches = victim.method.losses, []

    def fails_once(*args):
        batches.append(args)
        return losses(*args) * (float("nan") if len(batches) == 6 else 1)

    monkeypatch.setattr(victim.method.__class__, "losses", lambda _, *args: fails_once(*args))
    first = victim.data.table.id[victim.data.epoch(0)[1][5 * 16]]
    message = rf"nan at step 5 \(crystals {first}, .*m\.failed\.json\); the last good checkpoint is .*m\.resume"
    with pytest.raises(FloatingPointError, match=message):
        victim.run()
    assert load_weights(victim._resume_path, CPU)[1]["step"] == 3
    failed = json.loads((tmp_path / "m.failed.json").read_text())
    assert failed["step"] == 5 and len(failed["crystals"]) == 16 and failed["crystals"][0] == first


def test_a_gradient_that_is_no_number_stops_before_it_is_saved(table, tmp_path, monkeypatch):
    victim = trainer(table, tmp_path / "m.safetensors", steps=40, validate_every=40, checkpoint_every=3)
    losses, weight = victim.method.losses, next(victim.net.parameters())

    def steep(*args):
        return losses(*args) + (0 * weight.sum()).sqrt()  # adds 0, with an infinite slope

    monkeypatch.setattr(victim.method.__class__, "losses", lambda _, *args: steep(*args))
    with pytest.raises(FloatingPointError, match="gradient is nan at step 0 .*checkpoint is none"):
        victim.run()


@pytest.mark.slow
def test_training_lowers_the_loss(table, tmp_path):
    history = trainer(
        table, tmp_path / "m.safetensors", steps=120, learning_rate=2e-3, warmup_steps=10, ema_decay=0.9
    ).run()
    assert history["training"].iloc[-1] < 0.8 * history["training"].iloc[0]


@pytest.mark.parametrize("ema_decay", [0.0, 0.9, 0.9999])
def test_the_average_forgets_the_weights_that_it_started_from(table, tmp_path, ema_decay):
    """It is the mean of all weights so far, each times what is left of it by the decays since."""
    averaging = trainer(table, tmp_path / "m.safetensors", steps=7, ema_decay=ema_decay, learning_rate=1e-2)
    weights, step = [[p.detach().clone() for p in averaging.net.parameters()]], averaging._train_step

    def watched(*args):
        loss = step(*args)
        weights.append([p.detach().clone() for p in averaging.net.parameters()])
        return loss

    averaging._train_step = watched
    averaging.run()
    decays = [min(ema_decay, (1 + t) / (10 + t)) for t in range(7)]
    shares = [np.prod(decays), *((1 - decay) * np.prod(decays[t + 1 :]) for t, decay in enumerate(decays))]
    assert sum(shares) == pytest.approx(1) and shares[0] < 1e-3
    for found, *through_time in zip(averaging.ema.values(), *weights, strict=True):
        expected = sum(share * p for share, p in zip(shares, through_time, strict=True))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_every_epoch_has_an_order_of_its_own(table, tmp_path):
    data = trainer(table, tmp_path / "m.safetensors").data
    orders = [tuple(data.epoch(number)[1].tolist()) for number in (0, 1, 2, 1)]
    assert len(set(orders)) == 3 and orders[1] == orders[3]
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(len(table)))}


def test_an_epoch_of_modification_is_of_pairs(table, tmp_path):
    """Steps follow from how many batches one epoch really has, for each task."""
    for task, params in (("generation", TrainGenerationParams), ("modification", TrainModificationParams)):
        how = {"networks": ["periodic"], "epochs": 3, "batch_size": 16, "long_model": None, "long_steps": None}
        for one in trainers(Run(params(run="trial", **how), root=tmp_path), task, table, table):
            n = len(one.data.epoch(0)[0])
            assert (n == len(table)) == (task == "generation")
            assert one.settings.steps == 3 * -(-n // 16), one.name


def test_learning_rate_warms_up_and_falls_to_zero():
    settings = TrainSettings(steps=100, learning_rate=1.0, warmup_steps=10)
    rates = [learning_rate(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[9], rel=0.03)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)


def test_unknown_models_are_refused():
    with pytest.raises(BadInput, match="method 'gan'"):
        ModelSpec("generation", "paper", "gan", SIZES).build()
    with pytest.raises(BadInput, match="network 'voxels'"):
        ModelSpec("generation", "voxels", "ddpm", SIZES).build()
    with pytest.raises(BadInput, match="'ddpm' .*'transformer'; .*cfm_uniform, wrapped"):
        ModelSpec("generation", "transformer", "ddpm", SMALL).build()
    with pytest.raises(BadInput, match="'wrapped' .*'periodic'"):
        ModelSpec("generation", "periodic", "wrapped", SIZES).build()


def test_gpus_are_those_of_the_machine(monkeypatch):
    assert n_processes_of("auto", CPU) == n_processes_of(1, CPU) == 1
    with pytest.raises(BadInput, match="'gpus' is 2 .*0"):
        n_processes_of(2, CPU)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert n_processes_of("auto", torch.device("cuda")) == 8
    with pytest.raises(BadInput, match="'gpus' is 9 .*8"):
        n_processes_of(9, torch.device("cuda"))


def test_only_who_knows_open_conditions_is_guided(table, tmp_path):
    spec = make_spec("generation", "transformer", "cfm_uniform", table, SMALL)
    request = [table.species_of(i) for i in range(4)], table.space_group[:4], table.formation_energy[:4]
    for forget in (0.0, 0.3):
        how = {"forget": forget, "learning_rate": 0.01, "warmup_steps": 0, "ema_decay": 0.0}
        trainer(table, tmp_path / f"{forget}.safetensors", spec, **how).run()
    with pytest.raises(BadInput, match="use guidance 1"):
        load_model(tmp_path / "0.0.safetensors").generate(*request, steps=3, guidance=2.0)
    model = load_model(tmp_path / "0.3.safetensors")
    plain, same, guided = (model.generate(*request, steps=3, guidance=w) for w in (1.0, 1, 2.0))
    assert plain == same and plain != guided
