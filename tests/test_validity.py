"""Which structures are crystals to go on with, their space groups, and which are the same."""

import numpy as np
from conftest import named_table, rock_salt
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
