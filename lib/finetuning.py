"""Training that starts from a finished model's weights (fine-tuning): which weights fit which model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.checkpoints import load_weights
from lib.crystals import CrystalTable
from lib.registry import METHODS
from lib.run import BadInput, sha256_of
from lib.spec import ModelSpec


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
