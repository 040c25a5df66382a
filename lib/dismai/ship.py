"""The cells of amorphous silicon that ship with the project.

    python -m lib.dismai silicon --cells 300

quenches what is missing of them, one by one, and packs all into one file with a card. It needs LAMMPS, takes some four
seconds of a core for a cell, and goes on where it was stopped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.core.files import replacing, sha256_of
from lib.core.stats import share
from lib.crystals.table import CrystalTable
from lib.dismai.silicon import bond_angles, coordination, quenched_cells
from lib.metrics.fingerprints import GEOMETRIC, find_neighbours

N_ATOMS, PICOSECONDS, SEED = 64, 20.0, 42
DIGITS = 4  # of fractional coordinates: 0.001 Å

CARD = """# amorphous_silicon

| | |
|---|---|
| cells | {cells}, of {atoms} atoms in a cube of {edge:.3f} Å |
| made | diamond melted at 3000 K, quenched from 2000 to 300 K within {picoseconds:g} ps, and relaxed to 0.05 eV/Å |
| potential | Tersoff 1988 (10.1103/PhysRevB.38.9902), `Si.tersoff` of LAMMPS |
| command | `python -m lib.dismai silicon --cells {cells}` (seed {seed}) |
| energies | {energy:.4f} eV/atom on average, standard deviation {spread:.4f}, in that potential |
| atoms with four neighbours below 2.85 Å | {fourfold} |
| angles between bonds | {angle:.1f} degrees on average, standard deviation {width:.1f} |
| coordinates | rounded to {digits} digits of the cell's edge |
| licence | that of this project: no data of others are in it |
| sha256 | `{sha256}` |

A surrogate of Dismai-Bench's amorphous silicon (10.1039/D4DD00100A, section 2.1.2), whose cells of 256 atoms are cut
out of a cell of 100,000 (Deringer et al., 10.1038/s41586-020-03072-z) and relaxed with a SOAP-GAP potential. A quench
within picoseconds leaves more strain and more defects than amorphous silicon has.
"""


def ship_silicon(n_cells: int, path: Path, folder: Path, n_workers: int) -> CrystalTable:
    """The cells and their card, `path` with the ending md; `folder` keeps each cell as soon as it is made.

    Raises:
        BadInput: LAMMPS is missing.
    """
    table = quenched_cells(n_cells, N_ATOMS, PICOSECONDS, seed=SEED, n_workers=n_workers, folder=folder)
    table = replace(table, frac_coords=table.frac_coords.round(DIGITS) % 1)
    table.to_parquet(path)
    with replacing(path.with_suffix(".md")) as temporary:
        temporary.write_text(card(table, path))
    return table


def card(table: CrystalTable, path: Path) -> str:
    """What is known of the cells in a file."""
    cells = list(table.structures())
    neighbours = [coordination(cell) for cell in cells]
    fourfold = share(np.concatenate(neighbours) == 4, np.repeat(range(len(cells)), N_ATOMS))
    parts = [(cell.lattice.matrix, cell.frac_coords, np.array(cell.atomic_numbers)) for cell in cells]
    angles = np.concatenate([bond_angles(find_neighbours(*part, GEOMETRIC).most_likely()) for part in parts])
    return CARD.format(
        cells=len(table),
        atoms=N_ATOMS,
        edge=cells[0].lattice.a,
        picoseconds=PICOSECONDS,
        seed=SEED,
        energy=table.formation_energy.mean(),
        spread=table.formation_energy.std(),
        fourfold=fourfold,
        angle=angles.mean(),
        width=angles.std(),
        digits=DIGITS,
        sha256=sha256_of(path),
    )
