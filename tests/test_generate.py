"""From a request to ranked structures and files that say where they come from."""

import csv
import json

import ase.io
import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

import lib.generate
from lib.choice import Lenders, TemplateChoice
from lib.evaluate import read_structures
from lib.flow import FlowMatching
from lib.generate import (
    Request,
    answer,
    checked,
    cif_of,
    formulas_of_system,
    main,
    proposals,
    prototype_of,
    read_requests,
    shared_out,
)
from lib.prior import Candidate
from lib.relaxation import Relaxation
from lib.run import BadInput
from lib.sampling import TrainedModel, load_model
from lib.ship import Shipped
from lib.templates import LentSites

DEFAULTS = {"space_group": "any", "energy": "any", "z": "1", "n": "16"}


@pytest.fixture(scope="module")
def model(small_weights) -> TrainedModel:
    return load_model(small_weights)


@pytest.fixture(scope="module")
def shipped(model) -> Shipped:
    return Shipped.within(model.about)


def cscl(a: float, shift: float = 0.5) -> Structure:
    return Structure(Lattice.cubic(a), ["Ni", "Al"], [[0, 0, 0], [shift, 0.5, 0.5]])


# ---------------------------------------------------------------------------------------------------- requests


def test_words_become_a_request():
    assert Request.parse("TaW2B5") == Request("TaW2B5", None, "any", (1,), 16)
    assert Request.parse(" Ta W2B5", "225, 221", "lowest", "1..3", "4") == Request(
        "TaW2B5", (225, 221), "lowest", (1, 2, 3), 4
    )
    assert Request.parse("NiAl", energy="-0.5", z="2").energy == -0.5
    assert str(Request.parse("NiAl", "221", "-0.5", "1..2", "3")) == "NiAl, space group 221, energy -0.5, z 1..2, n 3"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"formula": "Nial"}, "formula 'Nial' .*write it like TaW2B5"),
        ({"formula": "Ni0.5Al"}, "needs whole numbers"),
        ({"space_group": "Fm-3m"}, "space group 'Fm-3m' is neither 'any' nor numbers"),
        ({"space_group": "231"}, "space group 231 does not exist"),
        ({"space_group": "225,"}, "neither 'any' nor numbers"),
        ({"energy": "low"}, "energy 'low' is neither 'any' nor 'lowest' nor a number"),
        ({"energy": "nan"}, "energy 'nan' is neither"),
        ({"z": "0"}, "z '0' is neither a positive whole number nor a range"),
        ({"z": "3..2"}, "z '3..2' is neither"),
        ({"z": "1-2"}, "z '1-2' is neither"),
        ({"n": "0"}, "n '0' is no positive whole number"),
        ({"n": "1.5"}, "n '1.5' is no positive whole number"),
    ],
)
def test_words_that_make_no_request_are_named(words, sentence):
    with pytest.raises(BadInput, match=sentence):
        Request.parse(**{"formula": "NiAl"} | words)


def test_a_request_lists_its_atoms_in_canonical_order():
    assert Request.parse("TaW2B5").species(1).tolist() == [5] * 5 + [73] + [74] * 2
    assert Request.parse("Ca(OH)2").species(2).tolist() == [20] * 2 + [1] * 4 + [8] * 4
    assert Request.parse("Ta2B4").label == "Ta2B4"


def test_requests_come_from_a_csv_file(tmp_path):
    path = tmp_path / "requests.csv"
    path.write_text("formula,n,space_group\nNaN,,225\nNiAl,3,\n")
    first, second = read_requests(path, **DEFAULTS | {"n": "5", "energy": "lowest"})
    assert first == Request("NaN", (225,), "lowest", (1,), 5), "sodium nitride is no missing value"
    assert second == Request("NiAl", None, "lowest", (1,), 3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("formula,energy\nNiAl,-0.2\nNi3Al,cold\n", "line 3 of .*energy 'cold'"),
        (
            "formula,spacegroup\nNiAl,225\n",
            "unknown columns spacegroup; it may have formula, space_group, energy, z, n",
        ),
        ("formula,n\n", "holds no requests"),
        ("formula,n\n,3\n", "line 2 of .*it has no formula"),
        ("composition\nNiAl\n", "with the columns formula"),
    ],
)
def test_csv_files_that_cannot_be_used_are_named(tmp_path, text, sentence):
    path = tmp_path / "requests.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=sentence):
        read_requests(path, **DEFAULTS)
    with pytest.raises(BadInput, match="does not exist"):
        read_requests(tmp_path / "none.csv", **DEFAULTS)


def test_a_system_is_all_its_formulas_in_lowest_terms():
    assert formulas_of_system("Al-Ni", 4) == ["AlNi", "AlNi2", "Al2Ni", "AlNi3", "Al3Ni"]
    assert formulas_of_system("Ta-W-B", 4) == ["TaWB", "TaWB2", "TaW2B", "Ta2WB"]
    assert formulas_of_system("Fe", 9) == ["Fe"]
    for system in ("Ta-Q", "Ta-Ta", "TaW", ""):
        with pytest.raises(BadInput, match="is no list of different elements"):
            formulas_of_system(system, 4)
    with pytest.raises(BadInput, match="2 atoms cannot hold all elements of Ta-W-B"):
        formulas_of_system("Ta-W-B", 2)


# -------------------------------------------------------------------------------------------------- candidates


def test_what_the_model_has_not_learnt_is_refused_or_warned_of(model, shipped):
    assert checked(Request.parse("NiAl", energy="-0.5"), model, shipped) == []
    assert checked(Request.parse("NiAl", energy="lowest"), model, shipped) == []
    with pytest.raises(BadInput, match="NiAlTi contains Ti, which none of .*; it knows Al, Ni"):
        checked(Request.parse("NiAlTi"), model, shipped)
    with pytest.raises(BadInput, match="3 x NiAl has 6 atoms and the model takes 4; ask for z up to 2"):
        checked(Request.parse("NiAl", z="1..3"), model, shipped)
    with pytest.raises(BadInput, match="1 x Ni3Al2 has 5 atoms and the model takes 4; ask for a smaller formula"):
        checked(Request.parse("Ni3Al2"), model, shipped)
    (warning,) = checked(Request.parse("NiAl", energy="-9"), model, shipped)
    assert "-9 eV/atom lies outside the training energies" in warning


def test_proposals_keep_to_the_request(shipped):
    asked = proposals(Request.parse("NiAl", "221,123", "-0.5", "1..2", "5"), 7, shipped)
    assert len(asked) == 5 and {one.request for one in asked} == {7}
    assert {one.candidate.unit.symmetry for one in asked} <= {221, 123}
    assert sorted(one.z for one in asked) == [1, 1, 1, 2, 2]
    assert all(len(one.candidate.unit.species) == 2 * one.z and one.energy == -0.5 for one in asked)
    shares = [one.candidate.share for one in asked]
    assert shares == sorted(shares, reverse=True)


def test_a_training_set_lends_before_the_statistics_are_asked(shipped, small_table):
    lent = LentSites(TemplateChoice(Lenders(small_table), {}))
    asked = proposals(Request.parse("NiAl", "221", n="3"), 0, shipped, lent)
    rows = {one.candidate.template: one.candidate.unit for one in asked}
    assert set(rows) <= set(small_table.id) and {unit.symmetry for unit in rows.values()} == {221}
    assert all(site.lender for unit in rows.values() for site in unit.sites)
    (bare,) = proposals(Request.parse("Ni7Al", n="1"), 0, shipped, lent)
    assert bare.candidate.template == "" and not any(site.lender for site in bare.candidate.unit.sites)


def test_a_difference_in_energy_is_no_energy_of_the_templates(shipped):
    asked = []

    class Lender:
        def candidates(self, *request):
            asked.append(request[-1])
            return []

    crystal = Request.improving(cscl(2.9), "any", "-0.1", "1")
    for request in (Request.parse("NiAl", energy="-0.1", n="1"), crystal):
        proposals(request, 0, shipped, Lender())
    assert asked[0] == -0.1 and np.isnan(asked[1])


def test_energies_of_a_request(shipped):
    (any_energy,), (lowest,) = (
        proposals(Request.parse("NiAl", energy=e, n="1"), 0, shipped) for e in ("any", "lowest")
    )
    assert np.isnan(any_energy.energy)
    assert lowest.energy == pytest.approx(shipped.energies.expected("NiAl") + shipped.energies.low)


def test_a_group_that_cannot_hold_the_atoms_is_refused(shipped):
    with pytest.raises(BadInput, match="no primitive cell of 1 x NiAl has space group 230"):
        proposals(Request.parse("NiAl", "230"), 0, shipped)


def test_probable_sites_are_tried_several_times():
    likely, unlikely, unseen = (Candidate(None, share) for share in (0.9, 0.1, 0.0))
    assert shared_out([likely, unlikely, unseen], 4) == [likely] * 4
    assert shared_out([likely, unlikely, unseen], 6) == [likely] * 4 + [unlikely, likely]
    assert shared_out([likely, unlikely, unseen], 12).count(unseen) == 1
    assert shared_out([likely], 3) == [likely] * 3


# ----------------------------------------------------------------------------------------------------- answers


def test_answers_have_the_asked_atoms_and_group(model):
    request = Request.parse("NiAl", "221", n="3")
    answers = answer([request], model, seed=1)
    assert len(answers.structures) == 1, "in CsCl nothing but the volume is free"
    (structure,), (_, row) = answers.structures, next(answers.table.iterrows())
    assert structure.composition.reduced_formula == "AlNi"
    assert row["space_group_0.01"] == row["space_group_0.1"] == row["sites_group"] == 221
    assert row["prototype"].startswith("AB_cP2_221_b_a") and row["name"] == "NiAl_001"
    assert answers.funnel.loc[0, ["asked", "distinct"]].tolist() == [3, 1]
    again = answer([request], model, seed=1)
    assert again.structures == answers.structures, "the same seed gives the same answer"


def test_answers_name_the_crystal_that_lent(model, small_table, monkeypatch):
    sample, starts = FlowMatching.sample, []

    def watched(*args, template_start, **settings):
        starts.append(template_start)
        return sample(*args, template_start=template_start, **settings)

    monkeypatch.setattr(FlowMatching, "sample", watched)
    lent = LentSites(TemplateChoice(Lenders(small_table), {}))
    request = Request.parse("NiAl", "221", n="1")
    assert answer([request], model, lent=lent).table.template.isin(small_table.id).all()
    assert answer([request], model).table.template.eq("").all()
    assert starts == [lib.generate.FROM_TEMPLATES["template_start"], 0]


def fake(monkeypatch, structures, energies=(), failures=()):
    """Let the model return these structures, and the potential these energies."""
    monkeypatch.setattr(lib.generate, "_sampled", lambda *_: list(structures))

    def relax_many(valid, *_, **__):
        outcome = ["broken" if i in failures else "" for i in range(len(valid))]
        return [Relaxation(s, e, e, 1, 0.0, 0.0, why) for s, e, why in zip(valid, energies, outcome, strict=True)]

    monkeypatch.setattr(lib.generate, "relax_many", relax_many)


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
    lib.generate.write(answers, [request], {}, tmp_path)
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


def test_the_model_is_shown_the_crystal(small_modifier):
    model, made = load_model(small_modifier), []
    for name, parameter in model.net.named_parameters():  # so shortly trained, they are all but zero
        if name.startswith(("polymorph.", "lattice_out.")):
            torch.nn.init.normal_(parameter, std=0.03, generator=torch.Generator().manual_seed(0))
    for crystal in (cscl(2.9), cscl(2.9, 0.3)):
        answers = answer([Request.improving(crystal, "221", "any", "2")], model)
        made.append([s.volume for s, own in zip(answers.structures, answers.table["given"], strict=True) if not own])
    assert made[0] and made[0] != made[1], "the same noise and sites, but another cell"


def test_a_given_crystal_that_is_none_is_warned_of(small_modifier):
    answers = answer([Request.improving(cscl(9.0), "221", "any", "2")], load_model(small_modifier))
    assert answers.warnings == ["the given NiAl is left out (volume outside the window); its improvements stand alone"]
    assert len(answers.table) and not answers.table["given"].any()


def test_files_of_crystals_are_improved(small_modifier, tmp_path):
    cscl(2.9).to(str(tmp_path / "mine.cif"))
    words = ["--improve", str(tmp_path / "mine.cif"), "--n", "3", "--weights", str(small_modifier)]
    main([*words, "--out", str(tmp_path / "out")])
    with (tmp_path / "out" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["formula"] for row in rows} == {"AlNi"} and "below_given" in rows[0]
    assert len(list((tmp_path / "out").glob("*.cif"))) == len(rows) > 0
    with pytest.raises(SystemExit, match="none.cif"):
        main(["--improve", str(tmp_path / "none.cif"), "--out", str(tmp_path / "out")])


def test_tasks_are_not_mixed_up(model, small_modifier):
    with pytest.raises(BadInput, match="is a modification model; crystals are improved by"):
        answer([Request.parse("NiAl")], load_model(small_modifier))
    with pytest.raises(BadInput, match="is a generation model; crystals are improved by"):
        answer([Request.improving(cscl(2.9), "any", "any", "2")], model)
    with pytest.raises(BadInput, match="'lowest' says nothing of a difference"):
        Request.improving(cscl(2.9), "any", "lowest", "2")


def test_relaxation_by_an_unknown_potential_is_refused(model):
    with pytest.raises(BadInput, match="relax 'dft' is not known; choose one of none, chgnet"):
        answer([Request.parse("NiAl")], model, relax="dft")


def test_the_prototype_is_that_of_the_same_arrangement():
    salt = Structure.from_spacegroup(225, Lattice.cubic(5), ["K", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for noise in (0, 1e-4):  # neither rounding nor a trace of displacement makes another prototype of it
        given = salt.get_primitive_structure()
        assert prototype_of(given.perturb(noise) if noise else given).startswith("AB_cF8_225_a_b")
    odd = Structure(Lattice.from_parameters(3, 4, 7, 80, 95, 120), ["K", "F"], [[0, 0, 0], [0.31, 0.2, 0.11]])
    assert prototype_of(odd) == ""


# ------------------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def made(small_weights, tmp_path_factory):
    """What the command leaves; the folder held an earlier answer and a user's own file."""
    folder = tmp_path_factory.mktemp("out")
    command = ["NiAl", "--space-group", "221,225", "--n", "4", "--weights", str(small_weights), "--out", str(folder)]
    (folder / "summary.csv").write_text("name\nold_001\n")
    (folder / "old_001.cif").write_text("old")
    (folder / "mine.cif").write_text("mine")
    main(command)
    return folder


def rows_of(folder) -> list[dict]:
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def test_files_hold_the_same_structures(made):
    rows = rows_of(made)
    assert rows and [row["name"] for row in rows] == [f"NiAl_{i + 1:03d}" for i in range(len(rows))]
    cifs = read_structures([made / f"{row['name']}.cif" for row in rows])
    frames = read_structures([made / "structures.extxyz"])
    assert list(cifs) == list(frames) == [row["name"] for row in rows]
    for name, cif in cifs.items():
        assert StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.1, scale=False).fit(cif, frames[name])


def test_files_say_where_they_come_from(made, small_weights, model):
    expected = {"weights": "shipped.safetensors", "weights_sha256": model.checksum, "licence": "MIT", "seed": "42"}
    expected |= {"asked": "NiAl, space group 221,225, energy any, z 1, n 4"}
    about = json.loads((made / "about.json").read_text())
    assert about["command"].startswith("python -m lib.generate NiAl --space-group 221,225")
    assert about["trained_on"].startswith("Al-Ni crystals (") and about["version"]
    for row, atoms in zip(rows_of(made), ase.io.read(made / "structures.extxyz", ":"), strict=True):
        lines = (made / f"{row['name']}.cif").read_text().splitlines()
        comments = dict(line.removeprefix("# ").split(": ", 1) for line in lines if line.startswith("# "))
        for facts in (comments, {key: str(value) for key, value in atoms.info.items()}):
            assert expected.items() <= facts.items() and facts["id"] == row["name"]
            assert facts["command"] == about["command"] and facts["space_group_0.1"] == row["space_group_0.1"]


def test_a_cif_has_its_symmetry():
    text = cif_of(cscl(2.9), "x", {"note": "several\nlines"})
    assert "# note: several lines\n" in text and "\ndata_x\n" in text
    assert "_symmetry_Int_Tables_number   221" in text


def test_an_earlier_answer_is_replaced_and_other_files_are_left(made):
    assert not (made / "old_001.cif").exists() and (made / "mine.cif").read_text() == "mine"
    assert not [path.name for path in made.iterdir() if path.name.startswith(".")], "nothing is half written"


class Killed(Exception):
    """Stands for kill -9."""


def test_an_interrupted_command_goes_on(small_weights, tmp_path, monkeypatch):
    path = tmp_path / "requests.csv"
    path.write_text("formula,space_group,n\nNiAl,221,1\nNi3Al,221,1\n")
    command = ["--requests", str(path), "--weights", str(small_weights), "--out", str(tmp_path / "out")]
    sample, batches = lib.training.FlowMatching.sample, []

    def counted(*args, **settings):
        batches.append(1)
        return sample(*args, **settings)

    def killed(*_):
        raise Killed

    monkeypatch.setattr(lib.training.FlowMatching, "sample", counted)
    with monkeypatch.context() as patch:
        patch.setattr(lib.generate, "_ranked", killed)
        with pytest.raises(Killed):
            main(command)
    assert (tmp_path / "out" / ".resume").is_dir() and len(batches) == 1
    main(command)
    assert len(batches) == 1, "what was sampled is not sampled again"
    assert not (tmp_path / "out" / ".resume").exists() and len(rows_of(tmp_path / "out")) >= 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give formulas, or --requests, or --system"),
        (["NiAl", "--system", "Al-Ni"], "one of the four"),
        (["NiAl", "--energy", "cold"], "energy 'cold'"),
        (["NiAl", "--steps", "0"], "--steps 0 is no positive number"),
        (["NiAl", "--guidance", "nan"], "--guidance nan is not between 0 and 20; 1 is as trained"),
        (["--improve", "some.cif", "--z", "2"], "--z 2 is not for --improve"),
        (
            ["NiAl", "--templates", "outputs/nothing"],
            "nothing/data/train.parquet does not exist; name the folder of a run",
        ),
        (["NiAl", "--weights", "none.safetensors"], "the weights none.safetensors do not exist"),
        (["TaW"], "contains Ta, W, which none of the model's training crystals does"),
    ],
)
def test_commands_that_cannot_be_answered_end_with_a_sentence(words, sentence, small_weights, tmp_path):
    weights = [] if "--weights" in words else ["--weights", str(small_weights)]
    with pytest.raises(SystemExit, match=sentence):
        main([*words, *weights, "--out", str(tmp_path)])
    assert not list(tmp_path.glob("*.cif"))


def test_guidance_pulls_elsewhere(tmp_path):
    volumes = []
    for guidance in ("1", "1", "3"):
        how = ["--energy", "-0.5", "--n", "4", "--steps", "4", "--guidance", guidance]
        main(["NiAl", *how, "--out", str(tmp_path)])
        volumes.append([row["volume_per_atom"] for row in rows_of(tmp_path)])
    assert volumes[0] == volumes[1] != volumes[2]


def test_missing_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lib.ship, "WEIGHTS", tmp_path)
    with pytest.raises(SystemExit, match="generation_mp20.safetensors are missing"):
        main(["NiAl", "--out", str(tmp_path / "out")])
