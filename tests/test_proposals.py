"""Sites for requests: those that training crystals took, those of templates, those that are known."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.generation.proposals import checked, proposals, shared_out
from lib.generation.requests import Request
from lib.generation.sampling import TrainedModel, load_model
from lib.generation.ship import Shipped
from lib.retrieval.site_statistics import Candidate
from lib.retrieval.template_features import TemplateFeatures
from lib.retrieval.template_ranking import LearntRanking


@pytest.fixture(scope="module")
def model(small_weights) -> TrainedModel:
    return load_model(small_weights)


@pytest.fixture(scope="module")
def shipped(model) -> Shipped:
    return Shipped.within(model.about)


def cscl(a: float, shift: float = 0.5) -> Structure:
    return Structure(Lattice.cubic(a), ["Ni", "Al"], [[0, 0, 0], [shift, 0.5, 0.5]])


def test_what_the_model_has_not_learnt_is_refused_or_warned_of(model, shipped):
    assert checked(Request.parse("NiAl", energy="-0.5", z="1"), model, shipped) == []
    assert checked(Request.parse("NiAl", energy="lowest", z="1"), model, shipped) == []
    (warning,) = checked(Request.parse("NiAl"), model, shipped)
    assert "more than 2 formula units (4 atoms) are beyond the model" in warning
    with pytest.raises(BadInput, match="NiAlTi .* Ti, .*Al, Ni"):
        checked(Request.parse("NiAlTi"), model, shipped)
    with pytest.raises(BadInput, match="3 x NiAl .*6 atoms .*4; .*z up to 2"):
        checked(Request.parse("NiAl", z="1..3"), model, shipped)
    with pytest.raises(BadInput, match="Ni3Al2 .*5 atoms .*4; .*smaller formula"):
        checked(Request.parse("Ni3Al2"), model, shipped)
    (warning,) = checked(Request.parse("NiAl", energy="-9", z="1"), model, shipped)
    assert "-9 eV/atom lies outside the training energies" in warning


def test_proposals_keep_to_the_request(shipped):
    asked = proposals(Request.parse("NiAl", "221,123", "-0.5", "1..2", "5"), 7, shipped)
    assert len(asked) == 5 and {one.request for one in asked} == {7}
    assert {one.candidate.unit.symmetry for one in asked} <= {221, 123}
    assert sorted(one.z for one in asked) == [1, 1, 1, 2, 2]
    assert all(len(one.candidate.unit.species) == 2 * one.z and one.energy == -0.5 for one in asked)
    shares = [one.candidate.score for one in asked]
    assert shares == sorted(shares, reverse=True)


def test_templates_go_before_statistics(shipped, small_table):
    ranking = LearntRanking(TemplateFeatures(small_table), {})
    asked = proposals(Request.parse("NiAl", "221", z="1", n="3"), 0, shipped, ranking)
    rows = {one.candidate.template: one.candidate.unit for one in asked}
    assert set(rows) <= set(small_table.id) and {unit.symmetry for unit in rows.values()} == {221}
    assert all(site.lender for unit in rows.values() for site in unit.sites)
    (bare,) = proposals(Request.parse("Ni7Al", z="1", n="1"), 0, shipped, ranking)
    assert bare.candidate.template == "" and not any(site.lender for site in bare.candidate.unit.sites)


def test_a_difference_in_energy_is_no_energy_of_the_templates(shipped):
    asked = []

    class NoTemplates:
        def ranked(self, species, groups, energies):
            asked.extend(energies)
            return [[]]

    crystal = Request.improving(cscl(2.9), "any", "-0.1", "1")
    for request in (Request.parse("NiAl", energy="-0.1", z="1", n="1"), crystal):
        proposals(request, 0, shipped, NoTemplates())
    assert asked[0] == -0.1 and np.isnan(asked[1])


def test_energies_of_a_request(shipped):
    (any_energy,), (lowest,) = (
        proposals(Request.parse("NiAl", energy=e, z="1", n="1"), 0, shipped) for e in ("any", "lowest")
    )
    assert np.isnan(any_energy.energy)
    assert lowest.energy == pytest.approx(shipped.energies.expected("NiAl") + shipped.energies.low)


def test_a_group_that_cannot_hold_the_atoms_is_refused(shipped):
    with pytest.raises(BadInput, match="1 x NiAl .*230"):
        proposals(Request.parse("NiAl", "230", z="1"), 0, shipped)


def test_probable_sites_are_tried_several_times():
    likely, unlikely, unseen = (Candidate(None, share) for share in (0.9, 0.1, 0.0))
    assert shared_out([likely, unlikely, unseen], 4) == [likely] * 4
    assert shared_out([likely, unlikely, unseen], 6) == [likely] * 4 + [unlikely, likely]
    assert shared_out([likely, unlikely, unseen], 12).count(unseen) == 1
    assert shared_out([likely], 3) == [likely] * 3
