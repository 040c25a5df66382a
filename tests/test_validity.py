"""Which structures are crystals to go on with, their space groups, and which are the same."""

from itertools import combinations

import numpy as np
from conftest import named_table, rock_salt
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from lib.crystals.validity import obtained_space_group, reason_invalid
from lib.metrics.duplicates import equal_structures, known_twins

VOLUMES = np.full(119, 15.0)


def test_reasons_against_going_on():
    good = Structure(Lattice.cubic(3.3), ["Ta", "W"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert reason_invalid(good, VOLUMES) == ""
    assert reason_invalid(None, VOLUMES) == "no valid cell"
    swollen, crushed = good.copy(), good.copy()
    swollen.scale_lattice(2 * good.volume)
    crushed.scale_lattice(1e-6)
    assert reason_invalid(swollen, VOLUMES) == reason_invalid(crushed, VOLUMES) == "volume outside the window"
    close = Structure(Lattice.cubic(3.3), ["Ta", "W"], [[0, 0, 0], [0.49, 0.0, 0.0]])  # 1.62 Å, sum of radii 3.32 Å
    assert reason_invalid(close, VOLUMES) == "atoms too close"
    assert reason_invalid(close, VOLUMES, min_distance=0.45) == ""
    same_place = Structure(Lattice.cubic(3.3), ["Ta", "W"], [[0, 0, 0], [0, 0, 0]])
    assert reason_invalid(same_place, VOLUMES) == "atoms too close"
    image = Structure(Lattice.orthorhombic(1.0, 6.0, 6.0), ["Ta", "W"], [[0, 0, 0], [0, 0.5, 0.5]])  # its own image
    assert reason_invalid(image, VOLUMES) == "atoms too close"


def test_space_groups():
    assert obtained_space_group(rock_salt(5.6, "Na", "Cl"), 0.01) == 225
    moved = rock_salt(5.6, "Na", "Cl")
    moved.translate_sites([0], [0.005, 0, 0])  # 0.03 Å
    assert (obtained_space_group(moved, 0.1), obtained_space_group(moved, 0.01)) == (225, 99)
    assert obtained_space_group(Structure(Lattice.cubic(3), ["W", "W"], [[0, 0, 0]] * 2), 0.1) == 1


def test_known_twins():
    crystals = named_table({"salt": rock_salt(5.6, "Na", "Cl"), "big": rock_salt(6.4, "Na", "Cl")}, [-2.0, -1.9])
    moved = rock_salt(5.62, "Na", "Cl").translate_sites(range(8), [0.1, 0, 0])
    primitive = rock_salt(6.38, "Na", "Cl").get_primitive_structure()
    other = rock_salt(5.6, "K", "Cl")
    assert known_twins([moved, primitive, other], crystals, n_workers=1) == ["salt", "big", ""]
    assert known_twins([other], crystals, n_workers=1) == [""]


def test_equal_structures_have_nearly_one_volume():
    salt = rock_salt(5.6, "Na", "Cl")
    assert equal_structures(salt, rock_salt(5.68, "Na", "Cl").get_primitive_structure())
    assert not equal_structures(salt, rock_salt(5.8, "Na", "Cl"))
    assert not equal_structures(salt, rock_salt(5.6, "K", "Cl"))
    cubic, drawn = (
        Structure(lattice, ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for lattice in (Lattice.cubic(4), Lattice.orthorhombic(4.84, 3.72, 3.72))
    )
    assert not equal_structures(cubic, drawn), "one axis is 21 % longer, and 19 % at one volume"


def test_equal_structures_are_those_of_pymatgen(small_table):
    """Polymorphs of AlNi3, strained a little and rattled more and more."""
    alike = small_table.take(np.flatnonzero(small_table.formula == "Al1Ni3"))
    crystals = list(alike.take(range(0, len(alike), len(alike) // 8)).structures())
    for i, crystal in enumerate(list(crystals)):
        strained = crystal.copy().apply_strain([0.01, -0.004 * i, 0.002 * i])
        crystals.append(strained.perturb(0.06 * i, seed=i))
    pairs = list(combinations(crystals, 2))
    theirs = [StructureMatcher(scale=False).fit(*pair) for pair in pairs]
    ratios = np.array([one.volume / other.volume for one, other in pairs])
    assert [equal_structures(*pair) for pair in pairs] == (theirs & (np.abs(np.log(ratios)) <= np.log(1.05))).tolist()
    assert 5 < sum(theirs) < len(pairs) - 5
