"""Whether crystals are as asked for: relations of groups, responses to energies, energies after relaxation."""

import numpy as np
import pandas as pd
import pytest
from conftest import table
from pymatgen.core import Lattice, Structure

from lib.figures import study as figures
from lib.studies import control

FCC = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
BCC = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2
VOLUMES = np.full(119, 16.0)


def rng():
    return np.random.default_rng(0)


def tungsten(cell, a) -> Structure:
    return Structure(Lattice(a * cell), ["W"], [[0, 0, 0]])


def caesium_chloride(c=4.0) -> Structure:
    return Structure(Lattice.tetragonal(4.0, c), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_a_group_that_has_the_asked_one_as_a_subgroup_is_told_apart():
    found = control.relations([225, 139, 225, 225, 62], [225, 225, 139, 0, 166])
    assert found.tolist() == ["as asked", "supergroup", "another", "no crystal", "another"]


def test_shuffled_groups_are_others_and_can_hold_the_atoms():
    targets = table([caesium_chloride(), caesium_chloride(4.4), tungsten(FCC, 4.0)], [221, 123, 225])
    shuffled = control.with_shuffled_groups(targets, rng())
    told = dict(zip(shuffled.id.tolist(), shuffled.space_group.tolist(), strict=True))
    own = dict(zip(targets.id.tolist(), targets.space_group.tolist(), strict=True))
    assert set(told) == set(own) and all(told[name] != own[name] for name in own)
    # two positions of one atom each are not in every group: Fd-3m has none of multiplicity 1
    alone = control.with_shuffled_groups(table([tungsten(FCC, 4.0), caesium_chloride()], [225, 227]), rng())
    assert alone.id.tolist() == ["c1"] and alone.space_group.tolist() == [225]


def test_obtained_groups_depend_on_the_tolerance_and_on_validity():
    targets = table([caesium_chloride()] * 3, [221] * 3)
    bent = caesium_chloride(4.03)  # tetragonal at 0.01 Å, cubic at 0.1 Å
    crushed = Structure(Lattice.cubic(1.0), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    volumes = np.full(119, 32.0)
    cases = {"row": (targets, np.full(3, 221), [caesium_chloride(), bent, crushed])}
    found = control.obtained_groups(cases, dict.fromkeys(targets.id, 221), volumes)
    assert found["group_0.01"].tolist() == [221, 123, 0] and found["group_0.1"].tolist() == [221, 221, 0]
    assert found.valid.tolist() == [True, True, False]
    rates = control.group_control(found).set_index("symprec")
    assert rates.obtained.tolist() == pytest.approx([1 / 3, 2 / 3]) and (rates.n == 3).all()


def test_supergroups_of_the_told_group_stand_apart_and_absent_rows_obtain_nothing():
    targets = table([caesium_chloride(4.4)] * 2, [123] * 2)
    made = [caesium_chloride(), caesium_chloride(4.4)]
    cases = {"told": (targets, np.full(2, 123), made), "absent": (targets, np.zeros(2, int), made)}
    found = control.obtained_groups(cases, dict.fromkeys(targets.id, 123), np.full(119, 33.0))
    rates = control.group_control(found).drop_duplicates("row").set_index("row")
    assert rates.loc["told", ["obtained", "supergroup", "own"]].tolist() == [0.5, 0.5, 0.5]
    assert np.isnan(rates.loc["absent", "obtained"]) and rates.loc["absent", "own"] == 0.5
    counts = control.group_relations(found)
    assert counts.n.sum() == 2 * len(found)
    figures.groups_obtained(counts)


def test_relaxed_groups_are_those_of_the_first_structures():
    targets = table([tungsten(BCC, 3.1), tungsten(BCC, 3.3), tungsten(BCC, 3.3)])
    cases = {"row": (targets, np.full(3, 229), [tungsten(BCC, 3.0), None, tungsten(BCC, 3.2)])}
    settings = {"n_workers": 1, "fmax": 0.2, "max_steps": 30, "keep_symmetry": False}
    found = control.obtained_groups(cases, dict.fromkeys(targets.id, 229), VOLUMES, 2, **settings)
    assert found["group_0.01"].tolist() == [229, 0] and found.target.tolist() == ["c0", "c1"]
    assert (found.when == control.RELAXED).all()


def test_each_target_is_asked_for_every_energy():
    asked = control.at_energies(table([caesium_chloride(), tungsten(FCC, 4.0)], energy=[-1.0, 0.5]), [0.0, 0.25])
    assert asked.formation_energy.tolist() == [-1.0, -0.75, 0.5, 0.75]
    assert asked.id.tolist() == ["c0", "c0", "c1", "c1"]


def test_within_compositions_constants_drop_out_and_noise_has_no_slope():
    asked = np.tile([0.0, 0.1, 0.2, 0.3], (60, 1))
    formulas = np.arange(60).astype(str)
    offsets = 5 * rng().normal(size=(60, 1))
    half = control.within_compositions(asked, 0.5 * asked + offsets, formulas)
    assert half["slope"].value == pytest.approx(0.5) and half["spearman"].value == pytest.approx(1.0)
    noise = rng().normal(size=asked.shape) + offsets
    none = control.within_compositions(asked, noise, formulas)
    assert none["slope"].ci_low < 0 < none["slope"].ci_high and none["spearman"].ci_low < 0 < none["spearman"].ci_high


def test_within_compositions_missing_energies_are_left_out_and_constants_count_as_no_answer():
    asked = np.tile([0.0, 0.1, 0.2], (3, 1))
    obtained = np.array([[0.0, np.nan, 0.2], [np.nan, np.nan, 1.0], [1.0, 1.0, 1.0]])
    found = control.within_compositions(asked, obtained, np.array(["a", "b", "c"]))
    assert found["spearman"].n == 2 and found["spearman"].value == pytest.approx(0.5)
    assert found["slope"].value == pytest.approx(0.5)


def test_across_compositions_rank_and_slope_with_intervals():
    asked = np.linspace(-2, 0, 40)
    formulas = np.arange(40).astype(str)
    obtained = 0.8 * asked + 0.05 * rng().normal(size=40)
    obtained[3] = np.nan
    found = control.across_compositions(asked, obtained, formulas)
    assert found["slope"].ci_low < 0.8 < found["slope"].ci_high and found["slope"].n == 39
    assert 0.95 < found["spearman"].ci_low <= found["spearman"].value <= 1
    shuffled = control.across_compositions(rng().permutation(asked), obtained, formulas)
    assert shuffled["spearman"].ci_low < 0 < shuffled["spearman"].ci_high


def test_across_compositions_of_nothing_has_no_numbers():
    found = control.across_compositions(np.zeros(2), np.full(2, np.nan), np.array(["a", "b"]))
    assert found["slope"].n == 0 and np.isnan(found["spearman"].value)


def test_mean_response_is_that_of_complete_targets():
    asked = np.array([[0.0, 0.2], [1.0, 1.2]])
    means = control.mean_response(asked, np.array([[0.0, 0.1], [np.nan, 3.0]]), np.array(["a", "b"]))
    assert means.asked.tolist() == pytest.approx([-0.1, 0.1])
    assert means.obtained.tolist() == pytest.approx([-0.05, 0.05])
    turned = control.mean_response(asked[:, ::-1], np.array([[0.1, 0.0]] * 2), np.array(["a", "b"]))
    assert turned.obtained.tolist() == pytest.approx([-0.05, 0.05]), "by the asked energy, not by the request's place"
    figures.energy_response(means.assign(row="row", told="asked"))


def test_relaxed_answers_are_compared_with_the_relaxed_start(tmp_path):
    x_0 = table([tungsten(FCC, 4.05), Structure(Lattice.cubic(0.7), ["W"], [[0, 0, 0]])])
    answers = {
        "bcc": [tungsten(BCC, 3.1), tungsten(BCC, 3.1)],
        "as it is": [tungsten(FCC, 3.95), None],
        "nothing": [None, None],
    }
    settings = {"n_workers": 1, "fmax": 0.1, "max_steps": 60, "keep_symmetry": False, "finished": tmp_path}
    ended = control.relaxed_energies(x_0, answers, VOLUMES, **settings)
    assert set(ended.init) == {"c0"}, "the second start is no crystal"
    change = ended.set_index("row").change
    assert change["bcc"] < -0.05 and abs(change["as it is"]) < 0.01 and np.isnan(change["nothing"])
    assert ended.set_index("row").reason["nothing"] == "no valid cell"
    assert len(list(tmp_path.glob("*.json"))) == 3, "equal structures are relaxed once"


def test_improvements_beyond_the_resolution_are_paired_with_the_lookup():
    formulas = np.arange(40).astype(str)

    def row(name, change):
        return pd.DataFrame({"row": name, "init": formulas, "formula": formulas, "reason": "", "change": change})

    model = np.r_[np.full(30, -0.05), np.full(5, -0.005), np.full(4, 0.02), np.nan]
    outcome = pd.concat([row("model", model), row("lookup", np.full(40, -0.009))])
    found = control.improvement_table(outcome, 0.01, "lookup").set_index("row")
    line = found.loc["model"]
    assert (line.lower, line.higher, line.relaxed, line.n) == (0.75, 0.1, 0.975, 40)
    assert line.difference == 0.75 and line.verdict == "more" and found.loc["lookup", "lower"] == 0
    assert line.change_meV == pytest.approx(1000 * np.nanmean(model))
    figures.improvements(found.reset_index(), 0.01)
    figures.improvements(control.improvement_table(outcome[:0], 0.01, "lookup"), 0.01)
