"""The frozen elemental properties: against mendeleev, against handbook values, and what the models rely on."""

import subprocess
import sys

import numpy as np
import pytest
from pymatgen.core import Composition

from lib.core.files import ROOT
from lib.crystals.elements import (
    FEATURE_NAMES,
    TABLE,
    element_features,
    features_from_mendeleev,
    freeze,
    standardised_features,
    usual_formula,
)

COLUMN = {name: i for i, name in enumerate(FEATURE_NAMES)}


def test_shape_and_rows_outside_the_one_hot():
    features = element_features()
    assert features.shape == (119, 22) and features.dtype == np.float32
    assert np.array_equal(features[1:104, COLUMN["atomic_number"]], np.arange(1, 104))
    assert not features[0].any() and not features[104:].any()
    assert np.isfinite(features).all()


def test_three_columns_are_zero_at_their_published_places():
    assert [FEATURE_NAMES.index(f"zero_{i}") for i in (2, 5, 8)] == [2, 5, 8]
    constant = np.flatnonzero(np.ptp(element_features()[1:104], axis=0) == 0)
    assert constant.tolist() == [2, 5, 8]


@pytest.mark.parametrize(
    ("number", "expected"),
    [  # handbook values (CRC; Pauling scale; Slater radii)
        (5, {"electronegativity": 2.04, "group": 13, "period": 2, "atomic_weight": 10.81, "atomic_radius": 85}),
        (17, {"electronegativity": 3.16, "group": 17, "is_halogen": 1, "anion_radius_mean": 181}),
        (20, {"electronegativity": 1.00, "is_alkaline_earth": 1, "oxidation_state_max": 2, "period": 4}),
        (73, {"electronegativity": 1.5, "group": 5, "period": 6, "atomic_weight": 180.948, "atomic_volume": 10.9}),
        (74, {"group": 6, "period": 6, "atomic_weight": 183.84, "atomic_volume": 9.53, "is_metal": 1}),
    ],
)
def test_handbook_values(number, expected):
    features = element_features()[number]
    assert {name: features[COLUMN[name]] for name in expected} == pytest.approx(expected, rel=0.015)


def test_flags_mark_the_published_sets():
    flags = {name: set(np.flatnonzero(element_features()[:, COLUMN[name]])) for name in FEATURE_NAMES}
    assert flags["is_halogen"] == {9, 17, 35, 53, 85}
    assert flags["is_alkali"] == {1, 3, 11, 19, 37, 55, 87}
    assert flags["is_alkaline_earth"] == {4, 12, 20, 38, 56, 88}
    assert {5, 14, 15, 16, 34, 52} <= flags["is_metal"]  # the flag means "has a metallic radius", also for B and Si
    assert not flags["is_metal"] & (set(range(58, 72)) | set(range(89, 104)))


def test_range_is_that_of_the_published_file():
    radii = element_features()[:, [COLUMN["ionic_radius_sum"]]]
    assert radii.min() == -56 and radii.max() == 1347.5


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 10, 25, 57, 73, 103])
def test_frozen_table_agrees_with_mendeleev(number):
    """Written by `python -m lib.crystals.elements`; if this fails after a new mendeleev, run that again and look at the
    diff."""
    fresh = [0.0 if value is None else float(value) for value in features_from_mendeleev(number).values()]
    assert element_features()[number] == pytest.approx(np.array(fresh), rel=1e-5)


def test_freezing_writes_the_shipped_format(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.crystals.elements.N_ELEMENTS", 3)
    lines = freeze(tmp_path / "elements.csv").read_text().splitlines()
    assert lines[0].startswith("# mendeleev ") and lines[1:] == TABLE.read_text().splitlines()[1:5]


def test_standardised_features_have_mean_0_and_spread_1_over_known_values():
    standard, raw = standardised_features(), element_features()
    assert standard.shape == (119, 22) and standard.dtype == np.float32 and np.isfinite(standard).all()
    assert not standard[0].any() and not standard[104:].any()
    weights = standard[1:104, COLUMN["atomic_weight"]]
    assert weights.mean() == pytest.approx(0, abs=1e-5) and weights.std() == pytest.approx(1, abs=1e-5)
    assert not standard[:, [2, 5, 8]].any()
    known = raw[1:104, COLUMN["electronegativity"]] > 0
    negativity = standard[1:104, COLUMN["electronegativity"]]
    assert known.sum() == 85 and not negativity[~known].any()
    assert negativity[known].mean() == pytest.approx(0, abs=1e-5)
    assert negativity[known].std() == pytest.approx(1, abs=1e-5)


def test_gases_do_not_hide_the_volumes_of_solids():
    volume = standardised_features()[:, COLUMN["atomic_volume"]]
    assert volume[55] - volume[5] > 0.5  # caesium takes 15 times the room of boron
    assert volume[[7, 8]].min() > volume[55]


def test_what_is_returned_is_a_copy():
    element_features()[73] = 0
    standardised_features()[73] = 0
    assert element_features()[73].any() and standardised_features()[73].any()


def test_mendeleev_is_not_needed_to_read_the_table():
    code = "import sys; sys.modules['mendeleev'] = None\n"
    code += "from lib.crystals.elements import element_features; print(element_features()[73, 0])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "73.0"


@pytest.mark.parametrize("formula", ["TaB2", "W2B", "TaW2B5", "NaCl", "H2O", "NH3", "SiO2", "CaTiO3", "B4C", "O2"])
def test_formulas_are_shown_in_the_usual_order_and_in_lowest_terms(formula):
    counts = {element.symbol: int(n) for element, n in Composition(formula).items()}
    assert usual_formula("".join(f"{symbol}{2 * n}" for symbol, n in sorted(counts.items()))) == formula
