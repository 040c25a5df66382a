import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter, UnitCellFilter
from ase.optimize import BFGS, FIRE
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.energies import relaxation
from lib.energies.potentials import potential_provenance
from lib.energies.relaxation import (
    BFGS_CURVATURE,
    CLOSEST,
    element_energies,
    push_apart,
    relax,
    relax_many,
    relaxing,
    single_point,
    single_points,
)

EMT_PATH = "ase.calculators.emt:EMT"


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


def test_displacement_ignores_drift(skewed):
    result = relax(skewed, fmax=0.1, keep_symmetry=False)
    start, end = (np.array(s.frac_coords) for s in (skewed, result.structure))
    shift = end - start - (end - start).mean(axis=0)
    expected = np.linalg.norm(shift @ result.structure.lattice.matrix, axis=1).mean()
    assert result.displacement == pytest.approx(expected) and expected > 0.01


class Pushing(EMT):
    """A force on a single atom, once the gate's crystals are done with."""

    def calculate(self, *args, **kwargs) -> None:
        super().calculate(*args, **kwargs)
        self.results["forces"] = self.results["forces"] + [0.0, 0.0, float(len(self.atoms) == 1)]


def test_a_drift_is_no_displacement():
    fcc = Structure(Lattice([[0, 1.85, 1.85], [1.85, 0, 1.85], [1.85, 1.85, 0]]), ["Cu"], [[0, 0, 0]])
    pushed = relax(fcc, f"{__name__}:Pushing", max_steps=2, relax_cell=False, keep_symmetry=False)
    assert pushed.structure.cart_coords[0, 2] > 0.02 and pushed.displacement < 1e-3


def test_what_goes_wrong_is_said():
    assert relax(tab2(3.4, 3.6), max_steps=1).failure == "not converged in 1 steps"
    overlapping = Structure(Lattice.cubic(3.2), ["Ta", "B"], [[0, 0, 0], [0.02, 0, 0]])
    result = relax(overlapping, max_steps=30, keep_symmetry=False)
    assert result.failure


class Broken(EMT):
    """Forces that are no numbers, once the gate's crystals are done with."""

    def calculate(self, *args, **kwargs) -> None:
        super().calculate(*args, **kwargs)
        self.results["forces"] = self.results["forces"] * (np.nan if len(self.atoms) == 1 else 1)


def test_not_a_number_is_a_failure():
    fcc = Structure(Lattice([[0, 1.85, 1.85], [1.85, 0, 1.85], [1.85, 1.85, 0]]), ["Cu"], [[0, 0, 0]])
    assert relax(fcc, f"{__name__}:Broken", max_steps=2, relax_cell=False).failure
    assert not relax(fcc, EMT_PATH, max_steps=2, relax_cell=False).failure


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
    with pytest.raises(BadInput, match="gives no energy of pure Ta .*leave Ta out"):  # else every energy is nan
        element_energies(["Ta"], [foreign], EMT_PATH)


def test_results_are_the_same_each_time():
    one, other = (relax(tab2(), fmax=0.1) for _ in range(2))
    assert one.energy == other.energy and one.n_steps == other.n_steps


FCC_METALS = {"Cu": 3.61, "Ag": 4.09, "Au": 4.08, "Ni": 3.52, "Pd": 3.89, "Pt": 3.92}


def alloys(n: int) -> list[Structure]:
    """Ordered alloys on the fcc lattice, of four and of two atoms, strained and rattled at random."""
    rng, found = np.random.default_rng(0), []
    for i in range(n):
        symbols = rng.choice(list(FCC_METALS), 4)
        a = np.mean([FCC_METALS[symbol] for symbol in symbols])
        if i % 2:
            structure = Structure(Lattice.tetragonal(a / 2**0.5, a), symbols[:2], [[0, 0, 0], [0.5, 0.5, 0.5]])
        else:
            structure = Structure(Lattice.cubic(a), symbols, [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
        structure.apply_strain(rng.normal(scale=0.01, size=3))
        found.append(structure.perturb(0.05, seed=i))
    return found


def by_ase(structure: Structure, optimiser, cell_filter, fmax: float) -> Structure:
    """What ASE makes of a structure, with its own calculator and loop."""
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.calc = EMT()
    optimiser(cell_filter(atoms), logfile=None).run(fmax=fmax, steps=300)
    return atoms


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimiser", "theirs"),
    [("fire", (FIRE, FrechetCellFilter)), ("bfgs", (partial(BFGS, alpha=BFGS_CURVATURE), UnitCellFilter))],
)
def test_a_batch_gives_what_ase_gives_one_by_one(optimiser, theirs):
    structures = alloys(6)
    how = {"fmax": 0.05, "max_steps": 300, "keep_symmetry": False, "optimiser": optimiser}
    found = dict(relaxing(structures, EMT_PATH, batch_atoms=12, **how))
    assert sorted(found) == list(range(6))
    assert list(found) != list(range(6)), "finished crystals leave the batch before slower ones"
    for place, structure in enumerate(structures):
        atoms, ours = by_ase(structure, *theirs, fmax=0.05), found[place]
        assert ours.outcome == "converged"
        assert ours.energy == pytest.approx(atoms.get_potential_energy() / len(atoms), abs=1e-3)
        assert ours.structure.lattice.abc == pytest.approx(atoms.cell.lengths(), abs=0.01)
        theirs_frac = atoms.get_scaled_positions(wrap=False)
        shift = (ours.structure.frac_coords - theirs_frac) @ atoms.cell.array
        assert np.abs(shift - shift.mean(axis=0)).max() < 0.01


def test_one_bad_crystal_of_a_batch_leaves_the_others_alone():
    stranger = bcc("Ta", 3.3)  # which effective medium theory does not know
    wide = Structure(Lattice.cubic(3.61), ["Cu"], [[0, 0, 0]])  # simple cubic: far from any minimum that it knows
    copper = alloys(1)[0]
    how = {"batch_atoms": 40, "keep_symmetry": False, "max_steps": 2, "fmax": 1e-4}
    found = dict(relaxing([stranger, copper, wide], EMT_PATH, **how))
    alone = relax(copper, EMT_PATH, keep_symmetry=False, max_steps=2, fmax=1e-4)
    assert found[0].outcome.startswith("rejected: ValueError: EMT")
    assert found[1].outcome == found[2].outcome == "capped"
    assert found[1].energy == pytest.approx(alone.energy, abs=1e-9)


def test_atoms_in_one_place_are_pushed_apart():
    """Their forces are no numbers or zero, and no optimiser would part them."""
    structure = Structure(Lattice.cubic(6.0), ["Cu", "Cu", "Ni"], [[0, 0, 0], [0, 0, 0], [0.5, 0.5, 0.55]])
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    push_apart(atoms)
    assert atoms.get_distance(0, 1, mic=True) >= CLOSEST
    assert atoms.positions[2] == pytest.approx([3, 3, 3.3])
    assert relax(structure, EMT_PATH, max_steps=1, keep_symmetry=False).start_energy < 1e3


def test_batches_are_resumed_and_shared_between_processes(tmp_path):
    structures = alloys(6)
    how = {"keep_symmetry": False, "max_steps": 5, "batch_atoms": 12}
    first = relax_many(structures[:3], EMT_PATH, n_workers=1, finished=tmp_path, **how)
    marks = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(marks) == 3
    every = relax_many(structures, EMT_PATH, n_workers=2, finished=tmp_path, **how)
    assert {path: path.stat().st_mtime_ns for path in marks} == marks
    assert [r.energy for r in every[:3]] == [r.energy for r in first] and len(list(tmp_path.iterdir())) == 6
