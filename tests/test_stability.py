"""Distances from a hull by a potential whose energies are made up, so that every answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

import lib.energies.relaxation
from lib.crystals.table import CrystalTable
from lib.energies.hull import UNKNOWN
from lib.energies.potentials import energy_kind_of, potential_provenance
from lib.energies.relaxation import Relaxation
from lib.metrics.stability import AS_GIVEN, judge, scale_of

CUBIC = [[0, 0, 0], [0.5, 0.5, 0.5]]
GAIN = 0.05  # eV/atom that a relaxation brings
ELEMENTS = {"Ni": -5.0, "Al": -3.0, "Ti": -7.0, "W": -9.0, "B": -6.0, "Ta": -12.0}
TITANIUM = Structure(Lattice.cubic(3), ["Ti"], [[0, 0, 0]])


def binary(one: str, other: str, a: float = 3.0) -> Structure:
    return Structure(Lattice.cubic(a), [one, other], CUBIC)


def energy_of(structure: Structure) -> float:
    """Total energy, eV/atom: the elements' and one that falls with the cell, 0 at a = 3 Å and -1 at a = 4 Å."""
    symbols = [site.specie.symbol for site in structure]
    mixed = (3 - structure.lattice.a) * (len(set(symbols)) > 1)
    return float(np.mean([ELEMENTS[symbol] for symbol in symbols])) + mixed


@pytest.fixture
def calls(monkeypatch) -> list[dict]:
    """Stands in for relaxation: energies are known, a cell over 10 Å fails, and relaxing gains GAIN."""
    calls = []

    def relax_many(structures, potential, *, n_workers=2, finished=None, **settings):
        calls.append(settings | {"formulas": [s.composition.reduced_formula for s in structures]})
        results = []
        for s in structures:
            energy = np.nan if s.lattice.a > 10 else energy_of(s)
            gain = 0 if settings["max_steps"] == 0 else GAIN
            failure = "not converged" if settings["max_steps"] == 0 or np.isnan(energy) else ""
            results.append(Relaxation(s.copy(), energy - gain, energy, 0, 0.0, 0.0, failure))
        return results

    monkeypatch.setattr(lib.energies.relaxation, "relax_many", relax_many)
    return calls


@pytest.fixture
def table() -> CrystalTable:
    """DFT-like energies of Ni, Al, Ti and of compounds; the potential's are 0.2 and 0.4 eV/atom below theirs."""
    known = [Structure(Lattice.cubic(3), [symbol], [[0, 0, 0]]) for symbol in ("Ni", "Al", "Ti")]
    known += [binary("Ni", "Al", 3.6), binary("Ni", "Ti", 3.9)]
    known += [binary("Ni", "Ti", 3 + a / 10) for a in range(1, 7)]
    ids, energies = ["Ni", "Al", "Ti", "NiAl", "NiTi", *"abcdef"], [0, 0, 0, -0.4, -0.5]
    energies += [-a / 10 + (0.2, 0.4)[a % 2] for a in range(1, 7)]
    return CrystalTable.from_structures(known, id=ids, formation_energy=energies, energy_kind="DFT")


def test_energies_of_another_kind_are_computed_again_and_measure_the_error(table, calls):
    made = [binary("Ni", "Al", a) for a in (2.9, 3.5, 3.7, 4.3)] + [None, TITANIUM]
    found = judge(made, table, relax=False, rng=np.random.default_rng(0))
    error, single = found.resolution.error, found.resolution.single
    assert error.value == pytest.approx(0.3) and error.n == 8  # NiTi fills it up
    assert 0.2 < error.ci_low < 0.3 < error.ci_high < 0.4
    assert single.value == 0 and single.ci_high == -single.ci_low > 0.4, "a bias of formation energies is none here"
    assert found.source.startswith("CHGNet 0.3.0 on formation energies of the reference")
    assert found.judged.energy_above_hull[:4].tolist() == pytest.approx([0.7, 0.1, -0.1, -0.7])
    assert found.judged.formation_energy[:4].tolist() == pytest.approx([0.1, -0.5, -0.7, -1.3])
    says = ["unstable", "unresolved", "unresolved", "stable", "not judged", "unresolved"]
    assert found.judged.says.tolist() == says
    assert found.judged.failure.tolist() == ["", "", "", "", "no structure", ""]
    assert found.judged.competitors.tolist() == [1, 1, 1, 1, 0, 0]
    assert all(call.items() >= AS_GIVEN.items() for call in calls)
    assert found.structures == made


def test_the_potentials_own_energies_are_taken_as_they_are(table, calls):
    provenance = potential_provenance("chgnet")
    table = replace(
        table, energy_kind=energy_kind_of("chgnet"), about=provenance | {"element_energies_eV_per_atom": ELEMENTS}
    )
    found = judge([binary("Ni", "Al", 3.6)], table, relax=False, rng=np.random.default_rng(0))
    assert found.judged.energy_above_hull[0] == pytest.approx(-0.6 + 0.4)  # the table's energy, not the potential's
    assert found.resolution == UNKNOWN and found.judged.says[0] == "unresolved", "the record is of another system"
    assert len(calls) == 1
    borides = [Structure(Lattice.cubic(3), [symbol], [[0, 0, 0]]) for symbol in ("B", "Ta", "W")]
    own = CrystalTable.from_structures(borides, id=list("abc"), formation_energy=[0, 0, 0], energy_kind="test")
    own = replace(own, about=provenance | {"element_energies_eV_per_atom": ELEMENTS})
    own = replace(own, energy_kind=energy_kind_of("chgnet"))
    found = judge(borides[:1], own, relax=False, rng=np.random.default_rng(0))
    assert found.resolution.error.n == 10 and "Ta-W-B compounds" in found.source


def test_what_is_relaxed_competes_with_relaxed_phases(table, calls):
    made = [binary("Ni", "Al", 3.6), binary("Ni", "Al", 11), TITANIUM]
    found = judge(made, table, relax=True, rng=np.random.default_rng(0))
    assert found.judged.energy_above_hull[0] == pytest.approx(0)  # it is the known phase: both have gained
    assert found.judged.says.tolist() == ["unresolved", "not judged", "unresolved"]
    assert found.judged.failure[1] == "not converged" and found.structures[1] is made[1]
    assert found.structures[0] is not made[0]
    assert found.resolution.error.value == pytest.approx(0.3), "the error is measured at the reference's geometries"
    assert sorted(calls[-1]["formulas"]) == ["Al", "AlNi", "Ni", "Ti"] and calls[-1]["max_steps"] > 0


def test_the_lowest_known_crystal_of_a_composition_is_relaxed_though_it_lies_above_the_hull(table, calls):
    """Else a candidate that relaxes into it would lie below it, by what the relaxation gains."""
    unstable = CrystalTable.from_structures(
        [binary("Al", "Ti", 2.9)], id=["AlTi"], formation_energy=[0.3], energy_kind="DFT"
    )
    known = CrystalTable.join([table, unstable], about={})
    scale = scale_of(known, ["AlTi"], relax=True, rng=np.random.default_rng(0))
    assert sorted(calls[-1]["formulas"]) == ["Al", "Ti", "TiAl"]
    row = scale.known.id.tolist().index("AlTi")
    assert scale.known.formation_energy[row] == pytest.approx(0.1), "the elements that it counts from gain as much"
    assert scale.references["Al"] == pytest.approx(ELEMENTS["Al"] - GAIN)


def test_a_relaxed_structure_among_elements_alone_gains_nothing_on_them(table, calls):
    """Else it would lie lower by what the elements, which the hull pins to 0, gain when they are relaxed as it was."""
    found = judge([binary("Al", "Ti", 3.1), TITANIUM], table, relax=True, rng=np.random.default_rng(0))
    assert found.judged.energy_above_hull.tolist() == pytest.approx([-0.1, 0])


def test_a_phase_whose_steps_run_out_counts_as_low_as_it_came(table, calls, monkeypatch):
    whole = lib.energies.relaxation.relax_many

    def capped(*args, **how):
        return [replace(result, failure="not converged in 300 steps") for result in whole(*args, **how)]

    monkeypatch.setattr(lib.energies.relaxation, "relax_many", capped)
    scale = scale_of(table, ["NiAl"], relax=True, rng=np.random.default_rng(0))
    assert scale.references["Al"] == pytest.approx(ELEMENTS["Al"] - GAIN)


def test_a_structure_of_elements_that_the_reference_lacks_is_not_judged(table, calls):
    rows = np.flatnonzero(np.isin(table.id, ["Ni", "Al", "NiAl", "NiTi"]))
    made = [binary("Ni", "Ti"), binary("Ni", "Al", 4.5), Structure(Lattice.cubic(3), ["W"], [[0, 0, 0]])]
    found = judge(made, table.take(rows), relax=False, rng=np.random.default_rng(0))
    assert found.judged.failure[0] == "the reference says too little of Ti"
    assert found.judged.failure[2] == "the reference says too little of W"
    assert found.judged.says.tolist() == ["not judged", "unresolved", "not judged"]
    assert found.resolution == UNKNOWN and "not known" in found.source, "one compound measures no error"


def test_an_element_without_a_crystal_of_its_own_is_fitted_to_compounds(calls):
    pairs = [("Ni", "Ti", 3.2), ("Ni", "Ti", 3.3), ("Al", "Ti", 3.4), ("Al", "W", 3.1), ("Ni", "W", 3.1)]
    made = [Structure(Lattice.cubic(3), [symbol], [[0, 0, 0]]) for symbol in ("Ni", "Al")]
    made += [binary(*pair) for pair in pairs]
    energies = [0.1, 0, *(3 - a for *_, a in pairs)]  # of Ni only a crystal above its ground state
    ids = [str(i) for i in range(len(made))]
    table = CrystalTable.from_structures(made, id=ids, formation_energy=energies, energy_kind="DFT")
    found = judge([binary("Ti", "Ni", 3.5), binary("W", "Al")], table, relax=False, rng=np.random.default_rng(0))
    assert found.judged.failure.tolist() == ["", "the reference says too little of W"], "two compounds are too few"
    # the fit of Ti's energy spreads Ni's 0.1 over three compounds: (0.1, 0.1, 0) eV/atom of Ti, on average 0.2 / 3
    assert found.judged.formation_energy[0] == pytest.approx(-0.5 + 0.05 - 0.1 / 3)
    assert found.resolution.error.value < 0.05 and found.resolution.error.n == 3


def test_elements_that_only_stand_together_are_not_told_apart(calls):
    made = [Structure(Lattice.cubic(3), ["Ni"], [[0, 0, 0]]), *(binary("Al", "Ti", a) for a in (3.1, 3.2, 3.3))]
    table = CrystalTable.from_structures(
        made, id=list("abcd"), formation_energy=[0, -0.1, -0.2, -0.3], energy_kind="DFT"
    )
    found = judge([binary("Al", "Ti"), binary("Ni", "Ti")], table, relax=False, rng=np.random.default_rng(0))
    assert found.judged.failure.tolist() == [
        "the reference says too little of Al, Ti",
        "the reference says too little of Ti",
    ]


def test_a_reference_crystal_without_energy_is_left_out(table, calls):
    known = CrystalTable.from_structures(
        [*table.structures(), binary("Ni", "Al", 12)],
        id=[*table.id, "odd"],
        formation_energy=[*table.formation_energy, -3.0],
        energy_kind="DFT",
    )
    found = judge([binary("Ni", "Al", 3.6), TITANIUM], known, relax=False, rng=np.random.default_rng(0))
    assert found.judged.energy_above_hull[0] == pytest.approx(0) and found.resolution.error.n == 8


def test_the_error_is_that_of_distances_in_the_system_at_hand_where_it_has_compounds_enough(calls):
    known = [Structure(Lattice.cubic(3), [symbol], [[0, 0, 0]]) for symbol in ("Ni", "Al", "Ti")]
    counts = [(1, 5), (1, 2), (1, 1), (2, 1), (5, 1)]
    line = [[0, 0, i / 6] for i in range(6)]
    known += [Structure(Lattice.cubic(3.5), ["Ni"] * n + ["Al"] * m, line[: n + m]) for n, m in counts]
    known += [binary("Ni", "Ti", 3.9)]  # whose error of 3 eV is no matter of this system
    energies = [0, 0, 0, *(-0.4 for _ in counts), 2.1]
    ids = [str(i) for i in range(len(known))]
    table = CrystalTable.from_structures(known, id=ids, formation_energy=energies, energy_kind="DFT")
    found = judge([binary("Ni", "Al", 3.5)], table, relax=False, rng=np.random.default_rng(0))
    # both hulls are flat between the outermost compounds: these alone have other distances, the inner ones none
    assert found.resolution.error.n == 5 and "distances" in found.source
    shift = 0.1 * (1 - (1 / 6) / (1 / 3))  # -0.5 in place of -0.4, 1/6 from an element, the next compound at 1/3
    assert found.resolution.error.value == pytest.approx(2 * shift / 5)
    assert found.judged.energy_above_hull[0] == pytest.approx(0)


def test_nothing_to_judge(table, calls):
    found = judge([None], table, relax=True, rng=np.random.default_rng(0))
    assert found.judged.says.tolist() == ["not judged"]
