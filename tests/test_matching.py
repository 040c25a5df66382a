import math
import time

import numpy as np
import pandas as pd
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from lib.core import published
from lib.core.published import ON_AFLOW
from lib.crystals.table import CrystalTable
from lib.crystals.validity import flaw
from lib.figures import matching as figures
from lib.metrics import matching
from lib.metrics.matching import (
    RATES,
    SUBSTITUTION,
    VERDICTS,
    compare,
    compare_rows,
    match_many,
    match_rows,
    rate_table,
    rates_of_subsets,
    readable,
    strongest,
    without_template,
)


def rocksalt(a=5.6, elements=("Na", "Cl")):
    return Structure.from_spacegroup(225, Lattice.cubic(a), elements, [[0, 0, 0], [0.5, 0.5, 0.5]])


def caesium_chloride(a=4.0, c=None, elements=("Cs", "Cl")):
    return Structure(Lattice.tetragonal(a, c or a), elements, [[0, 0, 0], [0.5, 0.5, 0.5]])


def rutile(a=4.6, c=2.95, x=0.305, elements=("Ti", "O")):
    return Structure.from_spacegroup(136, Lattice.tetragonal(a, c), elements, [[0, 0, 0], [x, x, 0]])


def perovskite(a=3.9, elements=("Sr", "Ti", "O")):
    return Structure.from_spacegroup(221, Lattice.cubic(a), elements, [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]])


def layered(a=3.1, c=3.3, elements=("Ta", "B")):
    return Structure.from_spacegroup(191, Lattice.hexagonal(a, c), elements, [[0, 0, 0], [1 / 3, 2 / 3, 0.5]])


def altered(structure, rng):
    """What a model might return for it: displaced, strained, another cell, other atoms, or nothing alike."""
    copy, kind = structure.copy(), rng.integers(9)
    if kind <= 2:
        copy.perturb([0.02, 0.8, 1.1][kind])
    elif kind == 3:
        copy.apply_strain(rng.uniform(-0.25, 0.25, 3))
    elif kind == 4:
        copy.make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 2]])
        copy.apply_strain(0.3)
    elif kind <= 7:
        return Structure(copy.lattice, copy.species, rng.random((len(copy), 3)))
    else:
        copy.replace_species({copy.elements[0]: "Ba"})
    return copy


@pytest.mark.slow
def test_verdicts_are_those_of_plain_pymatgen():
    rng = np.random.default_rng(3)
    np.random.seed(3)  # Structure.perturb takes no generator
    prototypes = [rocksalt().get_primitive_structure(), caesium_chloride(), rutile(), perovskite(), layered()]
    pairs = [(s, altered(s, rng)) for s in prototypes for _ in range(41)]
    pairs = [(target, candidate) for target, candidate in pairs if not flaw(candidate)]
    found = match_many(*zip(*pairs, strict=True), n_workers=1, timeout_seconds=60)

    default = StructureMatcher()
    csp = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    unscaled = StructureMatcher(scale=False)
    assert len(pairs) >= 200
    assert 0.4 < found.match_default.mean() < 0.6
    assert found.match_csp.sum() > found.match_default.sum() > found.match_strict.sum() > 10
    assert (found.note == "").all()
    for (target, candidate), verdict in zip(pairs, found.itertuples(), strict=True):
        assert verdict.match_default == default.fit(candidate, target)
        rms = csp.get_rms_dist(candidate, target)
        assert verdict.match_csp == (rms is not None)
        assert verdict.rms == pytest.approx(rms[0] if rms else math.nan, nan_ok=True)
        strict = unscaled.fit(candidate, target)
        strict &= abs(math.log(candidate.volume / len(candidate) / target.volume * len(target))) <= math.log(1.05)
        strict &= candidate.get_space_group_info(0.1) == target.get_space_group_info(0.1)
        assert verdict.match_strict == strict


def test_strict_match_sees_volume_and_symmetry():
    salt, b2 = rocksalt(), caesium_chloride()
    turned = salt.copy()
    turned.translate_sites(range(8), [0.1, 0.2, 0.3])
    turned.make_supercell([[0, 1, 0], [0, 0, 1], [1, 1, 0]])
    cases = {
        "another cell of the same crystal": (salt, turned, True),
        "half the volume": (salt, rocksalt(5.6 * 0.5 ** (1 / 3)), False),
        "volume 4.9 % larger": (salt, rocksalt(5.6 * 1.049 ** (1 / 3)), True),
        "volume 5.1 % larger": (salt, rocksalt(5.6 * 1.051 ** (1 / 3)), False),
        "c/a of 1.2 at the same volume": (b2, caesium_chloride(4 * 1.2 ** (-1 / 3), 4 * 1.2 ** (2 / 3)), False),
    }
    for name, (target, candidate, expected) in cases.items():
        verdict = compare(candidate, target)
        assert verdict["match_default"], name
        assert verdict["match_csp"], name
        assert verdict["match_strict"] == expected, name


def test_rmsd_in_both_units():
    target = caesium_chloride(4.0)
    candidate = Structure(target.lattice, target.species, [[0, 0, 0], [0.5, 0.5, 0.55]])  # 0.2 Å, shared by both atoms
    larger = Structure(Lattice.cubic(8.0), target.species, candidate.frac_coords)
    for verdict in (compare(candidate, target), compare(larger, target)):
        assert verdict["rms_angstrom"] == pytest.approx(0.1)  # at the target's volume
        assert verdict["rms"] == pytest.approx(0.1 / 32 ** (1 / 3))


def test_invalid_structures_count_as_no_match_with_a_note():
    target = caesium_chloride()
    broken = target.copy()
    broken.translate_sites([0], [np.nan, 0, 0])
    flat = Structure(Lattice.orthorhombic(0.3, 10, 10), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    overlapping = Structure(target.lattice, target.species, [[0, 0, 0], [0, 0, 0.12]])
    expected = [
        (None, "no structure"),
        (broken, "non-finite numbers"),
        (caesium_chloride(0.9), "cell volume not between 1 and 1e+06 Å^3"),
        (caesium_chloride(101.0), "cell volume not between 1 and 1e+06 Å^3"),
        (flat, "atoms closer than 0.5 Å"),
        (overlapping, "atoms closer than 0.5 Å"),
        (rutile(), ""),
    ]
    for candidate, note in expected:
        verdict = compare(candidate, target)
        assert verdict["note"] == note
        assert not any(verdict[name] for name in VERDICTS)
    assert all(compare(target, target)[name] for name in VERDICTS)


def test_plates_and_needles_are_no_match_and_exhaust_no_memory():
    """Each of these takes plain pymatgen from hundreds of MB to all there is."""
    target = caesium_chloride().make_supercell(2, in_place=False)
    lattices = [
        Lattice.orthorhombic(0.6, 0.6, 1e5),
        Lattice.orthorhombic(5, 5, 2e4),
        Lattice.orthorhombic(0.6, 600, 900),
    ]
    lattices.append(Lattice.from_parameters(300, 300, 300, 119.99, 119.99, 119.99))
    for lattice in lattices:
        candidate = Structure(lattice, target.species, np.random.default_rng(0).random((16, 3)) * [0.7, 0.9, 1])
        verdict = compare(candidate, target, timeout_seconds=10)
        assert verdict["note"] in ("", "atoms closer than 0.5 Å")
        assert not any(verdict[name] for name in VERDICTS)


def test_no_strained_cell_is_lost_to_the_shortcut_for_flat_ones():
    rng = np.random.default_rng(0)
    target = Structure(Lattice.orthorhombic(3, 6, 9), ["Ti", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    plain = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    flattest = [0.77, 1.14, 1.14]  # about the most that ltol 0.3 lets pass
    matches = []
    for strain in [flattest, *rng.uniform(0.7, 1.4, (20, 3))]:
        cell = target.lattice.matrix * np.array(strain)[:, None]
        candidate = Structure(cell, target.species, target.frac_coords).make_supercell([1, 2, 1], in_place=False)
        matches.append(compare(candidate, target)["match_csp"])
        assert matches[-1] == (plain.get_rms_dist(candidate, target) is not None)
    assert matches[0]
    assert not all(matches)


@pytest.mark.slow
def test_a_stuck_comparison_is_ended():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(6) / 6] * 3), axis=-1).reshape(-1, 3)
    shaken = (grid + rng.uniform(-0.05, 0.05, grid.shape) for _ in range(2))
    crowd, other = (Structure(Lattice.cubic(15), ["Fe"] * 216, coords) for coords in shaken)  # 20 s if left alone
    quick = caesium_chloride()
    started = time.process_time()
    assert compare(other, crowd, timeout_seconds=1)["note"] == "no answer in 1 s"
    assert time.process_time() - started < 15  # one call of C code can hold the signal up for seconds
    found = match_many([quick, crowd, quick], [quick, other, quick], n_workers=1, timeout_seconds=1)
    assert found.note.tolist() == ["", "no answer in 1 s", ""]
    assert found.match_default.tolist() == [True, False, True]


def test_waiting_is_no_time_of_a_comparison(monkeypatch):
    """A time-out counts the processor's seconds, so that other work on the machine changes no verdict."""
    monkeypatch.setattr(matching, "flaw", lambda structure: time.sleep(0.5) or flaw(structure))
    found = compare(caesium_chloride(), caesium_chloride(), timeout_seconds=0.2)
    assert found["match_default"] and not found["note"]


@pytest.fixture
def two_targets():
    return CrystalTable.from_structures(
        [caesium_chloride(), rutile()],
        id=["b2", "rutile"],
        formation_energy=[-1.0, -2.0],
        space_group=[221, 136],
        energy_kind="test",
    )


def test_rows_keep_their_targets(two_targets):
    same = list(two_targets.structures())
    rows = {"same": same, "swapped": same[::-1], "half": [same[0], None]}
    found = match_rows(two_targets, rows, n_workers=1, timeout_seconds=20)
    assert found.row.tolist() == ["same", "same", "swapped", "swapped", "half", "half"]
    assert found.target.tolist() == ["b2", "rutile"] * 3
    assert found.formula.tolist() == ["Cl1Cs1", "O4Ti2"] * 3
    assert found.n_sites.tolist() == [2, 6] * 3
    assert found.space_group.tolist() == [221, 136] * 3
    assert found.match_default.tolist() == [True, True, False, False, True, False]

    table = rate_table(found, ["row"])
    assert table.row.tolist() == ["same", "swapped", "half"]
    assert table.n.tolist() == [2, 2, 2]
    assert table.default.tolist() == [1.0, 0.0, 0.5]
    assert table.invalid.tolist() == [0, 0, 1]
    assert table.rmsd[0] == pytest.approx(0.0, abs=1e-6)
    assert np.isnan(table.rmsd[1])
    by_sites = rate_table(found, ["row", "n_sites"])
    assert by_sites[["row", "n_sites", "n", "default"]].values.tolist() == [
        ["same", 2, 1, 1.0],
        ["same", 6, 1, 1.0],
        ["swapped", 2, 1, 0.0],
        ["swapped", 6, 1, 0.0],
        ["half", 2, 1, 1.0],
        ["half", 6, 1, 0.0],
    ]

    text = readable(table)
    assert text.columns.tolist() == ["row", "n", "default", "csp", "strict", "rmsd", "rmsd_angstrom", "invalid"]
    assert text.default[2] == "0.500 (0.01 to 0.99)"
    assert text.rmsd[1] == ""

    compared = compare_rows(found, "same", "swapped")
    assert compared.verdict.tolist() == ["default", "csp", "strict"]
    assert compared.difference.tolist() == [1.0, 1.0, 1.0]
    assert compared.claim.str.startswith("unresolved: same minus swapped is +100.0 points").all()  # of two targets


def test_an_interrupted_call_goes_on_where_it_stopped(two_targets, tmp_path):
    resume = tmp_path / "verdicts.jsonl"
    structures = list(two_targets.structures())
    whole = match_many(structures * 2, structures * 2, n_workers=1, resume=resume)
    lines = resume.read_text().splitlines()
    assert len(lines) == 2  # equal pairs are compared once
    kept = lines[0].replace('"note": ""', '"note": "from before"')
    resume.write_text(kept + "\n" + lines[1][:40])  # killed while writing the second
    again = match_many(structures * 2, structures * 2, n_workers=1, resume=resume)
    assert again.note.tolist() == ["from before", "", "from before", ""]
    assert again.drop(columns="note").equals(whole.drop(columns="note"))
    assert [line + "\n" for line in (kept, lines[1])] == resume.read_text().splitlines(keepends=True)


def test_figures_show_the_numbers_they_are_given():
    rates = pd.DataFrame(
        {
            "row": ["DDIM, periodic", "random"],
            "published": [0.82, np.nan],
            "n": [50, 50],
            "invalid": [0, 0],
            **{f"{name}{end}": values for name in RATES for end, values in _ENDS.items()},
        }
    )
    first = figures.match_rates(rates).axes[0]
    assert [label.get_text() for label in first.get_yticklabels()] == rates.row.tolist()
    points = {tuple(float(x) for x in line.get_xdata()) for line in first.get_lines()}
    assert points >= {(0.6,), (0.5, 0.7), (0.1,), (0.0, 0.2)}
    assert any(line.get_label() == ON_AFLOW and line.get_xdata()[0] == 0.82 for line in first.get_lines())

    sites = rates.assign(row="one row", n_sites=[8, 4])  # curves are drawn from left to right, whatever the order
    curve = figures.by_n_sites(sites).axes[0].containers[0]
    assert curve.lines[0].get_ydata().tolist() == [0.1, 0.6]
    groups = rates.assign(row="one row", space_group=[225, 12], n=[3, 9])
    axes = figures.by_space_group(groups).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["12\n9", "225\n3"]
    assert axes.containers[0].lines[0].get_ydata().tolist() == [0.1, 0.6]
    steps = figures.by_steps(rates.assign(method="DDIM", steps=[100, 5])).axes[0]
    assert [label.get_text() for label in steps.get_xticklabels()] == ["5", "100"]
    assert (
        "some row (n = 3)" in figures.rmsd({"some row": np.array([0.1, 0.2, 0.2])}).legends[0].get_texts()[0].get_text()
    )


_ENDS = {"": [0.6, 0.1], "_low": [0.5, 0.0], "_high": [0.7, 0.2]}


def test_rates_of_subsets_count_their_targets_only():
    verdicts = pd.DataFrame(
        {
            "row": ["a"] * 3 + ["b"] * 3,
            "target": ["x", "y", "z"] * 2,
            "formula": ["F1", "F2", "F3"] * 2,
            "match_default": [True, False, False, True, True, False],
            "match_csp": [True, False, True, True, True, True],
            "match_strict": [False] * 6,
            "rms": [0.1] * 6,
            "rms_angstrom": [0.2] * 6,
            "note": [""] * 6,
        }
    )
    rates = rates_of_subsets(
        verdicts,
        {"all": np.array(["x", "y", "z"]), "few": np.array(["y", "z"])},
    )
    found = rates.set_index(["targets", "row"])[["n", "default", "csp"]]
    assert found.loc[("all", "b")].tolist() == pytest.approx([3, 2 / 3, 1])
    assert found.loc[("few", "a")].tolist() == [2, 0, 0.5]
    assert found.loc[("few", "b")].tolist() == [2, 0.5, 1]
    plain = rate_table(verdicts, ["row"])
    hard = {"few": np.array(["y", "z"]), "none": np.array([])}
    more = rate_table(verdicts, ["row"], subsets=hard)
    pd.testing.assert_frame_equal(more[plain.columns], plain)
    assert more[["n, few", "csp, few", "n, none"]].to_numpy().tolist() == [[2, 0.5, 0], [2, 1.0, 0]]
    assert more["csp, none"].isna().all()
    assert readable(more)["csp, few"][0].startswith("0.500 (")


def test_subsets_are_chosen_by_the_templates_that_there_are_and_not_by_answers():
    rows = {"model": ["no structure", "", ""], SUBSTITUTION: ["", "no structure", "no structure"]}
    rows["substitution"] = ["", "", "no structure"]
    verdicts = pd.DataFrame(
        {
            "row": np.repeat(list(rows), 3),
            "target": ["x", "y", "z"] * 3,
            "match_csp": [True, True, False, False, False, False, False, True, False],
            "note": np.concatenate(list(rows.values())),
        }
    )
    for answers in (verdicts, verdicts.assign(match_csp=~verdicts.match_csp)):
        found = {name: ids.tolist() for name, ids in without_template(answers).items()}
        assert found == {"no template": ["y", "z"], "template of another group": ["y"]}


def test_published_rates_stand_beside_the_papers_method_in_its_representation_alone():
    rows = pd.Series(["DDIM, paper", "DDIM, periodic", "CFM U(0,1), transformer", "CFM U(0,1), paper, long", "random"])
    assert published.rates(rows).tolist()[0] == 0.82 and published.rates(rows)[1:].isna().all()


def test_the_strongest_baseline_is_the_one_that_matches_most():
    rates = pd.DataFrame({"row": ["x_0 unchanged", "substitution", "model"], "default": [0.2, 0.4, 0.9]})
    assert strongest(rates, ["x_0 unchanged", "substitution"]) == "substitution"
