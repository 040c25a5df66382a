"""A user's words become requests, or one sentence says why not."""

import pytest

from lib.core.errors import BadInput
from lib.generation.requests import Request, formulas_of_system, read_requests

DEFAULTS = {"space_group": "any", "energy": "any", "z": "any", "n": "16"}


def test_words_become_a_request():
    assert Request.parse("TaW2B5") == Request("TaW2B5", None, "any", None, 16)
    assert Request.parse(" TaW2B5", "225, Pm-3m", "lowest", "1..3", "4") == Request(
        "TaW2B5", (225, 221), "lowest", (1, 2, 3), 4
    )
    assert Request.parse("NiAl", energy="-0.5", z="2").energy == -0.5
    assert str(Request.parse("NiAl", "221", "-0.5", "1..2", "3")) == "NiAl, space group 221, energy -0.5, z 1..2, n 3"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"formula": "Nial"}, "formula 'Nial' .*write it like TaW2B5"),
        ({"formula": "Ni0.5Al"}, "needs whole numbers"),
        ({"formula": "NaCl KCl"}, "each as a word of its own, without quotes: NaCl KCl"),
        ({"formula": "NaCl,KCl"}, "without quotes: NaCl KCl"),
        ({"space_group": "Fm-4m"}, "space group 'Fm-4m' is neither a number .* nor a symbol"),
        ({"space_group": "231"}, "space group 231 does not exist"),
        ({"space_group": "225,"}, "space group '' is neither a number"),
        ({"energy": "low"}, "energy 'low' is neither 'any' nor 'lowest' nor a number"),
        ({"energy": "nan"}, "energy 'nan' is neither"),
        ({"energy": "1_0"}, "energy '1_0' is neither"),
        ({"formula": "Fe(III)2O3"}, r"Fe\(III\)2O3.* oxidation state"),
        ({"formula": "Ta@W"}, "Ta@W"),
        ({"z": "0"}, "z '0' is neither 'any' nor a positive whole number nor a range"),
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
    assert Request.parse("Ca(OH)2").label == "CaO2H2", "a name for a file"


def test_requests_come_from_a_csv_file(tmp_path):
    path = tmp_path / "requests.csv"
    path.write_text("formula,n,space_group\nNaN,,Fm-3m\nNiAl,3,\n")
    first, second = read_requests(path, **DEFAULTS | {"n": "5", "energy": "lowest"})
    assert first == Request("NaN", (225,), "lowest", None, 5), "sodium nitride is no missing value"
    assert second == Request("NiAl", None, "lowest", None, 3)


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
        ("formula,energy,energy\nNiAl,-1,-2\n", "column energy twice|columns energy.1"),
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
        with pytest.raises(BadInput, match="write it like Ta-W-B"):
            formulas_of_system(system, 4)
    with pytest.raises(BadInput, match="2 atoms .*Ta-W-B; .*--max-atoms"):
        formulas_of_system("Ta-W-B", 2)
    with pytest.raises(BadInput, match="Ta-W-B has more than 100,000 formulas of 1000000 atoms"):
        formulas_of_system("Ta-W-B", 1_000_000)
