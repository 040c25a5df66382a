"""Energies of the elements that formation energies are counted from."""

import json

import numpy as np
import pytest

from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.datasets import references
from lib.datasets.sources.embedded import EMBEDDED
from lib.energies.potentials import potential_provenance

MP = "Materials Project formation energy"


def test_references_fitted_to_compounds_are_the_elements_energies():
    embedded = CrystalTable.from_parquet(EMBEDDED)
    counts = np.array([len(np.unique(embedded.species_of(i))) for i in range(len(embedded))])
    compounds = embedded.take(np.flatnonzero((counts == 2) & (embedded.n_sites <= 4)))
    few = compounds.take([i for i in range(len(compounds)) if set(compounds.species_of(i)) <= {13, 28, 29}])
    fitted = references.fitted_to(few, "chgnet", rng=np.random.default_rng(0), n_workers=1)
    known = embedded.about["element_energies_eV_per_atom"]
    assert sorted(fitted) == ["Al", "Cu", "Ni"], "no pure element is among the crystals"
    assert all(fitted[symbol] == pytest.approx(known[symbol], abs=0.01) for symbol in fitted)


def test_energies_are_kept_by_the_kind_of_the_data(tmp_path, monkeypatch):
    embedded = CrystalTable.from_parquet(EMBEDDED)
    held = [i for i in range(len(embedded)) if set(embedded.species_of(i)) <= {13, 28} and embedded.n_sites[i] <= 4]
    path = tmp_path / "kept.json"
    path.write_text(json.dumps({"another kind": {}}))
    entry = references.keep(embedded.take(held[:40]), "chgnet", data="some", licence="MIT", path=path)
    assert sorted(entry["energies"]) == ["Al", "Ni"] and 0 <= entry["error"] < 0.05 and entry["n_error"] > 0
    assert json.loads(path.read_text()) == {"another kind": {}, embedded.energy_kind: entry}
    monkeypatch.setattr(references, "KEPT", path)
    assert references.of_kind(embedded.energy_kind, "chgnet") == entry["energies"]
    path.write_text(json.dumps({embedded.energy_kind: entry | {"weights_sha256": "of another version"}}))
    assert len(references.of_kind(embedded.energy_kind, "chgnet")) == 17, "those of the embedded set"


def test_a_table_without_energies_has_no_references(tmp_path):
    embedded = CrystalTable.from_parquet(EMBEDDED).take([0])
    nameless = CrystalTable.from_structures(
        list(embedded.structures()), id=["a"], formation_energy=np.zeros(1), energy_kind="unknown"
    )
    with pytest.raises(BadInput, match="known kind.*notebook 02"):
        references.keep(nameless, "chgnet", data="", licence="", path=tmp_path / "kept.json")
    with pytest.raises(BadInput, match="judge it; give more"):
        references.keep(embedded, "chgnet", data="", licence="", path=tmp_path / "kept.json")


def test_what_ships_serves_the_shipped_weights():
    kept = json.loads(references.KEPT.read_text())[MP]
    assert kept["weights_sha256"] == potential_provenance("chgnet")["weights_sha256"]
    assert len(references.of_kind(MP, "chgnet")) >= 80
    assert kept["n_error"] >= 250 and kept["error"] < 0.15 and kept["licence"] == "CC-BY-4.0"
