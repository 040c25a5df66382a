"""The requests of section 7.1."""

import numpy as np
import pandas as pd
import pytest
from conftest import named_table, rock_salt

from lib.core.errors import BadInput
from lib.core.parameters import validated
from lib.core.published import TABLE_3
from lib.studies.grid import (
    METHODS,
    as_targets,
    asked_energies,
    baseline_requests,
    evenly,
    experiment_name,
    modification_pairs,
    request_grid,
    row_labels,
    slice_requests,
)
from lib.studies.params import InferenceParams
from lib.studies.table_3 import networks

PAPERS_GROUPS = [6, 8, 10, 12, 25, 35, 44, 47, 65, 71, 99, 119, 123, 129, 139, 160, 166, 216, 225]
HULL = {"TaWB6": -0.3993, "TaW2B5": -0.47, "Ta2WB5": -0.59}
EXPERIMENTS = [(0.0, 0.01), (0.0, 0.1), (1.0, 0.01)]


@pytest.fixture(scope="module")
def grid() -> pd.DataFrame:
    return request_grid(HULL, PAPERS_GROUPS, experiments=EXPERIMENTS, methods=["ddim", "cfm_uniform"], n_energies=21)


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
    with pytest.raises(BadInput, match="'space_groups.1' .*231: .*230"):
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


def test_a_baseline_gets_the_same_conditions_once(grid):
    part = slice_requests(grid, 36, np.random.default_rng(0))
    baseline = baseline_requests(part, "random")
    assert len(baseline) == 18 and set(baseline["method"]) == {"random"} and baseline["id"].is_unique
    by = ["formula", "experiment"]
    for _, of_method in part.groupby("method"):
        assert of_method.groupby(by).size().equals(baseline.groupby(by).size()), "as many in each cell of Table 3"
    targets = as_targets(baseline)
    assert targets.reduced_formula.tolist() == [{"TaWB6": "TaB6W"}.get(f, f) for f in _reduced(baseline["formula"])]
    assert targets.n_sites.tolist() == [8] * 18


def _reduced(formulas: pd.Series) -> list[str]:
    return ["TaB6W" if f == "TaWB6" else {"TaW2B5": "TaB5W2", "Ta2WB5": "Ta2B5W"}[f] for f in formulas]


def test_modification_pairs_go_to_the_lowest():
    structures = {f"NaCl{a}": rock_salt(a, "Na", "Cl") for a in (5.5, 5.6, 5.7)} | {
        f"KCl{a}": rock_salt(a, "K", "Cl") for a in (6.2, 6.3, 6.4)
    }
    crystals = named_table(structures, [-2.0, -2.2, -2.1, -2.5, -2.4, -2.3])
    init, target = modification_pairs(crystals, None, np.random.default_rng(0))
    assert sorted(zip(crystals.id[init], crystals.id[target], strict=True)) == [
        ("KCl6.3", "KCl6.2"), ("KCl6.4", "KCl6.2"), ("NaCl5.5", "NaCl5.6"), ("NaCl5.7", "NaCl5.6"),
    ]  # fmt: skip
    init, target = modification_pairs(crystals, 2, np.random.default_rng(0))
    assert set(crystals.formula[init]) == {"Cl4Na4", "Cl4K4"}


def test_published_experiments_are_those_that_run():
    assert {experiment for _, experiment in TABLE_3} == {experiment_name(*e) for e in EXPERIMENTS}
    assert {method for method, _ in TABLE_3} == set(METHODS)


def test_table_3_and_findings_name_the_rows_of_table_1():
    models = {"ddim": "paper_ddpm", "cfm_uniform": "transformer_cfm_uniform_long"}
    labels = row_labels(models)
    assert labels["ddim"] == "Diffusion (DDIM, paper)" and labels["random"] == "Random (baseline)"
    assert labels["cfm_uniform"] == "Flow-Matching (CFM U(0,1), transformer)"
    requests = pd.DataFrame({"method": ["random", *models], "model": ["", *models.values()]})
    assert networks(requests) == f"{labels['ddim']}, {labels['cfm_uniform']}"
