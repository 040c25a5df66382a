"""Relaxation to a minimum: symmetry kept, then released, then broken, so that no saddle passes as relaxed.

A relaxation that starts from exact symmetry never leaves it: the forces that would are zero. So a crystal first comes
down within its symmetry, which takes few steps, then freely, and then once more with its atoms displaced and its cell
strained a little at random. Where that leads lower, the structure before was a saddle: cubic BaTiO3 is one, and so is
TiNi of the CsCl type. Only what fits into the cell can happen: TiNi leaves its saddle in a cell of 2 x 2 x 1, not in
that of two atoms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pymatgen.core import Structure

from lib.core.errors import BadInput
from lib.energies.relaxation import DEFAULT_POTENTIAL, Relaxation, relax_many

RATTLE, STRAIN = 0.05, 0.01  # Å and relative, standard deviations
LOWER = 0.003  # eV/atom by which a minimum lies lower than a saddle; forces left over amount to less


@dataclass(frozen=True)
class Settled:
    """A crystal at a minimum.

    Attributes:
        relaxation: where it ended, after rattling where that led lower; displacement is that before.
        drop: energy after rattling less that before, eV/atom; nan where either did not converge.
        saddle: whether what symmetry had kept was a saddle.
    """

    relaxation: Relaxation
    drop: float
    saddle: bool


def rattled(structure: Structure) -> Structure:
    """The structure with its atoms displaced and its cell strained at random; the same structure, the same draw."""
    seed = hashlib.sha256(repr((structure.lattice.matrix.tolist(), structure.frac_coords.tolist())).encode()).digest()
    rng = np.random.default_rng(list(seed[:8]))
    strain = rng.normal(scale=STRAIN, size=(3, 3))
    cell = structure.lattice.matrix @ (np.eye(3) + (strain + strain.T) / 2)
    moved = structure.frac_coords @ cell + rng.normal(scale=RATTLE, size=(len(structure), 3))
    return Structure(cell, structure.species, moved, coords_are_cartesian=True)


def shaken(results: Sequence[Relaxation], potential: str = DEFAULT_POTENTIAL, **how) -> list[Settled]:
    """Relax relaxed structures once more, displaced and strained at random, in order.

    Args:
        results: converged ones; what else is among them stays as it is.
        **how: of :func:`lib.energies.relaxation.relax_many`, with keep_symmetry=False.

    Raises:
        BadInput: they were relaxed with another potential, so that what is gained would be a difference of two scales.
    """
    if others := {result.potential or "no known potential" for result in results} - {potential}:
        raise BadInput(
            f"energies of {', '.join(sorted(others))} do not compare with those of {potential}; relax the crystals "
            f"with {potential} first"
        )
    again = relax_many([rattled(result.structure) for result in results], potential, **how)
    settled = []
    for before, after in zip(results, again, strict=True):
        drop = after.energy - before.energy if not (before.failure or after.failure) else np.nan
        lower = bool(drop < -LOWER)
        reached = {"structure": after.structure, "energy": after.energy, "max_force": after.max_force}
        whole = replace(before, n_steps=before.n_steps + after.n_steps, **reached) if lower else before
        settled.append(Settled(whole, float(drop), lower))
    return settled


def settle(structures: Sequence[Structure], potential: str = DEFAULT_POTENTIAL, **how) -> list[Settled]:
    """Relax structures to minima, in order: symmetry kept, released, and :func:`shaken`.

    Args:
        **how: of :func:`lib.energies.relaxation.relax_many`, but not keep_symmetry.
    """
    kept = relax_many(structures, potential, keep_symmetry=True, **how)
    released = relax_many([result.structure for result in kept], potential, keep_symmetry=False, **how)
    return shaken(released, potential, keep_symmetry=False, **how)
