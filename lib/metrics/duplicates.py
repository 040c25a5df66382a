"""Which structures are the same crystal as another one."""

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations

import numpy as np
from pymatgen.core import Structure
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lib.core.workers import progress
from lib.crystals.table import CrystalTable
from lib.metrics.matching import CSP, DEFAULT, MAX_VOLUME_RATIO, match_many
from lib.metrics.overlay import Overlay, primitive_cell, reduced_cell


def first_of_kind(kinds: Iterable[Hashable], structures: Sequence[Structure | None]) -> np.ndarray:
    """(n,) place of the first structure of the same kind that equals it (unscaled, volumes within 5 %), which may be
    itself; -1 for None."""
    kept: dict[Hashable, dict[int, Structure]] = {}
    first = np.full(len(structures), -1)
    for i, (kind, structure) in enumerate(zip(kinds, progress(structures, desc="comparing"), strict=True)):
        if structure is None:
            continue
        others = kept.setdefault(kind, {})
        first[i] = next((place for place, other in others.items() if equal_structures(structure, other)), i)
        if first[i] == i:
            others[i] = structure
    return first


def equal_structures(one: Structure, other: Structure) -> bool:
    """Whether StructureMatcher finds them equal at its default tolerances, unscaled and with volumes within 5 %."""
    ratio = one.volume / other.volume * len(other) / len(one)
    if not 1 / MAX_VOLUME_RATIO <= ratio <= MAX_VOLUME_RATIO:
        return False
    # CSP's tolerances at one volume leave out no basis that the default ones allow at volumes so near
    return Overlay(primitive_cell(one), reduced_cell(other), CSP).fits(DEFAULT, at_one_volume=False)


def twins(table: CrystalTable, groups: Iterable[np.ndarray], **settings) -> np.ndarray:
    """(n,) for each crystal the id of the first of its group that it matches at default tolerances, directly or through
    others, its own where there is none. Groups are rows (:func:`lib.datasets.polymorphs.polymorph_groups`), and the
    settings those of :func:`lib.metrics.matching.match_many`."""
    groups = list(groups)
    pairs = np.array([pair for rows in groups for pair in combinations(rows.tolist(), 2)], dtype=int).reshape(-1, 2)
    structures = dict(zip(np.unique(pairs).tolist(), table.take(np.unique(pairs)).structures(), strict=True))
    one, other = ([structures[row] for row in side] for side in pairs.T.tolist())
    same = pairs[match_many(one, other, **settings).match_default.to_numpy(bool)].T
    _, kinds = connected_components(coo_array((np.ones(same.shape[1]), same), shape=(len(table),) * 2))
    first: dict[int, str] = {}
    for row in np.concatenate([*groups, np.arange(len(table))]).tolist():
        first.setdefault(int(kinds[row]), str(table.id[row]))
    return np.array([first[kind] for kind in kinds.tolist()], dtype=str)


def known_twins(structures: Sequence[Structure], table: CrystalTable, *, n_workers: int) -> list[str]:
    """For each structure the id of the table's crystal that it equals by the strict match, or ""."""
    pairs = []
    for i, structure in enumerate(structures):
        same = table.reduced_formula == structure.composition.reduced_formula
        ratio = table.volume_per_atom * len(structure) / structure.volume
        near = same & (ratio < MAX_VOLUME_RATIO) & (ratio > 1 / MAX_VOLUME_RATIO)
        pairs += [(i, row) for row in np.flatnonzero(near)]
    if not pairs:
        return [""] * len(structures)
    ours, theirs = [structures[i] for i, _ in pairs], [table.structure(row) for _, row in pairs]
    found = match_many(theirs, ours, n_workers=n_workers)
    twins = {i: table.id[row] for (i, row), same in zip(pairs, found["match_strict"], strict=True) if same}
    return [str(twins.get(i, "")) for i in range(len(structures))]
