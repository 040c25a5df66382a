"""Files of weights: tensors and, in their metadata under `about`, what they are."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lib.run import BadInput, replacing
from lib.spec import TrainSettings

ANY_WAY = {"compile"}  # settings that a continued run may change


def raw_path(path: Path) -> Path:
    """Where the weights of the last step are kept, beside their average in `path`."""
    return path.with_stem(f"{path.stem}_raw")


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


def check_same_model(found: dict, mine: dict, path: Path) -> None:
    """Whether a file's `about` is that of the model to be trained; the defaults stand for settings it does not know.

    Raises:
        BadInput: it is of another model, was trained otherwise, or started from other weights.
    """
    mine = json.loads(json.dumps(mine))
    defaults = {f.name: f.default for f in fields(TrainSettings)}
    for part in ("spec", "settings"):
        for key, value in mine[part].items():
            other = found[part].get(key, defaults.get(key))
            if other != value and key not in ANY_WAY:
                raise BadInput(
                    f"checkpoint {path} is of another model: its {part} has {key} = {other!r}, "
                    f"this run {value!r}; delete it or choose another run name"
                )
    before, now = found.get("parent"), mine["parent"]
    if (before and before["sha256"]) != (now and now["sha256"]):
        names = [f"{p['file']} ({p['sha256'][:8]})" if p else "nothing" for p in (before, now)]
        raise BadInput(
            f"checkpoint {path} started from {names[0]}, this run from {names[1]}; delete it or choose another run name"
        )
