"""Trained models, ready to sample: conditions in, structures out (paper Algorithms 2, 6, 8, 10, 11)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import numpy as np
import torch
from pymatgen.core import Structure
from safetensors.torch import load_file, save_file
from torch import nn

from lib.core.errors import BadInput
from lib.core.files import replacing, sha256_of
from lib.core.streams import CrystalStreams, numpy_stream
from lib.core.workers import progress
from lib.crystals.table import CrystalTable
from lib.models.interfaces import Method, Representation
from lib.symmetry.wyckoff import AsymmetricUnit
from lib.training.checkpoints import copy_weights, load_weights
from lib.training.registry import NETWORKS
from lib.training.spec import ModelSpec, at_precision


@dataclass(frozen=True)
class TrainedModel:
    """A network with its method, ready to sample."""

    spec: ModelSpec
    representation: Representation
    method: Method
    net: nn.Module
    device: torch.device
    about: dict  # what its file says of it
    checksum: str  # the file's sha256
    precision: str = "fp32"  # at which the network answers (lib.training.spec.at_precision)

    def generate(
        self,
        species: list[np.ndarray],
        space_group: np.ndarray,
        energy: np.ndarray,
        *,
        steps: int,
        batch_size: int = 256,
        seed: int = 42,
        sampler: str | None = None,
        x_0: CrystalTable | None = None,
        units: Sequence[AsymmetricUnit] | None = None,
        velocity_scale: float = 0.0,
        see_templates: bool = True,
        template_start: float = 0.0,
        guidance: float = 1.0,
        resume: Path | None = None,
    ) -> list[Structure | None]:
        """One structure a request, in order; None where the network's numbers make no crystal.

        Args:
            species: atomic numbers of each crystal's atoms, in canonical order (sorted by symbol).
            space_group: (n,) asked space groups.
            energy: (n,) asked formation energy in eV/atom, or for modification E_target - E_init.
            seed: the noise of a request follows from it, from the request, and from the number of equal requests
                before it; neither the other requests nor the batch size matter.
            sampler: one of the method's `samplers`, by default the first, such as "ddpm" or "ddim" for diffusion.
            x_0: the crystals to modify, in the order of the requests.
            units: the Wyckoff positions that a transformer keeps the atoms of each crystal to, for example those that
                :mod:`lib.retrieval.templates` finds; without them no symmetry is imposed. UNets take none.
            see_templates: whether a transformer that was trained with templates is shown the parameters and the cell of
                units that are templates; otherwise it is given their Wyckoff positions alone.
            template_start, velocity_scale: of :meth:`lib.methods.flow.FlowMatching.sample`, for a transformer.
            guidance: w in v_open + w (v_asked - v_open), for a model trained with open conditions; 1 costs nothing.
            resume: folder that takes each batch as it comes and gives back those of an interrupted call.

        Raises:
            BadInput: a modification model without x_0, guidance of a model that always knew its conditions, or a
                request that does not fit the model.
        """
        if (self.spec.task == "modification") != (x_0 is not None):
            raise BadInput(f"{self.spec.name} is a {self.spec.task} model; give x_0 to modify crystals, and only then")
        rep = self.representation
        crystals = rep.request(species, space_group, energy, units)
        if not see_templates:
            crystals = replace(crystals, template=None)
        if x_0 is not None:
            crystals = replace(crystals, **dict(zip(("x_0", "species_0"), rep.initial(x_0), strict=True)))
        crystals = crystals.to(self.device)
        options: dict[str, object] = {"sampler": sampler} if sampler else {}
        if NETWORKS[self.spec.network].open_conditions:
            wanted = {"velocity_scale": velocity_scale, "template_start": template_start}
            options |= {name: value for name, value in wanted.items() if name in self.method.options}
        if guidance != 1:
            if "guidance" not in self.method.options or not self.about["settings"].get("forget"):
                raise BadInput(
                    f"{self.spec.name} was never trained without its conditions and cannot be guided; use guidance 1, "
                    "or a transformer trained with 'transformer_forget' above 0"
                )
            options["guidance"] = guidance
        net = at_precision(self.net, self.precision, self.device)
        streams = request_streams(seed, species, space_group, energy, units, x_0)
        structures: list[Structure | None] = []
        initial = None if x_0 is None else crystals.x_0.numpy(force=True)
        asked = [species, space_group, energy, units, see_templates, initial]
        how = [steps, batch_size, seed, options, self.precision]
        request = joblib.hash([self.checksum, asked, *how])
        for i in progress(range(0, len(species), batch_size), desc=f"sampling {self.spec.name}", unit="batch"):
            rows = slice(i, i + batch_size)
            batch = rep.trim(crystals[rows])
            finished = resume / f"{request}_{i}.safetensors" if resume else None
            if finished and finished.exists():
                x = load_file(finished, device=str(self.device))["x"]
            else:
                noise = CrystalStreams(streams[rows], rep.rows(batch))
                x = self.method.sample(net, batch, noise, steps, **options)
                if finished:
                    with replacing(finished) as temporary:
                        save_file({"x": x.contiguous()}, temporary)
            structures += rep.decode(x, batch)
        return structures


def request_streams(
    seed: int,
    species: Sequence[np.ndarray],
    space_group: np.ndarray,
    energy: np.ndarray,
    units: Sequence[AsymmetricUnit] | None = None,
    x_0: CrystalTable | None = None,
) -> list[np.random.Generator]:
    """A stream of random numbers for each request of :meth:`TrainedModel.generate`.

    It follows from the seed, from all that is asked, coordinates and cells rounded to 0.001 and energies to 1e-6, and
    from the number of equal requests before it.
    """
    before: Counter[str] = Counter()
    streams = []
    for i in range(len(species)):
        asked = [np.asarray(species[i]).tolist(), int(space_group[i]), round(float(energy[i]), 6)]
        if units is not None:
            unit, lent = units[i], any(site.lender for site in units[i].sites)  # else parameters and cell say nothing
            of = [[int(s.species), int(s.position), int(s.lender), _rounded(s.parameters) * lent] for s in unit.sites]
            asked += [int(unit.symmetry), of, _rounded(unit.lattice) * lent]
        if x_0 is not None:
            rows = slice(x_0.offsets[i], x_0.offsets[i + 1])
            asked += [_rounded(x_0.lattice[i]), _rounded(x_0.frac_coords[rows]), x_0.species[rows].tolist()]
        request = repr(asked)
        streams.append(numpy_stream(seed, request, before[request]))
        before[request] += 1
    return streams


def _rounded(values: np.ndarray) -> list:
    return (np.round(np.asarray(values, dtype=float), 3) + 0.0).tolist()  # -0.0 is written otherwise


def load_model(path: str | Path, device: torch.device | str = "cpu") -> TrainedModel:
    """Read a finished model; its weights are single precision also where its file holds half
    (:mod:`lib.generation.ship`).

    On a GPU the network answers at the precision that it was trained at, on a CPU at single precision.
    """
    path, device = Path(path), torch.device(device)
    tensors, about = load_weights(path, device)
    spec = ModelSpec.from_dict(about["spec"])
    representation, method, net = spec.build()
    net.to(device).requires_grad_(False).eval()
    copy_weights(net, tensors, path)
    precision = about["settings"]["precision"] if device.type == "cuda" else "fp32"
    return TrainedModel(spec, representation, method, net, device, about, sha256_of(path), precision)
