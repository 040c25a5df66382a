"""What a model is and how it is trained, as values that a checkpoint carries."""

import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.models.interfaces import Method, Representation
from lib.training.registry import METHODS, NETWORKS, methods_of, networks_and_methods

COMPILER = "inductor"


class Sizes(Protocol):
    """Widths and depths of a network: a dataclass."""

    row_multiple: int  # what the number of atom rows must be a multiple of
    templates: bool  # whether the network has layers for templates


@dataclass(frozen=True)
class ModelSpec:
    """Everything that defines a network and its method; a checkpoint carries it."""

    task: str  # "generation" or "modification"
    # network, method: names in lib.training.registry
    network: str
    method: str
    sizes: Sizes  # of the network
    num_train_timesteps: int = 1000  # T, of methods whose times are discrete
    # what was fitted to the training table, see lib.models.interfaces.Representation.state
    state: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        """File name of the weights, such as generation_periodic_cfm_uniform."""
        return f"{self.task}_{self.network}_{self.method}"

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        """Inverse of `dataclasses.asdict`, from JSON."""
        sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in values["sizes"].items()}
        return cls(**{**values, "sizes": resolve_name(NETWORKS[values["network"]].sizes)(**sizes)})

    def build(self) -> tuple[Representation, Method, nn.Module]:
        """The representation, the method and a network with fresh weights. Raises BadInput if the task, method or
        network is not known, or they do not go together."""
        known = methods_of(self.task)
        if self.method not in known:
            raise BadInput(f"method {self.method!r} of task {self.task!r} is not known; choose from {', '.join(known)}")
        if self.network not in NETWORKS:
            raise BadInput(f"network {self.network!r} is not known; choose one of {', '.join(NETWORKS)}")
        if not networks_and_methods([self.network], [self.method]):
            fitting = ", ".join(m for _, m in networks_and_methods([self.network], known))
            raise BadInput(f"method {self.method!r} is not made for network {self.network!r}; choose from {fitting}")
        network, method = NETWORKS[self.network], METHODS[self.method]
        rep = resolve_name(network.representation)(**self.state)
        of_spec = {name: getattr(self, name) for name in method.from_spec}
        process = resolve_name(method.factory)(rep, **method.options, **of_spec)
        of_process = {name: getattr(process, name) for name in ("euclidean", "predicts_velocity")}
        needs = of_process | {"x_0_condition": method.x_0_condition}
        net = resolve_name(network.network)(rep, self.sizes, **{name: needs[name] for name in network.options})
        return rep, process, net


def make_spec(
    task: str, network: str, method: str, table: CrystalTable, sizes: Sizes, num_train_timesteps: int = 1000
) -> ModelSpec:
    """A model's specification, with the representation fitted to the training table."""
    rep = resolve_name(NETWORKS[network].representation).fit(table, sizes.row_multiple)
    return ModelSpec(task, network, method, sizes, num_train_timesteps, rep.state())


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
    max_sites_share: float = 1.0  # of an epoch's crystals or pairs that one number of atoms may have; 1: any
    forget: float = 0.0  # share of crystals whose space group, and share of those whose energy, is left open
    template_share: float = 0.75  # share of the crystals with templates that are shown one
    seed: int = 42
    compile: bool = False
    validate_matches: int = 0  # validation crystals that are sampled and matched each time; 0 for the loss alone
    keep_raw: bool = False  # whether the weights of the last step are kept beside their average
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam
    constant_rate: bool = False  # the learning rate stays as it is after the warm-up, in place of the cosine
    max_gradient_norm: float | None = 1.0  # None: gradients are taken as they are


def at_precision(net: nn.Module, precision: str, device: torch.device) -> Callable[..., Tensor]:
    """The network at "fp32", "fp16" or "bf16", answering in fp32: it alone, as geometry and losses need all digits."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)

    def answer(*inputs) -> Tensor:
        with torch.autocast(device.type, dtype) if dtype else nullcontext():
            return net(*inputs).float()

    return answer


def compile_in_place(net: nn.Module, varying: bool) -> None:
    """torch.compile of a network that keeps the names of its parameters; where the length of its batches is `varying`,
    one program must do for all. Raises BadInput if there is no C++ compiler."""
    if not any(map(shutil.which, [os.environ.get("CXX", "c++"), "g++", "clang++"])):
        raise BadInput("'compile' needs a C++ compiler and finds none; install g++ or set compile: false")
    net.compile(backend=COMPILER, dynamic=True if varying else None)
