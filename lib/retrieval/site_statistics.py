"""Statistics of a training set by composition: which Wyckoff positions its crystals take, and their energies.

Both are small enough to travel in a model's file (:mod:`lib.generation.ship`), so that sites can be proposed where the
training set is not at hand (:mod:`lib.generation.generate`).
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import spglib
from pymatgen.core import Composition, Element

from lib.crystals.elements import FEATURE_NAMES, N_ELEMENTS, NUMBERS, SYMBOLS, standardised_features
from lib.crystals.table import CrystalTable
from lib.retrieval.templates import KERNEL, by_count, count_preserving_orders, element_distances
from lib.symmetry.normaliser import generic_cell, normaliser
from lib.symmetry.wyckoff import AsymmetricUnit, Site, assignments, origin_shifts, positions

MAX_FAILED = 200  # assignments of higher symmetry in a row, after which none of the group itself is expected
ENERGY_KERNEL = 0.1  # eV/atom: how far from the asked energy
LOW = 0.1  # quantile of the residuals that counts as low energy
FEW = 2  # crystals from which on it is kept which elements stand on their sites
RIDGE = 0.3  # crystals' worth of evidence that a pair of elements does not interact

Assignment = tuple[tuple[int, ...], ...]  # for each element the numbers of its positions, ascending


@dataclass(frozen=True)
class Candidate:
    """Sites for the atoms of a composition.

    Attributes:
        unit: the sites, in a space group.
        score: of statistics their share of the votes, 0 for positions that no crystal of these counts took; of a
            template its score (:class:`lib.retrieval.templates.Template`).
        template: id of the crystal that they are from; empty where there is none.
        source: "template" (with the template's free parameters, and its cell scaled to the volume of the elements),
            "supergroup" (the same of a template of higher symmetry, described in the asked group), "enumerated" (free
            parameters and cell are placeholders), "free" (atoms without symmetry, cell and coordinates), or "known" (a
            crystal or a prototype of this composition, :mod:`lib.generation.known`).
    """

    unit: AsymmetricUnit
    score: float
    template: str = ""
    source: str = "enumerated"


@dataclass(frozen=True)
class SiteCounts:
    """Counts over the crystals that take the same sites."""

    n: int  # crystals
    energy: float = 0.0  # their mean formation energy in eV/atom above EnergyStatistics.expected
    # for each element of the assignment, atomic number -> crystals; empty where it is not kept
    elements: tuple[Mapping[int, int], ...] = ()

    @classmethod
    def of(cls, crystals: Sequence[tuple[Sequence[int], float]]) -> SiteCounts:
        """Of crystals: (elements in the assignment's order, energy) of each."""
        several, energies = zip(*crystals, strict=True)
        counted = tuple(dict(sorted(Counter(column).items())) for column in zip(*several, strict=True))
        return cls(len(crystals), round(float(np.mean(energies)), 2), counted)

    def alikeness(self, elements: np.ndarray, shares: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """(m,) how alike asked elements are to those counted here, from 0 to 1; where none are, to all elements.

        It is the product over the k elements, see :class:`SiteStatistics`; (m, k) atomic numbers are those of m orders
        of the assignment's elements, which have shares (k,) of the atoms.
        """
        anything = dict.fromkeys(range(1, N_ELEMENTS + 1), 1)
        alike = np.ones(len(elements))
        for asked, share, counted in zip(elements.T, shares, self.elements or [anything] * len(shares), strict=True):
            unlike = distance[asked[:, None], list(counted)]
            alike *= np.average(np.exp(-share * unlike / KERNEL), axis=1, weights=list(counted.values()))
        return alike


class SiteStatistics:
    """Which Wyckoff positions the crystals of a training set take, by their sorted counts per cell.

    For a composition, crystals of the same counts (A2B: 1, 2) vote for their space group and assignment of positions.
    The votes of an assignment are the number of its crystals, times, for each element, the mean over the crystals of
    exp(-x d / KERNEL), times exp(-|e| / ENERGY_KERNEL). Here d is the distance between the asked element and the one
    on the same positions (:func:`lib.retrieval.templates.element_distances`), x its share of the atoms, and e the
    difference between the asked energy and the crystals' mean, each counted from the energy expected of the
    composition. Assignments that differ by the choice of the origin alone are one.

    No crystal is kept. The elements on the positions are counted one by one, and only for assignments of FEW crystals
    or more; the rarer assignments of the same counts share one count and one mean energy.

    On 400 structures held out of MP-20 by formula the first choice of group and sites is right in 58 % with no group
    given and in 82 % with it, one of the first 16 in 83 and 86 %. Votes of crystals by their own elements, which a file
    could not hold without them, reach 62, 83, 84 and 86 %; of the 3 % between, 1 % is due to FEW = 2 instead of 1.

    Attributes:
        by_counts: counts -> (group, assignment) -> counts over its crystals; of fewer than FEW their number alone.
        rare: counts -> the same over all assignments of fewer than FEW crystals, where these are FEW or more.
    """

    def __init__(
        self,
        by_counts: Mapping[tuple[int, ...], Mapping[tuple[int, Assignment], SiteCounts]],
        rare: Mapping[tuple[int, ...], SiteCounts],
    ):
        self.by_counts, self.rare = by_counts, rare

    @classmethod
    def fit(cls, table: CrystalTable, energies: EnergyStatistics) -> SiteStatistics:
        """Of a training table; crystals in which spglib finds no positions are left out."""
        crystals = defaultdict(lambda: defaultdict(list))
        mendeleev = standardised_features()[:, FEATURE_NAMES.index("mendeleev_number")]
        expected = {formula: energies.expected(formula) for formula in set(table.reduced_formula.tolist())}
        above = table.formation_energy - [expected[formula] for formula in table.reduced_formula.tolist()]
        rows = zip(table.asymmetric_units, table.space_group.tolist(), above.tolist(), strict=True)
        for unit, group, energy in rows:
            if unit.symmetry != group:
                continue
            elements, counts = by_count(unit.species)
            taken = list(positions_by_element(unit).values())
            # where orders differ by the origin alone, that of Mendeleev numbers: like elements meet on like positions
            ways = count_preserving_orders(counts)
            ways = ((canonical(group, [taken[i] for i in w]), mendeleev[elements[w]].tolist(), w) for w in ways)
            least, _, order = min(ways)
            crystals[tuple(counts.tolist())][group, least].append((elements[order].tolist(), energy))
        by_counts, rare = {}, {}
        for counts, by_sites in crystals.items():
            by_counts[counts] = {
                sites: SiteCounts.of(several) if len(several) >= FEW else SiteCounts(len(several))
                for sites, several in by_sites.items()
            }
            single = [crystal for several in by_sites.values() if len(several) < FEW for crystal in several]
            if len(single) >= FEW:
                rare[counts] = SiteCounts.of(single)
        return cls(by_counts, rare)

    def candidates(
        self, species: np.ndarray, n: int, space_groups: Sequence[int] | None = None, above: float = np.nan
    ) -> list[Candidate]:
        """At most n different choices of sites for the atoms, the most probable first.

        What the crystals of the same counts took comes first. Where that is not enough the groups follow, those with
        the most crystals first, each with the positions that its crystals occupy most often and that give no higher
        symmetry.

        Args:
            species: (n_sites,) atomic numbers of a primitive cell.
            space_groups: those that are asked for; None for any.
            above: asked energy in eV/atom above :meth:`EnergyStatistics.expected`; nan for any.

        Returns:
            Units with placeholders for free parameters and cell; none where the groups cannot hold the atoms.
        """
        elements, counts = by_count(species)
        votes = self.votes(species, space_groups, above)
        total, found, known = votes.total(), [], set()
        for (group, taken), vote in sorted(votes.items(), key=lambda vote: -vote[1]):
            if len(found) < n and keeps_its_group(unit := generic_unit(group, elements, taken)):
                found.append(Candidate(unit, vote / total))
                known.add((group, in_any_axes(group, taken)))
        waiting = deque((group, None) for group in self._groups(space_groups))
        while waiting and len(found) < n:  # the groups take turns
            group, several = waiting.popleft()
            if several is None:  # no group is searched before its turn comes
                several = self.assignments(group, species)
            _, taken = next(several, (0.0, None))
            if taken is None:
                continue
            waiting.append((group, several))
            if (group, in_any_axes(group, taken)) not in known:
                found.append(Candidate(generic_unit(group, elements, taken), 0.0))
        return found

    def votes(self, species: np.ndarray, space_groups: Sequence[int] | None = None, above: float = np.nan) -> Counter:
        """(group, assignment in the order of :func:`lib.retrieval.baselines.by_count`) -> votes; arguments as for
        candidates."""
        elements, counts = by_count(species)
        votes: Counter = Counter()
        sorted_counts = tuple(counts.tolist())
        if sorted_counts not in self.by_counts:  # and the orders may be many: 20 elements have 2e18
            return votes
        distance, orders = element_distances(), np.array(list(count_preserving_orders(counts)))
        for (group, taken), here in self.by_counts[sorted_counts].items():
            if space_groups is not None and group not in space_groups:
                continue
            like = here if here.n >= FEW else self.rare.get(sorted_counts, here)
            apart = 0.0 if np.isnan(above) else abs(like.energy - above)
            alike = like.alikeness(elements[orders], counts / counts.sum(), distance)
            weights = here.n * np.exp(-apart / ENERGY_KERNEL) * alike
            ways = [taken]
            if len(orders) > 1:
                ways = [canonical(group, [taken[place] for place in np.argsort(order)]) for order in orders]
            for way in set(ways):  # orders that differ by the origin alone are one way, and a crystal has one vote
                votes[group, way] += weights[[w == way for w in ways]].max()
        return votes

    def share(self, unit: AsymmetricUnit) -> float:
        """The share of the votes that the unit's group and sites have, as of :meth:`candidates`."""
        taken, votes = list(positions_by_element(unit).values()), self.votes(unit.species)
        return votes[unit.symmetry, canonical(unit.symmetry, taken)] / votes.total() if votes else 0.0

    def _groups(self, space_groups: Sequence[int] | None) -> list[int]:
        """The groups asked for, or all that were seen, those with the most crystals first."""
        counts = Counter()
        for (group, _), here in itertools.chain(*(by_sites.items() for by_sites in self.by_counts.values())):
            counts[group] += here.n
        return sorted(counts if space_groups is None else space_groups, key=lambda group: (-counts[group], group))

    def assignments(self, space_group: int, species: np.ndarray) -> Iterator[tuple[float, Assignment]]:
        """Positions that hold the atoms and give no higher symmetry, with their log-probabilities, the likeliest first.

        Every orbit takes a position by itself (:meth:`usage`). They are found one after another, however many there are
        (:func:`lib.symmetry.wyckoff.assignments`); no two differ by the choice of origin and axes alone.

        On 62 crystals held out of MP-20 by formula whose counts and group no training crystal has, the first is right
        in 31 %, one of the first 5, 20 and 100 in 50, 69 and 82 %. Orbits weighted by how alike their elements are
        would do as well: of 225 training crystals alone with their counts and group 29, 48, 65 and 77 % in place of
        26, 46, 66 and 76.

        Of 614 requests for 20 or 24 atoms of one to three elements, each with a group that Wyckoff multiplicities
        allow, 598 found one among the first 19 ways; the others have no such way among at most 539.

        Args:
            species: (n_sites,) atomic numbers of a primitive cell.
        """
        elements, counts = by_count(species)
        logarithms = self.usage(space_group)
        failed, known = 0, set()
        for taken in assignments(space_group, counts.tolist(), -logarithms):
            if (least := in_any_axes(space_group, taken)) in known:
                continue
            known.add(least)
            failed += 1
            if keeps_its_group(generic_unit(space_group, elements, taken)):
                failed = 0
                yield float(logarithms[list(itertools.chain(*taken))].sum()), taken
            if failed == MAX_FAILED:
                return

    def usage(self, space_group: int) -> np.ndarray:
        """(n,) logarithm of the share of orbits on each position of a group.

        One more is counted on each than there is, so that none is impossible; positions that only the choice of origin
        and axes tells apart are used as often as each other.
        """
        used = np.ones(len(positions(space_group)))
        for by_sites in self.by_counts.values():
            for (group, taken), here in by_sites.items():
                if group == space_group:
                    np.add.at(used, list(itertools.chain(*taken)), here.n)
        used = used[np.array(_choices(space_group))].mean(axis=0)
        return np.log(used / used.sum())

    def to_json(self) -> dict[str, dict[str, str]]:
        """Counts -> group and positions -> n, mean energy in 0.01 eV, elements; what is rare under "".

        As {"1 2": {"225 0|2": "3 -31 Ca2Zr|F2O", "62 0|1.2": "1", "63 0|1.2": "1", "": "2 11 BaSr|Cl2"}}.
        """
        values = {}
        for counts, by_sites in self.by_counts.items():
            of_counts = values[" ".join(map(str, counts))] = {
                f"{group} " + "|".join(".".join(map(str, of_element)) for of_element in taken): _written(here)
                for (group, taken), here in by_sites.items()
            }
            if counts in self.rare:
                of_counts[""] = _written(self.rare[counts])
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Mapping[str, str]]) -> SiteStatistics:
        """Inverse of :meth:`to_json`."""

        def sites(key: str) -> tuple[int, Assignment]:
            group, taken = key.split(" ")
            return int(group), tuple(tuple(map(int, of_element.split("."))) for of_element in taken.split("|"))

        by_counts = {tuple(map(int, counts.split())): by_sites for counts, by_sites in values.items()}
        return cls(
            {counts: {sites(key): _read(text) for key, text in of.items() if key} for counts, of in by_counts.items()},
            {counts: _read(of[""]) for counts, of in by_counts.items() if "" in of},
        )


def _written(here: SiteCounts) -> str:
    """See :meth:`SiteStatistics.to_json`."""
    if not here.elements:
        return str(here.n)
    elements = ("".join(f"{SYMBOLS[z]}{n if n > 1 else ''}" for z, n in of.items()) for of in here.elements)
    return f"{here.n} {round(100 * here.energy)} " + "|".join(elements)


def _read(text: str) -> SiteCounts:
    """Inverse of :func:`_written`."""
    n, *known = text.split(" ")
    if not known:
        return SiteCounts(int(n))
    energy, elements = known
    several = (re.findall("([A-Z][a-z]*)([0-9]*)", of) for of in elements.split("|"))
    counted = tuple({NUMBERS[symbol]: int(times or 1) for symbol, times in of} for of in several)
    return SiteCounts(int(n), int(energy) / 100, counted)


def positions_by_element(unit: AsymmetricUnit) -> dict[int, tuple[int, ...]]:
    """Atomic number -> numbers of its positions, ascending; elements in the order of
    :func:`lib.retrieval.templates.by_count`."""
    elements, _ = by_count(unit.species)
    return {z: tuple(sorted(s.position for s in unit.sites if s.species == z)) for z in elements.tolist()}


def canonical(space_group: int, taken: Sequence[Sequence[int]]) -> Assignment:
    """The assignment of least numbers among those that differ from the given one by the choice of the origin alone."""
    return _least(taken, (position_of for _, position_of in origin_shifts(space_group)))


def in_any_axes(space_group: int, taken: Sequence[Sequence[int]]) -> Assignment:
    """The same, also by the choice of axes (:func:`lib.symmetry.normaliser.normaliser`)."""
    return _least(taken, _choices(space_group))


@functools.cache
def _choices(space_group: int) -> tuple[tuple[int, ...], ...]:
    return tuple(dict.fromkeys(position_of for *_, position_of in normaliser(space_group)))


def _least(taken: Sequence[Sequence[int]], choices: Iterable[tuple[int, ...]]) -> Assignment:
    return min(tuple(tuple(sorted(choice[p] for p in of_element)) for of_element in taken) for choice in choices)


def generic_unit(space_group: int, elements: np.ndarray, taken: Assignment) -> AsymmetricUnit:
    """Elements on the positions; free parameters and cell are drawn so that they add no symmetry."""
    rng, known = np.random.default_rng(0), positions(space_group)
    pairs = ((int(z), p) for z, of_element in zip(elements, taken, strict=True) for p in of_element)
    sites = tuple(Site(z, p, rng.random(known[p].n_free)) for z, p in pairs)
    return AsymmetricUnit(generic_cell(space_group), space_group, sites)


def keeps_its_group(unit: AsymmetricUnit) -> bool:
    """Whether spglib finds the unit's own group, in a cell that is primitive."""
    try:
        found = spglib.get_symmetry_dataset((unit.lattice, unit.frac_coords, unit.species), symprec=1e-4)
    except spglib.error.SpglibError:
        return False
    whole = found is not None and len(set(found.mapping_to_primitive)) == len(unit.species)
    return whole and found.number == unit.symmetry


@dataclass(frozen=True)
class EnergyStatistics:
    """Formation energies of a training set by composition: E = sum over pairs of x_i x_j W_ij, x atomic fractions."""

    # W_ij in eV/atom by symbols in alphabetical order, such as {"B-Ta": -2.1}; 0 where no crystal has both
    pairs: Mapping[str, float]
    low: float  # quantile LOW of what the crystals' energies differ from that, eV/atom

    @classmethod
    def fit(cls, table: CrystalTable) -> EnergyStatistics:
        """By ridge regression over the crystals."""
        from scipy.sparse import csr_array, eye_array
        from scipy.sparse.linalg import spsolve

        products = [pair_products(formula) for formula in table.reduced_formula.tolist()]
        names = sorted(set().union(*products))
        place = {name: i for i, name in enumerate(names)}
        entries = [(row, place[name], x) for row, several in enumerate(products) for name, x in several.items()]
        rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
        design = csr_array((values, (rows, columns)), shape=(len(table), len(names)))
        solution = np.zeros(0)
        if names:
            normal = design.T @ design + RIDGE / 16 * eye_array(len(names))  # 1/16: the square of x_i x_j at 50:50
            solution = np.atleast_1d(spsolve(normal.tocsc(), design.T @ table.formation_energy))
        low = float(np.quantile(table.formation_energy - design @ solution, LOW))
        return cls({name: round(float(w), 3) for name, w in zip(names, solution, strict=True)}, round(low, 3))

    def expected(self, formula: str) -> float:
        """Expected formation energy of a composition in eV/atom."""
        return sum(x * self.pairs.get(name, 0.0) for name, x in pair_products(formula).items())

    def lowest(self, formula: str) -> float:
        """What "lowest" asks for: the expected energy and the quantile LOW of the differences from it, eV/atom."""
        return self.expected(formula) + self.low


def pair_products(formula: str) -> dict[str, float]:
    """x_i x_j of each pair of a formula's elements, by symbols in alphabetical order."""
    fractions = Composition(formula).fractional_composition
    symbols = sorted(element.symbol for element in fractions)
    pairs = itertools.combinations(symbols, 2)
    return {f"{a}-{b}": fractions[Element(a)] * fractions[Element(b)] for a, b in pairs}
