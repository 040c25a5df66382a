"""From requests to ranked structures."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice, Structure

import lib.generation.answers
from lib.core.errors import BadInput
from lib.core.stats import Rate
from lib.energies.hull import Resolution
from lib.energies.relaxation import Relaxation
from lib.generation.answers import RESOLVED, answer, distinct
from lib.generation.generate import write
from lib.generation.proposals import Asked
from lib.generation.requests import Request
from lib.generation.sampling import TrainedModel, load_model
from lib.methods.flow import FlowMatching
from lib.metrics.matching import MAX_VOLUME_RATIO
from lib.metrics.stability import Stability
from lib.retrieval.site_statistics import Candidate
from lib.retrieval.template_features import TemplateFeatures
from lib.retrieval.template_ranking import LearntRanking


@pytest.fixture(scope="module")
def model(small_weights) -> TrainedModel:
    return load_model(small_weights)


def cscl(a: float, shift: float = 0.5) -> Structure:
    return Structure(Lattice.cubic(a), ["Ni", "Al"], [[0, 0, 0], [shift, 0.5, 0.5]])


@pytest.mark.slow
def test_answers_have_the_asked_atoms_and_group(model):
    request = Request.parse("NiAl", "221", n="3")
    answers = answer([request], model, seed=1)
    assert answers.funnel.loc[0, ["asked", "distinct"]].tolist() == [3, len(answers.structures)]
    volumes = sorted(structure.volume for structure in answers.structures)
    assert all(b > MAX_VOLUME_RATIO * a for a, b in itertools.pairwise(volumes)), "nothing else is free in CsCl"
    for i, (structure, row) in enumerate(zip(answers.structures, answers.table.to_dict("records"), strict=True), 1):
        assert structure.composition.reduced_formula == "AlNi"
        assert row["space_group_0.01"] == row["space_group_0.1"] == row["sites_group"] == 221
        assert row["prototype"].startswith("AB_cP2_221_b_a") and row["name"] == f"NiAl_00{i}"
    again = answer([request], model, seed=1)
    assert again.structures == answers.structures, "the same seed gives the same answer"


def test_answers_name_their_template(model, small_table, monkeypatch):
    sample, starts = FlowMatching.sample, []

    def watched(*args, template_start, **settings):
        starts.append(template_start)
        return sample(*args, template_start=template_start, **settings)

    monkeypatch.setattr(FlowMatching, "sample", watched)
    ranking = LearntRanking(TemplateFeatures(small_table), {})
    request = Request.parse("NiAl", "221", n="1")
    assert answer([request], model, ranking=ranking).table.template.isin(small_table.id).all()
    assert answer([request], model).table.template.eq("").all()
    assert starts == [lib.generation.answers.FROM_TEMPLATES["template_start"], 0]


def fake(monkeypatch, structures, energies=(), failures=()):
    """Let the model return these structures, and the potential these energies."""
    monkeypatch.setattr(lib.generation.answers, "_sampled", lambda *_, **__: list(structures))

    def relax_many(valid, *_, **__):
        outcome = ["broken" if i in failures else "" for i in range(len(valid))]
        return [Relaxation(s, e, e, 1, 0.0, 0.0, why) for s, e, why in zip(valid, energies, outcome, strict=True)]

    monkeypatch.setattr(lib.generation.answers, "relax_many", relax_many)


def test_the_best_of_equal_structures_is_kept(model, monkeypatch):
    small, equal, large = cscl(2.9), cscl(2.91), cscl(3.1, 0.45)
    fake(monkeypatch, [large, small, equal, None, cscl(0.8)], [-5.0, -6.0, -6.1])
    answers = answer([Request.parse("NiAl", n="5")], model, relax="chgnet")
    assert answers.structures == [equal, large]
    assert answers.table["energy_per_atom"].tolist() == [-6.1, -5.0] and answers.table["rank"].tolist() == [1, 2]
    assert answers.table["formation_energy"].notna().all(), "the embedded set knows Al and Ni in CHGNet"
    line = answers.funnel.iloc[0]
    assert line["no valid cell"] == 1 and line["volume outside the window"] == 1
    assert line["equals another"] == 1 and line["distinct"] == 2 and line["asked"] == 5


def test_without_energies_probable_sites_come_first(model, monkeypatch):
    small, large = cscl(2.9), cscl(3.1, 0.45)
    fake(monkeypatch, [small, large])
    answers = answer([Request.parse("NiAl", n="2")], model)
    assert answers.structures == [small, large]
    assert answers.table["sites_share"].is_monotonic_decreasing
    assert answers.table["energy_per_atom"].isna().all()


def test_each_request_has_its_own_ranks_and_names(model, monkeypatch):
    small, large = cscl(2.9), cscl(3.1, 0.45)
    fake(monkeypatch, [large, small, small], [-5.0, -6.0, -6.0])
    answers = answer([Request.parse("NiAl", n="2"), Request.parse("NiAl", n="1")], model, relax="chgnet")
    assert answers.table["name"].tolist() == ["NiAl_1_001", "NiAl_1_002", "NiAl_2_001"]
    assert answers.structures == [small, large, small]


def test_failed_relaxations_are_dropped(model, monkeypatch):
    fake(monkeypatch, [cscl(2.9), cscl(3.1, 0.45)], [-5.0, -9.0], failures=[1])
    answers = answer([Request.parse("NiAl", n="2")], model, relax="chgnet")
    assert answers.structures == [cscl(2.9)] and answers.funnel.loc[0, "not relaxed"] == 1


def test_nothing_valid_is_an_answer(model, monkeypatch, tmp_path):
    fake(monkeypatch, [None, None])
    request = Request.parse("NiAl", n="2")
    answers = answer([request], model)
    assert answers.structures == [] and answers.funnel.loc[0, "distinct"] == 0
    write(answers, [request], {}, tmp_path)
    assert (tmp_path / "structures.extxyz").read_text() == "" and not list(tmp_path.glob("*.cif"))


def test_a_crystal_is_judged_among_its_improvements(small_modifier, monkeypatch):
    own = Structure(Lattice.cubic(2 * 2.88), ["Ni", "Al"] * 8, _supercell_of_cscl())
    request = Request.improving(own, "any", "-0.05", "3")
    assert len(request.polymorph) == 2 and request.formula == "AlNi" and request.species(1).tolist() == [13, 28]
    small, again = cscl(3.1, 0.45), request.polymorph.copy().apply_strain(0.001, inplace=False)
    fake(monkeypatch, [small, again, None], [-6.0, -5.5, -5.4])
    answers = answer([request], load_model(small_modifier), relax="chgnet")
    assert answers.structures == [small, request.polymorph], "what comes back as it was is dropped"
    assert answers.table["below_given"].tolist() == [0.6, 0.0] and answers.table["given"].tolist() == [False, True]
    assert answers.funnel.loc[0, ["asked", "given", "equals another", "distinct"]].tolist() == [4, 1, 1, 1]


def _supercell_of_cscl() -> np.ndarray:
    corners = np.array([[i, j, k] for i in (0, 0.5) for j in (0, 0.5) for k in (0, 0.5)])
    return np.stack([corners, corners + 0.25], axis=1).reshape(-1, 3)


def test_the_model_is_shown_the_crystal(small_modifier, monkeypatch):
    model, made, generate = load_model(small_modifier), [], TrainedModel.generate

    def seen(*words, **options):
        structures = generate(*words, **options)
        made.append([structure.volume for structure in structures if structure is not None])
        return structures

    monkeypatch.setattr(TrainedModel, "generate", seen)
    for name, parameter in model.net.named_parameters():  # so shortly trained, they are all but zero
        if name.startswith(("polymorph.", "lattice_out.")):
            torch.nn.init.normal_(parameter, std=0.03, generator=torch.Generator().manual_seed(0))
    for crystal in (cscl(2.9), cscl(2.9, 0.3)):
        answer([Request.improving(crystal, "221", "any", "2")], model)
    assert made[0] and made[0] != made[1], "the same noise and sites, but another cell"


def test_a_given_crystal_that_is_none_is_warned_of(small_modifier):
    answers = answer([Request.improving(cscl(9.0), "221", "any", "2")], load_model(small_modifier))
    assert answers.warnings == ["the given AlNi is left out (volume outside the window); its improvements stand alone"]
    assert len(answers.table) and not answers.table["given"].any()


def test_tasks_are_not_mixed_up(model, small_modifier):
    with pytest.raises(BadInput, match="modification model"):
        answer([Request.parse("NiAl")], load_model(small_modifier))
    with pytest.raises(BadInput, match="generation model"):
        answer([Request.improving(cscl(2.9), "any", "any", "2")], model)
    with pytest.raises(BadInput, match="'lowest' .*eV/atom"):
        Request.improving(cscl(2.9), "any", "lowest", "2")


def test_relaxation_by_an_unknown_potential_is_refused(model):
    with pytest.raises(BadInput, match="potential 'dft' is not known; choose one of chgnet"):
        answer([Request.parse("NiAl")], model, relax="dft")


def outcome_of(energies, structures, sources=None):
    """:func:`distinct` of structures of one request that are all valid."""
    sources = sources or [""] * len(structures)
    asked = [Asked(0, 1, Candidate(None, 0.0), np.nan, source) for source in sources]
    return distinct(asked, structures, [""] * len(structures), np.array(energies))


def tetragonal(c_over_a: float) -> Structure:
    a = 2.9 / c_over_a ** (1 / 3)
    return Structure(Lattice.tetragonal(a, a * c_over_a), ["Ni", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_within_a_millielectronvolt_the_higher_symmetry_is_kept():
    cubic, strained = cscl(2.9), tetragonal(1.15)
    assert outcome_of([-6.0, -6.0005], [cubic, strained])[0] == [0], "one crystal, and the symmetric one stands for it"
    assert outcome_of([-6.0, -6.005], [cubic, strained])[0] == [1, 0], "two crystals, told apart by energy and group"
    assert outcome_of([-6.0, -6.005], [cubic, cscl(2.91)])[0] == [1], "one group: the lower stands for both"
    far = tetragonal(1.6)
    assert outcome_of([-6.0, -6.0005], [cubic, far])[0] == [0, 1], "two that differ are ranked by symmetry so near"


def test_what_is_reported_goes_first_where_the_potential_cannot_tell():
    cubic, far = cscl(2.9), tetragonal(1.6)
    near, gap = [-6.0, -6.0 - 0.8 * RESOLVED], [-6.0, -6.0 - 1.2 * RESOLVED]
    kept, sources, _ = outcome_of(near, [cubic, far], ["reported X", ""])
    assert kept == [0, 1] and sources == [{"reported X"}, {"model"}], "and marks go with them"
    assert outcome_of(near, [cubic, far], ["prototype X", ""])[0] == [1, 0]
    assert outcome_of(gap, [cubic, far], ["reported X", ""])[0] == [1, 0]


def test_sources_of_equal_structures_come_together_in_the_order_of_rank():
    several = [tetragonal(1.6), cscl(2.9), cscl(2.91), tetragonal(0.6)]
    kept, sources, outcome = outcome_of([-5.0, -6.0, -6.1, -4.0], several, ["", "prototype B2", "", "crystal a"])
    assert kept == [2, 0, 3] and sources == [{"model", "prototype B2"}, {"model"}, {"crystal a"}]
    assert outcome == ["distinct", "equals another", "distinct", "distinct"]


@pytest.mark.slow
def test_known_crystals_stand_beside_what_is_made_and_are_marked(model, small_table, monkeypatch):
    row = int(np.flatnonzero(small_table.reduced_formula == "AlNi")[0])
    own = small_table.structure(row)
    new = Structure(Lattice.orthorhombic(2.3, 3.0, 3.9), ["Ni", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    monkeypatch.setattr(lib.generation.answers, "_sampled", lambda *_, **__: [own, new])
    answers = answer([Request.parse("NiAl", n="2", z="1")], model, known=True, hull=small_table)
    marks = dict(zip(answers.table["name"], answers.table["known"], strict=True))
    assert f"crystal {small_table.id[row]}" in marks.values() and answers.funnel.loc[0, "of them known"] > 2
    assert answers.table.loc[answers.table["origin"] == "model", "known"].eq("").any(), "the new one"


def test_an_elements_lowest_crystal_is_at_zero_and_above_the_hull_all_is_on_one_scale(model, small_table, monkeypatch):
    fcc = Structure(Lattice.cubic(4.04), ["Al"] * 4, [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    bcc = Structure(Lattice.cubic(3.2), ["Al"] * 2, [[0, 0, 0], [0.5, 0.5, 0.5]])
    fake(monkeypatch, [bcc, fcc.get_primitive_structure()], [-3.5, -3.6])
    answers = answer([Request.parse("Al", n="2", z="1")], model, relax="chgnet")
    assert answers.table["formation_energy"].tolist() == pytest.approx([0, 0.1])


def test_why_there_is_no_distance_from_the_hull_is_said(model, small_table, monkeypatch):
    fake(monkeypatch, [cscl(2.9)], [-5.0])
    nickel = small_table.take(np.zeros(0, int))
    answers = answer([Request.parse("NiAl", n="1", z="1")], model, hull=nickel, relax="chgnet")
    assert answers.table["energy_above_hull"].isna().all()
    assert not any("nan" in title or "eV" in title for title in answers.titles)
    (warning,) = answers.warnings
    assert "Al, Ni" in warning and "--hull" in warning


def test_the_resolution_that_is_named_is_the_one_that_decides(model, small_table, monkeypatch):
    fake(monkeypatch, [cscl(2.9)], [-5.0])
    resolution = Resolution(Rate(0.047, 0.012, 0.082, 10), Rate(-0.01, -0.15, 0.13, 10))
    judged = pd.DataFrame({"energy_above_hull": [-0.00001], "says": ["unresolved"], "failure": [""]})
    found = Stability([], judged, resolution, "a potential")
    monkeypatch.setattr(lib.generation.answers, "judge", lambda *_, **__: found)
    answers = answer([Request.parse("NiAl", n="1", z="1")], model, hull=small_table, relax="chgnet")
    assert [str(value) for value in answers.table["energy_above_hull"]] == ["0.0"], "not -0.0"
    assert answers.titles[0].endswith(" +0.000 eV/atom")
    (warning,) = answers.warnings
    assert "between -150 and +130 meV/atom are unresolved" in warning and "47" in warning


def test_a_crystal_that_nothing_improves_on_is_said(small_modifier, monkeypatch):
    own = cscl(2.9)
    fake(monkeypatch, [own.copy(), None], [-5.5, -5.5])
    answers = answer([Request.improving(own, "any", "any", "2")], load_model(small_modifier), relax="chgnet")
    assert len(answers.structures) == 1 and any("AlNi" in w and "--n" in w for w in answers.warnings)


def test_layers_are_said_beside_the_result(model, monkeypatch):
    sheet = Structure(Lattice.hexagonal(2.5, 7), ["B", "N"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])
    monkeypatch.setattr(lib.generation.answers, "reason_invalid", lambda *_: "")
    fake(monkeypatch, [sheet])
    (warning,) = answer([Request.parse("NiAl", n="1", z="1")], model).warnings
    assert warning.startswith("NiAl_001: layers") and "dispersion" in warning
