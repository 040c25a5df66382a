"""How far a set of crystals covers another: COV-P, COV-R and the Fréchet distance of Table 1 of Sultanov et al.

The measures are those of CDVAE (Xie et al., 10.48550/arXiv.2110.06197) at the thresholds of the score model
(10.1021/acs.jcim.3c00969, section 5.2). A structure's fingerprint is the mean of its atoms'
(:mod:`lib.metrics.fingerprints`), a composition's is Magpie's (Ward et al., 10.1038/npjcompumats.2016.28) as matminer
has it.

What they cannot tell: one structure alike is looked for in the whole other set, and one composition alike, not
necessarily of the same crystal, so that a method that is told compositions covers them by saying them back.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pymatgen.core import Structure
from scipy.spatial.distance import cdist

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.workers import progress, spread
from lib.crystals.validity import flaw
from lib.energies.potentials import load_potential
from lib.energies.relaxation import POTENTIAL_FAILURES
from lib.metrics.fingerprints import LABELS, find_neighbours, fingerprints

STRUCTURE_CUTOFF, COMPOSITION_CUTOFF = 0.4, 10.0
LEAST_VOLUME, LEAST_DISTANCE = 0.1, 0.5  # Å^3, Å: CDVAE's validity of a structure
BATCH, N_FEATURES = 16, 64  # of CHGNet: crystals at a time, and numbers that describe one
STATISTICS = 6  # of a property over the atoms: least, largest, range, mean, mean deviation, commonest element's
_DATA = ROOT / "lib" / "data"


@functools.cache
def _properties() -> np.ndarray:
    """(119, 22) Magpie's properties of elements; an unknown one is the mean of the known."""
    table = pd.read_csv(_DATA / "magpie.csv", comment="#").to_numpy(float)
    table = np.where(np.isnan(table), np.nanmean(table, axis=0), table)
    return np.concatenate([np.full((1, table.shape[1]), np.nan), table])


@functools.cache
def _scale() -> tuple[np.ndarray, np.ndarray]:
    """(132,), (132,) means and widths by which CDVAE scales compositions."""
    scale = json.loads((_DATA / "cdvae_scale.json").read_text())
    return np.array(scale["mean"]), np.array(scale["std"])


def magpie(species: np.ndarray) -> np.ndarray:
    """(132,) numbers of the composition of atoms with atomic numbers `species` (n,), by property and statistic.

    Of elements that are equally common the last statistic takes the least value.
    """
    elements, counts = np.unique(species, return_counts=True)
    values, share = _properties()[elements], counts / counts.sum()
    least, largest, mean = values.min(0), values.max(0), share @ values
    common = values[np.isclose(share, share.max())].min(0)
    return np.stack([least, largest, largest - least, mean, share @ np.abs(values - mean), common], axis=1).ravel()


def structure_fingerprint(structure: Structure) -> np.ndarray:
    """(61,) mean fingerprint of a structure's atoms; nan for none, as where atoms are nearer than 0.5 Å."""
    none = np.full(len(LABELS), np.nan)
    if structure.volume < LEAST_VOLUME or not structure.is_valid(LEAST_DISTANCE):
        return none
    try:
        found = find_neighbours(structure.lattice.matrix, structure.frac_coords, np.array(structure.atomic_numbers))
    except BadInput:
        return none
    return fingerprints(found).mean(0)


def chgnet_features(structures: Sequence[Structure | None], n_workers: int = 1) -> np.ndarray:
    """(n, 64) CHGNet's features of crystals, in place of CGCNN's in Table 1; nan where it takes none for a crystal."""
    batches = [structures[i : i + BATCH] for i in range(0, len(structures), BATCH)]
    with spread(n_workers, len(structures)) as mapped:
        found = progress(mapped(_features, batches), total=len(batches), desc="CHGNet's features", unit="batch")
        found = list(found)
    return np.concatenate([np.zeros((0, N_FEATURES)), *found])


def _features(structures: Sequence[Structure | None]) -> np.ndarray:
    found = np.full((len(structures), N_FEATURES), np.nan)
    given = [i for i, structure in enumerate(structures) if not flaw(structure)]
    try:
        if given:
            found[given] = load_potential("chgnet").features([structures[i] for i in given])
    except POTENTIAL_FAILURES:  # of one, such as an element that it does not know
        if len(structures) > 1:
            return np.concatenate([_features([structure]) for structure in structures])
    return found


@dataclass(frozen=True)
class Fingerprints:
    """Of n structures, some of which may have none.

    Attributes:
        structure: (n, 61), nan where there is none.
        composition: (n, 132) in CDVAE's scale, nan where there is no structure.
    """

    structure: np.ndarray
    composition: np.ndarray

    @classmethod
    def of(cls, structures: Sequence[Structure | None], n_workers: int = 1, desc: str = "structures") -> Fingerprints:
        """Of structures; None has none."""
        given = [i for i, structure in enumerate(structures) if structure is not None]
        shape, (mean, std) = np.full((len(structures), len(LABELS)), np.nan), _scale()
        composition = np.full((len(structures), len(mean)), np.nan)
        with spread(n_workers, len(given), chunksize=8) as mapped:
            found = mapped(structure_fingerprint, [structures[i] for i in given])
            for i, row in zip(given, progress(found, total=len(given), desc=f"fingerprints, {desc}"), strict=True):
                shape[i] = row
                composition[i] = (magpie(np.array(structures[i].atomic_numbers)) - mean) / std
        return cls(shape, composition)

    @property
    def known(self) -> np.ndarray:
        """(n,) which have a fingerprint."""
        return ~np.isnan(self.structure).any(1)


def covered(those: Fingerprints, by: Fingerprints) -> np.ndarray:
    """(n,) which of `those` have one of `by` within both thresholds; a structure without fingerprint has none.

    The mean is COV-P of generated structures by a reference, and COV-R of a reference by generated ones.

    Raises:
        BadInput: none of `by` has a fingerprint.
    """
    if not by.known.any():
        raise BadInput("no structure has a fingerprint; each has atoms nearer than 0.5 Å, or a cell without volume")
    near = those.known
    for name, cutoff in (("structure", STRUCTURE_CUTOFF), ("composition", COMPOSITION_CUTOFF)):
        apart = cdist(np.nan_to_num(getattr(those, name)), getattr(by, name)[by.known]).min(1)
        near = near & (apart <= cutoff)
    return near


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Between normal distributions of the means and covariances of (n, d) and (m, d) fingerprints; rows of nan do not
    count. nan where a side has fewer than two (Heusel et al., 10.48550/arXiv.1706.08500, section 1)."""
    sides = [side[~np.isnan(side).any(1)] for side in (one, other)]
    if min(map(len, sides)) < 2:
        return np.nan
    means, (a, b) = [side.mean(0) for side in sides], [np.cov(side, rowvar=False) for side in sides]
    values, axes = np.linalg.eigh(a)
    root = axes * np.sqrt(values.clip(min=0))
    product = np.linalg.eigvalsh(root.T @ b @ root).clip(min=0)
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.sqrt(product).sum())
