"""Files of weights: tensors and, in their metadata under `about`, what they are; and training that starts from some."""

from __future__ import annotations

import json
import shutil
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lib.core.errors import BadInput
from lib.core.files import replacing, sha256_of
from lib.crystals.table import CrystalTable
from lib.training.registry import METHODS
from lib.training.spec import ModelSpec, TrainSettings

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
    """Give a network the weights of a file, of whatever precision. Raises BadInput if they are those of another
    architecture."""
    for name, parameter in net.named_parameters():
        if name not in tensors or tensors[name].shape != parameter.shape:
            found = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise BadInput(
                f"weights {path} are of another architecture: {name} should have shape {tuple(parameter.shape)} "
                f"and has {found}; train the model again or give the file that belongs to its json"
            )
        parameter.copy_(tensors[name])


def load_weights(path: Path, device: torch.device) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a file written by :func:`save_weights`, and what they are. Raises BadInput if the file is damaged
    or was not written by this project."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {})["about"])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise BadInput(f"weights {path} cannot be read ({error}); delete the file and train the model again") from error


def check_same_model(found: dict, mine: dict, path: Path) -> None:
    """Whether a file's `about` is that of the model to be trained; the defaults stand for settings it does not know.
    Raises BadInput if it is of another model, was trained otherwise, or started from other weights."""
    defaults = {f.name: f.default for f in fields(TrainSettings) if f.default is not MISSING}
    mine, defaults = (json.loads(json.dumps(values)) for values in (mine, defaults))  # as files hold them
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


def take_finished(source: Path, target: Path, training: CrystalTable) -> tuple[ModelSpec, TrainSettings]:
    """What a finished model is and how it was trained; it is copied to where a run would train it, and finds it.

    Raises BadInput if it learnt from other crystals, among which may be those that this run measures it by.
    """
    about = load_weights(source, torch.device("cpu"))[1]
    if about["data"].get("ids_sha256") != training.ids_sha256:
        raise BadInput(
            f"the weights {source} learnt from other crystals than this run's training set, maybe from those that it "
            "is judged by; set 'finished' to null in the notebooks that train, or restore the split of notebook 02"
        )
    if not target.exists():
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
    return ModelSpec.from_dict(about["spec"]), TrainSettings(**about["settings"])


@dataclass(frozen=True)
class Parent:
    """A finished model whose weights another training starts from (fine-tuning)."""

    path: Path  # its file; weights of half precision are read, too
    spec: ModelSpec  # what it is
    tensors: dict[str, Tensor]  # its weights
    about: dict  # what the child's checkpoints keep of it: file, model, sha256, energy_kind

    @classmethod
    def read(cls, path: Path) -> Parent:
        """Read a finished model. Raises BadInput if there is no such file, or it holds no model of this project."""
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
        volumes of the new training table, on which `spec` was fitted. Raises BadInput if the two are different
        networks, or the crystals are larger than the parent takes.
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
        """Whether such a model can start from these weights.

        They are those of the same network and method, or of the generation method that its own may start from; in the
        latter case the layers for x_0 start from nothing.
        """
        methods = (spec.method, METHODS[spec.method].starts_from)
        return spec.network == self.spec.network and self.spec.method in methods

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
