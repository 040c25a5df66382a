"""The austenitic steel Fe60Ni20Cr20 (section 2.1.1): its lattice, its energies, and its short-range order.

Sites are those of n x n x n conventional fcc cells; an occupation is an array (S, N) of S structures with 0, 1, 2 for
the elements of ELEMENTS and -1 for a vacancy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable

ELEMENTS = (24, 26, 28)  # Cr, Fe, Ni
LATTICE_CONSTANT = 3.6  # Å
COMPOSITIONS = {32: (6, 20, 6), 108: (21, 65, 22), 256: (51, 154, 51)}  # atoms -> of each element
PAIRS = tuple(itertools.combinations_with_replacement(range(3), 2))
PAIR_NAMES = ("Cr-Cr", "Cr-Fe", "Cr-Ni", "Fe-Fe", "Fe-Ni", "Ni-Ni")
N_SHELLS = 7
MULTIPLICITY = np.array([6, 3, 12, 6, 12, 4, 24])  # pairs an atom of each shell of neighbours
ON_SITE = 0.8  # Å within which an atom stands on a site (section 4.3.3)
MOST_REMOVED = 50 / 256  # share of atoms on no site, beyond which a structure has failed

# The cluster expansion of Su et al. (10.1016/j.actamat.2024.120088) without its magnetic terms, as the Dismai-Bench
# repository has it (MIT licence, benchmark/alloy/cluster_counts): eV an atom, and eV a pair by shell and PAIRS.
CONSTANT = -0.00932958469464057
INTERACTIONS = np.array(
    [
        [0.0003376140261270978, -0.006093130106866821, -0.017503750379865866, 0, 0, 0.0022227714241077777],
        [-0.03477817417403486, 0, 0.005939741713420254, -0.0006455514901675906, 0.016358092689283846, 0],
        [0.0015984460745564193, -0.005292076441853677, -0.003021082122451338, 0, 0, 0],
        [0, 0.0018668024945124595, -0.0038807821841662124, 0, -0.0036085744161752594, 0.0012250045279512465],
        [
            -0.0007252972937068049,
            0.0005925701791865664,
            0.0028510208730949406,
            -0.0005707393430416303,
            0.0018947957869953978,
            -0.001669283899958865,
        ],
        [0, -0.005562649078917254, 0.00172340842194012, 0, 0.00015073769660058886, -0.003134770684447135],
        [
            0.001983244154690138,
            -0.0018490697130025958,
            -0.002680779582402635,
            0.0003351340012252481,
            -0.0021377444095509075,
            0.0010601861757962314,
        ],
    ]
)


@dataclass(frozen=True)
class FccSites:
    """Sites of a cubic cell of n x n x n conventional fcc cells, and who is whose neighbour.

    Attributes:
        repeats: n.
    """

    repeats: int

    @classmethod
    def of(cls, n_atoms: int) -> FccSites:
        """The cell of so many atoms.

        Raises:
            BadInput: no alloy of that size is defined.
        """
        if n_atoms not in COMPOSITIONS:
            raise BadInput(f"alloys have {', '.join(map(str, COMPOSITIONS))} atoms, not {n_atoms}; choose one of them")
        return cls(round((n_atoms / 4) ** (1 / 3)))

    def __len__(self) -> int:
        return 4 * self.repeats**3

    @property
    def lattice(self) -> np.ndarray:
        """(3, 3) Å."""
        return np.eye(3) * LATTICE_CONSTANT * self.repeats

    @property
    def composition(self) -> np.ndarray:
        """(3,) atoms of each of ELEMENTS."""
        return np.array(COMPOSITIONS[len(self)])

    @cached_property
    def grid(self) -> np.ndarray:
        """(N, 3) sites in half lattice constants: whole numbers whose sum is even."""
        grid = np.stack(np.meshgrid(*[np.arange(2 * self.repeats)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        return grid[grid.sum(1) % 2 == 0]

    @property
    def frac_coords(self) -> np.ndarray:
        """(N, 3)."""
        return self.grid / (2 * self.repeats)

    @cached_property
    def _place(self) -> np.ndarray:
        place = np.full((2 * self.repeats,) * 3, -1)
        place[tuple(self.grid.T)] = np.arange(len(self))
        return place

    def site_at(self, grid: np.ndarray) -> np.ndarray:
        """(...,) indices of the sites at (..., 3) half lattice constants, in whichever image of the cell."""
        return self._place[tuple(np.moveaxis(grid % (2 * self.repeats), -1, 0))]

    @cached_property
    def neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, 134) neighbours of each site in the first seven shells, and (134,) shells from 0, the same for all.

        In small cells one site is a neighbour several times.
        """
        reach = range(-4, 5)
        vectors = np.array([v for v in itertools.product(reach, repeat=3) if sum(v) % 2 == 0])
        shell = (vectors**2).sum(1) // 2 - 1  # the squared lengths of fcc vectors are 2, 4, 6, ...
        chosen = (shell >= 0) & (shell < N_SHELLS)
        vectors, shell = vectors[chosen], shell[chosen]
        return self.site_at(self.grid[:, None] + vectors), shell

    @cached_property
    def shells(self) -> np.ndarray:
        """(7, N, N) how often one site is a neighbour of another."""
        index, shell = self.neighbours
        counts = np.zeros((N_SHELLS, len(self), len(self)))
        np.add.at(counts, (shell[None], np.arange(len(self))[:, None], index), 1)
        return counts


def pair_fractions(occupation: np.ndarray, sites: FccSites) -> np.ndarray:
    """(S, 7, 6) probability of each pair of elements in each shell: pairs an atom over those of a full lattice.

    Pairs with a vacancy are left out, so that the six add up to 1 only where there is none.
    """
    here = (occupation[:, :, None] == np.arange(3)).astype(np.float32)
    found = np.empty((len(occupation), N_SHELLS, len(PAIRS)))
    atoms = here.sum((1, 2))
    for s, shell in enumerate(sites.shells.astype(np.float32)):
        ordered = np.einsum("sna,snb->sab", here, shell @ here, optimize=True)
        for p, (a, b) in enumerate(PAIRS):
            found[:, s, p] = ordered[:, a, b] / np.where(a == b, 2, 1) / atoms / MULTIPLICITY[s]
    return found


def cluster_fingerprint(occupation: np.ndarray, sites: FccSites) -> np.ndarray:
    """(S, 45) probabilities of the clusters (section 4.3.3): shares of the elements, then pairs shell by shell."""
    share = (occupation[:, :, None] == np.arange(3)).sum(1) / (occupation >= 0).sum(1)[:, None]
    return np.concatenate([share, pair_fractions(occupation, sites).reshape(len(occupation), -1)], axis=1)


def energies(occupation: np.ndarray, sites: FccSites) -> np.ndarray:
    """(S,) energies of the cluster expansion, eV/atom; vacancies add nothing."""
    pairs = pair_fractions(occupation, sites) * MULTIPLICITY[:, None]
    return CONSTANT + (pairs * INTERACTIONS).sum((1, 2))


def warren_cowley(occupation: np.ndarray, sites: FccSites) -> np.ndarray:
    """(S, 7, 6) alpha = 1 - P_AB / (c_A c_B) of each shell and of PAIRS (equation 1).

    P_AB is the probability that a pair of neighbours is A and then B, so that a pair of unlike atoms counts half.
    """
    return order_of(cluster_fingerprint(occupation, sites), sites)


def order_of(fingerprints: np.ndarray, sites: FccSites) -> np.ndarray:
    """(S, 7, 6) :func:`warren_cowley` of structures by their fingerprints (S, 45)."""
    share = sites.composition / len(sites)
    chance = np.array([share[a] * share[b] * (1 if a == b else 2) for a, b in PAIRS])
    return 1 - fingerprints[:, len(ELEMENTS) :].reshape(-1, N_SHELLS, len(PAIRS)) / chance


def to_table(occupation: np.ndarray, sites: FccSites, name: str, extra: dict | None = None) -> CrystalTable:
    """Full lattices as crystals, named and numbered, with their exact energies."""
    n = len(occupation)
    return CrystalTable.pack(
        id=[f"{name}_{i}" for i in range(n)],
        lattice=np.broadcast_to(sites.lattice, (n, 3, 3)),
        frac_coords=np.tile(sites.frac_coords, (n, 1)),
        species=np.array(ELEMENTS)[occupation].ravel(),
        n_sites=[len(sites)] * n,
        formation_energy=energies(occupation, sites),
        space_group=[1] * n,
        energy_kind="cluster expansion of Su et al.",
        extra=extra,
    )


# ---- atoms to sites --------------------------------------------------------------------------------------------------


class Registered(NamedTuple):
    """Atoms brought to the sites of a lattice."""

    occupation: np.ndarray  # (N,) what stands on each site
    removed: int  # atoms that stand on none, or where a nearer one stands
    off_site: float  # mean distance of the atoms from the nearest site, Å; small, too, where all share one site


def occupations_of(table: CrystalTable, sites: FccSites) -> np.ndarray:
    """(S, N) what stands on the sites in each crystal."""
    rows = [occupation_of(table.frac_coords_of(i), table.species_of(i), sites).occupation for i in range(len(table))]
    return np.array(rows, dtype=np.int8).reshape(-1, len(sites))


def occupation_of(frac_coords: np.ndarray, species: Iterable[int], sites: FccSites) -> Registered:
    """What stands on each site, and which atoms are removed since they stand on none (section 4.3.3).

    The lattice is moved to where the phases of the {111} reflections put it, and then by the mean distance of the atoms
    from it. A site takes the nearest atom within 0.8 Å; as that is less than half of the distance between two sites,
    no atom has a choice, and an assignment of least total distance is the same. A lattice that is turned has no place:
    the cell's edges would have to be other vectors of it of the same length, and in cells of 32 and 256 atoms there are
    none (in one of 108 there are those of the type 4 4 2, whose structures fail here).
    """
    position = np.asarray(frac_coords) * sites.repeats  # in lattice constants
    reflections = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    phases = np.exp(2j * np.pi * position @ reflections.T).mean(0)
    shift = np.linalg.solve(reflections, np.angle(phases) / (2 * np.pi))
    for _ in range(2):
        grid, away = nearest_site(2 * (position - shift))
        near = np.linalg.norm(away, axis=1) * LATTICE_CONSTANT / 2 <= ON_SITE
        shift = shift + (away[near].mean(0) / 2 if near.any() else 0)
    grid, away = nearest_site(2 * (position - shift))
    distance = np.linalg.norm(away, axis=1) * LATTICE_CONSTANT / 2
    occupation = np.full(len(sites), -1)
    kind = np.searchsorted(ELEMENTS, species)
    order = np.argsort(-distance, kind="stable")  # of several values for one site numpy keeps the last: the nearest
    order = order[distance[order] <= ON_SITE]
    occupation[sites.site_at(grid[order])] = kind[order]
    return Registered(occupation, len(position) - int((occupation >= 0).sum()), float(distance.mean()))


def nearest_site(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest site to each (n, 3) position, both in half lattice constants, and the way from it.

    The nearest whole numbers, or, where their sum is odd, with the one changed that was rounded most (Conway and
    Sloane, 10.1109/TIT.1982.1056484).
    """
    grid = np.round(position)
    away = position - grid
    odd = grid.sum(1) % 2 != 0
    most = np.abs(away).argmax(1)
    rows = np.arange(len(position))[odd]
    step = np.where(away[rows, most[odd]] >= 0, 1, -1)
    grid[rows, most[odd]] += step
    return grid.astype(int), position - grid
