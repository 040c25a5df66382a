"""Prototypes: what is left of a crystal without its elements and its free parameters."""

import functools
import math

import numpy as np

from lib.crystals.table import CrystalTable
from lib.symmetry.normaliser import normaliser
from lib.symmetry.wyckoff import positions

Positions = tuple[tuple[int, ...], ...]  # of each element the positions that it takes, in ascending order


def prototypes(table: CrystalTable) -> np.ndarray:
    """(n,) labels such as "AB2 191 0|5": anonymous formula, space group, and of each element the positions that it
    takes (numbers of :func:`lib.symmetry.wyckoff.positions`).

    Crystals of one label are decorations of one prototype, up to free parameters: a Wyckoff sequence in which elements
    are unnamed and the origin and the axes are free (:func:`lib.symmetry.normaliser.normaliser`).
    """
    units = table.asymmetric_units
    ends, labels = units.offsets.tolist(), []
    groups, species, places = units.symmetry.tolist(), units.species.tolist(), units.position.tolist()
    for group, start, stop in zip(groups, ends, ends[1:], strict=False):
        taken: dict[int, list[int]] = {}
        for element, place in zip(species[start:stop], places[start:stop], strict=True):
            taken.setdefault(element, []).append(place)
        labels.append(_label(group, tuple(sorted(tuple(sorted(several)) for several in taken.values()))))
    return np.array(labels, dtype=str)


def new_prototypes(targets: CrystalTable, training: CrystalTable) -> dict[str, np.ndarray]:
    """Ids of the targets whose prototype no training crystal has, as a subset of
    :func:`lib.metrics.matching.rate_table`: a split by formula lets decorated prototypes stand on both sides."""
    return {"prototype not in training": targets.id[~np.isin(prototypes(targets), prototypes(training))]}


@functools.lru_cache(maxsize=1_000_000)
def _label(group: int, taken: Positions) -> str:
    first = min(
        tuple(sorted(tuple(sorted(place[i] for i in several)) for several in taken)) for *_, place in normaliser(group)
    )
    known = positions(group)
    first = sorted(first, key=lambda several: (sum(known[i].multiplicity for i in several), several))
    counts = [sum(known[i].multiplicity for i in several) for several in first]
    unit = math.gcd(*counts)
    anonymous = "".join(f"{chr(65 + i)}{n // unit if n > unit else ''}" for i, n in enumerate(counts))
    return f"{anonymous} {group} {'|'.join(','.join(map(str, several)) for several in first)}"
