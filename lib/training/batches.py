"""A table of crystals as tensors, and the batches that training takes of it.

A table of up to :data:`lib.crystals.mapped.IN_MEMORY` crystals is packed at once and lies on the device. A larger one
stays where it is, memory-mapped, and each batch is packed when it is taken: training starts at once, whatever the size.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lib.core.streams import numpy_stream
from lib.crystals.mapped import IN_MEMORY
from lib.crystals.table import CrystalTable
from lib.datasets.pairs import PairSampler, first_of_each, most_of_each, validation_pairs
from lib.models.batch import Batch, Template
from lib.models.interfaces import Representation
from lib.models.orbit_state import OrbitTensors
from lib.retrieval.alignment import training_templates
from lib.training.spec import ModelSpec, TrainSettings

MAX_TEMPLATES = 3  # of each crystal, in training
WINDOW = 8  # batches among which crystals are sorted by size


class PackedData:
    """A table as tensors on the device, and the batches of an epoch.

    For generation an epoch has every crystal once, for modification pairs that :class:`lib.datasets.pairs.PairSampler`
    draws anew.
    """

    def __init__(self, spec: ModelSpec, rep: Representation, table: CrystalTable, settings: TrainSettings, device):
        self.table, self.settings, self.rep, self.device = table, settings, rep, device
        self.pairs = spec.task == "modification"
        self.shows_templates = spec.sizes.templates
        self.crystals: Batch | None = None
        if len(table) <= IN_MEMORY:
            packed = rep.pack(table)
            self.n_sites = packed.conditions.n_sites.numpy()
            self.n_orbits = None if packed.orbits is None else packed.orbits.mask.sum(1).numpy()
            self.crystals = packed.to(device)
            self.initial = [values.to(device) for values in rep.initial(table)] if self.pairs else None
        else:
            has_orbits = rep.pack(table.take([0])).orbits is not None
            self.n_sites, self.n_orbits = table.n_sites, table.asymmetric_units.n_orbits if has_orbits else None

    @cached_property
    def templates(self) -> PackedTemplates:
        """The templates of the table's crystals; they take minutes to align."""
        return PackedTemplates(self.rep, self.table, self.device)

    def epoch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (init, target) of an epoch in order; init equals target for generation."""
        rng = numpy_stream(self.settings.seed, "epoch", number)
        if self.pairs:
            limits = self.settings.pairs_per_group, rng, self.settings.max_sites_share
            init, target = PairSampler(self.table, *limits).epoch()
        else:
            init = target = self._balanced(rng.permutation(len(self.table)))
        order = self._alike(target, rng)
        return init[order], target[order]

    def _balanced(self, rows: np.ndarray) -> np.ndarray:
        """Rows without those by which a number of atoms would have too large a share; others in each epoch."""
        if self.settings.max_sites_share >= 1:
            return rows
        sites = self.n_sites[rows]
        return rows[first_of_each(sites, most_of_each(np.bincount(sites), self.settings.max_sites_share))]

    def _alike(self, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """An order of the targets in which batches hold crystals of about one size, where that saves padding."""
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

    def batch(self, init: np.ndarray, target: np.ndarray, generator: torch.Generator | None = None) -> Batch:
        """The batch of some rows of the table; for pairs, x_0 are the rows `init`, and energies the differences.

        The generator draws templates, for a network that has layers for them; without one there are none.
        """
        batch = self._read(init, target) if self.crystals is None else self._taken(init, target)
        if self.shows_templates and generator is not None:
            template = self.templates.draw(self._on_device(target), self.settings.template_share, generator)
            n_orbits = batch.orbits.species.shape[1]
            batch = replace(batch, template=None if template is None else template.trimmed(n_orbits))
        return batch

    def _taken(self, init: np.ndarray, target: np.ndarray) -> Batch:
        """Rows of what is packed."""
        rows, start = self._on_device(target), self._on_device(init)
        batch = self.crystals[rows]
        if self.initial:
            difference = batch.conditions.energy - self.crystals.conditions.energy[start]
            batch = _changed(batch, *(values[start] for values in self.initial), difference)
        largest = None if self.n_orbits is None else (self.n_orbits[target].max(), self.n_sites[target].max())
        return self.rep.trim(batch, largest)

    def _read(self, init: np.ndarray, target: np.ndarray) -> Batch:
        """Rows of the table, packed now."""
        batch = self.rep.pack(self.table.take(target))
        if self.pairs:
            before = self.table.take(init)
            energy = torch.as_tensor(before.formation_energy, dtype=torch.float32)
            batch = _changed(batch, *self.rep.initial(before), batch.conditions.energy - energy)
        return self.rep.trim(batch).to(self.device)

    def _on_device(self, rows: np.ndarray) -> Tensor:
        """Row numbers, sent without waiting for what the device has still to do."""
        rows = torch.as_tensor(rows)
        return rows.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else rows


def _changed(batch: Batch, x_0: Tensor, species_0: Tensor, difference: Tensor) -> Batch:
    """The batch of crystals that are to be made of others, x_0, by a difference in energy (B,), eV/atom."""
    return replace(batch, x_0=x_0, species_0=species_0, conditions=replace(batch.conditions, energy=difference))


class PackedTemplates:
    """Up to MAX_TEMPLATES templates of each crystal of a table (:func:`lib.retrieval.templates.training_templates`).

    The templates of a table's crystals are other crystals of the table, in the validation set as well: a network learns
    from them how far to trust a template. None has the formula of the crystal that it is shown for.
    """

    def __init__(self, rep: OrbitTensors, table: CrystalTable, device: torch.device) -> None:
        self.rep, self.device = rep, device
        self.units, counts = training_templates(table, MAX_TEMPLATES)
        self.count = torch.as_tensor(counts, device=device)
        self.first = (self.count.cumsum(0) - self.count).to(device)
        whole = len(table) <= IN_MEMORY and len(self.units)
        self.encoded = rep.encode_templates(self.units).to(device) if whole else None

    def draw(self, rows: Tensor, share: float, generator: torch.Generator) -> Template | None:
        """For each of some rows (B,) one of its templates; with probability 1 - share, or where it has none, none."""
        if not len(self.units):
            return None
        draw = torch.rand(2, len(rows), generator=generator, device=rows.device)
        chosen = self.first[rows] + (draw[0] * self.count[rows]).long()
        chosen = chosen.clamp(max=len(self.units) - 1)
        if self.encoded is None:
            template = self.rep.encode_templates(self.units.take(chosen.cpu().numpy())).to(self.device)
        else:
            template = self.encoded[chosen]
        return template.hidden((self.count[rows] == 0) | (draw[1] >= share))
