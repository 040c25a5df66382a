"""Every potential of the registry passes the gate, and what must not pass does not."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.energies.potentials import (
    POTENTIALS,
    energy_kind_of,
    gate,
    load_potential,
    m3gnet,
    potential_class,
    potential_provenance,
)
from lib.energies.potentials.interface import Potential

SHARED = Path(os.environ.get("CRYSTAL_SHARED", ROOT.parent / "shared"))
WEIGHTS = SHARED / "potentials" / "M3GNet-MP-2021.2.8-PES"


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Nothing has passed the gate yet, and the paper's weights lie where the tests have them."""
    monkeypatch.setattr(gate, "PASSED", tmp_path / "passed.json")
    monkeypatch.setattr(m3gnet, "FOLDER", WEIGHTS)
    load_potential.cache_clear()
    yield
    load_potential.cache_clear()


def installed(name: str) -> type[Potential]:
    """The class, or the test is skipped."""
    package = POTENTIALS[name].card.package
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if name == "m3gnet" and not WEIGHTS.is_dir():
        pytest.skip(f"{WEIGHTS} is not here")
    return POTENTIALS[name]


def crystal(name: str) -> Atoms:
    """One of the gate's."""
    return Atoms(pbc=True, **json.loads(gate.RECORD.read_text())["crystals"][name])


@pytest.mark.slow
@pytest.mark.parametrize("name", POTENTIALS)
def test_every_potential_passes_and_takes_crystals_in_batches(name):
    installed(name)
    potential = load_potential(name)
    assert json.loads(gate.PASSED.read_text()).keys() == {name}
    of_gate = map(crystal, ("NaCl", "W", "TaB2", *json.loads(gate.RECORD.read_text())["crystals"]))
    crystals = [atoms for atoms in of_gate if not potential.strangers(atoms)][:3]
    crystals[-1].rattle(0.05, seed=1)
    for atoms, together in zip(crystals, potential.evaluate(crystals), strict=True):
        atoms.calc = potential
        assert together.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
        assert together.forces == pytest.approx(atoms.get_forces(), abs=1e-4)
        assert together.stress == pytest.approx(atoms.get_stress(voigt=False), abs=1e-5)
    stranger = Atoms("AmOgTa", positions=np.eye(3) * 2, cell=[9, 9, 9], pbc=True)
    with pytest.raises(ValueError, match="does not know .*Og"):
        potential.calculate(stranger)


def test_chgnets_energies_and_forces_are_its_own():
    from chgnet.model.model import CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = crystal("TaB2")
    atoms.rattle(0.08, seed=0)
    prediction = CHGNet.load(use_device="cpu", verbose=False).predict_structure(AseAtomsAdaptor.get_structure(atoms))
    (ours,) = potential_class("chgnet")().evaluate([atoms])
    assert ours.energy / len(atoms) == pytest.approx(float(prediction["e"]), abs=1e-5)
    assert ours.forces == pytest.approx(prediction["f"], abs=1e-4)


@pytest.mark.slow
def test_the_papers_weights_loaded_the_naive_way_are_refused(monkeypatch):
    """matgl loads them without complaint and sums messages at the other atom: NaCl comes out 2 eV/atom too high.

    Elements are right, and forces and stress are derivatives of the energy: the record alone shows it.
    """
    naive = installed("m3gnet")()
    for block in naive.network.model.graph_layers:
        del block.conv.node_update_
    with pytest.raises(BadInput, match="potential m3gnet fails the gate at NaCl, MgO, SiC.*not those on record"):
        gate.admit(naive, "m3gnet")
    assert not gate.PASSED.exists()
    salt = gate.measure(naive, "m3gnet").loc["NaCl"]
    assert salt["energy"] == pytest.approx(-1.25, abs=0.01) and salt["recorded"] == pytest.approx(-3.37, abs=0.01)
    assert salt["force"] == pytest.approx(salt["by difference"], abs=gate.FORCE)


class InGigapascals(EMT):
    """A calculator with the stress in GPa, as some packages give it."""

    def calculate(self, *args, **kwargs) -> None:
        super().calculate(*args, **kwargs)
        self.results["stress"] = self.results["stress"] * 160.2


class WithoutForces(EMT):
    """A calculator that leaves some atoms in their places."""

    def calculate(self, *args, **kwargs) -> None:
        super().calculate(*args, **kwargs)
        self.results["forces"] = self.results["forces"] * 0.5


def test_any_ase_calculator_by_its_import_path():
    emt = load_potential("ase.calculators.emt:EMT")
    copper_gold = crystal("Cu3Au")
    copper_gold.calc = EMT()
    assert emt.evaluate([copper_gold])[0].energy == pytest.approx(copper_gold.get_potential_energy())
    assert potential_provenance("ase.calculators.emt:EMT")["weights_sha256"].startswith("none: ase.calculators.emt:EMT")
    for wrong in ("InGigapascals", "WithoutForces"):
        with pytest.raises(BadInput, match="fails the gate at Cu3Au, AlNi"):
            load_potential(f"{__name__}:{wrong}")
    for wrong in ("nowhere:Nothing", "os:path", "..:x", "lib.core.run:Run"):
        with pytest.raises(BadInput, match=f"potential {wrong} cannot be made .*module:Class"):
            potential_class(wrong)
    with pytest.raises(BadInput, match="potential 'chgnat' is not known; choose one of chgnet, m3gnet, sevennet"):
        load_potential("chgnat")


def test_the_gate_is_passed_once(monkeypatch):
    potential = potential_class("ase.calculators.emt:EMT")()
    gate.admit(potential, "emt")
    monkeypatch.setattr(gate, "measure", None)
    gate.admit(potential, "emt")
    monkeypatch.setattr(gate, "ENERGY", 1e-9)  # another gate
    with pytest.raises(TypeError):
        gate.admit(potential, "emt")


def test_a_missing_package_and_other_weights_are_named(monkeypatch):
    potential_class.cache_clear()
    mine = type("Mine", (POTENTIALS["m3gnet"],), {"card": replace(POTENTIALS["m3gnet"].card, package="no-package")})
    monkeypatch.setitem(POTENTIALS, "m3gnet", mine)
    with pytest.raises(
        BadInput, match=r"m3gnet needs the package no-package; install it with pip install '.\[m3gnet\]'"
    ):
        potential_class("m3gnet")
    chgnet = POTENTIALS["chgnet"]
    monkeypatch.setattr(chgnet, "card", replace(chgnet.card, weights_sha256="0" * 64))
    with pytest.raises(BadInput, match="other weights than those of CHGNet 0.3.0"):
        chgnet()


def test_each_potential_has_a_scale_of_its_own():
    assert energy_kind_of("chgnet") == "chgnet-0.3.0 formation energy"  # as the embedded set's
    assert len({energy_kind_of(name) for name in POTENTIALS}) == len(POTENTIALS)
    assert len({POTENTIALS[name].card.weights_sha256 for name in POTENTIALS}) == len(POTENTIALS)
