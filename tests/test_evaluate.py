"""Scores of structures that anybody made, known beforehand."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

import lib.studies.evaluation
from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.stats import Rate
from lib.crystals.exchange import read_structures
from lib.crystals.table import CrystalTable
from lib.energies.hull import Resolution
from lib.metrics.stability import Stability
from lib.studies.evaluation import (
    answers_for,
    beside_substitution,
    crystal_structure_prediction,
    generation,
    is_neutral,
)

CUBIC = [[0, 0, 0], [0.5, 0.5, 0.5]]


def caesium_chloride(a: float, *elements: str) -> Structure:
    return Structure(Lattice.cubic(a), elements, CUBIC)


def zinc_blende(a: float, *elements: str) -> Structure:
    cell = Structure.from_spacegroup(216, Lattice.cubic(a), elements, [[0, 0, 0], [0.25] * 3])
    return cell.get_primitive_structure()


ERROR = Resolution(Rate(0.1, 0.05, 0.2, 34), Rate(0, -0.3, 0.3, 34))


@pytest.fixture
def table() -> CrystalTable:
    """Two polymorphs of ZnS and one CsCl."""
    known = [zinc_blende(5.4, "Zn", "S"), caesium_chloride(3.4, "Zn", "S"), caesium_chloride(4.1, "Cs", "Cl")]
    return CrystalTable.from_structures(
        known, id=["blende", "dense", "halide"], formation_energy=[-1.0, -0.5, -2.0], energy_kind="test"
    )


def swapped(table) -> dict[str, Structure]:
    """The right answers, but for the polymorphs of ZnS in the wrong order."""
    return {"blende": table.structure(1), "dense": table.structure(0), "halide": table.structure(2)}


def scores_of(frame: pd.DataFrame) -> dict[str, float]:
    return frame.set_index("score").value.to_dict()


def test_metre_forgives_the_order_of_polymorphs_and_the_match_rate_does_not(table):
    scores = scores_of(crystal_structure_prediction(table, swapped(table), n_workers=1))
    assert scores["answered"] == 1
    assert scores["match, default"] == pytest.approx(1 / 3)
    assert scores["METRe, default"] == 1 and scores["METRe, strict"] == 1
    assert scores["cRMSE, csp"] == pytest.approx(0, abs=1e-6)
    right = {name: table.structure(i) for i, name in enumerate(table.id)}
    scores = scores_of(crystal_structure_prediction(table, right, n_workers=1))
    assert scores["match, strict"] == 1 and scores["RMSD of csp matches"] == pytest.approx(0, abs=1e-6)


def test_a_missing_answer_is_no_match(table):
    scores = crystal_structure_prediction(table, {"halide": table.structure(2)}, n_workers=1).set_index("score")
    assert scores.value["answered"] == scores.value["match, csp"] == pytest.approx(1 / 3)
    assert (scores.n.drop("RMSD of csp matches") == 3).all()
    hit = scores.value["METRe, csp"]
    assert 0 < hit < 1 and scores.value["cRMSE, csp"] == pytest.approx(0.5 * (1 - hit), abs=1e-6)


def test_answers_by_formula_are_taken_in_turn(table):
    made = {"a": table.structure(1), "b": table.structure(0)}
    assert answers_for(table, made, "formula") == [table.structure(1), table.structure(0), None]
    with pytest.raises(BadInput, match="the id of .* like 'a', the reference's like 'blende'"):
        answers_for(table, made)
    with pytest.raises(BadInput, match="the formula of .* like 'ZnS', the reference's like"):
        answers_for(table.take([2]), {"b": table.structure(0)}, "formula")
    with pytest.raises(BadInput, match="the reference holds no crystal"):
        answers_for(table.take([]), made)


def test_generated_structures_are_counted(table):
    made = {
        "known": table.structure(0),
        "known, larger": zinc_blende(5.5, "Zn", "S"),
        "new": zinc_blende(6.5, "Cs", "Cl"),
        "crushed": caesium_chloride(1.5, "Cs", "S"),
    }
    scores = scores_of(generation(table, made, n_workers=1)[0])
    assert scores == {"valid": 0.75, "neutral": 1, "unique": 0.5, "novel": 0.5, "valid, unique and novel": 0.25}


def test_uniqueness_depends_neither_on_the_order_nor_on_what_is_invalid(table):
    chain = [zinc_blende(a, "Zn", "S") for a in (5.2, 5.5, 5.6)]
    made = {"known": table.structure(0), "new": zinc_blende(6.5, "Cs", "Cl")} | dict(zip("abc", chain, strict=True))
    crushed = {"crushed": zinc_blende(3.0, "Cs", "Cl")}
    several = [made, dict(reversed(made.items())), crushed | made, made | crushed]
    found = [generation(table, one, n_workers=1)[1].set_index("id") for one in several]
    for details in found:
        assert details.unique[list(made)].tolist() == found[0].unique.tolist()
        assert details.unique.sum() == details.novel[details.unique].sum() + 1 == 2
    assert not found[2].unique["crushed"] and found[2].reason["crushed"]


def test_of_elements_that_the_reference_lacks_nothing_is_said(table):
    corundum = Structure.from_spacegroup(
        167, Lattice.hexagonal(4.76, 12.99), ["Al", "O"], [[0, 0, 0.352], [0.306, 0, 0.25]]
    )
    with pytest.raises(BadInput, match="Al, O.* give a reference"):
        generation(table, {"corundum": corundum}, n_workers=1)
    made = {"new": zinc_blende(6.5, "Cs", "Cl")}
    scores, details = generation(table, made | {"corundum": corundum}, n_workers=1)
    assert "Al, O" in details.set_index("id").reason["corundum"]
    pd.testing.assert_frame_equal(scores, generation(table, made, n_workers=1)[0])


def test_a_refusal_leaves_nothing_behind(table, tmp_path, monkeypatch):
    table.to_parquet(tmp_path / "table.parquet")
    zinc_blende(5.5, "Al", "P").to(str(tmp_path / "new.cif"))
    words = [str(tmp_path / "new.cif"), "--task", "generation", "--reference", str(tmp_path / "table.parquet")]
    monkeypatch.setattr(sys, "argv", ["evaluate", *words])
    monkeypatch.setattr(lib.studies.evaluation, "ROOT", tmp_path / "root")
    with pytest.raises(SystemExit, match="Al, P.*give a reference"):
        lib.studies.evaluation.main()
    assert not (tmp_path / "root").exists()


def test_coverage_is_told_of_files(table, tmp_path, monkeypatch, capsys):
    few = table.take([0, 1])
    few.to_parquet(tmp_path / "table.parquet")
    few.structure(0).to(str(tmp_path / "made.cif"))
    words = ["--task", "coverage", "--reference", str(tmp_path / "table.parquet"), "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["evaluate", str(tmp_path / "made.cif"), *words])
    lib.studies.evaluation.main()
    told = {line.rsplit(maxsplit=4)[0].strip(): line.split()[-4:] for line in capsys.readouterr().out.splitlines()[1:4]}
    assert float(told["COV-P"][0]) == 1 and float(told["COV-R"][0]) >= 0.5 and told["COV-R"][-1] == "2"


def test_help_names_defaults_and_has_no_markup(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--help"])
    with pytest.raises(SystemExit):
        lib.studies.evaluation.main()
    text = capsys.readouterr().out
    assert "default: 2" in text and "default: None" not in text and "`" not in text


@pytest.mark.parametrize(("formula", "neutral"), [("NaCl", True), ("NaCl2", False), ("TiO2", True), ("Ni3Al", True)])
def test_neutrality(formula, neutral):
    assert is_neutral(formula) == neutral


def test_stability_counts_only_what_is_valid_and_new(table, monkeypatch):
    distances = {"known": 0.0, "a": -0.5, "a again": -0.5, "b": 0.05, "c": 0.5}
    made = {"known": table.structure(0), "a": zinc_blende(6.5, "Cs", "Cl"), "a again": zinc_blende(6.5, "Cs", "Cl")}
    made |= {
        "b": zinc_blende(6.4, "Cs", "S"),
        "c": zinc_blende(6.8, "Zn", "Cl"),
        "crushed": caesium_chloride(1, "Cs", "S"),
    }

    def judge(structures, hull, potential, *, relax, **_):
        assert structures[-1] is None and hull is table and not relax
        says = ["unresolved", "stable", "stable", "unresolved", "unstable", "not judged"]
        judged = pd.DataFrame({"energy_above_hull": [*distances.values(), np.nan], "says": says})
        return Stability(
            list(structures),
            judged,
            ERROR,
            "a potential on compounds",
        )

    monkeypatch.setattr("lib.studies.evaluation.judge", judge)
    scores, details = generation(table, made, potential="chgnet", n_workers=1)
    scores = scores.set_index("score")
    assert scores.value["stable"] == pytest.approx(2 / 6) and scores.value["unstable"] == pytest.approx(1 / 6)
    assert scores.value["unresolved"] == pytest.approx(2 / 6) and scores.value["not judged"] == pytest.approx(1 / 6)
    assert scores.value["stable, unique and novel"] == pytest.approx(1 / 6)
    assert scores.value["unresolved, unique and novel"] == pytest.approx(1 / 6)
    assert scores.value["S.U.N. up to 0 eV/atom, unresolved or not"] == pytest.approx(1 / 6)
    assert scores.value["S.U.N. up to 0.1 eV/atom, unresolved or not"] == pytest.approx(2 / 6)
    assert scores.loc["error of a potential on compounds (eV/atom)"].tolist() == [0.1, 0.05, 0.2, 34]
    assert details.set_index("id").novel.tolist() == [False, True, True, True, True, True]
    assert details.says.tolist()[-1] == "not judged"


def test_what_relaxation_makes_of_a_structure_is_what_counts(table, monkeypatch):
    made = {"a": zinc_blende(5.8, "Zn", "S"), "b": zinc_blende(6.5, "Cs", "Cl")}
    after = [table.structure(2), caesium_chloride(2, "Cs", "Cl")]  # of the known halide's structure, and crushed

    def judge(structures, hull, potential, *, relax, **_):
        says = pd.DataFrame({"energy_above_hull": [-1.0, -1.0], "says": ["stable", "stable"]})
        return Stability(after, says, ERROR, "a potential")

    monkeypatch.setattr("lib.studies.evaluation.judge", judge)
    scores = scores_of(generation(table, made, potential="chgnet", relax=True, n_workers=1)[0])
    assert scores["valid"] == scores["stable"] == scores["not judged"] == 0.5
    assert scores["novel"] == 0 and scores["stable, unique and novel"] == 0


@pytest.fixture
def training() -> CrystalTable:
    """Lends zinc blende and its group to ZnS, and CsCl to nobody that asks for group 221."""
    known = [zinc_blende(5.7, "Zn", "Se"), zinc_blende(6.1, "Cd", "Te")]
    return CrystalTable.from_structures(known, id=["s", "t"], formation_energy=[-1, -1], energy_kind="test")


def test_answers_stand_beside_substitution(table, training):
    right = {name: table.structure(i) for i, name in enumerate(table.id)}
    rates, claims = beside_substitution(table, right, training, n_workers=1)
    rates = rates.set_index(["targets", "row"])
    assert rates.loc["all"].csp.tolist() == pytest.approx([1, 1 / 3, 1 / 3])
    assert rates.loc["all"].index.tolist() == ["answers", "substitution", "substitution, asked group"]
    assert rates.loc["no template"].n.tolist() == [2, 2, 2]  # nothing of group 221 lends its sites
    assert rates.loc["template of another group"].csp.tolist()[0] == 1
    assert claims.groupby("b", sort=False).difference.first().tolist() == pytest.approx([2 / 3, 2 / 3])
    assert set(claims.a) == {"answers"} and claims.claim.str.startswith("unresolved").all()  # of three targets


def test_a_subset_without_targets_is_left_out(table, training):
    one = table.take([0])
    rates, _ = beside_substitution(one, {"blende": one.structure(0)}, training, n_workers=1)
    assert rates.targets.unique().tolist() == ["all"]


def test_command_line(table, training, tmp_path, monkeypatch, capsys):
    table.to_parquet(tmp_path / "table.parquet")
    training.to_parquet(tmp_path / "training.parquet")
    for name, structure in swapped(table).items():
        structure.to(str(tmp_path / f"{name}.cif"), fmt="cif")
    words = ["evaluate", *map(str, tmp_path.glob("*.cif"))]
    words += ["--task", "csp", "--reference", str(tmp_path / "table.parquet"), "--out", str(tmp_path / "scores.csv")]
    words += ["--training", str(tmp_path / "training.parquet"), "--export", "mattergen", str(tmp_path / "a.extxyz")]
    monkeypatch.setattr(sys, "argv", words)
    lib.studies.evaluation.main()
    said = capsys.readouterr().out
    assert "METRe, default" in said and "no template" in said
    scores = pd.read_csv(tmp_path / "scores.csv").set_index("score")
    assert scores.value["METRe, default"] == 1 and np.isfinite(scores.ci_low["match, default"])
    assert set(pd.read_csv(tmp_path / "scores_subsets.csv").targets) == {
        "all",
        "no template",
        "template of another group",
    }
    assert len(pd.read_csv(tmp_path / "scores_against_substitution.csv")) == 6
    assert set(read_structures([tmp_path / "a.extxyz"])) == set(table.id)
    assert not list((ROOT / "outputs").glob(".resume_evaluate_*"))


@pytest.mark.slow
def test_command_line_judges_stability(tmp_path):
    """The embedded set's own crystals by CHGNet: single points of a known phase and of one that is stretched."""
    known = CrystalTable.from_parquet(ROOT / "lib/data/embedded.parquet")
    ordered = known.take(np.flatnonzero(known.reduced_formula == "TaW3")[:1])
    known.take(np.flatnonzero(np.isin(known.reduced_formula, ["TaW", "Ta3W"]))).to_parquet(tmp_path / "known.parquet")
    cell = ordered.structure(0)
    cell.to(str(tmp_path / "phase.cif"), fmt="cif")
    cell.scale_lattice(1.3 * cell.volume).to(str(tmp_path / "stretched.cif"), fmt="cif")
    words = [sys.executable, "-m", "lib.evaluate", str(tmp_path), "--task", "generation", "--potential", "chgnet"]
    words += ["--reference", str(tmp_path / "known.parquet"), "--out", str(tmp_path / "scores.csv"), "--workers", "1"]
    (tmp_path / "scores.csv").write_text("")  # a csv in the folder is no structure
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 stable, 1 unresolved, 1 unstable, 0 not judged of 2" in done.stdout
    assert "compete with the elements alone" not in done.stdout
    details = pd.read_csv(tmp_path / "scores_structures.csv").set_index("id")
    assert details.formation_energy["phase"] == pytest.approx(ordered.formation_energy[0], abs=0.002)
    assert details.energy_above_hull["stretched"] > 0.3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--task", "csp", "--reference", "absent.parquet"], "absent.parquet"),
        (["--task", "csp"], "--reference"),
        (["--export", "lemat", "made.zip"], "made.zip"),
        (["--task", "csp", "--reference", "absent.parquet", "--potential", "chgnet"], "--potential is for --task gen"),
        (["--task", "coverage", "--reference", "absent.parquet", "--key", "formula"], "--key is for --task csp"),
        (["--task", "generation", "--reference", "absent.parquet", "--relax"], "give --potential"),
        (["--task", "csp", "--reference", "absent.parquet", "--workers", "0"], "'0' is no whole number from 1"),
    ],
)
def test_command_line_says_what_is_wrong(table, tmp_path, monkeypatch, capsys, words, says):
    table.structure(0).to(str(tmp_path / "one.cif"), fmt="cif")
    monkeypatch.setattr(sys, "argv", ["evaluate", str(tmp_path / "one.cif"), *words])
    with pytest.raises(SystemExit) as end:
        lib.studies.evaluation.main()
    assert says in f"{end.value}{capsys.readouterr().err}"
