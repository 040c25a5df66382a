"""What is known of a composition before any model is asked: crystals of a set, and AFLOW's prototypes.

The prototypes are the 288 of AFLOW's Library of Crystallographic Prototypes (Mehl et al.,
10.1016/j.commatsci.2017.01.017) that pymatgen ships. One of the same counts as a composition gives it sites, free
parameters and cell; the elements are replaced in every way that keeps the counts, and the cell is scaled to the volume
that the elements take.
"""

import functools
import gzip
import importlib.util
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from ase.data import covalent_radii
from ase.geometry.dimensionality.rank_determination import RDA
from pymatgen.core import Structure

from lib.crystals.table import CrystalTable
from lib.crystals.validity import SYMPRECS, obtained_space_group
from lib.metrics.duplicates import known_twins
from lib.retrieval import templates
from lib.retrieval.site_statistics import Candidate
from lib.symmetry.cells import LOOSE_SYMPREC
from lib.symmetry.normaliser import unit_of
from lib.symmetry.wyckoff import AsymmetricUnit

MAX_ATOMS = 40  # of a prototype's primitive cell
BONDED = 1.25  # sums of two covalent radii (Cordero et al., 10.1039/b801115j)
PARTS = {0: "molecules", 1: "chains", 2: "layers", 3: ""}


def known_crystals(
    table: CrystalTable, formula: str, n: int, *, space_groups: Collection[int] | None, n_sites: Collection[int] | None
) -> list[Candidate]:
    """At most n crystals of a table that have a reduced formula, those of lowest formation energy first.

    The candidates have the score 1 and, as their template, "crystal" and its id. `space_groups` and `n_sites` are the
    groups and atoms per primitive cell that will do, None for any.
    """
    fits = table.reduced_formula == formula
    if space_groups is not None:
        fits &= np.isin(table.space_group, list(space_groups))
    if n_sites is not None:
        fits &= np.isin(table.n_sites, list(n_sites))
    rows = np.flatnonzero(fits)
    rows = rows[np.argsort(table.formation_energy[rows], kind="stable")][:n]
    return [Candidate(table.unit_of(row), 1.0, f"crystal {table.id[row]}", "known") for row in rows.tolist()]


def known_prototypes(
    species: np.ndarray,
    n: int,
    volumes: np.ndarray,
    *,
    space_groups: Collection[int] | None,
    n_sites: Collection[int] | None,
) -> list[Candidate]:
    """At most n prototypes with the elements of a formula on their sites, those of the most alike elements first.

    The template of a candidate is "prototype" and its AFLOW label, or "reported" and this where the prototype is named
    for this very compound. Scores are those of :class:`lib.retrieval.templates.ElementRanking`.

    Args:
        species: atomic numbers of any number of formula units.
        volumes: (119,) Å^3 an atom of each element takes.
        space_groups, n_sites: as for :func:`known_crystals`.
    """
    elements, counts = templates.by_count(species)
    distance = templates.element_distances()
    found = []
    for label, unit in _units(_lowest_terms(species)):
        of_group = space_groups is None or unit.symmetry in space_groups
        if not of_group or (n_sites is not None and len(unit.species) not in n_sites):
            continue
        own, _ = templates.by_count(unit.species)
        for order in templates.count_preserving_orders(counts):
            mean = float(distance[elements, own[order]] @ counts / counts.sum())
            decorated = templates.substituted_unit(unit, templates.replacement(own[order], elements), volumes)
            name = f"{'prototype' if mean else 'reported'} {label}"
            found.append(Candidate(decorated, float(np.exp(-mean / templates.KERNEL)), name, "known"))
    return sorted(found, key=lambda one: -one.score)[:n]


def reported_formulas() -> set[str]:
    """Reduced formulas of the compounds that the prototypes are named for."""
    return {structure.composition.reduced_formula for several in _library().values() for _, structure in several}


def twin_in(table: CrystalTable, structure: Structure) -> str:
    """Id of the table's crystal that a structure equals by the strict match, or ""."""
    groups = [obtained_space_group(structure, symprec) for symprec in SYMPRECS]
    same = table.reduced_formula == structure.composition.reduced_formula
    rows = np.flatnonzero(same & np.isin(table.space_group, groups))
    return known_twins([structure], table.take(rows), n_workers=1)[0] if len(rows) else ""


@functools.cache
def _library() -> Mapping[tuple[int, ...], list[tuple[str, Structure]]]:
    """Prototypes by sorted counts in lowest terms: label with the mineral's name, and primitive cell.

    They are read from pymatgen's file: the module that stands beside it takes six seconds to make objects of them.
    """
    module = importlib.util.find_spec("pymatgen.analysis.prototypes")
    with gzip.open(Path(module.origin).parent / "aflow_prototypes.json.gz", "rt") as file:
        entries = json.load(file)
    found: dict[tuple[int, ...], list[tuple[str, Structure]]] = {}
    for entry in entries:
        structure, tags = Structure.from_dict(entry["snl"]).get_primitive_structure(), entry["tags"]
        label = f"{tags['aflow']} ({tags['mineral']})" if tags.get("mineral") else tags["aflow"]
        found.setdefault(_lowest_terms(structure.atomic_numbers), []).append((label, structure))
    return found


def _lowest_terms(species: Sequence[int]) -> tuple[int, ...]:
    _, counts = templates.by_count(species)
    return tuple((counts // np.gcd.reduce(counts)).tolist())


@functools.cache
def _units(counts: tuple[int, ...]) -> list[tuple[str, AsymmetricUnit]]:
    """The prototypes of such counts by their sites."""
    units = [(label, unit_of(s)) for label, s in _library().get(counts, []) if len(s) <= MAX_ATOMS]
    return [(label, unit) for label, unit in units if f"_{unit.symmetry}_" in label]


def prototype_of(structure: Structure) -> str:
    """The AFLOW prototype that a structure resembles most, or "".

    Elements and volume do not count; of those that match at StructureMatcher's default tolerances the one with the
    least root mean square displacement is taken. That does not tell a strained cell: rock salt matches TlF's, whose
    axes differ in length, without displacement. So of equals the one in the structure's own space group goes first.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher, own = StructureMatcher(primitive_cell=False), f"_{obtained_space_group(structure, LOOSE_SYMPREC)}_"
    primitive = structure.get_primitive_structure()
    best = (np.inf, True, "")
    for label, prototype in _library().get(_lowest_terms(primitive.atomic_numbers), []):
        if len(prototype) == len(primitive):
            rms, _ = matcher.get_rms_anonymous(prototype, primitive)
            if rms is not None:
                best = min(best, (round(rms, 3), own not in label, label))
    return best[-1]


def loose_parts(structure: Structure) -> str:
    """What a crystal consists of where bonds do not join it in three dimensions: "layers", "chains" or "molecules".

    "" where they do, and for metals. Between such parts acts dispersion, which semilocal density functionals, and
    potentials trained on them, do not know: MoS2 comes out 5 Å too long along c. Bonds are contacts up to BONDED sums
    of two covalent radii; the dimension is that of Larsen et al. (10.1103/PhysRevMaterials.3.034003).
    """
    if all(element.is_metal for element in structure.composition.elements):
        return ""
    radii = covalent_radii[np.array(structure.atomic_numbers)]
    one, other, images, distances = structure.get_neighbor_list(2 * BONDED * radii.max())
    bonded = distances < BONDED * (radii[one] + radii[other])
    bonds = RDA(len(structure))
    for i, j, image in zip(one[bonded], other[bonded], images[bonded].astype(int), strict=True):
        bonds.insert_bond(i, j, tuple(image))
    return PARTS[max(dimension for dimension, parts in enumerate(bonds.check()) if parts)]
