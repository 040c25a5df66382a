"""One training loop for every method and representation (paper A.3): Adam, warm-up and cosine, EMA, checkpoints.

A data set lies on the device as packed tensors, a large one on disk (:mod:`lib.training.batches`). Every random number
of a step follows from the seed and the step, and every epoch's order from the seed and the epoch, so that a run
continued from a checkpoint takes exactly the steps that the uninterrupted one would have taken.

Several processes, one GPU each, take the same steps faster: each has its share of every batch. A notebook starts them
where its parameter `gpus` says so; by hand

    torchrun --nproc_per_node 8 -m lib.training outputs/paper/models/generation_paper_ddpm.training/config.json

does the same with what :meth:`Trainer.write_config` wrote, on one machine or several.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib.core import processes
from lib.core.commands import command
from lib.core.errors import BadInput
from lib.core.files import read_json, write_json
from lib.core.streams import torch_stream
from lib.core.workers import progress
from lib.crystals import mapped
from lib.crystals.table import CrystalTable
from lib.metrics.matching import VERDICTS, compare
from lib.models.batch import Batch
from lib.training.batches import PackedData
from lib.training.checkpoints import Parent, check_same_model, copy_weights, load_weights, raw_path, save_weights
from lib.training.spec import ModelSpec, TrainSettings, at_precision, compile_in_place

LOOK_EVERY = 16  # steps between looks at the losses: each look waits for the device
SAMPLING_STEPS = 20  # of the validation by matching
MATCH_SECONDS = 2.0  # for a pair of it


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Linear warm-up, then a cosine to zero, or the rate as it is."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    left = 1.0 if settings.constant_rate else 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return settings.learning_rate * warm * left


def averaging_decay(step: int, settings: TrainSettings) -> float:
    """The decay of the averaged weights at a step, counted from 0: small at first, so that they forget the start.

    The warm-up (1 + t) / (10 + t) is that of TensorFlow's and diffusers' averages.
    """
    return min(settings.ema_decay, (1 + step) / (10 + step))


class Trainer:
    """Trains one model and keeps its checkpoints beside `path`.

    `x.safetensors` is the finished model (EMA weights, with spec, settings and history in its metadata), `x.json` the
    same facts for people, `x.resume` the state to continue from, removed at the end. `x_raw.safetensors`, where the
    settings ask for it, is the same model with the weights of the last step.

    Inside a group of processes (:mod:`lib.core.processes`) each takes its share of every batch; the first one
    validates, writes files and shows the progress. The batch size is that of all of them together.

    Args:
        spec: what to train.
        training, validation: crystals.
        settings: how.
        path: the finished model.
        device: where; in a group on GPUs each process takes its own card.
        loss_function: takes the place of the representation's own; for regression alone.
        on_validation: receives the history after each validation.
        n_processes: if more than one, :meth:`run` starts them as torchrun would, and this one shows what they report.
        bar: makes the progress bar.
        parent: a finished model whose weights are the start.
    """

    def __init__(
        self,
        spec: ModelSpec,
        training: CrystalTable,
        validation: CrystalTable,
        settings: TrainSettings,
        path: Path,
        device: torch.device,
        loss_function: Callable | None = None,
        on_validation: Callable[[list[dict[str, float]]], None] = lambda history: None,
        n_processes: int = 1,
        bar: Callable = progress,
        parent: Parent | None = None,
    ) -> None:
        n_processes = 1 if processes.launched() else n_processes
        if n_processes > 1 and loss_function is not None:
            raise BadInput("a loss of one's own cannot be sent to other processes; train it in one")
        self.spec, self.settings, self.path = spec, settings, Path(path)
        self.on_validation, self.n_processes, self.bar = on_validation, n_processes, bar
        self.launch_device = device  # of the processes that train
        self.device = device = processes.join(device) if n_processes == 1 else torch.device("cpu")
        torch.manual_seed(settings.seed)
        self.rep, self.method, self.net = spec.build()
        if loss_function:
            self.method = replace(self.method, loss_function=loss_function)
        self.parent = parent
        if parent:
            copy_weights(self.net, parent.tensors | self._fresh(parent), parent.path)
        self.net.to(device)
        self.data = PackedData(spec, self.rep, training, settings, device)
        self.validation = PackedData(spec, self.rep, validation, settings, device)
        if settings.compile:
            compile_in_place(self.net, varying=self.data.n_orbits is not None)
        self.model = processes.together(self.net)
        self.optimiser = torch.optim.Adam(self.net.parameters(), settings.learning_rate, settings.betas, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.ema = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        self.step = self.epoch = self.position = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.unseen: list[tuple[Tensor, np.ndarray]] = []  # losses still on the device, and the rows they are of
        self.losses: list[Tensor] = []  # since the last validation

    @property
    def name(self) -> str:
        """The model's name, that of its file."""
        return self.path.stem

    @property
    def n_parameters(self) -> int:
        """Trainable parameters of the network."""
        return sum(p.numel() for p in self.net.parameters())

    def run(self) -> pd.DataFrame:
        """Train to the end, from the last checkpoint if there is one, and return the loss history.

        In a group of processes the first one's is whole; what the others return lacks the validation.

        Raises:
            BadInput: a checkpoint is of another model or damaged.
            FloatingPointError: the loss or a gradient became nan; the message names the step, the crystals and the last
                checkpoint.
        """
        if self._is_finished():
            return pd.DataFrame(self.history)
        if self.n_processes > 1:
            return self._launch()
        self._resume()
        order = self.data.epoch(self.epoch)
        started = time.time() - self.seconds
        options = {} if self._first else {"disable": True}
        bar = self.bar(total=self.settings.steps, initial=self.step, desc=self.name, unit="step", **options)
        if not self.settings.steps:
            self._note(bar)
        while self.step < self.settings.steps:
            rows = slice(self.position, self.position + self.settings.batch_size)
            init, target = order[0][rows], order[1][rows]
            self.unseen.append((self._train_step(init, target), target))
            self.step += 1
            self.position = rows.stop
            if self.position >= len(order[0]):
                self.epoch, self.position = self.epoch + 1, 0
                order = self.data.epoch(self.epoch)
            last = self.step == self.settings.steps
            validates = self.step % self.settings.validate_every == 0 or last
            saves = self.step % self.settings.checkpoint_every == 0 and not last
            if self.step % LOOK_EVERY == 0 or validates or saves:
                self._look_at_losses()
            if validates:
                self._note(bar)
            if saves and self._first:
                self.seconds = time.time() - started
                self._save_resume()
            bar.update()
        bar.close()
        self.seconds = time.time() - started
        if self._first:
            self._save()
        processes.wait_for_all()
        return pd.DataFrame(self.history)

    @property
    def _first(self) -> bool:
        return processes.rank() == 0

    def _fresh(self, parent: Parent) -> dict[str, Tensor]:
        """The weights of layers for x_0 that a generator, from which a model of modification may start, has not."""
        if parent.spec.task == self.spec.task:
            return {}
        return {name: p for name, p in self.net.named_parameters() if name.startswith(self.net.x_0_layers)}

    def _stream(self, *purpose: str | int) -> torch.Generator:
        return torch_stream(self.device, self.settings.seed, *purpose)

    def _train_step(self, init: np.ndarray, target: np.ndarray) -> Tensor:
        share = processes.share(len(target))
        weight = (share.stop - share.start) / len(target)
        if not weight:  # fewer crystals than processes: whoever has none still takes part, with one that does not count
            share = slice(0, 1)
        batch = self.data.batch(init, target, self._stream("templates", self.step))
        if self.settings.forget:
            batch = self.rep.forget(batch, self.settings.forget, self._stream("forgotten conditions", self.step))
        self.optimiser.param_groups[0]["lr"] = learning_rate(self.step, self.settings)
        net = at_precision(self.model, self.settings.precision, self.device)
        loss = weight * self._loss(net, batch, self._stream("noise", self.step), share)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss * processes.size()).backward()  # the mean over processes, times their number, is the sum
        self.scaler.unscale_(self.optimiser)  # clipping sees true gradients, not fp16's scaled ones
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.max_gradient_norm or math.inf)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        with torch.no_grad():
            taken_over = 1 - averaging_decay(self.step, self.settings)
            torch._foreach_lerp_(list(self.ema.values()), list(self.net.parameters()), taken_over)
        if self.scaler.is_enabled():  # fp16's gradients may overflow: the step is then left out, and the scale lowered
            return loss.detach()
        return loss.detach() + 0 * norm  # nan where a gradient is no number, though the loss may be one

    def _loss(self, net: Callable, batch: Batch, generator: torch.Generator, share: slice = slice(None)) -> Tensor:
        """Mean loss of this process's rows. Random numbers are drawn for all, however many processes share them."""
        draw = self.method.draw(batch, generator)
        return self.method.losses(net, self.rep.align(batch[share]), draw[share]).mean()

    def _look_at_losses(self) -> None:
        """Stop at the first loss since the last look that is no number; those after it follow from it."""
        losses = processes.total(torch.stack([loss for loss, _ in self.unseen])).cpu()
        for i in (~losses.isfinite()).nonzero().flatten().tolist():
            ids, step = self.data.table.id[self.unseen[i][1]].tolist(), self.step - len(losses) + i
            batch = self.path.with_suffix(".failed.json")
            if self._first:
                write_json(batch, {"step": step, "crystals": ids})
            raise FloatingPointError(
                f"the loss of {self.name} or its gradient is {losses[i]} at step {step} (crystals "
                f"{', '.join(ids[:5])}, ...: all are in {batch}); "
                f"the last good checkpoint is {self._resume_path if self._resume_path.exists() else 'none'}"
            )
        self.losses.append(losses)
        self.unseen = []

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        weights = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        self._set_weights(self.ema)
        yield
        self._set_weights(weights)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        rows = self.validation.validation()
        batch = self.validation.batch(*rows, generator=self._stream("templates in validation"))
        with self._averaged_weights():
            loss = self._loss(self.net, batch, self._stream("noise in validation")).item()
            matches = self._match_rates(*rows) if self.settings.validate_matches else {}
        return {"validation": loss} | matches

    def _match_rates(self, init: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Share of the first validation crystals that are found in a few sampling steps, at three tolerances.

        A transformer is given the sites of the very crystals that it should find and only has their free parameters and
        the cell to choose: this shows whether a network learns, and is no score.
        """
        init, target = (rows[: self.settings.validate_matches] for rows in (init, target))
        batch = self.validation.batch(init, target)
        batch = replace(batch, x_1=torch.zeros_like(batch.x_1))
        steps = min(SAMPLING_STEPS, self.spec.num_train_timesteps)
        noise = self._stream("noise of matched crystals")
        x = self.method.sample(self.net, batch, noise, steps, sampler=self.method.few_steps)
        pairs = zip(self.rep.decode(x, batch), self.validation.table.take(target).structures(), strict=True)
        verdicts = [compare(*pair, timeout_seconds=MATCH_SECONDS) for pair in pairs]
        return {name: float(np.mean([v[name] for v in verdicts])) for name in VERDICTS}

    @torch.no_grad()
    def _set_weights(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.net.named_parameters():
            parameter.copy_(weights[name])

    def _note(self, bar) -> None:
        entry = {"step": self.step, "training": torch.cat(self.losses).mean().item() if self.losses else float("nan")}
        self.losses = []
        self.history.append(entry | (self._validate() if self._first else {}))
        if self._first:
            self._show(bar)

    def _show(self, bar) -> None:
        bar.set_postfix({name: f"{value:.4f}" for name, value in self.history[-1].items() if name != "step"})
        self.on_validation(self.history)

    # ---------------------------------------------------------------------------------- several processes

    def write_config(self) -> Path:
        """Write what `python -m lib.training` needs to train this model: a json, and the crystals' arrays beside it,
        which all processes of a machine share."""
        folder = self.path.with_suffix(".training").resolve()
        tables = {"training": self.data.table, "validation": self.validation.table}
        files = {name: str(mapped.save(table, folder / name)) for name, table in tables.items()}
        how = {"spec": asdict(self.spec), "settings": asdict(self.settings)}
        place = {"model": str(self.path.resolve()), "device": self.launch_device.type}
        place["parent"] = str(self.parent.path.resolve()) if self.parent else None
        return write_json(folder / "config.json", how | files | place)

    def _launch(self) -> pd.DataFrame:
        config = self.write_config()
        bar = self.bar(total=self.settings.steps, desc=self.name, unit="step")

        def on_news(news: dict) -> None:
            bar.update(news["step"] - bar.n)
            if len(news["history"]) > len(self.history):
                self.history = news["history"]
                self._show(bar)

        processes.launch("lib.training", config, self.n_processes, on_news)
        bar.close()
        shutil.rmtree(config.parent)
        self._is_finished()
        return pd.DataFrame(self.history)

    # ------------------------------------------------------------------------------------------ checkpoints

    @property
    def _resume_path(self) -> Path:
        return self.path.with_suffix(".resume")

    def _about(self) -> dict:
        return {
            "spec": asdict(self.spec),
            "settings": asdict(self.settings),
            "data": {
                "crystals": len(self.data.table),
                "energy_kind": self.data.table.energy_kind,
                "ids_sha256": self.data.table.ids_sha256,
            },
            "parent": self.parent and self.parent.about,
            "n_parameters": self.n_parameters,
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "history": self.history,
        }

    def _save(self) -> None:
        if self.settings.keep_raw:
            weights = {name: p.detach() for name, p in self.net.named_parameters()}
            save_weights(raw_path(self.path), weights, self._about())
        save_weights(self.path, self.ema, self._about())
        write_json(self.path.with_suffix(".json"), self._about())
        self._resume_path.unlink(missing_ok=True)

    def _save_resume(self) -> None:
        tensors = {f"net.{k}": v.detach() for k, v in self.net.named_parameters()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
        if self.losses:
            tensors["losses"] = torch.cat(self.losses)
        position = {"epoch": self.epoch, "position": self.position, "scaler": self.scaler.state_dict()}
        save_weights(self._resume_path, tensors, self._about() | position)
        write_json(self.path.with_suffix(".json"), self._about())

    def _is_finished(self) -> bool:
        if not self.path.exists():
            return False
        _, about = load_weights(self.path, self.device)
        check_same_model(about, self._about(), self.path)
        self.history, self.seconds, self.step = about["history"], about["seconds"], about["step"]
        return True

    def _resume(self) -> None:
        if not self._resume_path.exists():
            return
        tensors, about = load_weights(self._resume_path, self.device)
        check_same_model(about, self._about(), self._resume_path)
        weights = {k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")}
        copy_weights(self.net, weights, self._resume_path)
        for name, value in self.ema.items():
            value.copy_(tensors[f"ema.{name}"])
        state = self.optimiser.state_dict()
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, i, name = key.split(".")
                state["state"].setdefault(int(i), {})[name] = value
        self.optimiser.load_state_dict(state)
        self.scaler.load_state_dict(about["scaler"])
        self.losses = [tensors["losses"].cpu()] if "losses" in tensors else []
        self.step, self.epoch, self.position = about["step"], about["epoch"], about["position"]
        self.history, self.seconds = about["history"], about["seconds"]


@command()
def main() -> None:
    """Train what a config written by :meth:`Trainer.write_config` says, in this process or as one of a group."""
    parser = argparse.ArgumentParser(prog="python -m lib.training", description=main.__doc__)
    parser.add_argument("config", type=Path, help="config.json of a model")
    parser.add_argument("--attended", action="store_true", help="started by a notebook: report to it, end with it")
    arguments = parser.parse_args()
    config, folder = read_json(arguments.config), arguments.config.parent
    missing = {"spec", "settings", "training", "validation", "model", "device", "parent"}.difference(config)
    if missing:
        raise BadInput(f"{arguments.config} lacks {', '.join(sorted(missing))}; give the config.json of a training")
    with processes.attended(folder) if arguments.attended else nullcontext():
        news = processes.News(folder)
        watchers = {"bar": news, "on_validation": news.note} if arguments.attended else {}
        tables = [mapped.load(Path(config[name])) for name in ("training", "validation")]
        watchers["parent"] = Parent.read(Path(config["parent"])) if config["parent"] else None
        settings, path, device = TrainSettings(**config["settings"]), Path(config["model"]), config["device"]
        Trainer(ModelSpec.from_dict(config["spec"]), *tables, settings, path, torch.device(device), **watchers).run()
    processes.leave()


if __name__ == "__main__":
    main()
