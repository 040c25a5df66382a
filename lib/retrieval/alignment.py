"""A template's sites beside those of a crystal: the same origin and order, and the nearest atom of each orbit."""

import functools
from collections import Counter, defaultdict

import numpy as np
from scipy.optimize import linear_sum_assignment

from lib.core.workers import progress
from lib.crystals.table import CrystalTable
from lib.retrieval.templates import ElementRanking, substituted_unit
from lib.symmetry.packed import PackedUnits
from lib.symmetry.wyckoff import AsymmetricUnit, Site, origin_shifts, positions, primitive_operations

COMPARED = 4096  # crystals of the same counts and group that are looked through for a crystal's templates
PIECE = 1000  # templates that are packed at a time


@functools.lru_cache(maxsize=4)  # tables are compared by identity; several models learn from one
def training_templates(table: CrystalTable, n: int) -> tuple[PackedUnits, np.ndarray]:
    """For each crystal of a table up to n templates among the others: the sites of its asymmetric unit in their order,
    with the parameters and the cell of the template.

    They are of other reduced formulas and of the same space group. Of those whose elements are most alike, the ones
    whose atoms take the crystal's own positions are kept. At most COMPARED crystals are compared with each, so that
    time grows with the table and not with its square.

    Returns:
        The templates, those of the first crystal first, and (crystals,) how many each has.
    """
    units, ranking = table.asymmetric_units, ElementRanking(table)
    templates = ranking.templates(table, 2 * n, use_space_group=True, other_formulas=True, most=COMPARED)
    pieces, counts, found = [PackedUnits.of([])], np.zeros(len(table), dtype=int), []
    for i, several in progress(list(enumerate(templates)), desc="aligning templates", unit="crystal"):
        fit = (aligned(substituted_unit(units[one.row], one.replaced, ranking.volumes), units[i]) for one in several)
        kept = [template for template in fit if template is not None][:n]
        counts[i], found = len(kept), found + kept
        if len(found) > PIECE:
            pieces, found = [*pieces, PackedUnits.of(found)], []
    return PackedUnits.join([*pieces, PackedUnits.of(found)]), counts


def aligned(template: AsymmetricUnit, unit: AsymmetricUnit) -> AsymmetricUnit | None:
    """The template with the sites of a crystal of the same group, in their order and as near to them as may be.

    The origin is chosen anew, and of an orbit's atoms the one that represents it. None where the template's atoms do
    not take the crystal's positions, whatever the origin.
    """
    if template.symmetry != unit.symmetry:
        return None
    wanted = Counter((site.species, site.position) for site in unit.sites)
    best, nearest = np.inf, None
    for shift, position_of in origin_shifts(unit.symmetry):
        classes: dict[tuple[int, int], list[Site]] = defaultdict(list)
        for site in template.sites:
            classes[site.species, position_of[site.position]].append(site)
        if {key: len(sites) for key, sites in classes.items()} != wanted:
            continue
        orbits = {key: [_orbit(unit.symmetry, site) + shift for site in sites] for key, sites in classes.items()}
        for drift in _drifts(unit, orbits):
            cost, sites = _nearest_sites(unit, classes, orbits, drift)
            if cost < best - 1e-9:
                best, nearest = cost, sites
    return None if nearest is None else AsymmetricUnit(template.lattice, unit.symmetry, nearest)


def _orbit(space_group: int, site: Site) -> np.ndarray:
    return positions(space_group)[site.position].atoms(site.parameters)


def _drifts(unit: AsymmetricUnit, orbits: dict[tuple[int, int], list[np.ndarray]]) -> np.ndarray:
    """(k, 3) shifts along axes without origin that bring an atom of the template to one of the crystal."""
    rotations, _ = primitive_operations(unit.symmetry)
    polar = rotations.mean(0)
    if not polar.any():
        return np.zeros((1, 3))
    rarest = min(orbits, key=lambda key: len(orbits[key]))
    site = next(site for site in unit.sites if (site.species, site.position) == rarest)
    return (_orbit(unit.symmetry, site)[0] - np.concatenate(orbits[rarest])) @ polar.T


def _nearest_sites(
    unit: AsymmetricUnit, classes: dict, orbits: dict, drift: np.ndarray
) -> tuple[float, tuple[Site, ...]]:
    """The unit's sites with the template's parameters, and the sum of squares by which these differ, atom by atom."""
    total, found = 0.0, {}
    for key, templates in classes.items():
        position = positions(unit.symmetry)[key[1]]
        places = [i for i, site in enumerate(unit.sites) if (site.species, site.position) == key]
        if not position.n_free:  # they are where they are
            found |= {i: Site(*key, np.zeros(0), lender=one.lender) for i, one in zip(places, templates, strict=True)}
            continue
        own = np.array([unit.sites[i].parameters for i in places])
        choices = [position.parameters_of(orbit + drift) for orbit in orbits[key]]
        gaps = [own[:, None] - several for several in choices]  # (sites, choices, d) for each of the template's sites
        costs = [np.square(gap - np.round(gap)).sum(-1) for gap in gaps]
        cost = np.stack([several.min(axis=1) for several in costs], axis=1)
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            parameters = choices[column][costs[column][row].argmin()]
            found[places[row]] = Site(key[0], key[1], parameters, lender=templates[column].lender)
            total += position.multiplicity * cost[row, column]
    return total, tuple(found[i] for i in range(len(unit.sites)))
