"""The models that a notebook's parameters ask for: sizes, settings, and a trainer for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from pkgutil import resolve_name

import pandas as pd
import torch

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.run import Run
from lib.core.streams import numpy_stream
from lib.crystals.table import CrystalTable
from lib.datasets.pairs import PairSampler
from lib.studies.params import NetworkParams, TrainParams
from lib.training.checkpoints import Parent, raw_path, take_finished
from lib.training.registry import NETWORKS, networks_and_methods
from lib.training.spec import ModelSpec, Sizes, TrainSettings, make_spec
from lib.training.trainer import Trainer


def n_processes_of(gpus: int | str, device: torch.device) -> int:
    """How many processes the parameter `gpus` means on this machine.

    Raises:
        BadInput: there are fewer cards.
    """
    found = torch.cuda.device_count() if device.type == "cuda" else 0
    wanted = max(1, found) if gpus == "auto" else int(gpus)
    if wanted > max(1, found):
        raise BadInput(
            f"parameter 'gpus' is {wanted} and {found} can be used here; set it to {max(1, found)} or 'auto'"
        )
    return wanted


def sizes_of(params: NetworkParams, network: str = "paper") -> Sizes:
    """The sizes of a network that a notebook's parameters ask for."""
    entry = NETWORKS[network]
    sizes, known = resolve_name(entry.sizes), type(params).model_fields
    given = {f.name: getattr(params, entry.prefix + f.name) for f in fields(sizes) if entry.prefix + f.name in known}
    return sizes(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def settings_of(params: NetworkParams, seed: int) -> TrainSettings:
    """The training settings that a notebook's parameters ask for."""
    names = {f.name for f in fields(TrainSettings)} & set(type(params).model_fields) - {"seed"}
    return TrainSettings(**{name: getattr(params, name) for name in names}, seed=seed)


def trainers(
    run: Run[TrainParams],
    task: str,
    training: CrystalTable,
    validation: CrystalTable,
    on_validation: Callable[[str], Callable] | None = None,
    seed: int | None = None,
) -> Iterator[Trainer]:
    """A trainer for each network and method that a notebook's parameters name and that fit, and for `long_model`.

    The model that `init_weights` holds starts from them; of the others, those whose files lie in the folder `finished`
    are taken as they are, and the rest start from nothing.

    Args:
        run: the notebook's run; weights go to its `models/` folder.
        task: "generation" or "modification".
        training, validation: the two sides of the split.
        on_validation: model name -> callback that receives the loss history after each validation.
        seed: of weights, epochs and noise, by which the files are then named, too; by default the run's.

    Raises:
        BadInput: `init_weights` cannot be read or belong to none of the models, or a finished model learnt from other
            crystals.
    """
    p = run.params
    settings, n_processes = settings_of(p, run.seed if seed is None else seed), n_processes_of(p.gpus, run.device)
    parent = parent_of(run, task, training)
    if p.epochs is not None:
        n = len(training)
        if task == "modification":
            limits = p.pairs_per_group, numpy_stream(run.seed, "epoch", 0), p.max_sites_share
            n = len(PairSampler(training, *limits).epoch()[0])
        settings = replace(settings, steps=p.epochs * -(-n // p.batch_size))
    for network, method in networks_and_methods(p.networks, p.methods):
        entry = NETWORKS[network]
        how = replace(settings, forget=getattr(p, f"{entry.prefix}forget", 0.0)) if entry.open_conditions else settings
        spec = make_spec(task, network, method, training, sizes_of(p, network), p.num_train_timesteps)
        if "n_sites" in spec.state:  # the validation set may hold the largest crystal
            needed = make_spec(task, network, method, validation, sizes_of(p, network)).state["n_sites"]
            spec = replace(spec, state=spec.state | {"n_sites": max(spec.state["n_sites"], needed)})
        start = parent if parent and parent.serves(spec) else None
        spec = start.child(spec) if start else spec
        trainings = {spec.name if seed is None else f"{spec.name}_{seed}": how}
        if p.long_model == f"{network}_{method}":
            often = -(-how.validate_every * p.long_steps // (how.steps or p.long_steps))  # as many points in its curve
            trainings[f"{spec.name}_long"] = replace(how, steps=p.long_steps, validate_every=often)
        for name, how in trainings.items():
            path = run.path(f"models/{name}.safetensors")
            run.path(f"models/{name}.json")
            model = spec
            if not start and (finished := finished_file(p, path)):
                model, how = take_finished(run.input(finished), path, training)
            if how.keep_raw:
                run.path(f"models/{raw_path(path).name}")
            callback = on_validation(name) if on_validation else lambda history: None
            watchers = {"on_validation": callback, "n_processes": n_processes, "parent": start}
            yield Trainer(model, training, validation, how, path, run.device, **watchers)


def finished_file(params: TrainParams, path: Path) -> Path | None:
    """The file in the folder `finished` that is taken in place of training the model at `path`; None: it is trained."""
    found = ROOT / params.finished / path.name if params.finished else None
    return found if found and found.is_file() else None


def parent_of(run: Run[TrainParams], task: str, training: CrystalTable) -> Parent | None:
    """The model of the parameter `init_weights`; prints a sentence where its energies are of another kind.

    Raises:
        BadInput: it cannot be read or is none of those that the notebook trains.
    """
    p = run.params
    if p.init_weights is None:
        return None
    parent = Parent.read(ROOT / p.init_weights)
    run.input(parent.path)
    models = [ModelSpec(task, *model, sizes_of(p, model[0])) for model in networks_and_methods(p.networks, p.methods)]
    if not any(map(parent.serves, models)):
        raise BadInput(
            f"the weights {parent.path} are of {parent.spec.name}, which is not trained here "
            f"({', '.join(model.name for model in models)}); choose its network and method, or other weights"
        )
    if warning := parent.warning(training):
        print(warning)
    return parent


def curves(trained: Iterable[Trainer]) -> pd.DataFrame:
    """The losses of each model by step and crystals seen, and the match rates where its validation measured them."""
    return pd.concat(
        [
            pd.DataFrame(t.history).assign(model=t.name, crystals=lambda h, t=t: h.step * t.settings.batch_size)
            for t in trained
        ],
        ignore_index=True,
    ).pipe(lambda table: table[["model", "crystals", *table.columns.drop(["model", "crystals"])]])


def resources(trained: Iterable[Trainer]) -> pd.DataFrame:
    """What each model cost: parameters, steps, samples a second, seconds; and its last losses."""
    rows = [
        {
            "model": t.name,
            "parameters": t.n_parameters,
            "steps": t.step,
            "batch": t.settings.batch_size,
            "seconds": round(t.seconds, 1),
            "samples/s": round(t.step * t.settings.batch_size / max(t.seconds, 1e-9)),
            "training loss": round(t.history[-1]["training"], 4),
            "validation loss": round(t.history[-1]["validation"], 4),
        }
        for t in trained
    ]
    return pd.DataFrame(rows)
