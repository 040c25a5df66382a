"""What is known of a template before it is tried: the features by which a ranking of templates is learnt.

They say how alike the elements are that replace each other and in which properties they differ, how many templates
stand on the same sites, what the substitution does to bond lengths and coordination, where the template comes from,
and, where an energy is asked for, how far from it the template lies.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.core.workers import progress
from lib.crystals.elements import FEATURE_NAMES, SYMBOLS, standardised_features
from lib.crystals.table import CrystalTable
from lib.retrieval.site_statistics import canonical, positions_by_element
from lib.retrieval.templates import ElementRanking, Retrieved, by_count, by_distance
from lib.symmetry.cells import reduced
from lib.symmetry.subgroups import supergroups

NEAREST = 20  # templates of a target that are looked at, those of the most alike elements
NEAREST_OF_GROUP = 10  # of the asked group at least, if there are as many
VOTE_KERNELS = (0.05, 0.1, 0.2, 0.4)  # of element_distances, mean over atoms, beyond the most alike template's
OCCUPANT_KERNELS = (0.3, 1.0)  # of element_distances, for one element
FAR = 9.0  # more than any element_distances: there is no such template
NEIGHBOUR = 1.2  # times the distance of the nearest atom
RADIUS = 1.4  # Å; prior mean of an element's radius, which decides where few contacts are known
PRIOR = 4.0  # weight of the prior mean, in crystals
IMAGES = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
ENERGY = ["energy apart", "energy above", "nearer in energy", "nearer in energy, same elements"]

_canonical = functools.cache(canonical)


class TemplateFeatures:
    """The templates that a training set has for a composition, and their features."""

    def __init__(self, training: CrystalTable) -> None:
        self.training, self.nearest = training, ElementRanking(training)
        self.properties, self.volumes = standardised_features(), self.nearest.volumes
        self.elements = [elements for elements, _ in self.nearest.elements]
        self.positions = [positions_by_element(unit) for unit in training.asymmetric_units]
        self.above = _above_the_lowest(training)
        rows = progress(range(len(training)), desc="local environments", unit="crystal")
        self.environments = [LocalEnvironments.of(training, row) for row in rows]
        self.radii = _radii(self.elements, self.environments)
        self.coordination = _coordination(self.elements, self.environments)

    def of(
        self, species: np.ndarray, space_group: int | None = None, energy: float = np.nan, other_than: str = ""
    ) -> tuple[Retrieved, dict[str, np.ndarray]]:
        """The n templates of a target whose elements are most alike, and name -> (n,) feature.

        Args:
            species: (n_sites,) the target's.
            space_group: asked for, so that its crystals and those of its supergroups are templates; None: all are.
            energy: asked for, eV/atom; nan: none is.
            other_than: a reduced formula that templates may not have.
        """
        elements, counts = by_count(species)
        shares = counts / counts.sum()
        groups = None if space_group is None else supergroups(space_group)
        found = self.nearest.retrieve(species, groups, other_than)
        if not len(found.rows):
            return found, {}
        found = found.take(by_distance(found, self.training.formation_energy, energy))
        kinds = self._kinds(found)
        features = _alikeness(found.distance, found.mean) | _votes(found.mean, kinds)
        features |= _occupants(found.distance, kinds) | self._group(found, space_group) | self._origin(found.rows)
        chosen = np.arange(len(found.rows)) < NEAREST
        if space_group is not None:
            chosen |= features["asked group"] & (features["of the group before"] < NEAREST_OF_GROUP)
        features, found = {name: values[chosen] for name, values in features.items()}, found.take(chosen)
        features |= _energy(self.training.formation_energy[found.rows] - energy, found.elements)
        features |= self._exchange(elements, shares, found.elements)
        pairs = zip(found.rows.tolist(), found.elements, strict=True)
        strains = [self._strain(elements, shares, row, before) for row, before in pairs]
        return found, features | {name: np.array([row[name] for row in strains]) for name in strains[0]}

    def _kinds(self, found: Retrieved) -> np.ndarray:
        """(m,) a number for the positions that the target's elements take in each template.

        It is the same where positions differ by the choice of the origin alone.
        """
        numbers: dict[tuple, int] = {}
        kinds = []
        for row, elements in zip(found.rows.tolist(), found.elements.tolist(), strict=True):
            symmetry = self.training.asymmetric_units[row].symmetry
            taken = tuple(self.positions[row][element] for element in elements)
            kinds.append(numbers.setdefault((symmetry, _canonical(symmetry, taken)), len(numbers)))
        return np.array(kinds)

    def _group(self, found: Retrieved, space_group: int | None) -> dict[str, np.ndarray]:
        if space_group is None:
            return {}
        same = self.training.space_group[found.rows] == space_group
        return {
            "asked group": same,
            "beyond the group's": found.mean - found.mean[same].min(initial=FAR),
            "of the group before": np.cumsum(same) - same,
        }

    def _origin(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        units = [self.training.asymmetric_units[row] for row in rows]
        return {
            "group": self.training.space_group[rows],
            "sites": self.training.n_sites[rows],
            "orbits": np.array([len(unit.sites) for unit in units]),
            "free parameters": np.array([sum(len(site.parameters) for site in unit.sites) for unit in units]),
            "above the lowest": self.above[rows],
        }

    def _exchange(self, elements: np.ndarray, shares: np.ndarray, before: np.ndarray) -> dict[str, np.ndarray]:
        own = self.properties[elements]
        change = np.abs(own - self.properties[before]).max(axis=1)  # (n, 22)
        mean = np.broadcast_to(shares @ own, change.shape)
        return {
            f"{name}, {what}": column
            for what, table in (("mean", mean), ("change", change))
            for name, column in zip(FEATURE_NAMES, table.T, strict=True)
        }

    def _strain(self, elements: np.ndarray, shares: np.ndarray, row: int, template: np.ndarray) -> dict[str, float]:
        """What the substitution does to contacts and coordination, weighed by who is whose neighbour."""
        place = [self.elements[row].tolist().index(element) for element in template]
        around = self.environments[row].ordered(place)
        scale = np.cbrt((self.volumes[elements] @ shares) / (self.volumes[template] @ shares))
        typical, spread = self.coordination
        before, after = self._contacts(around, template), self._contacts(around, elements) + np.log(scale)
        unlike = np.abs((around.neighbours - typical[template]) / spread[template])
        return self.environment(elements, shares, around, scale) | {
            "shortest contact, template": before.min(),
            "contact change": np.abs(after - before).max(),
            "coordination, template's deviation": shares @ unlike,
            "scale": scale,
        }

    def _contacts(self, around: LocalEnvironments, elements: np.ndarray) -> np.ndarray:
        """(k, k) logarithms of the shortest contacts in sums of two radii."""
        return np.log(around.contacts / (self.radii[elements][:, None] + self.radii[elements]))

    def environment(
        self, elements: np.ndarray, shares: np.ndarray, around: LocalEnvironments, scale: float = 1.0
    ) -> dict[str, float]:
        """How usual a crystal's contacts, coordination and volume are, weighed by who is whose neighbour.

        Args:
            elements: (k,) atomic numbers that stand there, in the order of `around`.
            shares: (k,) of the atoms.
            scale: by which its lengths are multiplied.
        """
        near, neighbours = around.near, around.neighbours
        contacts = self._contacts(around, elements) + np.log(scale)
        typical, spread = self.coordination
        deviation = (neighbours - typical[elements]) / spread[elements]
        electronegativity = self.properties[elements, FEATURE_NAMES.index("electronegativity")]
        contrast = np.abs(electronegativity[:, None] - electronegativity)
        anion, cation = electronegativity.argmax(), electronegativity.argmin()
        return {
            "shortest contact": contacts.min(),
            "neighbour contact": shares @ (near * contacts).sum(1),
            "neighbour contact, deviation": shares @ (near * np.abs(contacts)).sum(1),
            "neighbour contact, least": (near * contacts).sum(1).min(),
            "neighbour contact, most": (near * contacts).sum(1).max(),
            "coordination": shares @ neighbours,
            "coordination of the anion": neighbours[anion],
            "coordination of the cation": neighbours[cation],
            "coordination, deviation": shares @ np.abs(deviation),
            "coordination, largest deviation": np.abs(deviation).max(),
            "coordination, deviation of the anion": deviation[anion],
            "coordination, deviation of the cation": deviation[cation],
            "neighbours alike": shares @ np.diag(near),
            "neighbours, contrast": shares @ (near * contrast).sum(1),
            "neighbours, contrast above chance": shares @ (near * contrast).sum(1) - shares @ contrast @ shares,
            "neighbours of anion and cation": near[anion, cation],
            "neighbours of anions": near[anion, anion],
            "neighbours of cations": near[cation, cation],
            "volume": around.volume * scale**3 / (self.volumes[elements] @ shares),
        }


@dataclass(frozen=True)
class LocalEnvironments:
    """Shortest contacts and neighbours of the k elements of a crystal (:func:`lib.retrieval.templates.by_count`)."""

    contacts: np.ndarray  # (k, k) Å, the shortest distances
    near: np.ndarray  # (k, k) shares of the elements (columns) among the neighbours of an element (rows)
    neighbours: np.ndarray  # (k,) mean number of atoms up to NEIGHBOUR times as far as the nearest
    volume: float  # Å^3 per atom

    def ordered(self, place: Sequence[int]) -> LocalEnvironments:
        """The same with the elements in another order."""
        both = np.ix_(place, place)
        return LocalEnvironments(self.contacts[both], self.near[both], self.neighbours[place], self.volume)

    @classmethod
    def of(cls, table: CrystalTable, row: int) -> LocalEnvironments:
        """A crystal's, by the images in the adjacent cells, which are near enough where the cell is reduced."""
        lattice, frac_coords = reduced(table.lattice[row], table.frac_coords_of(row))
        species = table.species_of(row)
        elements, counts = by_count(species)
        apart = frac_coords[:, None] - frac_coords
        distances = np.linalg.norm((apart - np.round(apart))[:, :, None] @ lattice + IMAGES @ lattice, axis=-1)
        distances[distances < 1e-6] = np.inf
        near = distances < NEIGHBOUR * distances.min(axis=(1, 2), keepdims=True)  # (n, n, images)
        of = elements[:, None] == species  # (k, n)
        contacts = [[distances[np.ix_(a, b)].min() for b in of] for a in of]
        share = near.sum(2) / near.sum((1, 2))[:, None]
        neighbours = of @ near.sum((1, 2)) / counts
        near = of @ share @ of.T / counts[:, None]
        return cls(np.array(contacts), near, neighbours, float(table.volume_per_atom[row]))


def _alikeness(distance: np.ndarray, mean: np.ndarray) -> dict[str, np.ndarray]:
    """How unlike the elements are, by their distances (m, k) and the means (m,); how many templates are nearer."""
    return {
        "unlike": mean,
        "unlike, beyond the least": mean - mean.min(),
        "more alike": np.arange(len(mean)),
        "unlike, most": distance.max(axis=1),
        "kept elements": (distance == 0).sum(axis=1),
    }


def _votes(mean: np.ndarray, kinds: np.ndarray) -> dict[str, np.ndarray]:
    """Shares of the templates on the same sites, weighted by how alike their elements are."""
    found = {"templates": np.full(len(kinds), len(kinds)), "kinds of sites": np.full(len(kinds), kinds.max() + 1)}
    found["on these sites"] = np.bincount(kinds)[kinds]
    for width in VOTE_KERNELS:
        weights = np.exp(-(mean - mean.min()) / width)
        found[f"votes, {width:g}"] = (np.bincount(kinds, weights) / weights.sum())[kinds]
    return found


def _occupants(distance: np.ndarray, kinds: np.ndarray) -> dict[str, np.ndarray]:
    """How much the elements on each of the sites are like the target's, over all crystals on these sites."""
    n, tiny = np.bincount(kinds), 1e-6
    nearest = np.full((len(n), distance.shape[1]), FAR)
    np.minimum.at(nearest, kinds, distance)
    found = {"nearest occupants, most": nearest.max(1)[kinds], "nearest occupants": nearest.sum(1)[kinds]}
    for width in OCCUPANT_KERNELS:
        alike = np.exp(-distance / width)
        here = np.stack([np.bincount(kinds, column) for column in alike.T], axis=1) / n[:, None]
        gain = np.log((here + tiny) / (alike.mean(axis=0) + tiny))
        logarithm = np.log(n) + np.log(here + tiny).sum(axis=1)
        share = np.exp(logarithm - logarithm.max())
        found[f"occupants, {width:g}"] = (logarithm - logarithm.max())[kinds]
        found[f"occupants, share, {width:g}"] = (share / share.sum())[kinds]
        found[f"occupants, gain, {width:g}"] = gain.sum(axis=1)[kinds]
        found[f"occupants, least gain, {width:g}"] = gain.min(axis=1)[kinds]
    return found


def _energy(above: np.ndarray, elements: np.ndarray) -> dict[str, np.ndarray]:
    """How far the templates lie above the asked energy (eV/atom), and how many lie nearer to it."""
    nearer = np.abs(above) < np.abs(above)[:, None]
    same = (elements == elements[:, None]).all(axis=-1)
    return dict(zip(ENERGY, (np.abs(above), above, nearer.sum(axis=1), (nearer & same).sum(axis=1)), strict=True))


def _above_the_lowest(training: CrystalTable) -> np.ndarray:
    """(n,) eV/atom above the lowest crystal of the same reduced formula."""
    _, group = np.unique(training.reduced_formula, return_inverse=True)
    lowest = np.full(group.max(initial=0) + 1, np.inf)
    np.minimum.at(lowest, group, training.formation_energy)
    return training.formation_energy - lowest[group]


def _radii(elements: Sequence[np.ndarray], environments: Sequence[LocalEnvironments]) -> np.ndarray:
    """(119,) radii in Å, fitted so that the shortest contact of two neighbouring elements is the sum of both."""
    normal, wanted = PRIOR * np.eye(len(SYMBOLS)), np.full(len(SYMBOLS), PRIOR * RADIUS)
    for numbers, around in zip(elements, environments, strict=True):
        for pair in zip(*np.nonzero(np.triu(around.near + around.near.T)), strict=True):
            for here, there in (numbers[list(pair)], numbers[list(pair[::-1])]):
                normal[here, [here, there]] += 1
                wanted[here] += around.contacts[pair]
    return np.linalg.solve(normal, wanted)


def _coordination(
    elements: Sequence[np.ndarray], environments: Sequence[LocalEnvironments]
) -> tuple[np.ndarray, np.ndarray]:
    """(119,), (119,) mean number of neighbours of each element, and its standard deviation."""
    numbers = np.concatenate(elements)
    neighbours = np.concatenate([around.neighbours for around in environments])
    overall, spread = neighbours.mean(), neighbours.var() + 1
    n = np.bincount(numbers, minlength=len(SYMBOLS)) + PRIOR
    mean = (np.bincount(numbers, neighbours, len(SYMBOLS)) + PRIOR * overall) / n
    variance = (np.bincount(numbers, (neighbours - mean[numbers]) ** 2, len(SYMBOLS)) + PRIOR * spread) / n
    return mean, np.sqrt(variance)
