"""Training resumes exactly, refuses foreign checkpoints, and the finished model generates."""

import numpy as np
import pytest
import torch

import lib.training
from lib.crystals import CrystalTable
from lib.params import TrainGenerationParams, networks_and_methods
from lib.run import BadInput, Run
from lib.sampling import load_model
from lib.sources.embedded import EMBEDDED
from lib.training import (
    NETWORKS,
    TASKS,
    ModelSpec,
    Trainer,
    TrainSettings,
    learning_rate,
    load_weights,
    make_spec,
    trainers,
)
from lib.transformer import TransformerSizes
from lib.unet import UNetSizes

SIZES = UNetSizes(16, (1, 2), 1, (2,), 8, 8)
SMALL = TransformerSizes(32, 2, 4)
CPU = torch.device("cpu")
ALL_MODELS = [(task, *model) for task, methods in TASKS.items() for model in networks_and_methods(NETWORKS, methods)]


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


@pytest.mark.parametrize(("task", "network", "method"), ALL_MODELS)
def test_every_model_trains_and_generates(table, tmp_path, task, network, method):
    spec = make_spec(task, network, method, table, SMALL if network == "transformer" else SIZES)
    path = tmp_path / f"{spec.name}.safetensors"
    history = trainer(table, path, spec, steps=3, validate_every=3).run()
    assert np.isfinite(history["validation"]).all()
    model = load_model(path)
    few = table.take(range(5))
    species = [few.species_of(i) for i in range(5)]
    x_0 = few if task == "modification" else None
    first, again = (
        model.generate(species, few.space_group, few.formation_energy, steps=3, batch_size=2, x_0=x_0) for _ in range(2)
    )
    assert len(first) == 5
    assert all(a == b for a, b in zip(first, again, strict=True)), "the same seed gives the same structures"
    for structure, numbers in zip(first, species, strict=True):
        assert structure is None or list(structure.atomic_numbers) == numbers.tolist()


def test_an_interrupted_sampling_keeps_its_batches(table, tmp_path, monkeypatch):
    spec = make_spec("modification", "periodic", "cfm", table, SIZES)
    path, kept = tmp_path / "m.safetensors", tmp_path / "kept"
    trainer(table, path, spec, steps=1).run()
    few = table.take(range(6))
    request = [few.species_of(i) for i in range(6)], few.space_group, few.formation_energy
    options = {"steps": 3, "batch_size": 2, "x_0": few}
    expected = load_model(path).generate(*request, **options)
    sample, batches = lib.training.FlowMatching.sample, []

    def dies_in_the_third(*args, **settings):
        batches.append(len(args[2]))
        if len(batches) == 3:
            raise Killed
        return sample(*args, **settings)

    monkeypatch.setattr(lib.training.FlowMatching, "sample", dies_in_the_third)
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


@pytest.mark.parametrize("task_and_method", [("generation", "cfm_uniform"), ("modification", "cfm")])
def test_a_killed_run_resumes_to_the_same_weights(table, tmp_path, monkeypatch, task_and_method):
    spec = make_spec(task_and_method[0], "periodic", task_and_method[1], table, SIZES)
    whole = tmp_path / "whole.safetensors"
    expected_history = trainer(table, whole, spec).run()

    path = tmp_path / "killed.safetensors"
    victim = trainer(table, path, spec)
    step = victim._train_step

    def dies_after_six(*args):
        if victim.step == 6:
            raise Killed
        return step(*args)

    monkeypatch.setattr(victim, "_train_step", dies_after_six)
    with pytest.raises(Killed):
        victim.run()
    assert not path.exists()
    torch.manual_seed(1)  # nothing may depend on the global generator
    history = trainer(table, path, spec).run()
    expected, _ = load_weights(whole, CPU)
    resumed, _ = load_weights(path, CPU)
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert history["validation"].tolist() == expected_history["validation"].tolist()
    assert not path.with_suffix(".resume").exists()


def test_a_finished_model_is_not_trained_again(table, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    first = trainer(table, path).run()
    monkeypatch.setattr(lib.training.Trainer, "_train_step", lambda *_: pytest.fail("trained again"))
    assert trainer(table, path).run()["training"].tolist() == first["training"].tolist()


def test_a_checkpoint_of_another_model_is_refused(table, tmp_path):
    path = tmp_path / "m.safetensors"
    trainer(table, path).run()
    other = make_spec("generation", "periodic", "cfm_uniform", table, UNetSizes(24, (1, 2), 1, (2,), 8, 8))
    with pytest.raises(BadInput, match=r"another model: its spec has sizes"):
        trainer(table, path, other).run()


def test_weights_of_another_architecture_are_refused(table, tmp_path):
    path = tmp_path / "m.safetensors"
    trainer(table, path).run()
    tensors, about = load_weights(path, CPU)
    about["spec"]["sizes"]["model_channels"] = 24
    lib.training.save_weights(path, tensors, about)
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


def test_a_nan_names_the_step_and_the_crystals(table, tmp_path, monkeypatch):
    victim = trainer(table, tmp_path / "m.safetensors")
    monkeypatch.setattr(victim.method.__class__, "loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(FloatingPointError, match=r"nan at step 0 \(crystals .*_"):
        victim.run()


def test_training_lowers_the_loss(table, tmp_path):
    history = trainer(
        table, tmp_path / "m.safetensors", steps=120, learning_rate=2e-3, warmup_steps=10, ema_decay=0.9
    ).run()
    assert history["training"].iloc[-1] < 0.8 * history["training"].iloc[0]


def test_learning_rate_warms_up_and_falls_to_zero():
    settings = TrainSettings(steps=100, learning_rate=1.0, warmup_steps=10)
    rates = [learning_rate(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[9], rel=0.03)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)


def test_unknown_models_are_refused():
    with pytest.raises(BadInput, match="method 'gan'"):
        ModelSpec("generation", "paper", "gan").build()
    with pytest.raises(BadInput, match="network 'voxels'"):
        ModelSpec("generation", "voxels", "ddpm").build()
    with pytest.raises(BadInput, match="'ddpm' is not made for network 'transformer'; .* cfm_uniform, wrapped"):
        ModelSpec("generation", "transformer", "ddpm").build()
    with pytest.raises(BadInput, match="'wrapped' is not made for network 'periodic'"):
        ModelSpec("generation", "periodic", "wrapped").build()


def test_only_who_knows_open_conditions_is_guided(table, tmp_path):
    spec = make_spec("generation", "transformer", "cfm_uniform", table, SMALL)
    request = [table.species_of(i) for i in range(4)], table.space_group[:4], table.formation_energy[:4]
    for forget in (0.0, 0.3):
        how = {"forget": forget, "learning_rate": 0.01, "warmup_steps": 0, "ema_decay": 0.0}
        trainer(table, tmp_path / f"{forget}.safetensors", spec, **how).run()
    with pytest.raises(BadInput, match="was never trained without its conditions"):
        load_model(tmp_path / "0.0.safetensors").generate(*request, steps=3, guidance=2.0)
    model = load_model(tmp_path / "0.3.safetensors")
    plain, same, guided = (model.generate(*request, steps=3, guidance=w) for w in (1.0, 1, 2.0))
    assert plain == same and plain != guided
