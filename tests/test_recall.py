"""How often ground states are found: what is drawn, what each way starts from, and what is counted."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

import lib.studies.recall
from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.core.parameters import validated
from lib.core.strict_yaml import read_yaml
from lib.energies.potentials import potential_class
from lib.energies.relaxation import Relaxation
from lib.studies.recall import (
    RecallParams,
    measure,
    places,
    recall,
    scores,
    starts_at_random,
    starts_by_substitution,
    within,
)


def cscl(a: float) -> Structure:
    return Structure(Lattice.cubic(a), ["Ni", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_the_parameters_that_stand_in_the_repository_read():
    assert validated(RecallParams, read_yaml(ROOT / "benchmarks" / "recall.yaml")).compounds == 40


def test_substitution_starts_from_the_most_alike(small_table):
    starts = list(starts_by_substitution("CuAl", small_table))
    assert {s.composition.reduced_formula for s in starts} == {"AlCu"}
    groups = {int(g) for g in small_table.space_group[small_table.reduced_formula == "AlNi"]}
    assert {s.get_space_group_info(0.01)[1] for s in starts[:3]} <= groups


def test_random_crystals_have_the_asked_composition_and_follow_from_the_generator():
    pytest.importorskip("pyxtal")
    first, again = (starts_at_random("NaCl", np.random.default_rng(3)) for _ in range(2))
    several = [next(first) for _ in range(3)]
    assert {s.composition.reduced_formula for s in several} == {"NaCl"}
    assert [s.volume for s in several] == [next(again).volume for _ in range(3)]


def fake_relaxation(monkeypatch, energies: dict[float, float]) -> list[float]:
    """Relaxations that leave structures as they are, and note their cells' edges."""
    seen = []

    def relax(structure, *_, **__):
        seen.append(structure.lattice.a)
        energy = energies[structure.lattice.a]
        return Relaxation(structure, energy, energy, 1, 0.0, 0.0)

    monkeypatch.setattr(lib.studies.recall, "relax", relax)
    return seen


def test_no_relaxation_begins_after_the_time_is_over(monkeypatch):
    seen = fake_relaxation(monkeypatch, {2.9: -5.0, 3.2: -6.0})
    clock = iter([0.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(lib.studies.recall.time, "process_time", lambda: next(clock))
    volumes = np.full(119, 14.0)
    found = within(1.5, iter([cscl(2.9), cscl(3.2), cscl(2.8)]), volumes, "chgnet")
    assert seen == [2.9, 3.2] and [s.lattice.a for s in found] == [3.2, 2.9], "the lowest first"


def test_places_are_ranks_by_both_matches():
    target, stretched = cscl(2.9), cscl(3.2)
    other = Structure(Lattice.tetragonal(2.2, 5.2), ["Ni", "Al"], [[0, 0, 0], [0.5, 0.5, 0.3]])
    assert places([other, stretched, target], target) == {"default": 2, "strict": 3}
    assert places([other], target) == places([], target) == {"default": 0, "strict": 0}


def answers(**ranks: list[int]) -> pd.DataFrame:
    rows = [
        {"id": str(i), "formula": f"X{i}", "way": way, "seconds": 10.0 + i, "structures": 9, "default": r, "strict": 0}
        for way, several in ranks.items()
        for i, r in enumerate(several)
    ]
    return pd.DataFrame(rows)


def test_recall_counts_ranks(monkeypatch):
    monkeypatch.setattr(lib.studies.recall.importlib.util, "find_spec", lambda _: "PyXtal is there")
    few = answers(default=[1, 3, 7, 0], substitution=[1, 1, 0, 0], random=[0, 0, 0, 0])
    table = recall(few).set_index(["way", "match", "within"])["value"]
    assert [table["default", "default", w] for w in ("first 1", "first 5", "any")] == [0.25, 0.5, 0.75]
    assert table["default - substitution", "default", "any"] == 0.25 and table["default", "strict", "any"] == 0
    found = {row["id"]: row for row in scores(few, recall(few), RecallParams(), "command")}
    assert found["generate.recall_at_1"]["value"] == 0.25 and found["generate.recall_any"]["value"] == 0.75
    assert found["generate.recall_any.substitution_same_cpu"]["value"] == 0.5
    assert found["generate.cpu_seconds"]["value"] == 11.5 and found["generate.cpu_seconds"]["n"] == 4
    nothing = found["generate.recall_any.random_same_cpu"]
    assert nothing["value"] == 0 and 0 < nothing["ci_high"] < 1
    monkeypatch.setattr(lib.studies.recall.importlib.util, "find_spec", lambda _: None)
    found = {row["id"]: row for row in scores(few, recall(few), RecallParams(), "command")}
    assert found["generate.recall_any.random_same_cpu"]["value"] is None
    assert "pip install" in found["generate.recall_any.random_same_cpu"]["reason"]


def test_a_measurement_goes_on_where_it_stopped_and_keeps_to_its_parameters(small_table, monkeypatch, tmp_path):
    row = int(np.flatnonzero(small_table.reduced_formula == "AlNi")[0])
    target, asked = small_table.take([row]), []

    class Answers:
        structures = [target.structure(0)]

    def generate(formula, **settings):
        asked.append((formula, settings["n"]))
        return Answers()

    monkeypatch.setattr(lib.studies.recall, "drawn", lambda _: (target, small_table))
    monkeypatch.setattr(lib.studies.recall, "generate", generate)
    monkeypatch.setattr(lib.studies.recall, "load_potential", lambda _: None)
    monkeypatch.setattr(lib.studies.recall, "within", lambda *_: [])
    params = RecallParams(compounds=1, structures=3)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(BadInput, match="potential 'chgnat'"):
        patch.setattr(lib.studies.recall, "load_potential", potential_class)
        measure(RecallParams(potential="chgnat"), tmp_path)  # which leaves the folder free
    first = measure(params, tmp_path)
    assert asked == [("AlNi", 3)] and first.set_index("way").loc["default", ["default", "strict"]].tolist() == [1, 1]
    (tmp_path / "answers" / f"{target.id[0]}_substitution.json").unlink()
    pd.testing.assert_frame_equal(measure(params, tmp_path)[["way", "default"]], first[["way", "default"]])
    assert len(asked) == 1, "what is there is not asked for again"
    assert len(json.loads(next(Path(tmp_path / "answers").glob("*default.json")).read_text())) == 7
    with pytest.raises(BadInput, match="other parameters; choose another folder"):
        measure(RecallParams(compounds=1, structures=4), tmp_path)
