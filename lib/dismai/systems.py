"""The benchmark's materials: what describes a structure, when it has failed, and what answers are trivial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.dismai import alloy, silicon
from lib.dismai.alloy import ELEMENTS, MOST_REMOVED, FccSites
from lib.dismai.push_apart import close_pairs, pushed_apart
from lib.metrics.fingerprints import Bonding, find_neighbours, fingerprints, fractions

SAME_CELL = 0.02  # Å by which a lattice vector may differ
RATTLE = 0.3  # Å, standard deviation of each coordinate
CATIONS, ANIONS = {"Li": 3, "Co": 27, "Sc": 21}, (17, 8)  # of the interfaces
IONIC = Bonding(charges={3: 1, 27: 3, 21: 3, 17: -1, 8: -2})


@dataclass(frozen=True)
class Described:
    """A set of structures as the benchmark sees it.

    Attributes:
        features: metric -> (n, D), a row an accepted structure.
        failures: of every structure why it is rejected, "" for those accepted.
        facts: name -> (n,) a number of each accepted structure.
        of_all: name -> (structures,) a number of every structure as it was given, nan where there is none; `close` are
            its pairs of atoms below 1.5 Å.
    """

    features: Mapping[str, np.ndarray]
    failures: Sequence[str]
    facts: Mapping[str, np.ndarray] = field(default_factory=dict)
    of_all: Mapping[str, np.ndarray] = field(default_factory=dict)


class System(Protocol):
    """A material of the benchmark.

    Attributes:
        metrics: name of each distance -> what it is of.
        anchor: the baseline that stands for no knowledge at all.
        relaxes: whether structures are relaxed before they are compared.
    """

    metrics: Mapping[str, str]
    anchor: str
    relaxes: bool

    def describe(self, structures: Sequence[Structure | None], relaxed: bool = True) -> Described:
        """What the benchmark compares; None is a structure that was asked for and did not come.

        Raises:
            BadInput: one has another cell than the data set.
        """

    def trivial(self, training: CrystalTable, n: int, rng: np.random.Generator) -> dict[str, list[Structure]]:
        """Name -> n structures each that need no learning, among them the anchor."""


def rejected(structure: Structure | None, lattice: np.ndarray, species: np.ndarray, name: str) -> str:
    """Why a structure is none of a data set's, or "".

    Raises:
        BadInput: its cell is another one, so that nothing can be compared.
    """
    if structure is None:
        return "no structure"
    cell, wanted = structure.lattice.matrix, Lattice(lattice)
    if np.abs(np.array(structure.lattice.abc) - wanted.abc).max() > SAME_CELL or not np.allclose(
        structure.lattice.angles, wanted.angles, atol=0.5
    ):
        raise BadInput(
            f"{name} has a cell of {structure.lattice.abc} Å; give structures in the data set's {wanted.abc}"
        )
    if not np.isfinite(structure.frac_coords).all() or not np.isfinite(cell).all():
        return "not finite"
    found, asked = np.bincount(structure.atomic_numbers, minlength=119), np.bincount(species, minlength=119)
    return "" if (found == asked).all() else "wrong composition"


def screened(
    structures: Sequence[Structure | None], lattice: np.ndarray, species: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Of each structure why it is :func:`rejected`, and how many pairs of its atoms are too close."""
    failures = [rejected(s, lattice, species, f"structure {i}") for i, s in enumerate(structures)]
    unreadable = ("no structure", "not finite")
    pairs = zip(structures, failures, strict=True)
    return failures, np.array([np.nan if why in unreadable else len(close_pairs(s)[0]) for s, why in pairs])


def uniform(lattice: np.ndarray, species: np.ndarray, n: int, rng: np.random.Generator) -> list[Structure]:
    """Atoms anywhere in the cell."""
    return [Structure(Lattice(lattice), species.tolist(), rng.random((len(species), 3))) for _ in range(n)]


def rattled(training: CrystalTable, n: int, rng: np.random.Generator) -> list[Structure]:
    """Training structures with every coordinate moved by a normal number of RATTLE Å."""
    found = []
    for row in rng.integers(len(training), size=n):
        moved = training.structure(row)
        step = rng.normal(scale=RATTLE, size=(len(moved), 3))
        found.append(Structure(moved.lattice, moved.species, moved.cart_coords + step, coords_are_cartesian=True))
    return found


@dataclass(frozen=True)
class Alloy(System):
    """Fe60Ni20Cr20 on fcc sites; atoms on no site are removed, and nothing is relaxed (section 4.3.3)."""

    sites: FccSites
    metrics = {"d_cluster": "cluster probabilities up to the 7th shell"}
    anchor = "shuffled lattice"
    relaxes = False

    def describe(self, structures: Sequence[Structure | None], relaxed: bool = True) -> Described:
        """Cluster probabilities of the sites.

        Facts: vacancies, and the exact energy (eV/atom) of full lattices. Of all, accepted or not: mean distance of the
        atoms from the sites (Å), and share of the sites that are empty.
        """
        species, kept = np.repeat(ELEMENTS, self.sites.composition), []
        failures, close = screened(structures, self.sites.lattice, species)
        off_site, empty = np.full((2, len(structures)), np.nan)
        for i, structure in enumerate(structures):
            if failures[i]:
                continue
            found = alloy.occupation_of(structure.frac_coords, np.array(structure.atomic_numbers), self.sites)
            off_site[i], empty[i] = found.off_site, (found.occupation < 0).mean()
            if found.removed > MOST_REMOVED * len(self.sites):
                failures[i] = f"{found.removed} atoms on no site"
            else:
                kept.append(found.occupation)
        found = np.array(kept, dtype=np.int8).reshape(-1, len(self.sites))
        vacancies = (found < 0).sum(1)
        energy = np.where(vacancies == 0, alloy.energies(found, self.sites) if len(found) else 0.0, np.nan)
        features = alloy.cluster_fingerprint(found, self.sites) if len(found) else np.zeros((0, 45))
        of_all = {"close": close, "off_site": off_site, "empty": empty}
        return Described({"d_cluster": features}, failures, {"vacancies": vacancies, "energy": energy}, of_all)

    def trivial(self, training: CrystalTable, n: int, rng: np.random.Generator) -> dict[str, list[Structure]]:
        """Shuffled and uniform atoms; training structures rattled, or with 5 and 20 % of the atoms permuted."""
        occupation = alloy.occupations_of(training, self.sites)

        def lattices(rows: np.ndarray) -> list[Structure]:
            return list(alloy.to_table(rows, self.sites, "trivial").structures())

        some = occupation[rng.integers(len(occupation), size=n)]
        species = np.repeat(ELEMENTS, self.sites.composition)
        return {
            "shuffled lattice": lattices(permuted(some, 1.0, rng)),
            "uniform": uniform(self.sites.lattice, species, n, rng),
            f"training, rattled by {RATTLE} Å": rattled(training, n, rng),
            "training, 5 % permuted": lattices(permuted(some, 0.05, rng)),
            "training, 20 % permuted": lattices(permuted(some, 0.2, rng)),
        }


def permuted(occupation: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Occupations (S, N) in which a random share of the sites has exchanged its atoms at random."""
    changed = occupation.copy()
    for row in changed:
        places = rng.permutation(len(row))[: round(share * len(row))]
        row[places] = row[rng.permutation(places)]
    return changed


@dataclass(frozen=True)
class Silicon(System):
    """Amorphous silicon in one cell; atoms are moved apart and relaxed with Tersoff's potential (section 4.3.2).

    Attributes:
        lattice: (3, 3) Å.
        n_atoms: atoms in it.
    """

    lattice: np.ndarray
    n_atoms: int
    metrics = {
        "d_motif": "coordination motifs",
        "d_rdf": "radial distribution to 10 Å",
        "d_angle": "angles between bonds",
    }
    anchor = "uniform"
    relaxes = True

    def describe(self, structures: Sequence[Structure | None], relaxed: bool = True) -> Described:
        """Motifs, distances and angles, after relaxation or as they came. Facts: relaxation steps, energy (eV/atom)."""
        rng, kept = np.random.default_rng(0), []
        failures, close = screened(structures, self.lattice, np.full(self.n_atoms, silicon.SILICON))
        for i, structure in enumerate(structures):
            if failures[i]:
                continue
            steps, energy = 0, np.nan
            structure = Structure(self.lattice, structure.species, structure.frac_coords)  # however its cell is turned
            if relaxed:
                structure = pushed_apart(structure, rng)
                if structure is None:
                    failures[i] = "atoms too close"
                    continue
                try:
                    structure, energy, steps = silicon.relax(structure)
                except RuntimeError:
                    failures[i] = "not relaxed"
                    continue
            try:
                kept.append((self._features(structure), steps, energy))
            except BadInput as error:  # an atom without a Voronoi cell
                failures[i] = str(error)
        columns = {name: np.array([one[name] for one, *_ in kept]) for name in self.metrics}
        facts = {"steps": np.array([s for _, s, _ in kept]), "energy": np.array([e for *_, e in kept])}
        return Described(columns, failures, facts, {"close": close})

    def _features(self, structure: Structure) -> dict[str, np.ndarray]:
        cell = structure.lattice.matrix, structure.frac_coords, np.array(structure.atomic_numbers)
        return {
            "d_motif": fingerprints(find_neighbours(*cell)).mean(0),
            "d_rdf": silicon.radial_distribution(structure),
            "d_angle": silicon.angle_distribution(structure),
        }

    def trivial(self, training: CrystalTable, n: int, rng: np.random.Generator) -> dict[str, list[Structure]]:
        """Uniform atoms, training structures rattled, and diamond where it has so many atoms."""
        repeats, edge = round((self.n_atoms / 8) ** (1 / 3)), self.lattice[0, 0]
        found = {
            "uniform": uniform(self.lattice, np.full(self.n_atoms, silicon.SILICON), n, rng),
            f"training, rattled by {RATTLE} Å": rattled(training, n, rng),
        }
        if 8 * repeats**3 == self.n_atoms:
            cube = Structure.from_spacegroup(227, Lattice.cubic(edge / repeats), [silicon.SILICON], [[0, 0, 0]])
            found["diamond"] = [cube * ((repeats,) * 3)]
        return found


@dataclass(frozen=True)
class Interface(System):
    """Li3ScCl6(100) on LiCoO2(110) in one cell: cations among anions (section 4.3.1), as generated.

    The paper relaxes them with a potential of its own (M3GNet, in the authors' files); here atoms are only moved apart.

    Attributes:
        lattice: (3, 3) Å.
        species: (N,) atomic numbers.
    """

    lattice: np.ndarray
    species: np.ndarray
    metrics = {f"d_{name}": f"motifs of {name} and what they are of" for name in (*CATIONS, "all")}
    anchor = "uniform"
    relaxes = False

    def describe(self, structures: Sequence[Structure | None], relaxed: bool = True) -> Described:
        """Means of the 109 numbers of each cation: motifs, then shares of Cl and O by coordination number."""
        rng, kept = np.random.default_rng(0), []
        failures, close = screened(structures, self.lattice, self.species)
        for i, structure in enumerate(structures):
            apart = None if failures[i] else pushed_apart(structure, rng)
            if apart is None:
                failures[i] = failures[i] or "atoms too close"
                continue
            numbers = np.array(apart.atomic_numbers)
            try:
                found = find_neighbours(apart.lattice.matrix, apart.frac_coords, numbers, IONIC)
            except BadInput as error:
                failures[i] = str(error)
                continue
            rows = np.concatenate([fingerprints(found), fractions(found, numbers, ANIONS)], axis=1)
            means = {f"d_{name}": rows[numbers == number].mean(0) for name, number in CATIONS.items()}
            kept.append(means | {"d_all": rows[np.isin(numbers, list(CATIONS.values()))].mean(0)})
        rows = {name: np.array([one[name] for one in kept]) for name in self.metrics}
        return Described(rows, failures, of_all={"close": close})

    def trivial(self, training: CrystalTable, n: int, rng: np.random.Generator) -> dict[str, list[Structure]]:
        """Uniform atoms, and training structures rattled."""
        return {
            "uniform": uniform(self.lattice, self.species, n, rng),
            f"training, rattled by {RATTLE} Å": rattled(training, n, rng),
        }


def system_of(dataset: str, training: CrystalTable) -> System:
    """The material of a data set, by its name and its structures.

    Raises:
        BadInput: no data set is called so.
    """
    makers: dict[str, Callable[[], System]] = {
        "alloy": lambda: Alloy(FccSites.of(int(training.n_sites[0]))),
        "silicon": lambda: Silicon(training.lattice[0], int(training.n_sites[0])),
        "interface": lambda: Interface(training.lattice[0], training.species_of(0)),
    }
    kind = dataset.split("_")[0]
    if kind not in makers:
        raise BadInput(f"data set {dataset!r} is not known; its name begins with {', '.join(makers)}")
    return makers[kind]()
