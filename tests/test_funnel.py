"""What is left of requests, by source and by asked energy; what is new in the ordered and in the disordered sense."""

import numpy as np
import pandas as pd
import pytest
from conftest import rock_salt, table
from pymatgen.core import Lattice, Structure

from lib.report import findings
from lib.studies.funnel import (
    asked_bins,
    asked_distance,
    disordered_twins,
    energy_response,
    funnel,
    mixed_as,
    relaxed_as,
    shares,
    stages,
    unit_of,
)


def borides(*metals: str, a: float = 3.1) -> Structure:
    """AlB2 type with the metals on its metal site, one layer after another."""
    n = len(metals)
    sites = [(metal, [0, 0, i / n]) for i, metal in enumerate(metals)]
    sites += [("B", [x, 1 - x, (i + 0.5) / n]) for i in range(n) for x in (1 / 3, 2 / 3)]
    return Structure(Lattice.hexagonal(a, 3.25 * n), [name for name, _ in sites], [place for _, place in sites])


def test_metals_of_like_size_share_a_site():
    assert mixed_as(["W", "B", "Ta"]) == {"B": "B", "Ta": "Ta", "W": "Ta"}
    assert mixed_as(["Na", "Cl", "K"])["K"] == "K", "potassium is a fifth larger than sodium"
    assert mixed_as(["O", "S"]) == {"O": "O", "S": "S"}, "no metals"


def test_an_ordering_of_a_solid_solution_is_not_new():
    known = table([borides("Ta"), borides("W", a=3.0), Structure(Lattice.cubic(3.2), ["W"], [[0, 0, 0]])])
    chain = Structure(Lattice.orthorhombic(4, 5, 6), ["Ta", "W", "B", "B"], [[0, 0, 0], [0.5, 0.5, 0.3]] * 2)
    chain.translate_sites([2, 3], [0.2, 0.1, 0.4])
    salt = rock_salt(5.1, "Ta", "B").get_primitive_structure()
    said = disordered_twins([borides("Ta", "W"), borides("Ta", "W", "W"), chain, salt], known)
    assert said[:2] == ["ordering of c0", "ordering of c0"]
    assert said[2] == "" and said[3].startswith("prototype AB_cF8_225_a_b")


@pytest.fixture
def requests() -> pd.DataFrame:
    """Of two sources: what each stage loses, one request each, and two that come through."""
    rows = [
        ("invalid: no valid cell", np.nan, "", ""),
        ("duplicate", np.nan, "", ""),
        ("generated", np.nan, "", ""),
        ("failed: not converged in 9 steps", np.nan, "", ""),
        ("judged", 0.3, "", ""),
        ("judged", 0.05, "no end", ""),
        ("known", -0.02, "minimum", ""),
        ("judged", -0.01, "minimum", "ordering of c0"),
        ("judged", 0.07, "saddle", ""),
        ("judged", 0.02, "minimum", ""),
        ("judged", -0.03, "minimum", ""),
        ("judged", -0.03, "minimum", ""),
    ]
    one = pd.DataFrame(rows, columns=["status", "distance", "settled", "disordered as"])
    frame = pd.concat([one.assign(method="ddim"), one.iloc[:4].assign(method="random")], ignore_index=True)
    frame = frame.assign(id=[f"r{i}" for i in frame.index], formula="TaWB6", space_group=1, energy=-0.5)
    frame["same as"] = frame["id"].shift(-1).where(frame["status"] == "duplicate", "")  # of two, the first is not sent
    frame["relaxed as"] = frame["id"].where(frame["settled"].isin(["minimum", "saddle"]), "")
    frame.loc[11, "relaxed as"] = "r10"
    return frame


def test_each_stage_takes_those_before_for_granted(requests):
    counts = funnel(requests, {})
    assert counts.loc["ddim"].to_dict() == {
        "asked": 12, "valid": 11, "unique": 10, "sent to relaxation": 9, "relaxed": 8, "shaken": 7, "no saddle": 6,
        "distinct": 5, "new": 4, "new, disordered": 3,
        "within 100 meV": 3, "within 50 meV": 2, "within 0 meV": 1, "off a saddle": 1,
    }  # fmt: skip
    assert counts.loc["random"].tolist() == [4, 3, 2, 1, *[0] * 10]
    came = stages(requests)
    assert (came.astype(int).diff(axis=1).iloc[:, 1:] <= 0).all(axis=None)
    rates = shares(requests)
    assert rates["ddim", "within_0_mev"].value == pytest.approx(1 / 12) and rates["random", "new"].value == 0
    assert unit_of(requests, "unique") == "share of requests" and "at least: not all" in unit_of(requests, "new")
    assert unit_of(requests[requests["status"] != "generated"].assign(**{"same as": ""}), "new") == "share of requests"


def test_by_asked_energy(requests):
    asked = pd.Series([0, -0.1, -0.2, -0.5, -0.6, -1.0, -1.1, -1.5, -8.5, -8.5, -8.5, -8.5, 0, 0, 0, 0])
    bins = asked_bins(asked_distance(requests.assign(energy=asked - 0.5), {"TaWB6": -0.5}))
    assert [asked[bins == name].tolist() for name in bins.cat.categories] == [
        [0, -0.1, 0, 0, 0, 0], [-0.2, -0.5], [-0.6, -1.0], [-1.1, -1.5, -8.5, -8.5, -8.5, -8.5],
    ]  # fmt: skip
    counts = funnel(requests, {"asked": bins})
    assert counts["asked"].sum() == 16 and counts.loc[("ddim", "below -1"), "within 0 meV"] == 1


def test_a_crystal_counts_in_every_bin_in_which_it_was_given(requests):
    """What a source gave first for another energy takes nothing from the crystal that it gives again for this one."""
    first = requests.iloc[[10, 7]].assign(**{"relaxed as": ["r10", "r7"]})
    again = requests.iloc[[1, 1, 1]].assign(id=["x", "y", "z"], **{"same as": ["r10", "r10", "r7"]})
    both = pd.concat([first, again], ignore_index=True)
    assert funnel(both, {}).loc["ddim", ["asked", "unique", "distinct"]].tolist() == [5, 2, 2]
    counts = funnel(both, {"asked": pd.Series(["high", "high", "low", "low", "low"])})
    for of in ("high", "low"):
        line = counts.loc[("ddim", of)]
        columns = ["unique", "relaxed", "distinct", "new, disordered", "within 0 meV", "off a saddle"]
        assert line[columns].tolist() == [2, 2, 2, 1, 1, 0]


def test_what_relaxes_to_one_crystal_is_one(requests):
    same = {f"r{i}": borides("Ta", "W", a=3.1 if i in (7, 9) else 3.3) for i in range(12)}
    assert relaxed_as(requests, same) == [*[""] * 6, "r6", "r7", "r6", "r7", "r6", "r6", *[""] * 4]


def test_whether_a_source_heeds_the_asked_energy():
    """One source gives half of what it is asked for, the other does not heed it."""
    rng, n = np.random.default_rng(0), 60
    frame = pd.DataFrame({"formula": np.repeat(["TaWB6", "TaW2B5"], n // 2), "space_group": np.arange(n) % 12 + 1})
    asked = pd.Series(-rng.uniform(0, 1, n))
    offset = np.repeat([-0.5, -0.9], n // 2)  # of the formulas, which a slope across them would take for obedience
    heeds = frame.assign(method="ddim", start_energy=offset + 0.5 * asked + rng.normal(scale=0.02, size=n))
    deaf = frame.assign(method="random", start_energy=offset + rng.normal(scale=0.02, size=n))
    both = pd.concat([heeds, deaf], ignore_index=True)
    both = both.assign(status="generated", distance=np.nan, formation_energy=np.nan, source="fast")
    twice = pd.concat([asked, asked], ignore_index=True)
    found = energy_response(both, twice)
    rows = found[found.energies == "as generated"].set_index("method")
    assert rows.loc["ddim", "slope"] == pytest.approx(0.5, abs=0.05) and rows.loc["ddim", "slope_low"] > 0
    assert rows.loc["random", "slope_low"] < 0 < rows.loc["random", "slope_high"]
    assert (found[found.energies == "relaxed"]["n"] == 0).all()
    said = findings.energy_response(found, "as generated")
    of_ddim, of_random = said.split("; random ")
    assert "ddim +0.50 (95 % interval" in of_ddim and of_ddim.endswith("yes") and "unresolved" in of_random
    assert findings.energy_response(found, "relaxed") is None
    lower = asked < asked.groupby(frame["formula"]).transform("median")  # a finer potential takes these, on its scale
    mixed = deaf.assign(status="judged", formation_energy=np.nan, source=np.where(lower, "fine", "fast"))
    mixed["distance"] = deaf["start_energy"] - 0.1 * lower
    found = energy_response(mixed, asked).set_index("energies").loc["relaxed"]
    assert found["n"] == n and abs(found["slope"]) < 0.05, "0.15 and more, were the scales not told apart"
