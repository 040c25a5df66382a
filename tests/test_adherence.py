"""What came of the requests, beside what was asked."""

import numpy as np
import pandas as pd
import pytest
from conftest import named_table, rock_salt
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.energies.relaxation import Relaxation
from lib.metrics.adherence import (
    adherence,
    assess,
    check_potential,
    crystals_of,
    funnel,
    is_valid,
    judge_relaxations,
    modification_outcome,
    modification_scores,
    relaxation_scores,
)

VOLUMES = np.full(119, 15.0)


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
    invalid = "invalid: no valid cell"  # b is a, moved; methods apart
    assert outcome["status"].tolist() == ["generated", "duplicate", "generated", invalid, "generated", invalid]
    assert outcome["same as"].tolist() == ["", "a", "", "", "", ""]
    assert outcome["group_0.01"].tolist() == [225, 225, 225, 0, 225, 0]
    counts = funnel(outcome)
    assert counts.loc["ddim", ["asked", "no valid cell", "valid", "unique"]].tolist() == [4, 1, 3, 2]
    assert funnel(outcome[~is_valid(outcome)])["valid"].tolist() == [0, 0]


def test_adherence(outcome):
    outcome["formation_energy"] = [-1.5, -1.5, -2.25, np.nan, np.nan, np.nan]
    scores = adherence(outcome).set_index(["method", "score"])
    assert scores.loc[("ddim", "valid"), ["value", "n"]].tolist() == [0.75, 4]
    assert scores.loc[("ddim", "asked space group, symprec 0.01"), ["value", "n"]].tolist() == pytest.approx([2 / 3, 3])
    assert scores.loc[("ddim", "|energy - asked| (eV/atom)"), ["value", "n"]].tolist() == pytest.approx([1.25 / 3, 3])
    assert scores.loc[("cfm_uniform", "|energy - asked| (eV/atom)"), "n"] == 0
    impossible = adherence(outcome.assign(allowed=outcome["id"] != "a")).set_index(["method", "score"])
    assert impossible.loc[("ddim", "asked space group, symprec 0.01"), ["value", "n"]].tolist() == [0.5, 2]
    known = scores.dropna()
    assert len(known) >= 6 and (known["ci_low"] <= known["value"]).all() and (known["value"] <= known["ci_high"]).all()


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
    assert judged["status"].tolist() == ["relaxed", "failed: atoms too close", "failed: not converged in 9 steps"]
    assert judged.loc[4, ["start_energy", "formation_energy"]].tolist() == pytest.approx([0.3, -0.2])
    assert judged["group_0.01"].tolist() == [221, 0, 0] and judged.index.tolist() == [4, 2, 7]
    assert judge_relaxations(asked.iloc[:0], [], {}, VOLUMES).empty
    scores = relaxation_scores(judged.assign(method="ddim")).set_index("score")
    assert scores.loc["usable", ["value", "n"]].tolist() == pytest.approx([1 / 3, 3])
    assert scores.loc["energy gained (eV/atom)", ["value", "n"]].tolist() == pytest.approx([0.5, 1])


def test_tables_keep_what_was_asked(outcome, tmp_path):
    outcome["formation_energy"] = -1.0
    salt = rock_salt(5.6, "Na", "Cl")
    found = crystals_of(outcome[is_valid(outcome)], [salt] * 4, "chgnet", relaxed=False)
    again = CrystalTable.from_parquet(found.to_parquet(tmp_path / "generated.parquet"))
    assert again.id.tolist() == ["a", "b", "c", "e"] and again.extra["asked_space_group"].tolist() == [
        225,
        225,
        216,
        225,
    ]
    check_potential(again, "chgnet")
    with pytest.raises(
        BadInput, match="energies of CHGNet 0.3.0, which do not compare .* sevennet-0; give notebooks 07"
    ):
        check_potential(again, "sevennet-0")
    empty = crystals_of(outcome.iloc[:0], [], "chgnet", relaxed=False)
    assert len(CrystalTable.from_parquet(empty.to_parquet(tmp_path / "empty.parquet"))) == 0


def test_modification_is_measured_against_leaving_alone(monkeypatch):
    crystals = named_table({f"NaCl{a}": rock_salt(a, "Na", "Cl") for a in (5.4, 5.6, 5.8)}, [-1.5, -2.0, -1.8])
    monkeypatch.setattr("lib.metrics.adherence.formation_energies", _energy_by_volume)
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
