"""Trained models, ready to sample: conditions in, structures out (paper Algorithms 2, 6, 8, 10, 11)."""

from __future__ import annotations

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

from lib.crystals import CrystalTable
from lib.flow import FlowMatching
from lib.run import BadInput, progress, replacing, sha256_of
from lib.streams import CrystalStreams, numpy_stream
from lib.tensors import Conditions, OrbitTensors, Representation
from lib.training import Method, ModelSpec, at_precision, copy_weights, load_weights
from lib.wyckoff import AsymmetricUnit, free_atoms


@dataclass(frozen=True)
class TrainedModel:
    """A network with its method, ready to sample.

    Attributes:
        about: what its file says of it.
        checksum: the file's sha256.
        precision: at which the network answers (:func:`lib.training.at_precision`).
    """

    spec: ModelSpec
    representation: Representation
    method: Method
    net: nn.Module
    device: torch.device
    about: dict
    checksum: str
    precision: str = "fp32"

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
            steps: inference steps.
            batch_size: crystals sampled at once.
            seed: the noise of a request follows from it, from the request, and from how many equal ones stand before
                it; neither the other requests nor the batch size matter.
            sampler: "ddpm" or "ddim" for a diffusion model; for others see :data:`lib.flow.SAMPLERS` and
                :data:`lib.wrapped.SAMPLERS`.
            x_0: the crystals to modify, in the order of the requests.
            units: the sites that a transformer keeps the atoms of each crystal to, whatever their free parameters
                (:mod:`lib.templates` finds some); without them no symmetry is imposed. UNets know no sites.
            see_templates: whether a transformer that knows templates sees the parameters and the cell of units that
                are some; else it has their Wyckoff positions alone.
            template_start: for flow matching with a transformer, the time at which crystals with a template start from
                it in place of noise, see :meth:`lib.flow.FlowMatching.sample`.
            velocity_scale: for flow matching with a transformer, see :meth:`lib.flow.FlowMatching.sample`.
            guidance: w in v_open + w (v_asked - v_open), for a model trained with open conditions; 1 costs nothing.
            resume: folder that takes each batch as it comes and gives back those of an interrupted call.

        Raises:
            BadInput: a modification model without x_0, guidance of a model that always knew its conditions, or a
                request that does not fit the model.
        """
        if (self.spec.task == "modification") != (x_0 is not None):
            raise BadInput(f"{self.spec.name} is a {self.spec.task} model; give x_0 to modify crystals, and only then")
        conditions = self._conditions(species, space_group, energy, units).to(self.device)
        if not see_templates:
            conditions = replace(conditions, template=None)
        start, shown = None, None  # x_0 as the beginning of the way, or as a condition
        if x_0 is not None and isinstance(self.representation, OrbitTensors):
            polymorph = self.representation.polymorphs(x_0).to(self.device)
            conditions, shown = replace(conditions, polymorph=polymorph), polymorph.x
        elif x_0 is not None:
            start = shown = self.representation.encode(x_0).to(self.device)
        options = {"sampler": sampler} if sampler else {}
        if self.spec.network == "transformer" and isinstance(self.method, FlowMatching):
            options |= {"velocity_scale": velocity_scale, "template_start": template_start}
        if guidance != 1:
            if not self.about["settings"].get("forget"):
                raise BadInput(
                    f"{self.spec.name} was never trained without its conditions and cannot be guided; use guidance 1, "
                    "or a transformer trained with 'transformer_forget' above 0"
                )
            options["guidance"] = guidance
        net = at_precision(self.net, self.precision, self.device)
        streams = request_streams(seed, species, space_group, energy, units, x_0)
        structures: list[Structure | None] = []
        asked = [species, space_group, energy, units, see_templates, None if shown is None else shown.numpy(force=True)]
        how = [steps, batch_size, seed, options, self.precision]
        request = joblib.hash([self.checksum, asked, *how])
        for i in progress(range(0, len(species), batch_size), desc=f"sampling {self.spec.name}", unit="batch"):
            rows = slice(i, i + batch_size)
            like = torch.zeros(len(conditions[rows]), self.representation.n_rows, 3, device=self.device)
            like, batch = self.representation.trim(like, conditions[rows])
            finished = resume / f"{request}_{i}.safetensors" if resume else None
            if finished and finished.exists():
                x = load_file(finished, device=str(self.device))["x"]
            else:
                noise = CrystalStreams(streams[rows], self.representation.rows(batch))
                begin = None if start is None else start[rows]
                x = self.method.sample(net, like, batch, begin, noise, steps, **options)
                if finished:
                    with replacing(finished) as temporary:
                        save_file({"x": x.contiguous()}, temporary)
            structures += self.representation.decode(x, batch)
        return structures

    def _conditions(
        self,
        species: list[np.ndarray],
        space_group: np.ndarray,
        energy: np.ndarray,
        units: Sequence[AsymmetricUnit] | None,
    ) -> Conditions:
        if isinstance(self.representation, OrbitTensors):
            return self.representation.asked(units or [free_atoms(s) for s in species], space_group, energy)
        return Conditions.pack(species, space_group, energy, self.representation.n_sites)


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
            asked += _of_unit(units[i])
        if x_0 is not None:
            rows = slice(x_0.offsets[i], x_0.offsets[i + 1])
            asked += [_rounded(x_0.lattice[i]), _rounded(x_0.frac_coords[rows]), x_0.species[rows].tolist()]
        request = repr(asked)
        streams.append(numpy_stream(seed, request, before[request]))
        before[request] += 1
    return streams


def _of_unit(unit: AsymmetricUnit) -> list:
    """What a model sees of a unit: where nothing was lent, neither free parameters nor the cell."""
    lent = any(site.lender for site in unit.sites)
    sites = [[int(s.species), int(s.position), int(s.lender), _rounded(s.parameters) * lent] for s in unit.sites]
    return [int(unit.symmetry), sites, _rounded(unit.lattice) * lent]


def _rounded(values: np.ndarray) -> list:
    return (np.round(np.asarray(values, dtype=float), 3) + 0.0).tolist()  # -0.0 is written otherwise


def load_model(path: str | Path, device: torch.device | str = "cpu") -> TrainedModel:
    """Read a finished model; its weights are single precision also where its file holds half (:mod:`lib.ship`).

    On a GPU the network answers at the precision that it was trained at, on a CPU at single precision.

    Raises:
        BadInput: the file is damaged or holds the weights of another architecture.
    """
    path, device = Path(path), torch.device(device)
    tensors, about = load_weights(path, device)
    spec = ModelSpec.from_dict(about["spec"])
    representation, method, net = spec.build()
    net.to(device).requires_grad_(False).eval()
    copy_weights(net, tensors, path)
    precision = about["settings"]["precision"] if device.type == "cuda" else "fp32"
    return TrainedModel(spec, representation, method, net, device, about, sha256_of(path), precision)
