"""Relaxed structures that symmetry alone keeps where they are."""

from dataclasses import replace

import pytest
from pymatgen.core import Lattice, Structure

from lib.core.errors import BadInput
from lib.energies.relaxation import relax
from lib.energies.saddles import rattled, settle, shaken

EMT_PATH = "ase.calculators.emt:EMT"
SIMPLE_CUBIC = Structure(Lattice.cubic(2.4), ["Cu"], [[0, 0, 0]])


@pytest.mark.slow
def test_a_saddle_says_so():
    """Simple cubic copper relaxes while its symmetry is kept, and falls to a denser packing when it is broken."""
    fcc = Structure(Lattice.cubic(3.61), ["Cu"] * 4, [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    above, at_minimum = settle([SIMPLE_CUBIC, fcc], EMT_PATH, n_workers=1, fmax=0.02)
    assert above.saddle and above.drop < -0.01
    assert above.relaxation.energy < -0.01 + relax(SIMPLE_CUBIC, EMT_PATH).energy
    assert not at_minimum.saddle and at_minimum.drop == pytest.approx(0, abs=0.001)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("structure", "gain"),
    [
        pytest.param(
            Structure(
                Lattice.cubic(4.03),
                ["Ba", "Ti", "O", "O", "O"],
                [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
            ),
            -0.014,
            id="cubic BaTiO3",
        ),
        pytest.param(
            Structure(Lattice.cubic(3.01), ["Ti", "Ni"], [[0, 0, 0], [0.5, 0.5, 0.5]]).make_supercell([2, 2, 1]),
            -0.009,
            id="B2 TiNi",  # its atoms move against those of neighbouring cells
        ),
    ],
)
def test_known_saddles_do_not_pass_as_relaxed(structure, gain):
    """Both are phases of high temperature: at zero kelvin they are unstable against displacements of their atoms."""
    how = {"fmax": 0.05, "max_steps": 300}
    kept = relax(structure, **how)
    assert kept.outcome == "converged", "symmetry lets nothing move, so that it passes"
    (settled,) = shaken([kept], n_workers=1, keep_symmetry=False, **how)
    assert settled.saddle and settled.drop == pytest.approx(gain, abs=0.006)
    assert settled.relaxation.energy == pytest.approx(kept.energy + settled.drop)


def test_what_another_potential_relaxed_is_not_compared():
    done = relax(SIMPLE_CUBIC, EMT_PATH)
    assert done.potential == EMT_PATH
    with pytest.raises(BadInput, match="EMT do not compare with those of chgnet; relax .* with chgnet first"):
        shaken([done], "chgnet", n_workers=1)
    with pytest.raises(BadInput, match="no known potential do not compare"):
        shaken([replace(done, potential="")], EMT_PATH, n_workers=1)


def test_the_same_structure_is_rattled_in_the_same_way():
    once, again = rattled(SIMPLE_CUBIC), rattled(SIMPLE_CUBIC.copy())
    assert once == again and once.lattice.abc != pytest.approx(SIMPLE_CUBIC.lattice.abc, abs=1e-3)
    assert rattled(once) != once
