"""Known crystals and prototypes, and what bonds do not hold together."""

import numpy as np
import pytest
from conftest import table
from pymatgen.core import Lattice, Structure

from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.generation.known import known_crystals, known_prototypes, loose_parts, prototype_of, twin_in
from lib.generation.proposals import structure_of

VOLUMES, ANY = np.full(119, 15.0), {"space_groups": None, "n_sites": None}


def test_the_prototype_is_that_of_the_same_arrangement():
    salt = Structure.from_spacegroup(225, Lattice.cubic(5), ["K", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for noise in (0, 1e-4):  # neither rounding nor a trace of displacement makes another prototype of it
        given = salt.get_primitive_structure()
        assert prototype_of(given.perturb(noise) if noise else given).startswith("AB_cF8_225_a_b")
    odd = Structure(Lattice.from_parameters(3, 4, 7, 80, 95, 120), ["K", "F"], [[0, 0, 0], [0.31, 0.2, 0.11]])
    assert prototype_of(odd) == ""


def labels(*numbers: int, **limits) -> list[str]:
    return [one.template for one in known_prototypes(np.array(numbers), 10, VOLUMES, **ANY | limits)]


def test_prototypes_of_the_most_alike_elements_come_first():
    assert labels(20, 22, 8, 8, 8)[0] == "reported AB3C_oP20_62_c_cd_a (Orthorhombic Perovskite)", "of CaTiO3"
    assert labels(38, 22, 8, 8, 8, space_groups=[221]) == ["prototype AB3C_cP5_221_a_c_b ((Cubic) Perovskite)"] * 2
    assert not labels(3, 26, 15, 8, 8, 8, 8), "no prototype has these counts"
    assert {label.split("_")[1][1:] for label in labels(38, 22, 8, 8, 8, n_sites=[20])} == {"P20"}


def test_a_prototype_has_the_asked_atoms_group_and_volume():
    (one, other) = known_prototypes(np.array([38, 22, 8, 8, 8]), 2, VOLUMES, space_groups=[221], n_sites=[5])
    for known in (one, other):
        assert sorted(known.unit.species.tolist()) == [8, 8, 8, 22, 38] and known.unit.symmetry == 221
    larger = VOLUMES.copy()
    larger[38] = 30.0
    (grown, _) = known_prototypes(np.array([38, 22, 8, 8, 8]), 2, larger, space_groups=[221], n_sites=[5])
    assert np.linalg.det(grown.unit.lattice) == pytest.approx(
        np.linalg.det(one.unit.lattice) * (30 + 4 * 15) / (5 * 15)
    )
    assert one.score > other.score, "Sr and Ti stand where their likes do, and the other way round"


@pytest.mark.slow
def test_a_reported_prototype_has_the_sites_of_its_crystal():
    """By the same choice of origin, axes and atoms as the crystals of a table."""
    found = [
        one for numbers in ([14, 8, 8], [30, 16]) for one in known_prototypes(np.array(numbers), 10, VOLUMES, **ANY)
    ]
    reported = [one.unit for one in found if one.template.startswith("reported")]
    assert len(reported) > 5
    for unit, own in zip(reported, table(map(structure_of, reported)).asymmetric_units, strict=True):
        assert [(s.species, s.position) for s in unit.sites] == [(s.species, s.position) for s in own.sites]
        gaps = np.concatenate([s.parameters - t.parameters for s, t in zip(unit.sites, own.sites, strict=True)])
        assert np.abs(gaps - np.round(gaps)).max(initial=0) < 1e-3


def test_known_crystals_are_the_lowest_that_fit():
    embedded = CrystalTable.from_parquet(EMBEDDED)
    several = known_crystals(embedded, "TaB5W2", 3, space_groups=None, n_sites=None)
    rows = [embedded.id.tolist().index(one.template.removeprefix("crystal ")) for one in several]
    of_formula = embedded.formation_energy[embedded.reduced_formula == "TaB5W2"]
    assert embedded.formation_energy[rows].tolist() == np.sort(of_formula)[:3].tolist()
    assert {one.unit.symmetry for one in known_crystals(embedded, "TaB5W2", 3, space_groups=[8], n_sites=None)} == {8}
    assert not known_crystals(embedded, "TaB5W2", 3, space_groups=None, n_sites=[24])


def test_a_twin_is_found_by_shape_and_volume(small_table):
    row = small_table.id.tolist().index(small_table.id[0])
    crystal = small_table.structure(row)
    assert twin_in(small_table, crystal) == small_table.id[row]
    assert twin_in(small_table, crystal.copy().apply_strain(0.05, inplace=False)) == ""


def layered(gap: float) -> Structure:
    """Hexagonal MoS2 with so much room between the sulphur atoms of adjacent layers, Å."""
    half, c = 1.56, 2 * (2 * 1.56 + gap)
    sites = [(2 / 3, 1 / 3, 0.75 + half / c), (2 / 3, 1 / 3, 0.75 - half / c)]
    sites += [(1 / 3, 2 / 3, 0.25 + half / c), (1 / 3, 2 / 3, 0.25 - half / c)]
    places = [(1 / 3, 2 / 3, 0.75), (2 / 3, 1 / 3, 0.25), *sites]
    return Structure(Lattice.hexagonal(3.16, c), ["Mo"] * 2 + ["S"] * 4, places)


def test_layers_are_told_from_what_is_bonded_all_around():
    assert loose_parts(layered(3.0)) == loose_parts(layered(5.5)) == "layers"
    salt = Structure.from_spacegroup(225, Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    diamond = Structure.from_spacegroup(227, Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
    potassium = Structure(Lattice.cubic(5.3), ["K", "K"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    caesium = Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert [loose_parts(s) for s in (salt, diamond, potassium, caesium)] == [""] * 4
    neon = Structure(Lattice.cubic(4.4), ["Ne"] * 4, [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    assert loose_parts(neon) == "molecules"
