"""Sites for atoms that a composition and a space group ask for."""

import numpy as np
import pytest
from conftest import table
from pymatgen.core import Lattice, Structure

from lib.choice import SETTINGS, Lenders, TemplateChoice, examples_of, held_out_choices
from lib.crystals import CrystalTable
from lib.run import BadInput
from lib.sources.embedded import EMBEDDED
from lib.templates import LentSites, aligned, alternatives, requests_by_condition, training_templates, units_for
from lib.wyckoff import AsymmetricUnit, Site, origin_shifts, positions, primitive_operations

CUBIC = [[0, 0, 0], [0.5, 0.5, 0.5]]


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


def test_templates_in_training_take_the_crystals_own_sites_whatever_their_origin():
    embedded = CrystalTable.from_parquet(EMBEDDED)
    some = embedded.take(np.random.default_rng(0).permutation(len(embedded))[:400])
    found = training_templates(some, 2)
    assert sum(map(bool, found)) > 100 and max(map(len, found)) == 2
    for unit, several in zip(some.asymmetric_units, found, strict=True):
        for template in several:
            assert [(s.species, s.position) for s in template.sites] == [(s.species, s.position) for s in unit.sites]
            assert all(site.lender for site in template.sites)


@pytest.mark.parametrize("group", [2, 8, 31, 62, 123, 166, 216, 225])
def test_a_crystal_with_another_origin_and_other_representatives_is_aligned_with_itself(group):
    rng = np.random.default_rng(group)
    known = positions(group)
    chosen = [*rng.choice(len(known), 3, replace=len(known) < 3), len(known) - 1]
    sites = tuple(Site(z, int(p), rng.random(known[p].n_free)) for z, p in zip((5, 73, 73, 74), chosen, strict=True))
    unit = AsymmetricUnit(np.eye(3), group, sites)
    shift, place = origin_shifts(group)[-1]
    polar = primitive_operations(group)[0].mean(0)  # of a vector it leaves what may drift
    shift = shift + polar @ rng.random(3)
    moved = []
    for site in sites[::-1]:
        atoms = known[site.position].atoms(site.parameters) + shift
        parameters = known[place[site.position]].parameters_of(atoms)
        moved.append(Site(site.species, place[site.position], parameters[-1], lender=site.species))
    again = aligned(AsymmetricUnit(np.eye(3), group, tuple(moved)), unit)
    assert [(s.species, s.position) for s in again.sites] == [(s.species, s.position) for s in sites]
    for new, old in zip(again.sites, sites, strict=True):
        gap = new.parameters - old.parameters
        np.testing.assert_allclose(gap - np.round(gap), 0, atol=1e-6)
    assert polar.any() or len(origin_shifts(group)) > 1


def test_alternatives_differ_by_more_than_the_origin():
    embedded = CrystalTable.from_parquet(EMBEDDED)
    rows = np.random.default_rng(0).permutation(len(embedded))
    targets, training = embedded.take(rows[:20]), embedded.take(rows[20:1500])
    units, sources = units_for(targets, training)
    found = alternatives(targets, training, 3)
    assert max(map(len, found)) == 3
    for i, several in enumerate(found):
        assert several[0][1] == sources[i]
        assert [(s.species, s.position) for s in several[0][0].sites] == [
            (s.species, s.position) for s in units[i].sites
        ]
        assert [source for _, source in several] == sorted((source for _, source in several), reverse=True)
        for a, (unit, _) in enumerate(several):
            cells = len(targets.species_of(i)) // len(unit.species)  # a template's cell may not be primitive
            assert sorted(unit.species.tolist() * cells) == sorted(targets.species_of(i).tolist())
            assert all(aligned(unit, other) is None for other, _ in several[:a])


def test_lent_sites_are_the_most_promising_templates(training):
    salts = LentSites(TemplateChoice(Lenders(training), {}))
    calcia = np.array([20, 8])
    first, second = salts.candidates(calcia, 5, [221, 225])
    assert (first.template, first.unit.symmetry) == (training.id[0], 225), "MgO; NaCl takes the same sites"
    assert (second.template, second.unit.symmetry) == (training.id[2], 221) and 0 < second.share < first.share < 1
    (usual,), _ = units_for(target(["Ca", "O"], 225), training)
    assert np.allclose(first.unit.lattice, usual.lattice), "scaled to the volumes of calcium and oxygen"
    assert {site.lender for site in first.unit.sites} == {12, 8}
    assert [one.template for one in salts.candidates(calcia, 1)] == [training.id[0]]
    assert salts.candidates(calcia, 5, [194]) == [], "neither crystal has P6_3/mmc or a group above it"


def test_a_run_lends_what_its_notebook_04_left(training, tmp_path, monkeypatch):
    monkeypatch.setitem(SETTINGS, "max_iter", 2)
    with pytest.raises(BadInput, match="train.parquet does not exist; name the folder of a run"):
        LentSites.of_run(tmp_path)
    (tmp_path / "data").mkdir()
    training.to_parquet(tmp_path / "data" / "train.parquet")
    examples = examples_of(training, 3, rng=np.random.default_rng(0), n_workers=1)
    for name, frame in {"examples": examples, "choices": held_out_choices(examples)}.items():
        frame.to_parquet(tmp_path / "data" / f"template_{name}.parquet")
    (one,) = LentSites.of_run(tmp_path).candidates(np.array([20, 8]), 1)
    assert one.template == training.id[0]
