"""Small cells cut out of a large one, as the published amorphous silicon was made (section 4.1.2).

A block of the large cell's density is cut out anywhere, and atoms are removed from or added to its boundary, in the
regions of highest or lowest density, until their number is right. A region is a quarter of a face, LAYER thick.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.core.streams import numpy_stream
from lib.core.workers import do_all
from lib.crystals.table import CrystalTable
from lib.dismai.push_apart import pushed_apart
from lib.dismai.silicon import SILICON, keep, quench, read_kept, relax, silicon_table

LAYER = 2.0  # Å; the paper does not say how thick
TRIES = 20  # places for a further atom, of which the one furthest from all others is taken


def sliced(positions: np.ndarray, edge: float, n_atoms: int, rng: np.random.Generator) -> np.ndarray:
    """(n_atoms, 3) positions (Å) in a cube cut out of a periodic cube of that edge (Å) at random.

    Args:
        positions: (N, 3) Å; N is at least `n_atoms`.

    Raises:
        BadInput: the cube has fewer atoms.
    """
    if len(positions) < n_atoms:
        raise BadInput(f"a cell of {len(positions)} atoms has no block of {n_atoms}; quench a larger one")
    side = edge * (n_atoms / len(positions)) ** (1 / 3)
    moved = (positions - rng.random(3) * edge) % edge
    block = moved[(moved < side).all(1)]
    while len(block) != n_atoms:
        inside = [np.flatnonzero(_in_region(block, side, region)) for region in range(24)]
        counts = np.array([len(atoms) for atoms in inside])
        wanted = counts.max() if len(block) > n_atoms else counts.min()
        region = rng.choice(np.flatnonzero(counts == wanted))
        if len(block) > n_atoms:
            atom = rng.choice(inside[region]) if wanted else rng.integers(len(block))
            block = np.delete(block, atom, axis=0)
        else:
            block = np.vstack([block, _free_place(block, side, region, rng)])
    return block


def _bounds(side: float, region: int) -> np.ndarray:
    """(3, 2) lowest and highest coordinates of a region: of a face (two an axis), one of four quarters."""
    face, quarter = divmod(region, 4)
    axis, upper = divmod(face, 2)
    bounds = np.empty((3, 2))
    bounds[axis] = (side - LAYER, side) if upper else (0, LAYER)
    for other, half in zip([a for a in range(3) if a != axis], divmod(quarter, 2), strict=True):
        bounds[other] = half * side / 2, (half + 1) * side / 2
    return bounds


def _in_region(block: np.ndarray, side: float, region: int) -> np.ndarray:
    low, high = _bounds(side, region).T
    return ((block >= low) & (block <= high)).all(1)


def _free_place(block: np.ndarray, side: float, region: int, rng: np.random.Generator) -> np.ndarray:
    low, high = _bounds(side, region).T
    places = rng.uniform(low, high, (TRIES, 3))
    apart = places[:, None] - block
    apart -= side * np.round(apart / side)
    return places[np.linalg.norm(apart, axis=2).min(1, initial=np.inf).argmax()]


def sliced_cells(
    n_cells: int, n_atoms: int, n_large: int, picoseconds: float, *, seed: int, n_workers: int, folder: Path
) -> CrystalTable:
    """Cells of silicon cut out of one of `n_large` atoms, which is quenched first, and relaxed; `folder` keeps all.

    Raises:
        BadInput: LAMMPS is missing, or see :func:`lib.dismai.silicon.quench` and :func:`sliced`.
    """
    large = folder / f"silicon_{n_large}_{picoseconds:g}ps_{seed}.npz"
    if not large.exists():
        keep(large, *quench(n_large, picoseconds, seed))
    paths = [folder / f"slice_{n_atoms}_{large.stem}_{i}.npz" for i in range(n_cells)]
    missing = [(path, large, n_atoms, seed, i) for i, path in enumerate(paths) if not path.exists()]
    do_all(_kept_slice, missing, n_workers, desc="slicing silicon", unit="cell")
    cells = [read_kept(path) for path in paths]
    return silicon_table([cell for cell, _ in cells], np.array([energy for _, energy in cells]))


def _kept_slice(path: Path, large: Path, n_atoms: int, seed: int, number: int) -> None:
    cell, _ = read_kept(large)
    rng = numpy_stream(seed, "slice", number)
    for _ in range(10):
        block = sliced(cell.cart_coords, cell.lattice.a, n_atoms, rng)
        side = cell.lattice.a * (n_atoms / len(cell)) ** (1 / 3)
        small = Structure(Lattice.cubic(side), [SILICON] * n_atoms, block, coords_are_cartesian=True)
        apart = pushed_apart(small, rng)
        try:
            if apart is not None:
                return keep(path, *relax(apart)[:2])
        except RuntimeError:
            continue
    raise BadInput(f"ten slices of {large.name} in a row could not be relaxed; quench the large cell for longer")
