"""The check-up finds what was put wrong, names it, and is quick."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from lib.crystals.table import CrystalTable
from lib.datasets.checkup import (
    CONTACT_RANGE,
    check_up,
    close_pairs,
    closest_contacts,
    duplicates,
    measure,
    same_crystal,
)
from lib.datasets.sources.embedded import EMBEDDED
from lib.figures.data import check_up as check_up_figure


def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def embedded() -> CrystalTable:
    return CrystalTable.from_parquet(EMBEDDED)


@pytest.fixture(scope="module")
def few(embedded) -> CrystalTable:
    """Some groups of small polymorphs."""
    small = embedded.take((embedded.n_sites >= 4) & (embedded.n_sites <= 6))
    return small.take(np.isin(small.formula, np.unique(small.formula)[:6]))


def table_of(structures, energies, names=None) -> CrystalTable:
    names = names or [f"c{i}" for i in range(len(structures))]
    return CrystalTable.from_structures(structures, id=names, formation_energy=energies, energy_kind="test")


def finding(table, check, **changes):
    settings = {"pairs": 1000, "crystals": 3, "min_group_size": 2, "rng": rng()} | changes
    return check_up(table, **settings).findings.set_index("check").loc[check]


def rock_salt(a=5.6) -> Structure:
    return Structure.from_spacegroup(225, Lattice.cubic(a), ["Na", "Cl"], [[0] * 3, [0.5] * 3])


def with_crystal(table, structure, energy, name="odd") -> CrystalTable:
    both = [*table.structures(), structure]
    return table_of(both, [*table.formation_energy, energy], [*table.id, name])


@pytest.mark.slow
def test_the_embedded_set_is_looked_through(embedded):
    checked = check_up(embedded, pairs=500, crystals=10, min_group_size=7, rng=rng())
    found = checked.findings.set_index("check")
    assert found.found["duplicates"] == 0 and found.of["duplicates"] == 500
    assert "a sample of" in found.unit["duplicates"]
    sizes = np.unique(embedded.formula, return_counts=True)[1]
    assert (found.found["groups too small"], found.of["groups too small"]) == ((sizes < 7).sum(), len(sizes))


def test_a_crystal_in_another_cell_is_a_duplicate(few):
    twice = with_crystal(few, few.structure(3) * (2, 1, 1), few.formation_energy[3] + 0.001)
    compared, alike, n_pairs = duplicates(twice, 10**6, rng())
    assert alike == [(3, len(few))] and compared == n_pairs > 0
    line = finding(twice, "duplicates")
    assert line.found == 1 and line["first"] == f"{few.id[3]} = odd" and "all of them" in line.unit


def test_other_energies_volumes_and_superstructures_are_no_duplicates(few):
    energy = few.formation_energy[3]
    assert not duplicates(with_crystal(few, few.structure(3), energy + 0.01), 10**6, rng())[1]
    larger = few.structure(3).scale_lattice(1.3 * few.structure(3).volume)
    assert not duplicates(with_crystal(few, larger, energy), 10**6, rng())[1]
    moved = rock_salt().translate_sites(range(8), [0.1, 0.2, 0.3])
    assert same_crystal(rock_salt(), moved) and not same_crystal(rock_salt(), rock_salt(6.1))


def test_close_pairs_are_those_of_a_double_loop(few):
    pairs, n_pairs = close_pairs(few, 10**6, rng())
    expected = {
        (i, j)
        for i in range(len(few))
        for j in range(i + 1, len(few))
        if few.reduced_formula[i] == few.reduced_formula[j]
        and few.space_group[i] == few.space_group[j]
        and abs(few.formation_energy[i] - few.formation_energy[j]) < 0.002
    }
    assert set(map(tuple, pairs.tolist())) == expected and n_pairs == len(expected) > 3
    sample, n_sampled = close_pairs(few, 3, rng())
    assert len(set(map(tuple, sample.tolist()))) == 3 and n_sampled == n_pairs
    assert set(map(tuple, sample.tolist())) <= expected


def test_pairs_are_not_listed_where_all_energies_are_equal(embedded):
    same = embedded.take(np.zeros(20_000, int))
    pairs, n_pairs = close_pairs(same, 50, rng())
    assert n_pairs == 20_000 * 19_999 // 2 and len(pairs) == 50 and (pairs[:, 0] < pairs[:, 1]).all()


def test_energies_volumes_and_distances_out_of_bounds_are_named(few):
    for structure, energy, check in (
        (few.structure(0), 40.0, "formation energy (eV/atom)"),
        (few.structure(0).scale_lattice(2.5 * few.structure(0).volume), 0.0, "volume (of what its elements take)"),
    ):
        line = finding(with_crystal(few, structure, energy), check)
        assert line["first"].split(", ")[0] == "odd", "the farthest comes first"
    doubled = few.structure(0)
    doubled.append(doubled[0].species_string, doubled[0].coords + [0.4, 0, 0], coords_are_cartesian=True)
    line = finding(with_crystal(few, doubled, 0.0), "closest atoms (sums of covalent radii)")
    assert line.found == 1 and line["first"] == "odd"
    assert finding(few, "closest atoms (sums of covalent radii)").found == 0


def test_contacts_are_the_smallest_distances():
    # Na 1.66, Cl 1.02 Å; a/2 = 2.8 Å between neighbours. Na alone in 2.5 Å: an atom and its image
    alone = Structure(Lattice.cubic(2.5), ["Na"], [[0] * 3])
    coincident = Structure(Lattice.cubic(6), ["Na", "Na"], [[0] * 3, [0] * 3])
    far = Structure(Lattice.cubic(9), ["Na"], [[0] * 3])
    structures = [rock_salt(), alone, far]
    contacts = closest_contacts(table_of(structures, [0.0] * 3))
    assert contacts == pytest.approx([2.8 / 2.68, 2.5 / 3.32, CONTACT_RANGE])
    packed = CrystalTable.from_structures(
        [coincident], id=["x"], formation_energy=[0.0], space_group=[1], energy_kind="test"
    )
    assert closest_contacts(packed) == pytest.approx([0.0])


def test_a_crushed_cell_is_named_and_does_not_hang(few):
    crushed = few.structure(0).scale_lattice(1e-3)
    both = CrystalTable.from_structures(
        [*few.structures(), crushed],
        id=[*few.id, "odd"],
        formation_energy=[*few.formation_energy, 0.0],
        space_group=[*few.space_group, 1],
        energy_kind="test",
    )
    assert "odd" in finding(both, "volume (of what its elements take)")["first"]
    assert "odd" in finding(both, "closest atoms (sums of covalent radii)")["first"]


def test_groups_formulas_and_elements_that_are_too_few(few):
    more = with_crystal(few, rock_salt(), -2.0)
    without_pair = finding(more, "groups without a pair")
    assert "Cl4Na4" in without_pair["first"] and without_pair.of == len(np.unique(more.formula))
    assert "Cl4Na4" in finding(more, "groups too small")["first"]
    assert finding(more, "rare elements")["first"] == "Na, Cl"
    too_few = finding(more, "formulas too few")
    assert too_few.found == too_few.of == len(np.unique(more.reduced_formula)) < 10
    equal = table_of([rock_salt(), rock_salt(6.0)], [-1.0, -1.0])
    assert finding(equal, "groups without a pair").found == 1, "two polymorphs of one energy make no pair"


def test_many_names_are_cut_short(embedded):
    line = finding(embedded, "groups too small", pairs=1, min_group_size=7)
    assert line["first"].endswith(", ...") and line["first"].count(",") == 5


def test_every_finding_says_what_to_do(few):
    findings = check_up(few, pairs=10, crystals=3, min_group_size=2, rng=rng()).findings
    assert (findings.remedy.str.len() > 20).all() and (findings.found <= findings.of).all()


def test_the_figure_counts_every_crystal_and_shows_the_limits(few):
    measures = measure(few)
    panels = check_up_figure(measures).axes
    for axes, (name, m), n_limits in zip(panels, measures.items(), (2, 2, 1), strict=True):
        assert axes.get_xlabel() == name and sum(bar.get_height() for bar in axes.patches) == len(few)
        assert [line.get_xdata()[0] for line in axes.lines] == [m.low, m.high][:n_limits]
