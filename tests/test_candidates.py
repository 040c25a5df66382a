"""Sites for atoms that a composition and a space group ask for."""

import numpy as np
import pytest
from conftest import table
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.retrieval.alignment import aligned, training_templates
from lib.retrieval.candidates import Ask, best_candidates, candidates, request, retrieved_candidates
from lib.retrieval.template_features import TemplateFeatures
from lib.retrieval.template_ranking import SETTINGS, LearntRanking, examples_of, held_out_choices
from lib.retrieval.templates import ElementRanking
from lib.symmetry.wyckoff import AsymmetricUnit, Site, origin_shifts, positions, primitive_operations

CUBIC = [[0, 0, 0], [0.5, 0.5, 0.5]]


def rock_salt(a, cation, anion) -> Structure:
    return Structure.from_spacegroup(225, Lattice.cubic(a), [cation, anion], CUBIC).get_primitive_structure()


@pytest.fixture(scope="module")
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


def test_the_template_of_the_most_alike_elements_gives_its_sites(training):
    (one,) = best_candidates(target(["Ca", "O"], 225), ElementRanking(training))
    assert one.source == "template" and one.unit.symmetry == 225
    assert sorted(one.unit.species.tolist()) == [8, 20]
    oxygen = next(site for site in one.unit.sites if site.species == 8)
    magnesia = training.asymmetric_units[0]
    assert oxygen.position == next(site.position for site in magnesia.sites if site.species == 8)


def test_without_a_template_the_most_frequent_positions_are_taken(training):
    (one,) = best_candidates(target(["Ca", "F", "F"], 225), ElementRanking(training))
    assert one.source == "enumerated" and one.unit.symmetry == 225
    assert sorted(one.unit.species.tolist()) == [9, 9, 20], "fluorite: 4a and 8c"


def test_atoms_that_the_group_cannot_hold_are_left_free(training):
    (one,) = best_candidates(target(["Ca", "Ca", "Ca", "Ca", "Ca", "F"], 227), ElementRanking(training))
    assert one.source == "free" and one.unit.symmetry == 1 and len(one.unit.sites) == 6


def test_an_empty_training_set_is_refused(training):
    with pytest.raises(BadInput, match="training set is empty"):
        ElementRanking(training.take([]))


def test_without_a_group_the_most_alike_structure_gives_it(training):
    (one,) = best_candidates(target(["Cs", "Br"], 1), ElementRanking(training), use_space_group=False)
    assert one.source == "template" and one.unit.symmetry == 221
    (one,) = best_candidates(target(["Cs", "Br", "Br"], 1), ElementRanking(training), use_space_group=False)
    assert one.source == "free" and one.unit.symmetry == 1


def test_requests_tell_less_and_less(training):
    asked = table(
        [rock_salt(4.8, "Ca", "O"), Structure(Lattice.cubic(3.1), ["Cs", "Br"], CUBIC)], [225, 221], [-3.0, -2.0]
    )
    rankings = {"template": ElementRanking(training)}
    told = {(group, energy): request(Ask(group, energy), asked, rankings) for group in (0, 1) for energy in (0, 1)}
    for (group, energy), values in told.items():
        assert np.array_equal(values["energy"], [-3.0, -2.0] if energy else [np.nan] * 2, equal_nan=True)
        assert [unit.symmetry for unit in values["units"]] == values["space_group"].tolist()
        assert not group or values["space_group"].tolist() == [225, 221]
    assert request(Ask(sites="none"), asked, rankings)["units"] is None
    assert [unit.symmetry for unit in request(Ask(sites="own"), asked, rankings)["units"]] == [225, 221]
    assert not request(Ask(group=False, sites="none"), asked, rankings)["space_group"].any()


def test_a_network_that_is_not_told_a_condition_has_the_same_sites(training):
    asked = table([rock_salt(4.8, "Ca", "O")], [225], [-3.0])
    rankings = {"template": ElementRanking(training)}
    full, no_group, no_energy = (request(Ask(untold=name), asked, rankings) for name in ("", "group", "energy"))
    assert no_group["space_group"].tolist() == [0] and no_group["energy"].tolist() == [-3.0]
    assert np.isnan(no_energy["energy"]).all() and no_energy["space_group"].tolist() == [225]
    for other in (no_group, no_energy):
        assert other["units"][0].symmetry == full["units"][0].symmetry == 225


@pytest.mark.slow
def test_templates_in_training_take_the_crystals_own_sites_whatever_their_origin():
    embedded = CrystalTable.from_parquet(EMBEDDED)
    some = embedded.take(np.random.default_rng(0).permutation(len(embedded))[:400])
    found, counts = training_templates(some, 2)
    assert (counts > 0).sum() > 100 and counts.max() == 2 and counts.sum() == len(found)
    rows = np.repeat(np.arange(len(some)), counts)
    for unit, template in zip(some.asymmetric_units.take(rows), found, strict=True):
        assert [(s.species, s.position) for s in template.sites] == [(s.species, s.position) for s in unit.sites]
        assert all(site.lender for site in template.sites)
        assert any(site.lender != site.species for site in template.sites), "of another formula"


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


def test_candidates_differ_by_more_than_the_origin():
    embedded = CrystalTable.from_parquet(EMBEDDED)
    rows = np.random.default_rng(0).permutation(len(embedded))
    targets, ranking = embedded.take(rows[:20]), ElementRanking(embedded.take(rows[20:1500]))
    best, found = best_candidates(targets, ranking), candidates(targets, ranking, 3)
    assert max(map(len, found)) == 3
    for i, several in enumerate(found):
        assert several[0].source == best[i].source
        sites = [[(s.species, s.position) for s in one.unit.sites] for one in (several[0], best[i])]
        assert sites[0] == sites[1]
        sources = [one.source for one in several]
        assert sources == sorted(sources, reverse=True)
        for a, one in enumerate(several):
            cells = len(targets.species_of(i)) // len(one.unit.species)  # a template's cell may not be primitive
            assert sorted(one.unit.species.tolist() * cells) == sorted(targets.species_of(i).tolist())
            assert all(aligned(one.unit, other.unit) is None for other in several[:a])


def test_retrieved_candidates_are_those_of_highest_score(training):
    salts, calcia = LearntRanking(TemplateFeatures(training), {}), np.array([20, 8])
    first, second = retrieved_candidates(salts, calcia, 5, [221, 225], np.nan)
    assert (first.template, first.unit.symmetry) == (training.id[0], 225), "MgO; NaCl takes the same sites"
    assert (second.template, second.unit.symmetry) == (training.id[2], 221) and 0 < second.score < first.score < 1
    (nearest,) = best_candidates(target(["Ca", "O"], 225), ElementRanking(training))
    assert np.allclose(first.unit.lattice, nearest.unit.lattice), "scaled to the volumes of calcium and oxygen"
    assert {site.lender for site in first.unit.sites} == {12, 8}
    assert [one.template for one in retrieved_candidates(salts, calcia, 1, None, np.nan)] == [training.id[0]]
    assert retrieved_candidates(salts, calcia, 5, [194], np.nan) == [], "neither crystal has P6_3/mmc or one above it"


@pytest.mark.slow
def test_a_runs_ranking_is_what_its_notebook_04_left(training, tmp_path, monkeypatch):
    monkeypatch.setitem(SETTINGS, "max_iter", 2)
    with pytest.raises(BadInput, match="train.parquet .*name the folder"):
        LearntRanking.of_run(tmp_path)
    (tmp_path / "data").mkdir()
    training.to_parquet(tmp_path / "data" / "train.parquet")
    examples = examples_of(training, 3, rng=np.random.default_rng(0), n_workers=1)
    for name, frame in {"examples": examples, "choices": held_out_choices(examples)}.items():
        frame.to_parquet(tmp_path / "data" / f"template_{name}.parquet")
    (one,) = retrieved_candidates(LearntRanking.of_run(tmp_path), np.array([20, 8]), 1, None, np.nan)
    assert one.template == training.id[0]
