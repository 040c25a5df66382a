import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from lib.conditions import (
    as_targets,
    asked_energies,
    assess,
    evenly,
    experiment_name,
    funnel,
    generated_table,
    judge_relaxations,
    known_twins,
    lowest_candidates,
    modification_outcome,
    modification_pairs,
    modification_scores,
    obedience,
    obtained_space_group,
    potential_error,
    random_requests,
    read_reference_phases,
    reason_invalid,
    relaxation_scores,
    request_grid,
    slice_requests,
)
from lib.crystals import CrystalTable
from lib.hull import METHODS, RANDOM, Hull
from lib.params import InferenceParams
from lib.published import TABLE_3
from lib.relaxation import Relaxation
from lib.run import ROOT, BadInput, validated
from lib.sources.embedded import EMBEDDED
from lib.sources.files import read_csv
from lib.stability import scale_of

PAPERS_GROUPS = [6, 8, 10, 12, 25, 35, 44, 47, 65, 71, 99, 119, 123, 129, 139, 160, 166, 216, 225]
HULL = {"TaWB6": -0.3993, "TaW2B5": -0.47, "Ta2WB5": -0.59}
EXPERIMENTS = [(0.0, 0.01), (0.0, 0.1), (1.0, 0.01)]
SHARED = Path(os.environ.get("CRYSTAL_SHARED", ROOT.parent / "shared"))
TA_W_B = SHARED / "data" / "ta_w_b" / "energies.csv"
VOLUMES = np.full(119, 15.0)


@pytest.fixture(scope="module")
def grid() -> pd.DataFrame:
    return request_grid(HULL, PAPERS_GROUPS, experiments=EXPERIMENTS, methods=["ddim", "cfm_uniform"], n_energies=21)


def rock_salt(a: float, *symbols: str) -> Structure:
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return Structure(Lattice.cubic(a), np.repeat(symbols, 4).tolist(), np.concatenate([fcc, fcc + 0.5]) % 1)


def table(structures: dict[str, Structure], energies: list[float]) -> CrystalTable:
    return CrystalTable.from_structures(
        structures.values(), id=list(structures), formation_energy=energies, energy_kind="test"
    )


# ---------------------------------------------------------------------------------------------- what is asked


def test_energies_go_by_integer_count():
    assert asked_energies(-0.3993, 1.0, 0.01, 21)[[0, 1, 20]] == pytest.approx([-1.3993, -1.4093, -1.5993])
    starts = -np.arange(1, 4002) / 10000
    assert {len(asked_energies(start, 0.0, 0.01, 21)) for start in starts} == {21}
    assert {len(np.arange(start - 1, start - 3.1, -0.1)) for start in starts} == {21, 22}  # why not arange


def test_grid_has_the_papers_size(grid):
    assert len(grid) == 7182
    assert (grid.groupby(["formula", "experiment", "method"]).size() == 399).all()  # the paper's text says 380
    assert grid["id"].is_unique
    first = grid[(grid["formula"] == "TaWB6") & (grid["experiment"] == "step 0.01, gap 1")]
    assert (first["energy"].max(), first["energy"].min()) == pytest.approx((-1.3993, -1.5993))
    assert grid["species"].iloc[0].tolist() == [5] * 6 + [73, 74]  # B, Ta, W


def test_impossible_requests_are_marked(grid):
    allowed = grid.drop_duplicates(["formula", "space_group"]).set_index(["formula", "space_group"])["allowed"]
    # per primitive cell F-43m has four positions of one atom and free ones of four atoms and more
    assert allowed["TaWB6", 216]  # 1 + 1 + 6
    assert allowed["TaW2B5", 216]  # 1 + (1 + 1) + (1 + 4)
    # and Fm-3m two of one atom, one of two, one of six and free ones of six and more
    assert allowed["TaWB6", 225]  # 1 + 1 + 6
    assert not allowed["TaW2B5", 225]  # no five
    assert allowed.xs(6, level="space_group").all()  # Pm: mirror planes take any number


def test_grid_refuses_what_does_not_exist():
    settings = {"experiments": EXPERIMENTS, "methods": ["ddim"], "n_energies": 2}
    with pytest.raises(BadInput, match="space group 231"):
        request_grid(HULL, [225, 231], **settings)
    with pytest.raises(BadInput, match="Xx"):
        request_grid({"TaXx2": 0.0}, [225], **settings)


def test_parameters_name_what_is_wrong():
    with pytest.raises(BadInput, match=r"'space_groups.1' of 07_inference_wbta got 231: .* less than or equal to 230"):
        validated(InferenceParams, {"space_groups": [225, 231]})
    with pytest.raises(BadInput, match="did you mean 'max_requests'"):
        validated(InferenceParams, {"max_request": 10})


def test_slice_is_even_seeded_and_the_same_for_all_methods(grid):
    part = slice_requests(grid, 90, np.random.default_rng(1))
    assert (part.groupby(["formula", "experiment", "method"]).size() == 5).all()
    assert part["allowed"].all()
    keys = ["formula", "experiment", "space_group", "energy"]
    one, other = (part[part["method"] == method][keys].reset_index(drop=True) for method in ("ddim", "cfm_uniform"))
    pd.testing.assert_frame_equal(one, other)
    assert part["id"].tolist() == slice_requests(grid, 90, np.random.default_rng(1))["id"].tolist()
    assert part["id"].tolist() != slice_requests(grid, 90, np.random.default_rng(2))["id"].tolist()
    assert len(slice_requests(grid, None, np.random.default_rng(1))) == 7182
    odd = slice_requests(grid, 95, np.random.default_rng(1)).groupby(["formula", "experiment", "method"]).size()
    assert odd.sum() == 95 and odd.max() - odd.min() == 1


def test_evenly_takes_the_best_of_each_group_first():
    rows = pd.DataFrame({"kind": list("aaab"), "energy": [3.0, 1.0, 2.0, 9.0]})
    assert evenly(rows, 3, ["kind"], rows["energy"].to_numpy()).index.tolist() == [1, 2, 3]
    assert evenly(rows, None, ["kind"], rows["energy"].to_numpy()).equals(rows)
    assert evenly(rows.iloc[:0], 3, ["kind"], np.zeros(0)).empty


def test_random_baseline_gets_the_same_conditions_once(grid):
    part = slice_requests(grid, 36, np.random.default_rng(0))
    baseline = random_requests(part)
    assert len(baseline) == 18 and set(baseline["method"]) == {RANDOM} and baseline["id"].is_unique
    targets = as_targets(baseline)
    assert targets.reduced_formula.tolist() == [{"TaWB6": "TaB6W"}.get(f, f) for f in _reduced(baseline["formula"])]
    assert targets.n_sites.tolist() == [8] * 18


def _reduced(formulas: pd.Series) -> list[str]:
    return ["TaB6W" if f == "TaWB6" else {"TaW2B5": "TaB5W2", "Ta2WB5": "Ta2B5W"}[f] for f in formulas]


def test_modification_pairs_go_to_the_lowest():
    structures = {f"NaCl{a}": rock_salt(a, "Na", "Cl") for a in (5.5, 5.6, 5.7)} | {
        f"KCl{a}": rock_salt(a, "K", "Cl") for a in (6.2, 6.3, 6.4)
    }
    crystals = table(structures, [-2.0, -2.2, -2.1, -2.5, -2.4, -2.3])
    init, target = modification_pairs(crystals, None, np.random.default_rng(0))
    assert sorted(zip(crystals.id[init], crystals.id[target], strict=True)) == [
        ("KCl6.3", "KCl6.2"), ("KCl6.4", "KCl6.2"), ("NaCl5.5", "NaCl5.6"), ("NaCl5.7", "NaCl5.6"),
    ]  # fmt: skip
    init, target = modification_pairs(crystals, 2, np.random.default_rng(0))
    assert set(crystals.formula[init]) == {"Cl4Na4", "Cl4K4"}


# --------------------------------------------------------------------------------------------- what comes of it


def test_reasons_against_going_on():
    good = Structure(Lattice.cubic(3.3), ["Ta", "W"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert reason_invalid(good, VOLUMES) == ""
    assert reason_invalid(None, VOLUMES) == "no valid cell"
    swollen, crushed = good.copy(), good.copy()
    swollen.scale_lattice(2 * good.volume)
    crushed.scale_lattice(1e-6)
    assert reason_invalid(swollen, VOLUMES) == reason_invalid(crushed, VOLUMES) == "volume outside the window"
    close = Structure(Lattice.cubic(3.3), ["Ta", "W"], [[0, 0, 0], [0.49, 0.0, 0.0]])  # 1.62 Å, sum of radii 3.32 Å
    assert reason_invalid(close, VOLUMES) == "atoms too close"
    assert reason_invalid(close, VOLUMES, min_distance=0.45) == ""
    same_place = Structure(Lattice.cubic(3.3), ["Ta", "W"], [[0, 0, 0], [0, 0, 0]])
    assert reason_invalid(same_place, VOLUMES) == "atoms too close"
    image = Structure(Lattice.orthorhombic(1.0, 6.0, 6.0), ["Ta", "W"], [[0, 0, 0], [0, 0.5, 0.5]])  # its own image
    assert reason_invalid(image, VOLUMES) == "atoms too close"


def test_space_groups():
    assert obtained_space_group(rock_salt(5.6, "Na", "Cl"), 0.01) == 225
    moved = rock_salt(5.6, "Na", "Cl")
    moved.translate_sites([0], [0.005, 0, 0])  # 0.03 Å
    assert (obtained_space_group(moved, 0.1), obtained_space_group(moved, 0.01)) == (225, 99)
    assert obtained_space_group(Structure(Lattice.cubic(3), ["W", "W"], [[0, 0, 0]] * 2), 0.1) == 1


@pytest.fixture
def outcome() -> pd.DataFrame:
    requests = pd.DataFrame(
        {
            "id": list("abcdef"),
            "formula": "NaCl",
            "species": [np.array([17] * 4 + [11] * 4)] * 6,
            "space_group": [225, 225, 216, 225, 225, 225],
            "energy": -2.0,
            "experiment": "step 0.1, gap 0",
            "method": ["ddim"] * 4 + ["cfm_uniform"] * 2,
            "allowed": [True, True, True, False, True, True],
        }
    )
    salt, caesium = rock_salt(5.6, "Na", "Cl"), rock_salt(5.9, "Na", "Cl")
    shifted = salt.copy().translate_sites(range(8), [0.2, 0.3, 0.1])
    return assess(requests, [salt, shifted, caesium, None, salt, None], np.full(119, 22.0))


def test_what_came_of_the_requests(outcome):
    assert outcome["reason"].tolist() == ["", "", "", "no valid cell", "", "no valid cell"]
    assert outcome["group_0.01"].tolist() == [225, 225, 225, 0, 225, 0]
    assert outcome["unique"].tolist() == [True, False, True, False, True, False]  # b is a, moved; methods apart
    counts = funnel(outcome)
    assert counts.loc["ddim", ["asked", "no valid cell", "valid", "unique"]].tolist() == [4, 1, 3, 2]
    assert funnel(outcome[outcome["reason"] != ""])["valid"].tolist() == [0, 0]


def test_obedience(outcome):
    outcome["formation_energy"] = [-1.5, -1.5, -2.25, np.nan, np.nan, np.nan]
    scores = obedience(outcome).set_index(["method", "score"])
    assert scores.loc[("ddim", "valid"), ["value", "n"]].tolist() == [0.75, 4]
    assert scores.loc[("ddim", "asked space group, symprec 0.01"), ["value", "n"]].tolist() == pytest.approx([2 / 3, 3])
    assert scores.loc[("ddim", "|energy - asked| (eV/atom)"), ["value", "n"]].tolist() == pytest.approx([1.25 / 3, 3])
    assert scores.loc[("cfm_uniform", "|energy - asked| (eV/atom)"), "n"] == 0
    known = scores.dropna()
    assert len(known) >= 6 and (known["ci_low"] <= known["value"]).all() and (known["value"] <= known["ci_high"]).all()


def test_known_twins():
    crystals = table({"salt": rock_salt(5.6, "Na", "Cl"), "big": rock_salt(6.4, "Na", "Cl")}, [-2.0, -1.9])
    moved = rock_salt(5.62, "Na", "Cl").translate_sites(range(8), [0.1, 0, 0])
    primitive = rock_salt(6.38, "Na", "Cl").get_primitive_structure()
    other = rock_salt(5.6, "K", "Cl")
    assert known_twins([moved, primitive, other], crystals, n_workers=1) == ["salt", "big", ""]
    assert known_twins([other], crystals, n_workers=1) == [""]


# ------------------------------------------------------------------------------------------- reference energies


@pytest.mark.skipif(not TA_W_B.exists(), reason=f"{TA_W_B} is not here")
def test_reference_phases():
    phases = read_reference_phases(TA_W_B, ["B", "Ta", "W"])
    energies = dict(zip(phases.id, phases.formation_energy, strict=True))
    assert energies["mp-1108"] == pytest.approx(-0.65189, abs=1e-5)  # TaB2
    assert dict(zip(phases.id, phases.space_group, strict=True))["mp-1108"] == 191
    assert (phases.reduced_formula == "TaB2").sum() == 1
    assert "mp-91" not in energies  # tungsten
    assert set(read_reference_phases(TA_W_B, ["B", "W"]).species) == {5, 74}


def test_reference_phases_need_crystals(tmp_path):
    (tmp_path / "energies.csv").write_text("material_id,formula,e_form\nmp-1,TaB2,-0.6\n")
    with pytest.raises(BadInput, match="put <material_id>.cif files there"):
        read_reference_phases(tmp_path / "energies.csv", ["B", "Ta"])
    (tmp_path / "energies.csv").write_text("formula,energy\nTaB2,-0.6\n")
    with pytest.raises(BadInput, match="material_id"):
        read_reference_phases(tmp_path / "energies.csv", ["B", "Ta"])


def test_published_experiments_are_those_that_run():
    assert {experiment for _, experiment in TABLE_3} == {experiment_name(*e) for e in EXPERIMENTS}
    assert {method for method, _ in TABLE_3} == set(METHODS)


@pytest.mark.skipif(not TA_W_B.exists(), reason=f"{TA_W_B} is not here")
def test_the_potentials_error_is_what_the_project_says():
    scale = scale_of(CrystalTable.from_parquet(EMBEDDED), ["TaW2B5"], relax=True, rng=np.random.default_rng(0))
    measured, errors = potential_error(TA_W_B, ["B", "Ta", "W"], scale, "chgnet", n_workers=1)
    stated, _ = potential_error(None, ["B", "Ta", "W"], scale, "chgnet", n_workers=1)
    assert measured.loc["chgnet", "error"] == pytest.approx(stated.loc["chgnet", "error"], abs=0.001)
    assert measured.loc["chgnet", "n"] == stated.loc["chgnet", "n"] == len(errors)
    for end in ("ci_low", "ci_high"):
        assert measured.loc["chgnet", end] == pytest.approx(stated.loc["chgnet", end], abs=0.001)
    assert len(errors) == 10 and (errors["error"].abs() < 0.14).all()


@pytest.mark.skipif(not TA_W_B.exists(), reason=f"{TA_W_B} is not here")
def test_known_compounds_are_no_finds_by_a_potential_on_its_own_scale():
    """Single points of CHGNet on a hull of DFT energies put known compounds 100 meV/atom and more below it."""
    names = read_csv(TA_W_B, ["material_id", "formula", "e_form"]).drop_duplicates("material_id")
    cifs = {name: TA_W_B.parent / "cifs" / f"{name}.cif" for name in names["material_id"]}
    rows = names[[bool(name) and cifs[name].is_file() for name in names["material_id"]]]
    table = CrystalTable.from_structures(
        [Structure.from_file(cifs[name]) for name in rows["material_id"]],
        id=rows["material_id"].tolist(),
        formation_energy=rows["e_form"].astype(float).tolist(),
        energy_kind="DFT",
    )
    scale = scale_of(table, ["TaW2B5"], relax=False, rng=np.random.default_rng(0), n_workers=1)
    mixed, hull = (Hull.from_table(t, ["B", "Ta", "W"]) for t in (table, scale.known))
    energies = scale.known.formation_energy
    assert min(map(mixed.energy_above_hull, scale.known.reduced_formula, energies)) < -0.1, "what two kinds would say"
    distances = [
        hull.energy_above_hull(*pair, hull.energy_kind)
        for pair in zip(scale.known.reduced_formula, energies, strict=True)
    ]
    assert min(distances) > -1e-9 and len(scale.known) >= 13
    with pytest.raises(BadInput, match="one method"):
        mixed.energy_above_hull("TaB2", -0.8, hull.energy_kind)
    assert 0.01 < scale.resolution.ci_high < 0.15 and scale.resolution.n >= 10


def test_lowest_candidates_take_turns_and_say_what_they_may():
    candidates = pd.DataFrame(
        {
            "id": list("abcd"),
            "formula": ["TaWB6", "TaWB6", "TaW2B5", "TaW2B5"],
            "method": "ddim",
            "experiment": "step 0.1, gap 0",
            "distance": [-0.2, -0.1, -0.05, -0.9],
            "source": ["CHGNet", "CHGNet", "VASP", "CHGNet"],
            "failure": ["", "", "", "atoms too close"],
            "known as": ["", "", "", ""],
            "group_0.1": 1,
            "group_0.01": 1,
        }
    )
    hull = Hull(["B", "Ta", "W"], [], [], [])
    best = lowest_candidates(candidates, 2, hull, {"VASP": 0.024, "CHGNet": 0.1})
    assert best["id"].tolist() == ["a", "c"]
    assert best["says"].tolist() == ["below the hull", "below the hull"]
    assert best["fractions"][0].tolist() == [0.75, 0.125, 0.125]
    assert (
        lowest_candidates(candidates, 3, hull, {"VASP": 0.024, "CHGNet": 0.1})["says"].tolist()[1] == "below the hull"
    )
    assert lowest_candidates(candidates, 3, hull, {"VASP": 0.1, "CHGNet": 0.3})["says"].unique().tolist() == [
        "unresolved"
    ]
    assert lowest_candidates(candidates.iloc[3:], 3, hull, {}).empty


def test_relaxations_are_judged():
    good = Structure(Lattice.cubic(3.3), ["Ta", "W"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    close = Structure(Lattice.cubic(3.3), ["Ta", "W"], [[0, 0, 0], [0.6, 0.0, 0.0]])  # 1.32 Å
    asked = pd.DataFrame(
        {"id": list("abc"), "formula": "TaW", "space_group": 221, "formation_energy": 9.0}, index=[4, 2, 7]
    )
    results = [
        Relaxation(good, -12.5, -12.0, 7, 0.05, 0.1),
        Relaxation(close, -12.5, -12.0, 7, 0.05, 0.1),
        Relaxation(good, -12.5, -12.0, 9, 0.5, 0.1, "not converged in 9 steps"),
    ]
    judged = judge_relaxations(asked, results, {"Ta": -11.8, "W": -12.8}, VOLUMES)
    assert judged["failure"].tolist() == ["", "atoms too close", "not converged in 9 steps"]
    assert judged.loc[4, ["start_energy", "formation_energy"]].tolist() == pytest.approx([0.3, -0.2])
    assert judged["group_0.01"].tolist() == [221, 0, 0] and judged.index.tolist() == [4, 2, 7]
    assert judge_relaxations(asked.iloc[:0], [], {}, VOLUMES).empty
    scores = relaxation_scores(judged.assign(method="ddim")).set_index("score")
    assert scores.loc["usable", ["value", "n"]].tolist() == pytest.approx([1 / 3, 3])
    assert scores.loc["energy gained (eV/atom)", ["value", "n"]].tolist() == pytest.approx([0.5, 1])


def test_tables_keep_what_was_asked(outcome, tmp_path):
    outcome["formation_energy"] = -1.0
    salt = rock_salt(5.6, "Na", "Cl")
    found = generated_table(outcome, [salt] * 6, "chgnet")
    again = CrystalTable.from_parquet(found.to_parquet(tmp_path / "generated.parquet"))
    assert again.id.tolist() == ["a", "b", "c", "e"] and again.extra["asked_space_group"].tolist() == [
        225,
        225,
        216,
        225,
    ]
    empty = generated_table(outcome[outcome["reason"] != ""], [], "chgnet")
    assert len(CrystalTable.from_parquet(empty.to_parquet(tmp_path / "empty.parquet"))) == 0


def test_modification_is_measured_against_leaving_alone(monkeypatch):
    crystals = table({f"NaCl{a}": rock_salt(a, "Na", "Cl") for a in (5.4, 5.6, 5.8)}, [-1.5, -2.0, -1.8])
    monkeypatch.setattr("lib.conditions.formation_energies", _energy_by_volume)
    x_0, x_1 = crystals.take([0, 2]), crystals.take([1, 1])
    modified = {"cfm": [rock_salt(5.5, "Na", "Cl"), None]}
    changes = modification_outcome(x_0, x_1, modified, np.full(119, 22.0))
    assert changes["reason"].tolist() == ["", "no valid cell"]
    assert changes["before"].tolist() == pytest.approx([5.4, 5.8])
    assert changes["after"].tolist() == pytest.approx([5.5, np.nan], nan_ok=True)
    scores = modification_scores(changes).set_index("method")
    assert scores.loc["cfm", ["valid", "lowered", "change"]].tolist() == pytest.approx([0.5, 0.0, 0.1])
    assert scores.loc["left as it is (baseline)", ["lowered", "change"]].tolist() == [0, 0]
    assert scores.loc["lowest known polymorph (aim)", ["lowered", "change"]].tolist() == pytest.approx([0.5, 0.0])
    assert modification_outcome(x_0.take([]), x_1.take([]), {}, np.full(119, 22.0)).empty


def _energy_by_volume(structures, **_) -> np.ndarray:
    """Cell length as energy: what is tested is which number ends up where."""
    return np.array([np.nan if s is None else s.volume ** (1 / 3) for s in structures], dtype=float)
