"""Rows of Table 1 that are no model of notebook 04: methods with `fit` and `sample`, and structures of other programs.

A method is one file here. What it learns it leaves in the folder it is given, and samples from there, so that a run
that was interrupted after the fit goes on without it. The parameter `entrants` of notebook 06 names it as
`lib.entrants.NAME`.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from pymatgen.core import Structure

from lib.core.files import ROOT, read_json, write_json
from lib.core.streams import numpy_stream
from lib.crystals.exchange import read_structures
from lib.crystals.structure_io import told
from lib.crystals.table import CrystalTable
from lib.datasets.splits import split_by_formula
from lib.studies.evaluation import answers_for

if TYPE_CHECKING:
    import torch

VALIDATION_FRACTION = 0.1


class Entrant(Protocol):
    """What a module of this package offers."""

    def fit(
        self, training: CrystalTable, validation: CrystalTable, *, folder: Path, device: torch.device, seed: int
    ) -> None:
        """Learn from the training set and write to `folder` all that :meth:`sample` needs.

        The training set comes in two parts without a common reduced formula; no target is in them. The folder is this
        entrant's own, and empty unless an earlier fit was interrupted.
        """

    def sample(
        self, requests: CrystalTable, *, folder: Path, device: torch.device, seed: int
    ) -> list[Structure | None]:
        """One structure a request, or None.

        Requests hold species, space_group and formation_energy (eV/atom); their cells and coordinates are nan.
        """


def answers_of(
    entrant: str, targets: CrystalTable, training: CrystalTable, *, folder: Path, device: torch.device, seed: int
) -> list[Structure | None]:
    """An entrant's structure for each target.

    Args:
        entrant: `lib.entrants.NAME`, or a file, zip file or folder of structures under their targets' ids.
        folder: for what an interrupted call takes up again.

    Raises:
        BadInput: the structures do not read or answer no target, or the training set cannot be split.
        ValueError: the method gives no list of as many structures as there are requests.
    """
    if not entrant.startswith(f"{__name__}."):
        left_out: dict[str, str] = {}
        structures = read_structures([ROOT / entrant], left_out)
        if left_out:  # no answers, so that their targets count as not matched
            print(told(left_out, len(structures) + len(left_out)))
        return answers_for(targets, structures)
    method: Entrant = importlib.import_module(entrant)
    how = {"folder": folder / entrant, "device": device, "seed": seed}
    train, validation = split_by_formula(training, VALIDATION_FRACTION, numpy_stream(seed, "split"))
    fit_once(method, training.take(train), training.take(validation), **how)
    answers = method.sample(requests_of(targets), **how)
    if len(answers) != len(targets):
        raise ValueError(f"{entrant} gave {len(answers)} structures for {len(targets)} requests")
    return answers


def fit_once(
    method: Entrant, training: CrystalTable, validation: CrystalTable, *, folder: Path, device: torch.device, seed: int
) -> None:
    """Fit a method, unless its folder holds what it learnt from the same crystals with the same seed; what it learnt
    otherwise is removed first, so that no method takes it up."""
    fitted, data = folder / "fitted.json", {"training_sha256": checksum(training, validation), "seed": seed}
    if not fitted.exists() or read_json(fitted) != data:
        if fitted.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        method.fit(training, validation, folder=folder, device=device, seed=seed)
        write_json(fitted, data)


def requests_of(targets: CrystalTable) -> CrystalTable:
    """What a method may know of targets: their atoms, space groups and energies.

    Ids are numbers, since those of the embedded set name the prototype.
    """
    hidden = {name: np.full_like(getattr(targets, name), np.nan) for name in ("lattice", "frac_coords")}
    return replace(targets, id=np.arange(len(targets)).astype(str), extra={}, about={}, **hidden)


def checksum(*tables: CrystalTable) -> str:
    """Of what some tables hold: crystals, their names and their energies."""
    digest = hashlib.sha256()
    for table in tables:
        for array in (table.id, table.lattice, table.frac_coords, table.species, table.formation_energy):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
