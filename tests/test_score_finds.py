"""Known crystals to be found again, and new ones beside a hull: which they are, and that finds are counted right."""

import types

import numpy as np
import pandas as pd
import pytest
from conftest import rock_salt
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.core.published import SCORE_TABLE_2
from lib.crystals.table import CrystalTable
from lib.energies.relaxation import Relaxation
from lib.retrieval.templates import ElementRanking
from lib.studies import score_finds, score_new
from lib.symmetry.wyckoff import positions

METALS, OTHERS = ("Li", "Na", "K", "Rb", "Cs", "Ca"), ("F", "Cl", "Br", "O")
LIMITS = {"above_hull": 0.02, "most_atoms": 8, "min_group": 16, "seed": 3}


def long_cell(metal: str, other: str) -> Structure:
    """Group 123."""
    return Structure(Lattice.tetragonal(3.5, 3.9), [metal, other], [[0, 0, 0], [0.5, 0.5, 0.5]])


def table(structures: list[Structure], **columns) -> CrystalTable:
    names, energies = [f"c{i}" for i in range(len(structures))], np.linspace(-2.0, -1.0, len(structures))
    columns = {"id": names, "formation_energy": energies} | columns
    return CrystalTable.from_structures(structures, **columns, energy_kind="none")


@pytest.fixture(scope="module")
def observed() -> CrystalTable:
    """24 rock salts and 24 tetragonal crystals of the same formulas, a third of them too low or never observed."""
    pairs = [(metal, other) for metal in METALS for other in OTHERS]
    made = [make(5.6, *pair) if make is rock_salt else make(*pair) for make in (rock_salt, long_cell) for pair in pairs]
    n = len(made)
    extra = {"above_hull": np.where(np.arange(n) % 3 == 0, 0.01, 0.05), "theoretical": np.arange(n) % 7 == 0}
    known = table(made)
    assert len(known.asymmetric_units) == n  # found once, and kept
    return known.with_notes(extra=extra)


def test_the_list_of_known_crystals_is_fixed_trains_nothing_and_has_all_families(observed):
    learnt = {"NaCl", "CsBr", "CaO"}
    listed = score_finds.fixed_list(observed, learnt, 8, **LIMITS)
    assert len(listed) == 8 == len(set(listed.reduced_formula)) and not learnt & set(listed.reduced_formula)
    assert (listed.extra["above_hull"] > 0.02).all() and not listed.extra["theoretical"].any()
    assert np.bincount(listed.space_group)[[123, 225]].tolist() == [4, 4], "families take turns"
    turned = observed.take(np.arange(len(observed))[::-1])
    assert set(score_finds.fixed_list(turned, learnt, 8, **LIMITS).id) == set(listed.id), "in any order"
    fewer = score_finds.fixed_list(observed, {*learnt, listed.reduced_formula[0]}, 8, **LIMITS)
    assert len(set(fewer.id) & set(listed.id)) >= 5, "what is learnt besides moves little"
    assert set(score_finds.fixed_list(observed, learnt, 8, **LIMITS | {"seed": 4}).id) != set(listed.id)
    few = score_finds.fixed_list(observed, learnt, 8, **LIMITS | {"min_group": 200})
    assert set(few.space_group) == {225} and len(few) == 8, "where a family has none the others have more"


def test_crystals_of_the_papers_table_are_those_whose_formulas_train_nothing():
    line = SCORE_TABLE_2.index[SCORE_TABLE_2.elements == "Ba-Ti-O"][0]
    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0]]
    asked = Structure(Lattice.tetragonal(4.11, 5.04), ["Ba", "Ti", "O"], places)
    other = table([rock_salt(5.6, "Na", "Cl")])
    found, lines = score_finds.at_hand([other, table([asked])], {"NaCl"})
    assert lines == [line] and found.reduced_formula.tolist() == [asked.composition.reduced_formula]
    assert np.isnan(found.formation_energy).all()
    assert score_finds.at_hand([other, table([asked])], set(found.reduced_formula.tolist()))[1] == []


def test_files_that_do_not_tell_what_lies_above_the_hull_are_refused(tmp_path):
    params = types.SimpleNamespace(n_workers=1)
    run = types.SimpleNamespace(params=params, input=lambda path: path, resume=tmp_path / "resume")
    with pytest.raises(BadInput, match="val.csv does not exist; .* 'observed: null'"):
        score_finds.read_observed(tmp_path / "val", run)
    salt = rock_salt(5.6, "Na", "Cl").get_primitive_structure()
    ids, energies, cif = ["a", "b", "NaN"], [-1.0] * 3, salt.to(fmt="cif")
    frame = pd.DataFrame({"material_id": ids, "formation_energy_per_atom": energies, "cif": cif})
    frame.to_csv(tmp_path / "val.csv", index=False)
    with pytest.raises(BadInput, match="val.csv has no column e_above_hull"):
        score_finds.read_observed(tmp_path / "val", run)
    cell = dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), salt.lattice.parameters, strict=True))
    cell |= {"numbers": [list(salt.atomic_numbers)] * 3, "frac": [salt.frac_coords.ravel().tolist()] * 3}
    for suffix, write in ((".csv", pd.DataFrame.to_csv), (".parquet", pd.DataFrame.to_parquet)):
        facts = {"e_above_hull": [0.1, 0.2, 0.3], "theoretical": [True, False, True], "sg_spglib_0p01": 225} | cell
        write(frame.assign(**facts), tmp_path / f"other{suffix}", index=False)
        read = score_finds.read_observed(tmp_path / f"other{suffix}", run)
        assert read.id.tolist() == ids and read.extra["above_hull"].tolist() == [0.1, 0.2, 0.3]
        assert read.extra["theoretical"].tolist() == [True, False, True]
    pd.read_parquet(tmp_path / "other.parquet").drop(columns="theoretical").to_parquet(tmp_path / "val.parquet")
    assert not score_finds.read_observed(tmp_path / "val", run).extra["theoretical"].any()


@pytest.fixture
def planted(monkeypatch, tmp_path) -> score_finds.Settings:
    """A potential for which a crystal is the lower the nearer its lattice parameter is to 5.6 Å, and a relaxation that
    makes a rock salt of that size of every crystal that is larger; nothing of CHGNet is loaded."""

    def energies(structures, potential, **how) -> np.ndarray:
        return np.array([np.nan if s is None else abs(s.volume / len(s) - 5.6**3 / 8) for s in structures])

    def relaxed(structure: Structure) -> Relaxation:
        larger = structure.volume / len(structure) > 5.6**3 / 8
        after = rock_salt(5.6, *sorted(structure.symbol_set, reverse=True)) if larger else structure
        return Relaxation(after, 0.0, 0.0, 1, 0.0, 0.0)

    monkeypatch.setattr(score_finds, "single_points", energies)
    monkeypatch.setattr(score_finds, "relax_many", lambda structures, *_, **__: [relaxed(s) for s in structures])
    return score_finds.Settings("planted", 10, 1, 20.0, tmp_path)


def test_what_is_found_is_counted_by_any_sample_by_the_best_and_by_these_relaxed(planted):
    targets = table([rock_salt(5.6, "Na", "Cl"), rock_salt(5.6, "K", "Br")])
    volumes = np.full(119, 5.6**3 / 8)
    wrong = [long_cell(*pair) for pair in (("Na", "Cl"), ("K", "Br"))]
    right = [rock_salt(5.3, "Na", "Cl"), rock_salt(5.3, "K", "Br")]
    rows = {
        "planted": [right[0], wrong[0], None, right[1], wrong[1], None],
        "saved": [wrong[0], None, None, rock_salt(5.6, "Na", "Cl"), None, None],  # the last of another composition
        "nothing": [None] * 6,
    }
    tries, after = score_finds.recover(targets, rows, volumes, 1, planted)
    assert tries.best.sum() == 3 and not tries[tries.row == "nothing"].best.any()
    table_ = score_finds.recovered(tries).set_index("row")
    found = {row: table_.loc[row, ["any_default", "best_default", "relaxed_default"]].tolist() for row in rows}
    # of "planted" the wrong cell is lower by energy: any sample matches, none of the best does until it is relaxed
    assert found == {"planted": [1, 0, 1], "saved": [0, 0, 0.5], "nothing": [0, 0, 0]}
    assert table_.n.tolist() == [2, 2, 2, 36] and table_.published.iloc[-1] == pytest.approx(11 / 36)
    assert "; saved 1 of 2 (" in score_finds.in_words(table_.reset_index(), "planted", 1)
    assert len(score_finds.pictures(targets, tries, after, "planted", 1)) == 2
    nothing, _ = score_finds.recover(targets, {}, volumes, 1, planted)
    assert score_finds.in_words(score_finds.recovered(nothing), "planted", 1) is None


def test_the_papers_table_shows_lengths_beside_what_was_found(planted):
    targets = table([rock_salt(5.6, "Na", "Cl").get_primitive_structure()])
    rows = {"model": [long_cell("Na", "Cl")], "chance": [None]}
    tries, after = score_finds.recover(targets, rows, np.full(119, 5.6**3 / 8), 1, planted)
    shown = score_finds.table_2(targets, [2], tries, after)
    assert shown.model[2] == "5.60 (default)" and shown.chance[2] == "none to relax (not found)"
    assert shown.here[2].endswith("3.96") and (shown.model.drop(2) == "").all()


def test_samples_of_a_target_are_on_the_positions_of_several_templates():
    edges = [[0, 0.5, 0.5], [0.5, 0, 0.5]]
    two = [
        Structure(Lattice.tetragonal(3, 7), ["Ca", "F", "F"], [[0, 0, 0], *places])
        for places in (edges, [[0, 0, 0.3], [0, 0, 0.7]])
    ]
    training = table([*two, rock_salt(5.6, "Na", "Cl").get_primitive_structure()])
    targets = table([two[0].copy().replace_species({"Ca": "Sr"})])
    ranking = ElementRanking(training)
    units = score_finds.told_positions("composition", targets, ranking, 5, 2)
    taken = [sorted(site.position for site in unit.sites) for unit in units]
    assert taken[0] == taken[2] != taken[3] == taken[4]
    assert len(score_finds.told_positions("sites", targets, ranking, 5, 2)) == 5
    found = score_finds.substituted("composition", targets, ranking, 4)
    assert [s is None for s in found] == [False, False, True, True]
    found = score_finds.substituted("sites", targets, ranking, 4)
    assert [s is None for s in found] == [False, False, True, True]


def test_positions_are_drawn_as_training_crystals_take_them_and_never_twice_on_one_point():
    training = table([rock_salt(5.6, "Na", "Cl").get_primitive_structure()] * 1)
    units = score_new.drawn_positions(training, 225, [11, 17], 6, 20, 0)
    assert len(units) == 6
    for unit in units:
        points = [site.position for site in unit.sites]
        assert len(set(points)) == 2 and all(positions(225)[p].n_free == 0 for p in points)
    assert score_new.drawn_positions(training, 225, [11, 12, 17, 9], 1, 2, 0) == [], "more atoms than allowed"


def test_sites_of_new_crystals_are_one_or_two_of_each_element():
    assert sorted(map(len, score_new.choices_of_sites("Fe-Ta-Sn"))) == [3, 4, 4, 4]
    told = score_new.told("Cu-Si-K", table([rock_salt(5.6, "Na", "Cl")]), 2, 20, 0)
    assert len(told["sites"]) == 8 and {unit.symmetry for unit in told["sites"]} == {62}


def test_a_new_crystal_is_placed_beside_the_hull_by_its_energy(monkeypatch):
    phases = pd.DataFrame(
        [("a", "Na", -1.0), ("a2", "Na", -0.5), ("b", "Cl", -2.0), ("ab", "Na1Cl1", -2.5), ("ab3", "Na1Cl3", -1.9)],
        columns=["id", "formula", "energy"],
    )
    monkeypatch.setattr(score_new, "energy_kind_of", lambda name: "planted")
    resolution = score_new.Resolution.of_scatter(0.05)
    of_system = score_new.SystemHull.of("Na-Cl", phases, resolution, "planted")
    place = of_system.place(rock_salt(5.6, "Na", "Cl"), -2.7)
    assert place["formation_energy"] == pytest.approx(-1.2) and place["distance"] == pytest.approx(-0.2)
    assert place["says"] == "below the hull" and place["distance_high"] < 0
    assert of_system.place(rock_salt(5.6, "Na", "Cl"), -2.52)["says"] == "unresolved"
    third = Structure(Lattice.cubic(4), ["Na", "Cl", "Cl"], [[0, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]])
    # two thirds of the way to Cl from NaCl at -1.0: hull at x = 1/3 is -2/3; elements alone -5/3
    assert of_system.place(third, -5 / 3)["distance"] == pytest.approx(2 / 3)
    with pytest.raises(BadInput, match="no reference energy for Cl"):
        score_new.SystemHull.of("Na-Cl", phases.drop(index=2), resolution, "planted")


def test_new_crystals_below_the_hull_count_once_and_not_if_they_are_known():
    salt = rock_salt(5.6, "Na", "Cl")
    found = pd.DataFrame(
        {
            "says": ["below the hull", "below the hull", "below the hull", "above the hull"],
            "known as": ["", "", "mp-1", ""],
            "formula": ["NaCl"] * 4,
        }
    )
    assert score_new.different_below(found, [salt, salt.copy(), salt, salt]) == 1
    assert score_new.different_below(found, [salt, long_cell("Na", "Cl"), salt, salt]) == 2
    assert score_new.different_below(found[3:], [salt]) == 0


def test_the_papers_energies_are_taken_per_mole_of_atoms():
    found = pd.DataFrame([("Cu-Si-K", "sites: score model", 4, 0)], columns=score_new.COLUMNS[:4])
    found = found.reindex(columns=[*score_new.COLUMNS, "known as"])
    published = score_new.table_3(found).iloc[0]
    assert published.distance == pytest.approx(6.3, abs=0.05) and published.formation == pytest.approx(-54.8, abs=0.1)
