import json
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.energies import relaxation
from lib.energies.relaxation import (
    element_energies,
    load_potential,
    potential_provenance,
    relax,
    relax_many,
    single_point,
    single_points,
)


def tab2(a: float = 3.15, c: float = 3.25) -> Structure:
    """TaB2, AlB2 type."""
    sites = [[0, 0, 0], [1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]
    return Structure(Lattice.hexagonal(a, c), ["Ta", "B", "B"], sites)


def bcc(symbol: str, a: float) -> Structure:
    return Structure(Lattice(a / 2 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])), [symbol], [[0, 0, 0]])


@pytest.fixture(scope="module")
def skewed() -> Structure:
    """Without symmetry, so that no force or stress component is zero."""
    structure = tab2()
    structure.apply_strain([0.02, -0.01, 0.03])
    shift = np.random.default_rng(0).normal(scale=0.08, size=(len(structure), 3))
    return Structure(structure.lattice, structure.species, structure.cart_coords + shift, coords_are_cartesian=True)


def test_energy_is_chgnets_own(skewed):
    from chgnet.model.model import CHGNet

    prediction = CHGNet.load(use_device="cpu", verbose=False).predict_structure(skewed)
    assert single_point(skewed) == pytest.approx(float(prediction["e"]), abs=1e-5)
    atoms = AseAtomsAdaptor.get_atoms(skewed, msonable=False)
    atoms.calc = load_potential()
    assert atoms.get_forces() == pytest.approx(prediction["f"], abs=1e-4)


def test_forces_and_stress_are_derivatives_of_the_energy(skewed):
    atoms = AseAtomsAdaptor.get_atoms(skewed, msonable=False)
    atoms.calc = load_potential()
    forces, stress, step = atoms.get_forces(), atoms.get_stress(voigt=False), 1e-2
    for atom, axis in [(0, 0), (1, 1), (2, 2)]:
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.calc = atoms.calc
            moved.positions[atom, axis] += sign * step
            energies.append(moved.get_potential_energy())
        assert forces[atom, axis] == pytest.approx((energies[1] - energies[0]) / (2 * step), abs=0.02)
    for i, j in [(0, 0), (2, 2), (0, 1), (1, 2)]:
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            strained = atoms.copy()
            strained.calc = atoms.calc
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(strained.get_potential_energy())
        assert stress[i, j] == pytest.approx((energies[0] - energies[1]) / (2 * step * atoms.get_volume()), abs=0.005)


@pytest.mark.slow
def test_relaxation_finds_the_minimum_of_the_energy():
    lengths = np.linspace(3.2, 3.45, 11)
    energies = [single_point(bcc("Ta", a)) for a in lengths]
    fit = np.polyfit(lengths, energies, 3)
    minimum = next(r.real for r in np.roots(np.polyder(fit)) if 3.2 < r.real < 3.45)
    result = relax(bcc("Ta", 3.2), fmax=0.01)
    assert result.failure == "" and result.max_force <= 0.01
    assert (2 * result.structure.volume) ** (1 / 3) == pytest.approx(minimum, abs=0.01)
    assert result.energy <= min(energies) + 1e-3
    assert result.start_energy == pytest.approx(energies[0])
    assert result.displacement == pytest.approx(0, abs=1e-6)  # one atom: only the cell changes


def test_symmetry_is_kept_and_the_cell_where_asked():
    result = relax(tab2())
    assert result.structure.get_space_group_info(0.001)[1] == 191
    assert result.structure.lattice.a == pytest.approx(3.10, abs=0.08)  # Å, experiment
    fixed = relax(tab2(), relax_cell=False)
    assert fixed.structure.lattice == tab2().lattice


def test_displacement_ignores_drift(skewed, monkeypatch):
    result = relax(skewed, fmax=0.1, keep_symmetry=False)
    start, end = (np.array(s.frac_coords) for s in (skewed, result.structure))
    shift = end - start - (end - start).mean(axis=0)
    expected = np.linalg.norm(shift @ result.structure.lattice.matrix, axis=1).mean()
    assert result.displacement == pytest.approx(expected) and expected > 0.01

    class Pushing(relaxation.CHGNetEnergy):
        def calculate(self, *args, **kwargs) -> None:
            super().calculate(*args, **kwargs)
            self.results["forces"] = self.results["forces"] + [0.0, 0.0, 1.0]

    monkeypatch.setitem(relaxation.POTENTIALS, "pushing", (Pushing, dict))
    pushed = relax(tab2(), "pushing", max_steps=2, relax_cell=False, keep_symmetry=False)
    assert np.ptp(pushed.structure.cart_coords - tab2().cart_coords, axis=0) == pytest.approx(0, abs=1e-3)
    assert pushed.structure.cart_coords[0, 2] > 0.02 and pushed.displacement < 1e-3


def test_what_goes_wrong_is_said():
    assert relax(tab2(3.4, 3.6), max_steps=1).failure == "not converged in 1 steps"
    overlapping = Structure(Lattice.cubic(3.2), ["Ta", "B"], [[0, 0, 0], [0.02, 0, 0]])
    result = relax(overlapping, max_steps=30, keep_symmetry=False)
    assert result.failure
    with pytest.raises(BadInput, match="'chgnat' .*chgnet"):
        relax(tab2(), "chgnat")


def test_not_a_number_is_a_failure(monkeypatch):
    class Broken(relaxation.CHGNetEnergy):
        def calculate(self, *args, **kwargs) -> None:
            super().calculate(*args, **kwargs)
            self.results["forces"] = self.results["forces"] * np.nan

    monkeypatch.setitem(relaxation.POTENTIALS, "broken", (Broken, dict))
    for steps in (0, 2):
        assert relax(tab2(), "broken", max_steps=steps, relax_cell=False).failure


def test_finished_relaxations_are_not_repeated(tmp_path):
    structures = [bcc("Ta", 3.25), bcc("W", 3.1), bcc("Ta", 3.25)]
    first = relax_many(structures, n_workers=1, finished=tmp_path, fmax=0.05)
    assert [r.failure for r in first] == ["", "", ""]
    alone = relax(structures[1], fmax=0.05)
    assert first[1].energy == pytest.approx(alone.energy, abs=1e-6) and first[1].structure == alone.structure
    files = list(tmp_path.iterdir())
    assert len(files) == 2  # equal structures are relaxed once
    for file in files:  # a mark that only a file read back can bear
        file.write_text(json.dumps(json.loads(file.read_text()) | {"n_steps": 1234}))
    again = relax_many(structures, n_workers=1, finished=tmp_path, fmax=0.05)
    assert [r.n_steps for r in again] == [1234] * 3
    assert [replace(r, n_steps=0) for r in again] == [replace(r, n_steps=0) for r in first]


def test_other_settings_are_other_relaxations():
    ta, fmax = bcc("Ta", 3.25), {"fmax": 0.05}
    key = relaxation._key(ta, "chgnet", fmax)
    assert key == relaxation._key(ta.copy(), "chgnet", fmax)
    others = [relaxation._key(ta, "chgnet", {"fmax": 0.1}), relaxation._key(bcc("Ta", 3.26), "chgnet", fmax)]
    assert len({key, relaxation._key(bcc("W", 3.25), "chgnet", fmax), *others}) == 4


def test_many_single_points():
    structures = [bcc("Ta", 3.3), tab2()]
    assert single_points(structures, n_workers=1) == pytest.approx([single_point(s) for s in structures], abs=1e-5)
    assert single_points([], n_workers=1).shape == (0,)


@pytest.mark.slow
def test_element_energies():
    weights = potential_provenance()["weights_sha256"]
    crystals = CrystalTable.from_structures(
        [bcc("Ta", 3.3), bcc("W", 3.0), bcc("W", 3.18)],
        id=["Ta", "W squeezed", "W"],
        formation_energy=[0.0, 0.4, 0.0],
        energy_kind="test",
    )
    recorded = replace(crystals, about={"weights_sha256": weights, "element_energies_eV_per_atom": {"Ta": -1.0}})
    found = element_energies(["Ta", "W"], [recorded])
    assert found["Ta"] == -1.0  # the table's own, made with the same potential
    assert found["W"] == pytest.approx(relax(bcc("W", 3.18)).energy, abs=1e-3)
    foreign = replace(recorded, about=recorded.about | {"weights_sha256": "of another potential"})
    assert element_energies(["Ta"], [foreign])["Ta"] == pytest.approx(relax(bcc("Ta", 3.3)).energy, abs=1e-3)
    with pytest.raises(BadInput, match="no crystal of pure B"):
        element_energies(["B"], [foreign])


def test_results_are_the_same_each_time():
    one, other = (relax(tab2(), fmax=0.1) for _ in range(2))
    assert one.energy == other.energy and one.n_steps == other.n_steps


def test_elements_that_chgnet_does_not_know_are_named():
    with pytest.raises(ValueError, match="not Am, Og"):
        load_potential().calculate(Atoms("AmOgTa", positions=np.eye(3) * 2, cell=[9, 9, 9], pbc=True))
