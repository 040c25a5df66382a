"""Which structures are the same crystal as another one."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from pymatgen.core import Structure

from lib.core.workers import progress
from lib.crystals.table import CrystalTable
from lib.metrics.matching import MAX_VOLUME_RATIO, match_many


def first_of_kind(kinds: Iterable[Hashable], structures: Sequence[Structure | None]) -> np.ndarray:
    """(n,) whether no earlier structure of the same kind equals it (unscaled, volumes within 5 %); None never is."""
    kept: dict[Hashable, list[Structure]] = {}
    first = np.zeros(len(structures), bool)
    for i, (kind, structure) in enumerate(zip(kinds, progress(structures, desc="comparing"), strict=True)):
        if structure is None:
            continue
        others = kept.setdefault(kind, [])
        if not any(equal_structures(structure, other) for other in others):
            first[i] = True
            others.append(structure)
    return first


def equal_structures(one: Structure, other: Structure) -> bool:
    """Whether StructureMatcher finds them equal at its default tolerances, unscaled and with volumes within 5 %."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    ratio = one.volume / other.volume * len(other) / len(one)
    return 1 / MAX_VOLUME_RATIO <= ratio <= MAX_VOLUME_RATIO and StructureMatcher(scale=False).fit(one, other)


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
