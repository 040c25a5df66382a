"""The best of several candidates a request: by a potential, or by the model that is asked how likely it finds them.

Sampling a request k times and keeping the best costs k samples and no training. Invalid candidates never win.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import numpy as np
import torch
from pymatgen.core import Structure

from lib.core.errors import BadInput
from lib.core.files import write_json
from lib.core.streams import torch_stream
from lib.core.workers import progress
from lib.crystals.table import CrystalTable
from lib.crystals.validity import reason_invalid, reason_unusable
from lib.energies.potentials import DEFAULT_POTENTIAL
from lib.energies.relaxation import relax_many, single_points
from lib.generation.sampling import TrainedModel
from lib.models.interfaces import Draw
from lib.training.registry import NETWORKS

Candidates = Sequence[Sequence[Structure | None]]


@dataclass(frozen=True)
class Best:
    """The winner of each of n requests."""

    # as it was judged, that is relaxed where candidates were; None where no candidate is valid
    structures: list[Structure | None]
    # (n,) what it won by, the lower the better: eV/atom, or the model's loss; nan where there is none
    scores: np.ndarray
    index: np.ndarray  # (n,) its place among the candidates, -1 where there is none
    every: list[np.ndarray]  # for each request the scores of all candidates; nan where they have none

    def first(self, candidates: Candidates, n: int) -> list[list[Structure | None]]:
        """For each request the n candidates of lowest score, without those that have none."""
        orders = [np.argsort(scores, kind="stable")[: min(n, np.isfinite(scores).sum())] for scores in self.every]
        return [[several[i] for i in order] for several, order in zip(candidates, orders, strict=True)]


def best_of(
    candidates: Candidates,
    potential: str = DEFAULT_POTENTIAL,
    *,
    volumes: np.ndarray,
    relaxed: bool = False,
    **settings,
) -> Best:
    """The candidate of lowest energy per atom for each request.

    Args:
        candidates: for each request, structures of one composition; None where a model gave none.
        potential: name in :data:`lib.energies.potentials.POTENTIALS`.
        volumes: (119,) Å^3 an atom of each element takes, for :func:`lib.crystals.validity.reason_invalid`.
        relaxed: whether they are relaxed first. One whose relaxation fails, or leads to no valid crystal, wins only
            where all others do the same, by its energy as it was.
        settings: n_workers and finished of :func:`lib.energies.relaxation.relax_many`, and those of the relaxation.
    """
    places = valid_places(candidates, volumes)
    structures = [candidates[i][j] for i, j in places]
    if not relaxed:
        energies = single_points(structures, potential, **settings)
        return lowest(candidates, places, structures, [(energy,) for energy in energies])
    scores, ends = [], []
    for structure, result in zip(structures, relax_many(structures, potential, **settings), strict=True):
        failed = bool(reason_unusable(result.failure, result.structure, volumes))
        scores.append((failed, result.start_energy if failed else result.energy))
        ends.append(structure if failed else result.structure)
    return lowest(candidates, places, ends, scores)


def best_by_model(
    candidates: Candidates,
    model: TrainedModel,
    space_group: np.ndarray,
    energy: np.ndarray,
    *,
    volumes: np.ndarray,
    n_draws: int = 32,
    batch_size: int = 256,
    seed: int = 42,
    resume: Path | None = None,
) -> Best:
    """The candidate that a flow-matching model finds easiest to come by under the request; needs no potential.

    A candidate's score is the model's training loss on it, averaged over `n_draws` evenly spaced times, each with a
    noise of its own, the same for all candidates: a bound on the likelihood, as in diffusion classifiers (Li et al.,
    arXiv:2303.16203). Candidates may have different symmetry, and the loss of one with few free parameters is small
    for that reason alone. So a transformer sees every candidate without symmetry, each atom as an orbit of its own,
    as it has learnt to where `transformer_forget` is above 0.

    Args:
        candidates, volumes: as for :func:`best_of`.
        space_group, energy: (n,) what was asked, as for :meth:`lib.generation.sampling.TrainedModel.generate`.
        resume: folder that takes the scores of each batch as they come.

    Raises:
        BadInput: the model was trained by another method, for another task or never without symmetry, or a candidate
            does not fit it.
    """
    if not model.method.predicts_velocity or model.spec.task != "generation":
        raise BadInput(f"{model.spec.name} cannot rank crystals; give a generation model trained by flow matching")
    if NETWORKS[model.spec.network].open_conditions and not model.about["settings"].get("forget"):
        raise BadInput(
            f"{model.spec.name} has never seen a crystal without its symmetry and cannot rank; give one trained with "
            "'transformer_forget' above 0"
        )
    places = valid_places(candidates, volumes)
    structures = [candidates[i][j] for i, j in places]
    requests = np.array([i for i, _ in places], dtype=int)
    asked = np.asarray(space_group)[requests], np.asarray(energy)[requests]
    crystals = [(np.vstack([s.lattice.matrix, s.frac_coords]), np.array(s.atomic_numbers)) for s in structures]
    request = joblib.hash([model.checksum, crystals, asked, n_draws, batch_size, seed])
    losses: list[float] = []
    for start in progress(range(0, len(places), batch_size), desc=f"ranking by {model.spec.name}", unit="batch"):
        rows = slice(start, start + batch_size)
        finished = resume / f"{request}_{start}.json" if resume else None
        if finished and finished.exists():
            losses += json.loads(finished.read_text())
            continue
        found = _losses(model, structures[rows], *(values[rows] for values in asked), n_draws, seed)
        losses += found
        if finished:
            write_json(finished, found)
    return lowest(candidates, places, structures, [(loss,) for loss in losses])


@torch.no_grad()
def _losses(
    model: TrainedModel,
    structures: list[Structure],
    space_group: np.ndarray,
    energy: np.ndarray,
    n_draws: int,
    seed: int,
) -> list[float]:
    """The mean loss of the model on each structure under the given conditions."""
    rep, method = model.representation, model.method
    n = len(structures)
    no_facts = {"formation_energy": np.zeros(n), "space_group": np.ones(n)}  # the request takes their place
    names = [str(i) for i in range(n)]
    whole = rep.freed(rep.pack(CrystalTable.from_structures(structures, id=names, energy_kind="none", **no_facts)))
    asked = {"space_group": torch.as_tensor(space_group), "energy": torch.as_tensor(energy).float()}
    whole = replace(whole, conditions=replace(whole.conditions, **asked)).to(model.device)
    batch = rep.trim(whole)
    total = torch.zeros(n, device=model.device)
    for i in range(n_draws):
        start = method.draw(whole[:1], torch_stream(model.device, seed, "ranking", i)).noise
        start = rep.trim(replace(whole, x_1=start.expand_as(whole.x_1))).x_1
        t = torch.full((n,), (i + 0.5) / n_draws, device=model.device)
        total += method.losses(model.net, batch, Draw(t, start))
    return (total / n_draws).tolist()


def valid_places(candidates: Candidates, volumes: np.ndarray) -> list[tuple[int, int]]:
    """Request and place of each valid candidate; `volumes` as for :func:`best_of`."""
    places = [(i, j) for i, few in enumerate(candidates) for j in range(len(few))]
    places = progress(places, desc="checking candidates", unit="crystal")
    return [(i, j) for i, j in places if not reason_invalid(candidates[i][j], volumes)]


def lowest(
    candidates: Candidates,
    places: Sequence[tuple[int, int]],
    structures: Sequence[Structure],
    scores: Iterable[tuple],
) -> Best:
    """The lowest score of each request; the last part of a score is its value, and nan never wins."""
    n = len(candidates)
    every = [np.full(len(several), np.nan) for several in candidates]
    best = Best([None] * n, np.full(n, np.nan), np.full(n, -1), every)
    found = [one for one in zip(scores, places, structures, strict=True) if not np.isnan(one[0][-1])]
    for score, (i, j), structure in sorted(found, key=lambda one: one[:2]):
        every[i][j] = score[-1]
        if best.index[i] < 0:
            best.structures[i], best.scores[i], best.index[i] = structure, score[-1], j
    return best
