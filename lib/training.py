"""One training loop for every method and both representations (paper A.3): Adam, warm-up and cosine, EMA, checkpoints.

The whole data set lies on the device as packed tensors. Every random number of a step follows from the seed and the
step, and every epoch's order from the seed and the epoch, so that a run continued from a checkpoint takes exactly the
steps that the uninterrupted one would have taken.

Several processes, one GPU each, take the same steps faster: each has its share of every batch. A notebook starts them
where its parameter `gpus` says so; by hand

    torchrun --nproc_per_node 8 -m lib.training outputs/paper/models/generation_paper_ddpm.training/config.json

does the same with what :meth:`Trainer.write_config` wrote, on one machine or several.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lib import processes
from lib.alignment import training_templates
from lib.crystals import CrystalTable
from lib.diffusion import Diffusion
from lib.flow import FlowMatching
from lib.matching import compare
from lib.pairs import PairSampler, validation_pairs
from lib.params import NetworkParams, TrainParams, networks_and_methods
from lib.regression import Regression
from lib.run import ROOT, BadInput, Run, progress, replacing, sha256_of, write_json
from lib.streams import numpy_stream, torch_stream
from lib.tensors import (
    Conditions,
    OrbitTensors,
    PaperTensors,
    PeriodicTensors,
    Representation,
    Template,
    rows_of,
)
from lib.transformer import CrystalTransformer, TransformerSizes
from lib.unet import PaperNet, PeriodicNet, UNetSizes
from lib.wrapped import WrappedDiffusion

TASKS = {
    "generation": ["ddpm", "cfm_normal", "cfm_uniform", "wrapped"],
    "modification": ["regression", "diffusion", "cfm", "cfm_noise"],
}
NETWORKS = {  # representation, network and its sizes
    "paper": (PaperTensors, PaperNet, UNetSizes),
    "periodic": (PeriodicTensors, PeriodicNet, UNetSizes),
    "transformer": (OrbitTensors, CrystalTransformer, TransformerSizes),
}
Method = Diffusion | FlowMatching | Regression | WrappedDiffusion
Sizes = UNetSizes | TransformerSizes
MAX_GRADIENT_NORM = 1.0
MAX_TEMPLATES = 3  # of each crystal, in training
WINDOW = 8  # batches among which crystals are sorted by size
LOOK_EVERY = 16  # steps between looks at the losses: each look waits for the device
SAMPLING_STEPS = 20  # of the validation by matching
MATCH_SECONDS = 2.0  # for a pair of it
COMPILER = "inductor"
ANY_WAY = {"compile"}  # settings that a continued run may change


@dataclass(frozen=True)
class ModelSpec:
    """Everything that defines a network and its method; a checkpoint carries it."""

    task: str
    network: str
    method: str
    sizes: Sizes = UNetSizes()
    num_train_timesteps: int = 1000
    state: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        """File name of the weights, such as generation_periodic_cfm_uniform."""
        return f"{self.task}_{self.network}_{self.method}"

    @classmethod
    def from_dict(cls, values: dict) -> ModelSpec:
        """Inverse of `dataclasses.asdict`, from JSON."""
        sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in values["sizes"].items()}
        return cls(**{**values, "sizes": NETWORKS[values["network"]][2](**sizes)})

    def build(self, loss_function: Callable | None = None) -> tuple[Representation, Method, nn.Module]:
        """The representation, the method and a network with fresh weights.

        Raises:
            BadInput: the task, method or representation is not known.
        """
        if self.method not in TASKS.get(self.task, []):
            raise BadInput(f"method {self.method!r} of task {self.task!r} is not known; choose from {TASKS}")
        if self.network not in NETWORKS:
            raise BadInput(f"network {self.network!r} is not known; choose one of {', '.join(NETWORKS)}")
        if not networks_and_methods([self.network], [self.method]):
            fitting = ", ".join(m for _, m in networks_and_methods([self.network], TASKS[self.task]))
            raise BadInput(f"method {self.method!r} is not made for network {self.network!r}; choose from {fitting}")
        network = NETWORKS[self.network][1]
        rep = NETWORKS[self.network][0](**self.state)
        diffuses = self.method in ("ddpm", "diffusion")
        if self.method == "wrapped":
            method: Method = WrappedDiffusion(rep, self.num_train_timesteps)
        elif diffuses:
            predicted = "sample" if self.network == "periodic" else "epsilon"
            method = Diffusion(rep, self.num_train_timesteps, prediction_type=predicted)
        elif self.method == "regression":
            method = Regression(rep, loss_function)
        else:
            source = {"cfm": "data", "cfm_noise": "normal"}.get(self.method, self.method.removeprefix("cfm_"))
            method = FlowMatching(rep, source)
        if self.network == "transformer":
            return rep, method, network(rep, self.sizes, self.task == "modification")
        # as published, diffusion alone has x_0 as a condition: to a flow x_t and x_0 would say already where it leads,
        # so that it could learn no mean velocity at points that are on no path
        options = {}
        if self.network == "periodic":
            options = {"euclidean": diffuses, "predicts_velocity": isinstance(method, FlowMatching)}
        return rep, method, network(rep, self.sizes, x_0_condition=self.method == "diffusion", **options)


@dataclass(frozen=True)
class TrainSettings:
    """How to train; the defaults are A.3's, with EMA and bf16 in place of fp16 alone."""

    steps: int
    batch_size: int = 256
    learning_rate: float = 1e-4
    warmup_steps: int = 500
    ema_decay: float = 0.999
    precision: str = "bf16"
    validate_every: int = 1000
    checkpoint_every: int = 1000
    pairs_per_group: int = 8
    forget: float = 0.0  # share of crystals whose space group, and of those whose energy, a transformer is not told
    template_share: float = 0.75  # of the crystals that have a template, how many a transformer is shown one of
    seed: int = 42
    compile: bool = False
    validate_matches: int = 0  # validation crystals that are sampled and matched each time; 0 for the loss alone
    keep_raw: bool = False  # whether the weights of the last step are kept beside their average


def make_spec(
    task: str, network: str, method: str, table: CrystalTable, sizes: Sizes, num_train_timesteps: int = 1000
) -> ModelSpec:
    """A model's specification, with the representation fitted to the training table."""
    halvings = len(sizes.channel_mult) - 1 if isinstance(sizes, UNetSizes) else 0
    multiple = {"multiple": max(4, 2**halvings)} if network == "periodic" else {}
    state = NETWORKS[network][0].fit(table, **multiple).state()
    return ModelSpec(task, network, method, sizes, num_train_timesteps, state)


@dataclass(frozen=True)
class Parent:
    """A finished model whose weights another training starts from (fine-tuning).

    Attributes:
        path: its file; weights of half precision are read, too.
        spec: what it is.
        tensors: its weights.
        about: what the child's checkpoints keep of it: file, model, sha256, energy_kind.
    """

    path: Path
    spec: ModelSpec
    tensors: dict[str, Tensor]
    about: dict

    @classmethod
    def read(cls, path: Path) -> Parent:
        """Read a finished model.

        Raises:
            BadInput: there is no such file, or it holds no model of this project.
        """
        if not path.is_file():
            raise BadInput(
                f"the weights {path} do not exist; name a finished model's .safetensors file by 'init_weights', or set "
                "it to null to train from nothing"
            )
        tensors, about = load_weights(path, torch.device("cpu"))
        spec = ModelSpec.from_dict(about["spec"])
        kind = about.get("data", {}).get("energy_kind", "unknown")
        facts = {"file": path.name, "model": spec.name, "sha256": sha256_of(path), "energy_kind": kind}
        return cls(path, spec, tensors, facts)

    def child(self, spec: ModelSpec) -> ModelSpec:
        """The specification of a model that starts from these weights.

        The representation is the parent's, so that the weights keep their meaning; elements that it never saw take the
        volumes of the new training table, on which `spec` was fitted.

        Raises:
            BadInput: the two are different networks, or the crystals are larger than the parent takes.
        """
        theirs, mine = (_flat(asdict(replace(s, state={}))) for s in (self.spec, spec))
        if self.serves(spec):
            theirs |= {name: mine[name] for name in ("task", "method")}
        for key in sorted(theirs.keys() | mine.keys()):
            if theirs.get(key) != mine.get(key):
                raise BadInput(
                    f"the weights {self.path} are of another network: their {key} is {theirs.get(key)!r}, here it is "
                    f"{mine.get(key)!r}; give the run their {key}, or set 'init_weights' to null"
                )
        state = dict(self.spec.state)
        if "n_sites" in state and spec.state["n_sites"] > state["n_sites"]:
            raise BadInput(
                f"crystals of up to {spec.state['n_sites']} atoms are too large for the weights {self.path}, which "
                f"take {state['n_sites']}; lower max_sites in 01_aflow_ingest or set 'init_weights' to null"
            )
        if "volumes" in state:
            known, new = np.array(state["volumes"]), np.array(spec.state["volumes"])
            # elements without a volume of their own have the mean, as oganesson does, which is in no crystal
            unseen = (known == known[-1]) & (new != new[-1])
            state["volumes"] = np.where(unseen, new, known).tolist()
        return replace(spec, state=state)

    def serves(self, spec: ModelSpec) -> bool:
        """Whether such a model can start from these weights: its own kind, or a generator that is to modify crystals.

        The latter does not touch what a transformer knows of x_0, which begins anew.
        """
        mine, theirs = ((s.task, s.network, s.method) for s in (spec, self.spec))
        return mine == theirs or (mine, theirs) == (
            ("modification", "transformer", "cfm_noise"),
            ("generation", "transformer", "cfm_normal"),
        )

    def warning(self, table: CrystalTable) -> str:
        """What to know where the weights learnt energies of another kind than the table's, or ""."""
        if self.about["energy_kind"] == table.energy_kind:
            return ""
        return (
            f"The weights {self.path.name} learnt energies of one kind ({self.about['energy_kind']}) and are now "
            f"fine-tuned on another ({table.energy_kind}): ask the result for energies of the new kind alone."
        )


def _flat(values: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


class PackedData:
    """A table as tensors on the device, and the batches of an epoch.

    Generation: every crystal once. Modification: pairs drawn anew by :class:`lib.pairs.PairSampler`.
    """

    def __init__(self, spec: ModelSpec, rep: Representation, table: CrystalTable, settings: TrainSettings, device):
        self.table, self.settings, self.rep = table, settings, rep
        self.pairs = spec.task == "modification"
        x, conditions = rep.pack(table)
        self.n_sites = conditions.n_sites.numpy()
        self.n_orbits = None if conditions.orbits is None else conditions.orbits.mask.sum(1).numpy()
        self.x, self.conditions = x.to(device), conditions.to(device)
        modified = rep.polymorphs(table).to(device) if self.pairs and spec.network == "transformer" else None
        self.polymorphs = modified
        self.shows_templates = isinstance(spec.sizes, TransformerSizes) and spec.sizes.templates

    @cached_property
    def templates(self) -> PackedTemplates:
        """The templates of the table's crystals; they take minutes to align."""
        return PackedTemplates(self.rep, self.table, self.x.device)

    def epoch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (init, target) of an epoch in order; init equals target for generation."""
        rng = numpy_stream(self.settings.seed, "epoch", number)
        if self.pairs:
            init, target = PairSampler(self.table, self.settings.pairs_per_group, rng).epoch()
        else:
            init = target = rng.permutation(len(self.table))
        order = self._alike(target, rng)
        return init[order], target[order]

    def _alike(self, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """An order of the targets in which batches hold crystals of like size, where that saves padding."""
        order = np.arange(len(target))
        if self.n_orbits is None:
            return order
        size = self.n_orbits[target] + 1e-3 * self.n_sites[target]
        n, batches = self.settings.batch_size, []
        for window in np.split(order, range(WINDOW * n, len(order), WINDOW * n)):
            window = window[np.argsort(size[window], kind="stable")]
            batches += np.split(window, range(n, len(window), n))
        partial = [batches.pop()] if len(batches[-1]) < n else []
        return np.concatenate([batches[i] for i in rng.permutation(len(batches))] + partial)

    def validation(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the validation batch, four training batches at most: pairs towards the lowest polymorph, or crystals.

        They are the same each time, so that losses compare.
        """
        rng = numpy_stream(self.settings.seed, "validation crystals")
        pairs = validation_pairs(self.table, self.settings.pairs_per_group, rng) if self.pairs else None
        n = len(pairs[0]) if pairs else len(self.table)
        chosen = rng.permutation(n)[: 4 * self.settings.batch_size]
        return (pairs[0][chosen], pairs[1][chosen]) if pairs else (chosen, chosen)

    def batch(
        self,
        init: np.ndarray,
        target: np.ndarray,
        share: slice = slice(None),
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Conditions, Tensor | None]:
        """x_1, its conditions and, for pairs, x_0; of pairs, the x_1 in `share` alone are aligned with their x_0.

        To a transformer x_0 is one of the conditions. The generator draws templates, if there are to be some.
        """
        rows, start, x_0 = self._on_device(target), self._on_device(init), None
        x_1, conditions = self.x[rows], self.conditions[rows]
        if self.pairs:
            difference = conditions.energy - self.conditions.energy[start]
            polymorph = self.polymorphs and self.polymorphs[start]
            conditions = replace(conditions, energy=difference, polymorph=polymorph)
        if self.pairs and self.polymorphs is None:
            x_0 = self.x[start]
            x_1[share] = self.rep.align(*rows_of(share, x_0, x_1, conditions))
        if self.shows_templates and generator is not None:
            template = self.templates.draw(rows, self.settings.template_share, generator)
            conditions = replace(conditions, template=template)
        largest = None if self.n_orbits is None else (self.n_orbits[target].max(), self.n_sites[target].max())
        return *self.rep.trim(x_1, conditions, largest), x_0

    def _on_device(self, rows: np.ndarray) -> Tensor:
        """Row numbers, sent without waiting for what the device has still to do."""
        rows = torch.as_tensor(rows)
        return rows.pin_memory().to(self.x.device, non_blocking=True) if self.x.is_cuda else rows


class PackedTemplates:
    """Up to MAX_TEMPLATES templates of each crystal of a table (:func:`lib.alignment.training_templates`).

    Crystals lend to each other, those of the validation set, too: what a network learns from them is what a template
    is worth, and none of them is of the formula that it is shown for.
    """

    def __init__(self, rep: OrbitTensors, table: CrystalTable, device: torch.device) -> None:
        found = training_templates(table, MAX_TEMPLATES)
        self.count = torch.tensor([len(several) for several in found], device=device)
        self.first = (self.count.cumsum(0) - self.count).to(device)
        templates = rep.encode_templates([unit for several in found for unit in several])
        self.templates = None if templates is None else templates.to(device)

    def draw(self, rows: Tensor, share: float, generator: torch.Generator) -> Template | None:
        """For each of some rows (B,) one of its templates; with probability 1 - share, or where it has none, none."""
        if self.templates is None:
            return None
        draw = torch.rand(2, len(rows), generator=generator, device=rows.device)
        chosen = self.first[rows] + (draw[0] * self.count[rows]).long()
        template = self.templates[chosen.clamp(max=len(self.templates.lenders) - 1)]
        return template.hidden((self.count[rows] == 0) | (draw[1] >= share))


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    return settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def averaging_decay(step: int, settings: TrainSettings) -> float:
    """What the averaged weights keep of themselves at a step, from 0: at first little, so that they forget the start.

    The warm-up (1 + t) / (10 + t) is that of TensorFlow's and diffusers' averages.
    """
    return min(settings.ema_decay, (1 + step) / (10 + step))


class Trainer:
    """Trains one model and keeps its checkpoints beside `path`.

    `x.safetensors` is the finished model (EMA weights, with spec, settings and history in its metadata), `x.json` the
    same facts for people, `x.resume` the state to continue from, removed at the end. `x_raw.safetensors`, where the
    settings ask for it, is the same model with the weights of the last step.

    Inside a group of processes (:mod:`lib.processes`) each takes its share of every batch; the first one validates,
    writes and shows how far it is. The batch size is that of all of them together.

    Args:
        spec: what to train.
        training, validation: crystals.
        settings: how.
        path: the finished model.
        device: where; in a group on GPUs each process takes its own card.
        loss_function: in place of the representation's own, for regression.
        on_validation: receives the history after each validation.
        n_processes: more than one are started by :meth:`run`, as torchrun would, and this one only looks on.
        bar: makes what shows how far the training is.
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
        self.launch_device = device  # of those who train, while this process only looks on
        self.device = device = processes.join(device) if n_processes == 1 else torch.device("cpu")
        torch.manual_seed(settings.seed)
        self.rep, self.method, self.net = spec.build(loss_function)
        self.parent = parent
        if parent:
            fresh = {name: p for name, p in self.net.named_parameters() if name.startswith("polymorph.")}
            copy_weights(self.net, fresh | parent.tensors, parent.path)
        self.net.to(device)
        if settings.compile:
            compile_in_place(self.net, varying=spec.network == "transformer")
        self.model = processes.together(self.net)
        self.data = PackedData(spec, self.rep, training, settings, device)
        self.validation = PackedData(spec, self.rep, validation, settings, device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), settings.learning_rate, fused=True)
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

    def _stream(self, *purpose: str | int) -> torch.Generator:
        return torch_stream(self.device, self.settings.seed, *purpose)

    def _train_step(self, init: np.ndarray, target: np.ndarray) -> Tensor:
        share = processes.share(len(target))
        weight = (share.stop - share.start) / len(target)
        if not weight:  # fewer crystals than processes: whoever has none still takes part, with one that does not count
            share = slice(0, 1)
        x_1, conditions, x_0 = self.data.batch(init, target, share, self._stream("templates", self.step))
        if self.settings.forget:
            forgetting = self._stream("forgotten conditions", self.step)
            x_1, conditions = self.rep.forget(x_1, conditions, self.settings.forget, forgetting)
        self.optimiser.param_groups[0]["lr"] = learning_rate(self.step, self.settings)
        net = at_precision(self.model, self.settings.precision, self.device)
        loss = weight * self.method.loss(net, x_1, conditions, x_0, self._stream("noise", self.step), share)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss * processes.size()).backward()  # the mean over processes, times their number, is the sum
        self.scaler.unscale_(self.optimiser)  # clipping sees true gradients, not fp16's scaled ones
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), MAX_GRADIENT_NORM)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        with torch.no_grad():
            taken_over = 1 - averaging_decay(self.step, self.settings)
            torch._foreach_lerp_(list(self.ema.values()), list(self.net.parameters()), taken_over)
        if self.scaler.is_enabled():  # fp16's gradients may overflow: the step is then left out, and the scale lowered
            return loss.detach()
        return loss.detach() + 0 * norm  # nan where a gradient is no number, though the loss may be one

    def _look_at_losses(self) -> None:
        """Stop at the first loss since the last look that is no number; those after it are its consequence."""
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
        x_1, conditions, x_0 = self.validation.batch(*rows, generator=self._stream("templates in validation"))
        with self._averaged_weights():
            noise = self._stream("noise in validation")
            loss = self.method.loss(self.net, x_1, conditions, x_0, noise).item()
            matches = self._match_rates(*rows) if self.settings.validate_matches else {}
        return {"validation": loss} | matches

    def _match_rates(self, init: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Share of the first validation crystals that a few sampling steps meet, at two tolerances of lib.matching.

        A transformer is given the sites of the very crystals that it should find, with only their free parameters and
        the cell to choose: this shows whether a network learns and is no score.
        """
        init, target = (rows[: self.settings.validate_matches] for rows in (init, target))
        x_1, conditions, x_0 = self.validation.batch(init, target)
        steps, options = SAMPLING_STEPS, {}
        if isinstance(self.method, Diffusion):
            steps, options = min(steps, self.method.num_train_timesteps), {"sampler": "ddim"}
        noise = self._stream("noise of matched crystals")
        x = self.method.sample(self.net, torch.zeros_like(x_1), conditions, x_0, noise, steps, **options)
        pairs = zip(self.rep.decode(x, conditions), self.validation.table.take(target).structures(), strict=True)
        verdicts = [compare(*pair, timeout_seconds=MATCH_SECONDS) for pair in pairs]
        return {name: float(np.mean([v[name] for v in verdicts])) for name in ("match_default", "match_csp")}

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
        """Write what `python -m lib.training` needs to train this model: a json, and the crystals beside it."""
        folder = self.path.with_suffix(".training").resolve()
        tables = {"training": self.data.table, "validation": self.validation.table}
        files = {name: str(table.to_parquet(folder / f"{name}.parquet")) for name, table in tables.items()}
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
            "data": {"crystals": len(self.data.table), "energy_kind": self.data.table.energy_kind},
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
        self._check_same_model(about, self.path)
        self.history, self.seconds, self.step = about["history"], about["seconds"], about["step"]
        return True

    def _resume(self) -> None:
        if not self._resume_path.exists():
            return
        tensors, about = load_weights(self._resume_path, self.device)
        self._check_same_model(about, self._resume_path)
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

    def _check_same_model(self, about: dict, path: Path) -> None:
        mine = json.loads(json.dumps({"spec": asdict(self.spec), "settings": asdict(self.settings)}))
        defaults = {f.name: f.default for f in fields(TrainSettings)}  # for what an older checkpoint does not know
        for part, values in mine.items():
            for key, value in values.items():
                found = about[part].get(key, defaults.get(key))
                if found != value and key not in ANY_WAY:
                    raise BadInput(
                        f"checkpoint {path} is of another model: its {part} has {key} = {found!r}, "
                        f"this run {value!r}; delete it or choose another run name"
                    )
        before, now = about.get("parent"), self.parent and self.parent.about
        if (before and before["sha256"]) != (now and now["sha256"]):
            names = [f"{p['file']} ({p['sha256'][:8]})" if p else "nothing" for p in (before, now)]
            raise BadInput(
                f"checkpoint {path} started from {names[0]}, this run from {names[1]}; delete it or choose another run "
                "name"
            )


def raw_path(path: Path) -> Path:
    """Where the weights of the last step are kept, beside their average in `path`."""
    return path.with_stem(f"{path.stem}_raw")


def at_precision(net: nn.Module, precision: str, device: torch.device) -> Callable[..., Tensor]:
    """The network at "fp32", "fp16" or "bf16", answering in fp32: it alone, as geometry and losses need all digits."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)

    def answer(*inputs) -> Tensor:
        with torch.autocast(device.type, dtype) if dtype else nullcontext():
            return net(*inputs).float()

    return answer


def compile_in_place(net: nn.Module, varying: bool) -> None:
    """torch.compile of a network that keeps the names of its parameters.

    Args:
        varying: whether the length of its batches changes, so that one program must do for all.

    Raises:
        BadInput: there is no C++ compiler.
    """
    if not any(map(shutil.which, [os.environ.get("CXX", "c++"), "g++", "clang++"])):
        raise BadInput("'compile' needs a C++ compiler and finds none; install g++ or set compile: false")
    net.compile(backend=COMPILER, dynamic=True if varying else None)


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
    if network == "transformer":
        names = ("width", "blocks", "heads", "templates")
        return TransformerSizes(**{name: getattr(params, f"transformer_{name}") for name in names})
    values = {f.name: getattr(params, f.name) for f in fields(UNetSizes)}
    return UNetSizes(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


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
) -> Iterator[Trainer]:
    """A trainer for each network and method that a notebook's parameters name and that fit, and for `long_model`.

    The model that `init_weights` holds starts from them, the others from nothing.

    Args:
        run: the notebook's run; weights go to its `models/` folder.
        task: "generation" or "modification".
        training, validation: the two sides of the split.
        on_validation: model name -> callback that receives the loss history after each validation.

    Raises:
        BadInput: `init_weights` cannot be read or belong to none of the models.
    """
    p = run.params
    settings, n_processes = settings_of(p, run.seed), n_processes_of(p.gpus, run.device)
    parent = parent_of(run, task, training)
    if p.epochs is not None:
        n = len(training)
        if task == "modification":
            n = len(PairSampler(training, p.pairs_per_group, numpy_stream(run.seed, "epoch", 0)).epoch()[0])
        settings = replace(settings, steps=p.epochs * -(-n // p.batch_size))
    for network, method in networks_and_methods(p.networks, p.methods):
        how = replace(settings, forget=p.transformer_forget) if network == "transformer" else settings
        spec = make_spec(task, network, method, training, sizes_of(p, network), p.num_train_timesteps)
        if "n_sites" in spec.state:  # the validation set may hold the largest crystal
            needed = make_spec(task, network, method, validation, sizes_of(p, network)).state["n_sites"]
            spec = replace(spec, state=spec.state | {"n_sites": max(spec.state["n_sites"], needed)})
        start = parent if parent and parent.serves(spec) else None
        spec = start.child(spec) if start else spec
        trainings = {spec.name: how}
        if p.long_model == f"{network}_{method}":
            often = -(-how.validate_every * p.long_steps // how.steps)  # as many points in its curve
            trainings[f"{spec.name}_long"] = replace(how, steps=p.long_steps, validate_every=often)
        for name, how in trainings.items():
            path = run.path(f"models/{name}.safetensors")
            run.path(f"models/{name}.json")
            if how.keep_raw:
                run.path(f"models/{raw_path(path).name}")
            callback = on_validation(name) if on_validation else lambda history: None
            watchers = {"on_validation": callback, "n_processes": n_processes, "parent": start}
            yield Trainer(spec, training, validation, how, path, run.device, **watchers)


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


def save_weights(path: Path, tensors: dict[str, Tensor], about: dict) -> None:
    """Write tensors and, in the same file's metadata, what they are; whole or not at all."""
    with replacing(path) as temporary:
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, temporary, {"about": json.dumps(about)})


@torch.no_grad()
def copy_weights(net: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Give a network the weights of a file, of whatever precision.

    Raises:
        BadInput: they are those of another architecture.
    """
    for name, parameter in net.named_parameters():
        if name not in tensors or tensors[name].shape != parameter.shape:
            found = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise BadInput(
                f"weights {path} are of another architecture: {name} should have shape {tuple(parameter.shape)} "
                f"and has {found}; train the model again or give the file that belongs to its json"
            )
        parameter.copy_(tensors[name])


def load_weights(path: Path, device: torch.device) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a file written by :func:`save_weights`, and what they are.

    Raises:
        BadInput: the file is damaged or was not written by this project.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {})["about"])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise BadInput(f"weights {path} cannot be read ({error}); delete the file and train the model again") from error


def main() -> None:
    """Train what a config written by :meth:`Trainer.write_config` says, in this process or as one of a group."""
    parser = argparse.ArgumentParser(prog="python -m lib.training", description=main.__doc__)
    parser.add_argument("config", type=Path, help="config.json of a model")
    parser.add_argument("--attended", action="store_true", help="started by a notebook: report to it, end with it")
    arguments = parser.parse_args()
    config, folder = json.loads(arguments.config.read_text()), arguments.config.parent
    with processes.attended(folder) if arguments.attended else nullcontext():
        news = processes.News(folder)
        watchers = {"bar": news, "on_validation": news.note} if arguments.attended else {}
        tables = [CrystalTable.from_parquet(config[name]) for name in ("training", "validation")]
        watchers["parent"] = Parent.read(Path(config["parent"])) if config["parent"] else None
        settings, path, device = TrainSettings(**config["settings"]), Path(config["model"]), config["device"]
        Trainer(ModelSpec.from_dict(config["spec"]), *tables, settings, path, torch.device(device), **watchers).run()
    processes.leave()


if __name__ == "__main__":
    main()
