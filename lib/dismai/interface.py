"""Interfaces of Li3ScCl6(100) on LiCoO2(110) before anything relaxes them (sections 2.1.3 and 4.1.3).

The published cell, 12.470 x 17.200 Å at 75.667 degrees, is a cell of nine formula units in the (110) plane of LiCoO2
with a = 2.8297 and c = 14.133 Å, to all its digits. On it lie three (100) cells of Li3ScCl6, stretched to it, and
between the two slabs three formula units at random. What the paper did next, relaxation with a potential of its own, is
not done here: the potential is in the authors' files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput

LOW_ENERGY = -4.78  # eV/atom of 264 atoms, in the authors' potential: 0 J/m^2 of equation 6
J_PER_M2 = 16.02177  # eV/Å^2
VACUUM, GAP = 14.0, (4.0, 6.0)  # Å; the vacuum is that above a gap of 5 Å, as the cell is the same for all
APART = 2.0  # Å that random atoms keep from all others; the paper does not say
FILLING = {"Li": 9, "Sc": 3, "Cl": 18}  # between the slabs: three formula units
TRIES = 100_000
LAYERS = {264: (4, 3), 132: (2, 1)}  # atoms -> layers of LiCoO2, and of cations of Li3ScCl6


@dataclass(frozen=True)
class Slab:
    """Atoms above the plane z = 0 that repeat in the interface's cell.

    Attributes:
        species: symbols.
        in_plane: (n, 2) fractional coordinates.
        height: (n,) Å, the lowest 0.
    """

    species: Sequence[str]
    in_plane: np.ndarray
    height: np.ndarray


@cache
def lithium_cobalt_oxide() -> Structure:
    """LiCoO2, with a and c of the published cell and the oxygen of Akimoto et al. (10.1006/jssc.1998.7966)."""
    cell = Lattice.hexagonal(2.82965, 14.13314)
    return Structure.from_spacegroup(166, cell, ["Li", "Co", "O"], [[0, 0, 0], [0, 0, 0.5], [0, 0, 0.2397]])


@cache
def lithium_scandium_chloride() -> Structure:
    """Li3ScCl6 in the cell of Bohnsack et al. (10.1002/zaac.19976230710), chlorine in nearly ideal octahedra.

    Sc-Cl is 2.46 to 2.50 Å. A refined structure may take its place in :func:`chloride_slab`.
    """
    cell = Lattice.monoclinic(6.398, 11.04, 6.391, 109.89)
    species, sites = ["Sc", "Li", "Li", "Cl", "Cl"], [[0, 0, 0], [0, 1 / 3, 0], [0, 0.5, 0.5]]
    return Structure.from_spacegroup(12, cell, species, [*sites, [0.24, 0, 0.77], [0.25, 0.16, 0.23]])


def in_plane_cell() -> np.ndarray:
    """(2, 2) the two edges in the plane, Å."""
    w, c = lithium_cobalt_oxide().lattice.a * 3**0.5, lithium_cobalt_oxide().lattice.c
    first, second = np.array([5 / 3 * w, 2 / 3 * c]), np.array([-2 * w, c])
    a, b = np.linalg.norm(first), np.linalg.norm(second)
    along = first @ second / a
    return np.array([[a, 0], [along, (b**2 - along**2) ** 0.5]])


def oxide_slab(layers: int) -> Slab:
    """LiCoO2(110), nine formula units a layer.

    Raises:
        BadInput: the number of layers is odd; two make a period.
    """
    if layers % 2:
        raise BadInput(f"a slab of LiCoO2(110) has an even number of layers, not {layers}; ask for one")
    bulk = lithium_cobalt_oxide()
    edges = np.array([[5 / 3, -5 / 3, -2 / 3], [-2, 2, -1], [layers / 2, layers / 2, 0]]) @ bulk.lattice.matrix
    primitive = bulk.get_primitive_structure()
    cut = primitive.make_supercell(np.round(edges @ np.linalg.inv(primitive.lattice.matrix)), to_unit_cell=True)
    coords = cut.cart_coords @ np.linalg.inv(edges) % 1
    coords[np.isclose(coords, 1, atol=1e-6)] = 0
    height = coords[:, 2] * np.linalg.norm(edges[2])
    return Slab([site.specie.symbol for site in cut], coords[:, :2], height - height.min())


def chloride_slab(cation_layers: int, bulk: Structure | None = None) -> Slab:
    """Li3ScCl6(100), three formula units a layer of cations.

    Half of the outermost chlorine is below and half above, so that the slab has no dipole (Tasker's type 2b).

    Args:
        bulk: in the setting of :func:`lithium_scandium_chloride`, which is the default.
    """
    bulk = bulk or lithium_scandium_chloride()
    edges = np.array([[0, 1, 1], [0, 1, -2], [1, 0, 0]]) @ bulk.lattice.matrix
    normal = np.cross(edges[0], edges[1])
    normal /= np.linalg.norm(normal) * np.sign(normal @ edges[2])
    basis = np.linalg.inv(np.array([edges[0], edges[1], normal]))
    long = bulk.copy().make_supercell([[1, 0, 0], [0, 1, 1], [0, 1, -2]], to_unit_cell=True)
    last, over = (cation_layers - 1) / 2, np.array([cation_layers / 2, cation_layers % 2 / 2, 0])
    species, coords = [], []
    for site in long:
        x, symbol = bulk.lattice.get_fractional_coords(site.coords), site.specie.symbol
        for turn in range(-1, cation_layers + 1):
            moved = x + [turn, 0, 0]
            if -0.1 < moved[0] < last + 0.4 and (symbol == "Cl" or moved[0] < last + 0.1):
                species.append(symbol)
                coords.append(moved)
    coords = np.array(coords)
    top = np.flatnonzero(coords[:, 0] > last + 0.1)  # of chlorine alone
    order = top[np.lexsort((coords[top, 2].round(3), coords[top, 1].round(3)))]
    coords[order[::2]] -= over  # every other one goes below, by a vector of the lattice
    placed = bulk.lattice.get_cartesian_coords(coords) @ basis
    return Slab(species, placed[:, :2] % 1, placed[:, 2] - placed[:, 2].min())


def random_interface(n_atoms: int, rng: np.random.Generator, chloride: Structure | None = None) -> Structure:
    """One of the structures that the paper relaxes: slabs, a gap of random width filled at random, a random shift.

    Args:
        n_atoms: 264, or 132 with slabs about half as thick.
        chloride: see :func:`chloride_slab`.

    Raises:
        BadInput: another number of atoms, or no room for the filling.
    """
    if n_atoms not in LAYERS:
        raise BadInput(f"interfaces have {' or '.join(map(str, LAYERS))} atoms, not {n_atoms}; choose one of them")
    oxide, salt = oxide_slab(LAYERS[n_atoms][0]), chloride_slab(LAYERS[n_atoms][1], chloride)
    gap, plane = rng.uniform(*GAP), in_plane_cell()
    top = oxide.height.max()
    edges = np.zeros((3, 3))
    edges[:2, :2], edges[2, 2] = plane, top + sum(GAP) / 2 + salt.height.max() + VACUUM
    below = np.column_stack([oxide.in_plane @ plane, oxide.height])
    above = np.column_stack([(salt.in_plane + rng.random(2)) @ plane, salt.height + top + gap])
    placed, lattice = np.concatenate([below, above]) @ np.linalg.inv(edges), Lattice(edges)
    for _ in range(TRIES):
        if len(placed) == n_atoms:
            break
        point = np.array([[*rng.random(2), (top + rng.uniform(0, gap)) / edges[2, 2]]])
        if lattice.get_all_distances(point, placed).min() >= APART:
            placed = np.concatenate([placed, point])
    else:
        raise BadInput(
            f"a gap of {gap:.1f} Å has no room for {sum(FILLING.values())} atoms {APART} Å apart; draw again"
        )
    filling = rng.permutation([symbol for symbol, n in FILLING.items() for _ in range(n)]).tolist()
    return Structure(lattice, [*oxide.species, *salt.species, *filling], placed)


def interface_energy(energy: float | np.ndarray, area: float, n_atoms: int = 264) -> float | np.ndarray:
    """Equation 6: J/m^2 above LOW_ENERGY, of an energy in eV/atom and an area in Å^2; low where it is 0 or less."""
    return (energy - LOW_ENERGY) * n_atoms / area * J_PER_M2
