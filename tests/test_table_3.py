"""Table 3: candidates above and below the hull."""

import numpy as np
import pandas as pd
import pytest
from conftest import table
from pymatgen.core import Lattice, Structure

from lib.core import published
from lib.core.published import PAPERS_HULL
from lib.core.stats import Rate
from lib.energies.hull import UNKNOWN, Hull, Resolution
from lib.studies.grid import NO_EXPERIMENT
from lib.studies.table_3 import (
    best_distances,
    beyond_known,
    in_place,
    known_distances,
    lowest_candidates,
    table_3,
    why_empty,
)

CHGNET = Resolution(Rate(0.05, 0.02, 0.08, 10), Rate(-0.01, -0.109, 0.089, 10))  # too low by 10 meV on average
FINE = {"VASP": Resolution.of_scatter(0.012), "CHGNet": CHGNET}


def test_the_papers_counts_reconcile():
    finds = published.distances().query("distance < 0")
    assert len(finds) == 8  # "four confident ... and four uncertain", conclusion
    assert sorted(finds["distance"]) == [-5.497, -5.426, -4.852, -1.409, -0.483, -0.466, -0.387, -0.042]
    assert (finds["called"] == "confident").sum() == 4  # "4 structures ... significantly lower", section 7.2
    assert len(finds.drop_duplicates(["method", "experiment", "formula"])) == 6  # "6 structures", introduction
    assert len(published.TABLE_3) == 6 and sum(len(row) for row in published.TABLE_3.values()) == 18
    assert published.reconciled_counts()["count in Table 3"].tolist() == [6, 4, 4, 8]


def test_what_a_find_has_to_beat():
    species = [["Al"], ["Cu"], ["Al", "Cu"], ["Al", "Al", "Al", "Cu"]]
    line = [[0, 0, x] for x in (0, 0.25, 0.5, 0.75)]
    cells = [Structure(Lattice.cubic(9), names, line[: len(names)]) for names in species]
    crystals = table(cells, energy=[0.0, 0.0, -0.2, -0.05])
    hull = Hull.from_table(crystals, ["Al", "Cu"])
    assert known_distances(crystals, hull, ["Al3Cu", "AlCu3", "CuAl"]) == pytest.approx({"Al3Cu": 0.05, "CuAl": 0.0})


@pytest.fixture
def cells() -> pd.DataFrame:
    diffusion, random = ("ddim", "step 0.01, gap 0"), ("random", NO_EXPERIMENT)
    requests = pd.DataFrame(
        [
            ("TaWB6", *diffusion, "judged", 0.02, "CHGNet"),
            ("TaW2B5", *diffusion, "invalid: atoms too close", np.nan, "CHGNet"),
            ("TaWB6", *diffusion, "judged", -0.05, "CHGNet"),
            ("TaWB6", *diffusion, "failed: not converged in 9 steps", -5.0, "CHGNet"),
            ("Ta2WB5", *diffusion, "judged", -0.3, "CHGNet"),
            ("Ta2WB5", *diffusion, "judged", 0.031, "VASP"),
            ("TaWB6", *random, "failed: atoms too close", np.nan, "CHGNet"),
            ("TaW2B5", *random, "generated", np.nan, "CHGNet"),
        ],
        columns=["formula", "method", "experiment", "status", "distance", "source"],
    ).assign(**{"known as": "", "same as": ""})
    requests["id"] = requests.index.map(str)
    return best_distances(
        requests, ["TaWB6", "TaW2B5", "Ta2WB5"], {"VASP": Resolution.of_scatter(0.012), "CHGNet": CHGNET}
    )


def test_cells_of_table_3(cells):
    says = cells.set_index(["method", "formula"])["says"]
    assert says["ddim", "TaWB6"] == "unresolved"  # 50 meV below the hull, less than the potential's error
    assert says["ddim", "Ta2WB5"] == "above the hull"  # VASP's 31 meV stands instead of the potential's -300
    assert says["ddim", "TaW2B5"] == "no valid structure (n = 1)"
    assert says["random", "TaWB6"] == "none left after relaxation (atoms too close; n = 1)"
    assert says["random", "TaW2B5"] == "none pre-optimised"
    assert says["random", "Ta2WB5"] == "not asked"
    assert cells.set_index(["method", "formula"]).loc[("ddim", "TaWB6"), ["distance", "n"]].tolist() == [-0.05, 2]


def test_a_crystal_counts_in_every_experiment_that_gave_it():
    """Its second request is a duplicate, and still what the second experiment found; a third in one cell is not."""
    asked = pd.DataFrame({"id": list("abcd"), "formula": "TaWB6", "method": "ddim", "same as": ["", "a", "", "a"]})
    asked = asked.assign(experiment=["one", "two", "two", "two"], status=["judged", "duplicate", "judged", "duplicate"])
    asked = asked.assign(distance=[-0.3, np.nan, 0.4, np.nan], source="VASP", **{"known as": ""})
    cells = best_distances(asked, ["TaWB6"], {"VASP": Resolution.of_scatter(0.012)})
    assert cells["distance"].tolist() == [-0.3, -0.3] and cells["n"].tolist() == [1, 2]


def test_what_the_data_hold_is_no_find():
    asked = pd.DataFrame({"formula": ["TaWB6"], "method": "ddim", "experiment": "step 0.01, gap 0", "status": "known"})
    asked = asked.assign(id="a", distance=-0.3, source="VASP", **{"known as": "mp-1", "same as": ""})
    cell = best_distances(asked, ["TaWB6"], {"VASP": Resolution.of_scatter(0.012)}).iloc[0]
    assert cell["says"] == "known as mp-1" and cell["distance"] == -0.3


def test_table_3_in_the_papers_layout(cells):
    rows = table_3(cells, {"TaWB6": 0.0038}, "CHGNet")
    assert rows["method"].tolist() == [
        "Diffusion", "Random (baseline)", "Lowest crystal of the data (baseline)",
    ]  # fmt: skip
    diffusion = rows.iloc[0]
    assert diffusion[f"TaWB6, published ({PAPERS_HULL})"] == "10.41"
    assert diffusion["TaWB6, ours"] == "-50.0 (-139 to +59): unresolved (CHGNet, n = 2)"
    assert diffusion["Ta2WB5, ours"] == "+31.0 (+7 to +55): above the hull (VASP, n = 1)"
    assert diffusion["TaW2B5, ours"] == "no valid structure (n = 1)"
    assert rows.iloc[2]["TaWB6, ours"] == "+3.8 (CHGNet)"
    assert "below the hull" not in rows.to_string()


def test_a_cell_lists_all_that_lies_below_the_hull(cells):
    asked = pd.DataFrame(
        {"formula": "TaWB6", "method": "ddim", "experiment": "step 0.01, gap 0", "status": "judged"}, range(4)
    )
    asked = asked.assign(
        distance=[-0.2, -0.15, -0.05, 0.3], source="CHGNet", id=list("abcd"), **{"known as": "", "same as": ""}
    )
    cell = best_distances(asked, ["TaWB6"], {"CHGNet": CHGNET})
    assert cell.finds.tolist() == ["-200.0 / -150.0"] and cell.says.tolist() == ["below the hull"]
    assert "n = 4, all below the hull: -200.0 / -150.0)" in table_3(cell, {}, "").iloc[0]["TaWB6, ours"]
    known = best_distances(asked.assign(**{"known as": ["mp-1", "", "", ""]}), ["TaWB6"], {"CHGNet": CHGNET})
    assert known.finds.tolist() == ["-150.0"] and known.says.tolist() == ["known as mp-1"]
    unknown = best_distances(asked, ["TaWB6"], {"CHGNet": UNKNOWN})
    assert "-200.0 (error not known): unresolved" in table_3(unknown, {}, "").iloc[0]["TaWB6, ours"]


def test_published_row_with_several_finds(cells):
    flow = cells.assign(method="cfm_uniform")
    assert table_3(flow, {}, "").iloc[0][f"TaW2B5, published ({PAPERS_HULL})"] == "-0.483 / -0.466 / -0.387"


def test_why_empty_counts_requests():
    assert why_empty(pd.DataFrame({"status": ["invalid: no valid cell"] * 3})) == "no valid structure (n = 3)"


def test_lowest_candidates_take_turns_and_say_what_they_may():
    candidates = pd.DataFrame(
        {
            "id": list("abcd"),
            "formula": ["TaWB6", "TaWB6", "TaW2B5", "TaW2B5"],
            "method": "ddim",
            "experiment": "step 0.1, gap 0",
            "distance": [-0.2, -0.1, -0.05, -0.9],
            "source": ["CHGNet", "CHGNet", "VASP", "CHGNet"],
            "status": ["judged", "judged", "judged", "failed: atoms too close"],
            "known as": ["", "", "", ""],
            "group_0.1": 1,
            "group_0.01": 1,
        }
    )
    hull = Hull(["B", "Ta", "W"], [], [], [], "test")
    best = lowest_candidates(candidates, 2, hull, FINE)
    assert best["id"].tolist() == ["a", "c"]
    assert best["says"].tolist() == ["below the hull", "below the hull"]
    assert best["fractions"][0].tolist() == [0.75, 0.125, 0.125]
    assert lowest_candidates(candidates, 3, hull, FINE)["says"].tolist() == [
        "below the hull",
        "unresolved",
        "below the hull",
    ]
    assert set(lowest_candidates(candidates, 3, hull, dict.fromkeys(FINE, UNKNOWN))["says"]) == {"unresolved"}
    assert lowest_candidates(candidates.iloc[3:], 3, hull, {}).empty


def test_a_finer_potential_takes_the_place_of_the_fast_one():
    groups = {
        "group_0.1": 1,
        "group_0.01": 1,
        "known as": "",
        "same as": "",
        "formula": "TaWB6",
        "method": "ddim",
        "experiment": "x",
    }
    fast = pd.DataFrame({"id": list("abc"), "distance": [-0.2, -0.1, 0.1], "source": "CHGNet", "status": "judged"})
    fast = fast.assign(**groups, formation_energy=-0.5)
    fine = fast.iloc[[1, 2]].assign(distance=[0.03, 0.01], source="fine", status=["judged", "failed: atoms too close"])
    both = in_place(fast, fine)
    assert both["distance"].tolist() == [-0.2, 0.03, 0.1] and both["source"].tolist() == ["CHGNet", "fine", "CHGNet"]
    assert both["status"].tolist() == ["judged"] * 3 and both["group_0.1"].dtype == fast["group_0.1"].dtype
    resolutions = {"fine": Resolution.of_scatter(0.005), "CHGNet": CHGNET}
    cell = best_distances(both, ["TaWB6"], resolutions).iloc[0]
    assert cell["says"] == "above the hull" and cell["n"] == 1, "what the fast one says no longer counts"
    hull = Hull(["B", "Ta", "W"], [], [], [], "test")
    assert lowest_candidates(both, 3, hull, resolutions)["id"].tolist() == ["b"]
    cells = pd.DataFrame([cell])
    assert beyond_known(cells, {"TaWB6": 0.02}, "fine") == pytest.approx(0.01)
    assert np.isnan(beyond_known(cells, {"TaWB6": 0.02}, "CHGNet")) and np.isnan(beyond_known(cells, {}, "fine"))
