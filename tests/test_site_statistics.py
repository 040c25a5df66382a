"""Statistics of sites and energies of a training set, without its crystals."""

import json
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import table
from pymatgen.core import Lattice, Structure

from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.retrieval.site_statistics import (
    ENERGY_KERNEL,
    LOW,
    MAX_FAILED,
    EnergyStatistics,
    SiteCounts,
    SiteStatistics,
    canonical,
    generic_unit,
    in_any_axes,
    keeps_its_group,
    pair_products,
)
from lib.retrieval.templates import KERNEL, by_count, element_distances
from lib.symmetry.wyckoff import assignments, origin_shifts, positions

CUBIC = [[0, 0, 0], [0.5, 0.5, 0.5]]


def primitive(group, a, species, coords) -> Structure:
    return Structure.from_spacegroup(group, Lattice.cubic(a), species, coords).get_primitive_structure()


@pytest.fixture(scope="module")
def training() -> CrystalTable:
    """Two rock salts of different origins, and two each of CsCl, zinc blende and perovskite."""
    perovskite = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    structures = [
        primitive(225, 4.2, ["Mg", "O"], CUBIC),
        primitive(225, 5.6, ["Na", "Cl"], CUBIC[::-1]),
        primitive(221, 4.1, ["Cs", "Cl"], CUBIC),
        primitive(216, 5.4, ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
        primitive(221, 3.9, ["Sr", "Ti", "O"], perovskite),
        primitive(221, 4.5, ["Cs", "I"], CUBIC),
        primitive(216, 5.8, ["Cd", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
        primitive(221, 4.0, ["Ba", "Ti", "O"], perovskite),
    ]
    groups = [225, 225, 221, 216, 221, 221, 216, 221]
    return table(structures, groups, [-3.0, -2.1, -2.2, -1.0, -3.5, -1.8, -0.8, -3.4])


@pytest.fixture(scope="module")
def prior(training) -> SiteStatistics:
    return SiteStatistics.fit(training, EnergyStatistics.fit(training))


def groups_of(candidates) -> list[int]:
    return [candidate.unit.symmetry for candidate in candidates]


@pytest.mark.parametrize("group", [2, 62, 139, 160, 166, 194, 216, 225, 227])
def test_moved_origins_are_choices_of_the_international_tables(group):
    """Each choice permutes positions of one kind, among them the one that leaves all as they are."""
    kinds = np.array([(p.n_free, p.multiplicity) for p in positions(group)])
    choices = [position_of for _, position_of in origin_shifts(group)]
    assert tuple(range(len(kinds))) in choices
    for choice in choices:
        assert sorted(choice) == [*range(len(kinds))] and (kinds[list(choice)] == kinds).all()


def test_number_of_origins_is_that_of_the_euclidean_normaliser():
    """International Tables A, 3.5: eight in P-1, two in Fm-3m, four in F-43m, one in P6_3/mmc's fixed points a."""
    assert len(origin_shifts(2)) == 8
    assert len(origin_shifts(225)) == 2
    assert len(origin_shifts(216)) == 4


def test_rock_salt_is_one_wherever_its_origin():
    ways = list(assignments(225, (1, 1)))
    assert len(ways) == 2 and len({canonical(225, taken) for taken in ways}) == 1


def test_equal_crystals_of_different_origins_count_together(prior):
    of_rock_salt = [here for (group, _), here in prior.by_counts[1, 1].items() if group == 225]
    assert [here.n for here in of_rock_salt] == [2]
    assert {frozenset(of) for of in of_rock_salt[0].elements} == {frozenset({11, 12}), frozenset({8, 17})}


def test_sites_of_few_crystals_keep_no_elements(training):
    """Four crystals alone on their sites, of which AB's three count together and the perovskite not at all."""
    alone = training.take([0, 2, 3, 4])
    prior = SiteStatistics.fit(alone, EnergyStatistics({}, 0.0))
    assert all(here == SiteCounts(1) for by_sites in prior.by_counts.values() for here in by_sites.values())
    assert [*prior.rare] == [(1, 1)]
    together = prior.rare[1, 1]
    assert together.n == 3 and together.energy == pytest.approx(np.mean([-3.0, -2.2, -1.0]), abs=0.005)
    assert sum(map(Counter, together.elements), Counter()) == {12: 1, 8: 1, 55: 1, 17: 1, 30: 1, 16: 1}
    assert "Ti" not in json.dumps(prior.to_json()) and "Cs" in json.dumps(prior.to_json())
    candidates = prior.candidates(np.array([20, 22, 8, 8, 8]), 2)
    assert [(c.unit.symmetry, c.score) for c in candidates] == [(221, 0.5)] * 2, "calcium and titanium in either role"


def test_votes_are_crystals_times_the_alikeness_of_each_element():
    here = SiteCounts(4, -0.1, ({11: 3, 19: 1}, {17: 4}))
    distance, shares = element_distances(), np.array([1, 2]) / 3
    na, k = (np.exp(-distance[37, z] / 3 / KERNEL) for z in (11, 19))
    expected = (3 * na + k) / 4 * np.exp(-2 * distance[35, 17] / 3 / KERNEL)
    asked = np.array([[37, 35], [11, 17]])
    first, second = here.alikeness(asked, shares, distance)
    assert first == pytest.approx(expected)
    assert second == pytest.approx((3 + np.exp(-distance[11, 19] / 3 / KERNEL)) / 4)
    prior = SiteStatistics({(1, 2): {(225, ((0,), (2,))): here, (139, ((0,), (4,))): SiteCounts(1)}}, {})
    fluorite, other = prior.candidates(np.array([37, 35, 35]), 2, above=0.1)
    unknown = SiteCounts(1).alikeness(asked[:1], shares, distance)[0]
    votes = {225: 4 * expected * np.exp(-0.2 / ENERGY_KERNEL), 139: unknown * np.exp(-0.1 / ENERGY_KERNEL)}
    found = {candidate.unit.symmetry: candidate.score for candidate in (fluorite, other)}
    assert found == pytest.approx({group: vote / sum(votes.values()) for group, vote in votes.items()})


def test_crystals_of_like_elements_say_most(prior):
    first, *others = prior.candidates(np.array([12, 34]), 3)  # MgSe is more like MgO and ZnS than like CsCl
    assert first.unit.symmetry in (225, 216)
    assert groups_of(prior.candidates(np.array([55, 35]), 3))[0] == 221, "CsBr is like CsCl"
    assert groups_of(prior.candidates(np.array([30, 34]), 3))[0] == 216, "ZnSe is like ZnS"
    shares = [first.score, *(other.score for other in others)]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)


def test_crystals_of_like_energy_say_most(training):
    twins = replace(
        training.take([0, 0, 2, 2]), species=np.array([12, 8] * 4, dtype=np.uint8)
    )  # twice MgO as rock salt and as CsCl, 0.8 eV/atom apart
    energies = EnergyStatistics.fit(twins)
    prior, middle = SiteStatistics.fit(twins, energies), energies.expected("MgO")
    low, high = (prior.candidates(np.array([12, 8]), 2, above=energy - middle) for energy in (-3.0, -2.2))
    assert groups_of(low) == [225, 221] and groups_of(high) == [221, 225]
    assert [c.score for c in prior.candidates(np.array([12, 8]), 2)] == pytest.approx([0.5, 0.5])


def test_elements_keep_their_roles(prior):
    """CaTiO3 has Ca where SrTiO3 has Sr, and not where it has Ti: in the corner, not in the octahedron."""
    best = prior.candidates(np.array([20, 22, 8, 8, 8]), 1)[0].unit
    taken = {site.species: (site.position,) for site in best.sites}
    (((group, lent), here),) = prior.by_counts[1, 1, 3].items()
    titanium = here.elements.index({22: 2})
    assert [*here.elements[1 - titanium]] == [38, 56] and here.elements[2] == {8: 2}
    first, second = (22, 20) if titanium == 0 else (20, 22)
    assert group == 221 and canonical(221, [taken[first], taken[second], taken[8]]) == lent


def test_only_asked_groups_are_given(prior):
    assert set(groups_of(prior.candidates(np.array([12, 8]), 5, [216, 221]))) == {216, 221}


def test_what_is_lacking_is_enumerated_after_what_was_seen(prior):
    candidates = prior.candidates(np.array([12, 8]), 6, [225, 166])
    assert groups_of(candidates)[0] == 225 and candidates[0].score == 1
    assert all(candidate.score == 0 for candidate in candidates[1:]) and 166 in groups_of(candidates)
    found = [(c.unit.symmetry, canonical(c.unit.symmetry, [[s.position] for s in c.unit.sites])) for c in candidates]
    assert len(set(found)) == len(found), "none stands twice"


def test_every_candidate_holds_the_atoms_and_has_its_group(prior):
    for candidate in prior.candidates(np.array([20, 9, 9]), 5):
        assert sorted(candidate.unit.species.tolist()) == [9, 9, 20]
        assert keeps_its_group(candidate.unit)


def test_groups_that_cannot_hold_the_atoms_give_none(prior):
    assert not list(assignments(227, [1, 5]))
    assert prior.candidates(np.array([9, 20, 20, 20, 20, 20]), 4, [227]) == []


@pytest.mark.parametrize("species", [[6] * 20, [6] * 12 + [14] * 12, list(range(3, 23)), [3] * 4 + [26] * 4 + [8] * 16])
def test_many_atoms_are_answered_with_little_work(prior, species, monkeypatch):
    """Of carbon's ways in group 47 alone there are millions, and twenty elements have 2e18 orders."""
    looked_at = []
    monkeypatch.setattr(
        "lib.retrieval.site_statistics.keeps_its_group", lambda unit: looked_at.append(1) or keeps_its_group(unit)
    )
    tracemalloc.start()
    try:
        candidates = prior.candidates(np.array(species), 5, [1, 6, 10, 47, 123])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(candidates) == 5 or len(set(species)) == 20  # which find place in general positions alone
    assert all(sorted(one.unit.species.tolist()) == sorted(species) for one in candidates)
    assert len(looked_at) < 100 and peak < 2**26


def test_the_search_ends_where_all_ways_have_a_higher_symmetry(prior, monkeypatch):
    """Group 16's lines and points alone are those of group 47: without the general position nothing keeps the group."""
    looked_at = []
    monkeypatch.setattr("lib.retrieval.site_statistics.keeps_its_group", lambda unit: looked_at.append(1))
    assert not list(prior.assignments(16, np.array([6] * 24)))
    assert len(looked_at) == MAX_FAILED


@pytest.mark.parametrize(("group", "species"), [(221, [22, 38, 8, 8, 8]), (139, [11, 17, 17]), (2, [6, 6, 14, 14])])
def test_assignments_are_all_that_keep_the_group_the_likeliest_first(prior, group, species):
    """Against all ways there are: each once, whatever its origin and axes, with the sum of its orbits' logarithms."""
    elements, counts = by_count(np.array(species))
    found = list(prior.assignments(group, np.array(species)))
    logarithms = prior.usage(group)
    worth = {}
    for way in assignments(group, counts.tolist()):
        if keeps_its_group(generic_unit(group, elements, way)):
            own = sum(logarithms[p] for of_element in way for p in of_element)
            worth[in_any_axes(group, way)] = max(own, worth.get(in_any_axes(group, way), -np.inf))
    assert len(found) == len(worth) > 1
    assert {in_any_axes(group, way): value for value, way in found} == pytest.approx(worth)
    values = [value for value, _ in found]
    assert values == pytest.approx(sorted(values, reverse=True))


def test_unseen_positions_are_taken_as_often_as_the_group_uses_them(prior):
    usage = prior.usage(225)
    assert usage[[0, 1]] == pytest.approx(usage.max()), "the origin alone tells 4a and 4b apart"
    assert np.exp(usage).sum() == pytest.approx(1)
    assert prior.usage(230) == pytest.approx(np.log(1 / len(positions(230)))), "nothing is known of this one"


def test_both_survive_a_file(prior, training):
    text = json.dumps(prior.to_json())
    again = SiteStatistics.from_json(json.loads(text))
    assert again.by_counts == prior.by_counts and again.rare == prior.rare
    assert json.dumps(again.to_json()) == text


def test_it_is_small(tmp_path):
    embedded = CrystalTable.from_parquet(EMBEDDED)
    few = embedded.take(range(0, len(embedded), 20))
    prior = SiteStatistics.fit(few, EnergyStatistics.fit(few))
    assert len(json.dumps(prior.to_json())) < 20 * len(few), "240 kB for 12,000 crystals"
    held = sum(here.n for by_sites in prior.by_counts.values() for here in by_sites.values())
    assert held > 0.98 * len(few)


def test_energies_are_sums_over_pairs():
    assert pair_products("AB2".replace("A", "Ta")) == pytest.approx({"B-Ta": 2 / 9})
    prior = EnergyStatistics({"B-Ta": -1.8}, -0.1)
    assert prior.expected("TaB2") == pytest.approx(-0.4) and prior.lowest("TaB2") == pytest.approx(-0.5)
    assert prior.expected("W2B5") == 0 and prior.expected("Ta") == 0


def test_energies_of_the_embedded_set_are_found_again():
    embedded = CrystalTable.from_parquet(EMBEDDED)
    embedded = embedded.take(range(0, len(embedded), 5))
    prior = EnergyStatistics.fit(embedded)
    expected = np.array([prior.expected(formula) for formula in embedded.reduced_formula])
    left = embedded.formation_energy - expected
    assert left.std() < 0.8 * embedded.formation_energy.std()
    assert (left < prior.low).mean() == pytest.approx(LOW, abs=0.01)


def test_a_single_element_has_no_pairs(training):
    copper = table([primitive(225, 3.6, ["Cu"], [[0, 0, 0]])], [225], [0.1])
    prior = EnergyStatistics.fit(copper)
    assert prior.pairs == {} and prior.lowest("Cu") == pytest.approx(0.1)
