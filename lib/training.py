"""One training loop for every method and both representations (paper A.3): Adam, warm-up and cosine, EMA, checkpoints.

The whole data set lies on the device as packed tensors. Every random number of a step follows from the seed and the
step, and every epoch's order from the seed and the epoch, so that a run continued from a checkpoint takes exactly the
steps that the uninterrupted one would have taken.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lib.crystals import CrystalTable
from lib.diffusion import Diffusion
from lib.flow import FlowMatching
from lib.params import NetworkParams, TrainParams, networks_and_methods
from lib.polymorphs import PairSampler, validation_pairs
from lib.regression import Regression
from lib.run import BadInput, Run, progress, replacing, write_json
from lib.tensors import Conditions, OrbitTensors, PaperTensors, PeriodicTensors, Representation
from lib.transformer import CrystalTransformer, TransformerSizes
from lib.unet import PaperNet, PeriodicNet, UNetSizes

TASKS = {"generation": ["ddpm", "cfm_normal", "cfm_uniform"], "modification": ["regression", "diffusion", "cfm"]}
NETWORKS = {  # representation, network and its sizes
    "paper": (PaperTensors, PaperNet, UNetSizes),
    "periodic": (PeriodicTensors, PeriodicNet, UNetSizes),
    "transformer": (OrbitTensors, CrystalTransformer, TransformerSizes),
}
Method = Diffusion | FlowMatching | Regression
Sizes = UNetSizes | TransformerSizes
MAX_GRADIENT_NORM = 1.0
WINDOW = 8  # batches among which crystals are sorted by size


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
        network = NETWORKS[self.network][1]
        rep = representation_of(self.task, self.network)(**self.state)
        predicts_end = self.network == "periodic"
        diffuses = self.method in ("ddpm", "diffusion")
        if self.network == "transformer" and not self.method.startswith("cfm"):
            raise BadInput(
                f"method {self.method!r} is not made for the transformer, which predicts velocities; use cfm"
            )
        if diffuses:
            method: Method = Diffusion(rep, self.num_train_timesteps, predicts_end=predicts_end)
        elif self.method == "regression":
            method = Regression(rep, loss_function)
        else:
            source = {"cfm": "data"}.get(self.method, self.method.removeprefix("cfm_"))
            method = FlowMatching(rep, source, predicts_end=predicts_end)
        if self.network == "paper":  # as published, only the diffusion model has x_0 as a condition
            return rep, method, network(rep, self.sizes, x_0_condition=self.method == "diffusion")
        options = {"euclidean": diffuses} if self.network == "periodic" else {}
        return rep, method, network(rep, self.sizes, self.task == "modification", **options)


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
    seed: int = 42


def make_spec(
    task: str, network: str, method: str, table: CrystalTable, sizes: Sizes, num_train_timesteps: int = 1000
) -> ModelSpec:
    """A model's specification, with the representation fitted to the training table."""
    halvings = len(sizes.channel_mult) - 1 if isinstance(sizes, UNetSizes) else 0
    multiple = {"multiple": max(4, 2**halvings)} if network == "periodic" else {}
    state = representation_of(task, network).fit(table, **multiple).state()
    return ModelSpec(task, network, method, sizes, num_train_timesteps, state)


def representation_of(task: str, network: str) -> type[Representation]:
    """What a network sees. To the transformer polymorphs of different symmetry have none in common."""
    return PeriodicTensors if (task, network) == ("modification", "transformer") else NETWORKS[network][0]


class PackedData:
    """A table as tensors on the device, and the batches of an epoch.

    Generation: every crystal once. Modification: pairs drawn anew by :class:`lib.polymorphs.PairSampler`.
    """

    def __init__(self, spec: ModelSpec, rep: Representation, table: CrystalTable, settings: TrainSettings, device):
        self.table, self.settings, self.rep = table, settings, rep
        self.pairs = spec.task == "modification"
        x, conditions = rep.pack(table)
        self.x, self.conditions = x.to(device), conditions.to(device)

    def epoch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (init, target) of an epoch in order; init equals target for generation."""
        rng = np.random.default_rng([self.settings.seed, number])
        if not self.pairs:
            rows = self._alike(rng.permutation(len(self.table)), rng)
            return rows, rows
        return PairSampler(self.table, self.settings.pairs_per_group, rng).epoch()

    def _alike(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The rows in an order in which batches hold crystals of like size, where that saves padding."""
        if self.conditions.orbits is None:
            return rows
        size = self.conditions.orbits.mask.sum(1).cpu().numpy() + 1e-3 * self.conditions.n_sites.cpu().numpy()
        n, batches = self.settings.batch_size, []
        for window in np.split(rows, range(WINDOW * n, len(rows), WINDOW * n)):
            window = window[np.argsort(size[window], kind="stable")]
            batches += np.split(window, range(n, len(window), n))
        partial = [batches.pop()] if len(batches[-1]) < n else []
        return np.concatenate([batches[i] for i in rng.permutation(len(batches))] + partial)

    def validation(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the validation batch, four training batches at most: pairs towards the lowest polymorph, or crystals.

        They are the same each time, so that losses compare.
        """
        rng = np.random.default_rng(self.settings.seed)
        pairs = validation_pairs(self.table, self.settings.pairs_per_group, rng) if self.pairs else None
        n = len(pairs[0]) if pairs else len(self.table)
        chosen = rng.permutation(n)[: 4 * self.settings.batch_size]
        return (pairs[0][chosen], pairs[1][chosen]) if pairs else (chosen, chosen)

    def batch(self, init: np.ndarray, target: np.ndarray) -> tuple[Tensor, Conditions, Tensor | None]:
        """x_1, its conditions and, for pairs, x_0."""
        rows = torch.as_tensor(target, device=self.x.device)
        x_1, conditions = self.x[rows], self.conditions[rows]
        if not self.pairs:
            return *self.rep.trim(x_1, conditions), None
        start = torch.as_tensor(init, device=self.x.device)
        difference = conditions.energy - self.conditions.energy[start]
        conditions = Conditions(conditions.species, conditions.space_group, difference)
        return self.rep.align(self.x[start], x_1, conditions), conditions, self.x[start]


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    return settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


class Trainer:
    """Trains one model and keeps its checkpoints beside `path`.

    `x.safetensors` is the finished model (EMA weights, with spec, settings and history in its metadata), `x.json` the
    same facts for people, `x.resume` the state to continue from, removed at the end.
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
    ) -> None:
        self.spec, self.settings, self.path, self.device = spec, settings, Path(path), device
        self.on_validation = on_validation
        torch.manual_seed(settings.seed)
        self.rep, self.method, self.net = spec.build(loss_function)
        self.net.to(device)
        self.data = PackedData(spec, self.rep, training, settings, device)
        self.validation = PackedData(spec, self.rep, validation, settings, device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), settings.learning_rate, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.ema = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        self.step = self.epoch = self.position = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []

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

        Raises:
            BadInput: a checkpoint is of another model or damaged.
            FloatingPointError: the loss became nan; the message names the step, the crystals and the last checkpoint.
        """
        if self._is_finished():
            return pd.DataFrame(self.history)
        self._resume()
        order = self.data.epoch(self.epoch)
        started = time.time() - self.seconds
        bar = progress(total=self.settings.steps, initial=self.step, desc=self.name, unit="step")
        losses: list[Tensor] = []
        while self.step < self.settings.steps:
            rows = slice(self.position, self.position + self.settings.batch_size)
            losses.append(self._train_step(order[0][rows], order[1][rows]))
            self.step += 1
            self.position = rows.stop
            if self.position >= len(order[0]):
                self.epoch, self.position = self.epoch + 1, 0
                order = self.data.epoch(self.epoch)
            last = self.step == self.settings.steps
            if self.step % self.settings.validate_every == 0 or last:
                self._note(torch.stack(losses).mean().item(), bar)
                losses = []
            if self.step % self.settings.checkpoint_every == 0 and not last:
                self.seconds = time.time() - started
                self._save_resume()
            bar.update()
        bar.close()
        self.seconds = time.time() - started
        self._save()
        return pd.DataFrame(self.history)

    def _autocast(self):
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.settings.precision)
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    def _generator(self, *numbers: int) -> torch.Generator:
        seed = np.random.SeedSequence([self.settings.seed, *numbers]).generate_state(1, np.uint64)[0]
        return torch.Generator(self.device).manual_seed(int(seed))

    def _train_step(self, init: np.ndarray, target: np.ndarray) -> Tensor:
        x_1, conditions, x_0 = self.data.batch(init, target)
        generator = self._generator(self.step)
        if self.settings.forget:
            x_1, conditions = self.rep.forget(x_1, conditions, self.settings.forget, generator)
        self.optimiser.param_groups[0]["lr"] = learning_rate(self.step, self.settings)
        with self._autocast():
            loss = self.method.loss(self.net, x_1, conditions, x_0, generator)
        if not torch.isfinite(loss):
            ids = ", ".join(self.data.table.id[target[:5]])
            raise FloatingPointError(
                f"the loss of {self.name} is {loss.item()} at step {self.step} (crystals {ids}, ...); the last "
                f"good checkpoint is {self._resume_path if self._resume_path.exists() else 'none'}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)  # clipping sees true gradients, not fp16's scaled ones
        nn.utils.clip_grad_norm_(self.net.parameters(), MAX_GRADIENT_NORM)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), list(self.net.parameters()), 1 - self.settings.ema_decay)
        return loss.detach()

    @torch.no_grad()
    def _validation_loss(self) -> float:
        weights = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        self._set_weights(self.ema)
        x_1, conditions, x_0 = self.validation.batch(*self.validation.validation())
        loss = self.method.loss(self.net, x_1, conditions, x_0, self._generator(0, 0)).item()
        self._set_weights(weights)
        return loss

    @torch.no_grad()
    def _set_weights(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.net.named_parameters():
            parameter.copy_(weights[name])

    def _note(self, loss: float, bar) -> None:
        entry = {"step": self.step, "training": loss, "validation": self._validation_loss()}
        self.history.append(entry)
        bar.set_postfix(training=f"{loss:.4f}", validation=f"{entry['validation']:.4f}")
        self.on_validation(self.history)

    # ------------------------------------------------------------------------------------------ checkpoints

    @property
    def _resume_path(self) -> Path:
        return self.path.with_suffix(".resume")

    def _about(self) -> dict:
        return {
            "spec": asdict(self.spec),
            "settings": asdict(self.settings),
            "data": {"crystals": len(self.data.table), "energy_kind": self.data.table.energy_kind},
            "n_parameters": self.n_parameters,
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "history": self.history,
        }

    def _save(self) -> None:
        save_weights(self.path, self.ema, self._about())
        write_json(self.path.with_suffix(".json"), self._about())
        self._resume_path.unlink(missing_ok=True)

    def _save_resume(self) -> None:
        tensors = {f"net.{k}": v.detach() for k, v in self.net.named_parameters()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
        position = {"epoch": self.epoch, "position": self.position, "scaler": self.scaler.state_dict()}
        save_weights(self._resume_path, tensors, self._about() | position)

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
        self._set_weights({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
        for name, value in self.ema.items():
            value.copy_(tensors[f"ema.{name}"])
        state = self.optimiser.state_dict()
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, i, name = key.split(".")
                state["state"].setdefault(int(i), {})[name] = value
        self.optimiser.load_state_dict(state)
        self.scaler.load_state_dict(about["scaler"])
        self.step, self.epoch, self.position = about["step"], about["epoch"], about["position"]
        self.history, self.seconds = about["history"], about["seconds"]

    def _check_same_model(self, about: dict, path: Path) -> None:
        mine = json.loads(json.dumps({"spec": asdict(self.spec), "settings": asdict(self.settings)}))
        for part, values in mine.items():
            for key, value in values.items():
                if about[part].get(key) != value:
                    raise BadInput(
                        f"checkpoint {path} is of another model: its {part} has {key} = {about[part].get(key)!r}, "
                        f"this run {value!r}; delete it or choose another run name"
                    )


def sizes_of(params: NetworkParams, network: str = "paper") -> Sizes:
    """The sizes of a network that a notebook's parameters ask for."""
    if network == "transformer":
        return TransformerSizes(params.transformer_width, params.transformer_blocks, params.transformer_heads)
    values = {f.name: getattr(params, f.name) for f in fields(UNetSizes)}
    return UNetSizes(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def settings_of(params: NetworkParams, seed: int) -> TrainSettings:
    """The training settings that a notebook's parameters ask for."""
    names = {f.name for f in fields(TrainSettings)} - {"seed", "forget"}
    return TrainSettings(**{name: getattr(params, name) for name in names}, seed=seed)


def trainers(
    run: Run[TrainParams],
    task: str,
    training: CrystalTable,
    validation: CrystalTable,
    on_validation: Callable[[str], Callable] | None = None,
) -> Iterator[Trainer]:
    """A trainer for each network and method that a notebook's parameters name and that fit, and for `long_model`.

    Args:
        run: the notebook's run; weights go to its `models/` folder.
        task: "generation" or "modification".
        training, validation: the two sides of the split.
        on_validation: model name -> callback that receives the loss history after each validation.
    """
    p = run.params
    settings = settings_of(p, run.seed)
    if p.epochs is not None:
        settings = replace(settings, steps=p.epochs * -(-len(training) // p.batch_size))
    for network, method in networks_and_methods(p.networks, p.methods):
        how = replace(settings, forget=p.transformer_forget) if network == "transformer" else settings
        spec = make_spec(task, network, method, training, sizes_of(p, network), p.num_train_timesteps)
        trainings = {spec.name: how}
        if p.long_model == f"{network}_{method}":
            often = -(-how.validate_every * p.long_steps // how.steps)  # as many points in its curve
            trainings[f"{spec.name}_long"] = replace(how, steps=p.long_steps, validate_every=often)
        for name, how in trainings.items():
            path = run.path(f"models/{name}.safetensors")
            run.path(f"models/{name}.json")
            callback = on_validation(name) if on_validation else lambda history: None
            yield Trainer(spec, training, validation, how, path, run.device, on_validation=callback)


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
