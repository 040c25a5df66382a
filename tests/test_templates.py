"""Sites for atoms that a composition and a space group ask for."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from lib.crystals import CrystalTable
from lib.run import BadInput
from lib.templates import requests_by_condition, units_for

CUBIC = [[0, 0, 0], [0.5, 0.5, 0.5]]


def table(structures, space_group, energy=None) -> CrystalTable:
    return CrystalTable.from_structures(
        structures,
        id=[f"c{i}" for i in range(len(structures))],
        formation_energy=np.zeros(len(structures)) if energy is None else energy,
        space_group=space_group,
        energy_kind="test",
    )


def rock_salt(a, cation, anion) -> Structure:
    return Structure.from_spacegroup(225, Lattice.cubic(a), [cation, anion], CUBIC).get_primitive_structure()


@pytest.fixture
def training() -> CrystalTable:
    known = [rock_salt(4.2, "Mg", "O"), rock_salt(5.6, "Na", "Cl"), Structure(Lattice.cubic(3), ["Cs", "Cl"], CUBIC)]
    return table(known, [225, 225, 221])


def target(species: list[str], space_group: int) -> CrystalTable:
    """A request: cell and coordinates are empty."""
    coords = np.random.default_rng(0).random((len(species), 3))
    row = table([Structure(Lattice.cubic(9), species, coords)], [space_group])
    row.frac_coords[:] = np.nan
    row.lattice[:] = np.nan
    return row


def test_the_most_alike_training_structure_lends_its_sites(training):
    (unit,), sources = units_for(target(["Ca", "O"], 225), training)
    assert sources == ["template"] and unit.symmetry == 225
    assert sorted(unit.species.tolist()) == [8, 20]
    oxygen = next(site for site in unit.sites if site.species == 8)
    magnesia = training.asymmetric_units[0]
    assert oxygen.position == next(site.position for site in magnesia.sites if site.species == 8)


def test_without_a_template_the_usual_positions_are_taken(training):
    (unit,), sources = units_for(target(["Ca", "F", "F"], 225), training)
    assert sources == ["enumerated"] and unit.symmetry == 225
    assert sorted(unit.species.tolist()) == [9, 9, 20], "fluorite: 4a and 8c"


def test_atoms_that_the_group_cannot_hold_are_left_free(training):
    (unit,), sources = units_for(target(["Ca", "Ca", "Ca", "Ca", "Ca", "F"], 227), training)
    assert sources == ["free"] and unit.symmetry == 1 and len(unit.sites) == 6


def test_an_empty_training_set_is_refused(training):
    with pytest.raises(BadInput, match="training set is empty"):
        units_for(target(["Ca", "O"], 225), training.take([]))


def test_without_a_group_the_most_alike_structure_gives_it(training):
    (unit,), sources = units_for(target(["Cs", "Br"], 1), training, use_space_group=False)
    assert sources == ["template"] and unit.symmetry == 221
    (unit,), sources = units_for(target(["Cs", "Br", "Br"], 1), training, use_space_group=False)
    assert sources == ["free"] and unit.symmetry == 1


def test_requests_tell_less_and_less(training):
    asked = table(
        [rock_salt(4.8, "Ca", "O"), Structure(Lattice.cubic(3.1), ["Cs", "Br"], CUBIC)], [225, 221], [-3.0, -2.0]
    )
    requests = requests_by_condition(asked, training)
    whole, group, energy, composition, free, own = requests.values()
    assert whole["space_group"].tolist() == [225, 221] and whole["energy"].tolist() == [-3.0, -2.0]
    assert np.isnan(group["energy"]).all() and group["space_group"].tolist() == [225, 221]
    assert np.isnan(composition["energy"]).all() and energy["energy"].tolist() == [-3.0, -2.0]
    assert [unit.symmetry for unit in energy["units"]] == energy["space_group"].tolist()
    assert [unit.symmetry for unit in composition["units"]] == composition["space_group"].tolist()
    assert free["units"] is None
    assert [unit.symmetry for unit in own["units"]] == [225, 221]
