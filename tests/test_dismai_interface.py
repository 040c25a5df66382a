"""Interfaces as they are put together: the published cell, the crystals in it, and what lies between."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from lib.core.errors import BadInput
from lib.dismai import interface
from lib.dismai.datasets import read_published
from lib.dismai.interface import (
    chloride_slab,
    in_plane_cell,
    interface_energy,
    lithium_cobalt_oxide,
    lithium_scandium_chloride,
    oxide_slab,
    random_interface,
)
from lib.dismai.systems import Interface, rejected, system_of


def test_crystals_have_their_octahedra():
    for crystal, centre, around, n, longest in (
        (lithium_cobalt_oxide(), "Co", "O", 6, 1.95),
        (lithium_cobalt_oxide(), "Li", "O", 6, 2.15),
        (lithium_scandium_chloride(), "Sc", "Cl", 6, 2.6),
    ):
        for site in (s for s in crystal if s.specie.symbol == centre):
            near = [x for x in crystal.get_neighbors(site, longest) if x.specie.symbol == around]
            assert len(near) == n, centre
    assert lithium_scandium_chloride().composition.reduced_formula == "Li3ScCl6"


def test_the_cell_is_the_published_one():
    plane = in_plane_cell()
    assert np.linalg.norm(plane, axis=1) == pytest.approx([12.46997, 17.19967], abs=2e-4)
    angle = np.degrees(np.arccos(plane[0] @ plane[1] / np.prod(np.linalg.norm(plane, axis=1))))
    assert angle == pytest.approx(75.6674, abs=1e-3)
    b, c = lithium_scandium_chloride().lattice.b, lithium_scandium_chloride().lattice.c
    salt = np.hypot(b, c), np.hypot(b, 2 * c)
    mismatch = np.abs(np.array(salt) / np.linalg.norm(plane, axis=1) - 1)
    assert mismatch.mean() == pytest.approx(0.0217, abs=0.003), "2.17 % in the paper"


def test_slabs_are_cut_out_of_the_crystals():
    oxide, salt = oxide_slab(4), chloride_slab(3)
    assert len(oxide.species) == 144 and len(np.unique(oxide.height.round(2))) == 4
    assert [salt.species.count(x) for x in ("Li", "Sc", "Cl")] == [27, 9, 54]
    ends = [
        (np.array(salt.species)[near] == "Cl").sum() for near in (salt.height < 1, salt.height > salt.height.max() - 1)
    ]
    assert ends == [9, 9], "half of the outermost chlorine on either side"
    plane = in_plane_cell()
    for slab in (oxide, salt):
        edges = np.diag([0, 0, slab.height.max() + 20])
        edges[:2, :2] = plane
        cut = Structure(
            edges, slab.species, np.column_stack([slab.in_plane @ plane, slab.height]), coords_are_cartesian=True
        )
        distance = cut.distance_matrix + 10 * np.eye(len(cut))
        assert distance.min() > (1.85 if slab is oxide else 2.2), "no two atoms are of one site"
    with pytest.raises(BadInput, match="even number of layers"):
        oxide_slab(3)


@pytest.mark.parametrize("n_atoms, formula", [(264, "Li72 Co36 Sc12 Cl72 O72"), (132, "Li36 Co18 Sc6 Cl36 O36")])
def test_random_interfaces_have_the_published_composition(n_atoms, formula):
    made = [random_interface(n_atoms, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert made[0] == made[1] and made[0] != made[2] and made[0].lattice == made[2].lattice
    for structure in made:
        assert structure.composition.formula.split() == sorted(
            formula.split(), key=structure.composition.formula.split().index
        )
        filling = structure.distance_matrix[-30:] + 10 * (np.arange(n_atoms)[None] == np.arange(n_atoms)[-30:, None])
        assert filling.min() >= interface.APART
    with pytest.raises(BadInput, match="264 or 132 atoms, not 200"):
        random_interface(200, np.random.default_rng(0))


def test_energies_are_zero_at_the_published_limit():
    assert interface_energy(-4.78, 207.8) == pytest.approx(0)
    assert interface_energy(-4.76, 207.8) == pytest.approx(0.407, abs=1e-3)


def test_a_file_of_interfaces_is_a_data_set(tmp_path):
    """As the authors' file is read: frames of one cell, whatever the width of the gap."""
    made = [random_interface(132, np.random.default_rng(i)) for i in range(2)]
    frames = [AseAtomsAdaptor.get_atoms(structure, msonable=False) for structure in made]
    ase.io.write(tmp_path / "interfaces.xyz", frames, format="extxyz")
    table = read_published(path=tmp_path / "interfaces.xyz", folder=tmp_path)
    system = system_of("interface", table)
    assert len(table) == 2 and isinstance(system, Interface)
    assert [rejected(structure, system.lattice, system.species, "one") for structure in made] == ["", ""]
