import gzip
import json

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry, ManualEnergyAdjustment

from lib.core.errors import BadInput
from lib.core.run import Run
from lib.datasets.sources import load
from lib.studies.params import IngestParams

NACL = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
SODIUM = Structure(Lattice.cubic(4.29), ["Na", "Na"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CHLORINE = Structure(Lattice.cubic(6.0), ["Cl", "Cl"], [[0, 0, 0], [0.3, 0, 0]])


def entries():
    """Four formula units of NaCl at -27 - 1 eV, beside its elements at -1.3 and -1.8 eV/atom."""
    return [
        ComputedStructureEntry(NACL, -27.0, energy_adjustments=[ManualEnergyAdjustment(-1.0)], entry_id="nacl"),
        ComputedStructureEntry(SODIUM, -2.6, data={"material_id": "na"}),
        ComputedStructureEntry(CHLORINE, -3.6),
    ]


def loaded(root, raw, name="entries.json", **values):
    path, text = root / name, raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    return load(params := IngestParams(source="entries", entries_path=path, **values), Run(params, root))


@pytest.mark.parametrize("name, wrapped", [("a.json", False), ("a.json.gz", True)])
def test_entries_become_formation_energies(tmp_path, name, wrapped):
    raw = [entry.as_dict() for entry in entries()]
    table = loaded(tmp_path, {"entries": raw} if wrapped else raw, name)
    assert table.id.tolist() == ["nacl", "na", "entry 3"] and table.n_sites.tolist() == [2, 1, 2]
    assert table.space_group.tolist()[:2] == [225, 229]
    np.testing.assert_allclose(table.formation_energy, [-28 / 8 + (1.3 + 1.8) / 2, 0, 0], atol=1e-9)
    assert "corrected" in table.energy_kind


def test_entries_may_refer_to_a_file_of_elements(tmp_path):
    references = tmp_path / "elements.csv"
    references.write_text("element,energy\nNa,-1\nCl,-2\n")
    table = loaded(tmp_path, [entries()[0].as_dict()], files_references=references)
    np.testing.assert_allclose(table.formation_energy, [-3.5 + 1.5])


def changed(change):
    raw = [entry.as_dict() for entry in entries()]
    change(raw)
    return raw


@pytest.mark.parametrize(
    "raw, said",
    [
        (b"{", "does not read as json"),
        ({"entries": {}}, "no list of entries"),
        (changed(lambda raw: raw.pop(1)), "no energy of pure Na .*'files_references'"),
        (changed(lambda raw: raw[0].pop("structure")), "nacl in entries.json.* ComputedStructureEntry"),
        (changed(lambda raw: raw[0].update(energy=float("nan"))), "nacl .*energy"),
        (changed(lambda raw: raw[1].update(entry_id="nacl")), "nacl stands more than once"),
        (changed(lambda raw: raw[0].update(composition={"Na": 4})), "nacl .*composition"),
        ([1, 2], "entry 1 in entries.json"),
    ],
)
def test_entries_that_cannot_be_used_are_named(tmp_path, raw, said):
    with pytest.raises(BadInput, match=said):
        loaded(tmp_path, raw)


def test_a_file_that_is_missing(tmp_path):
    params = IngestParams(source="entries", entries_path=tmp_path / "none.json")
    with pytest.raises(BadInput, match="none.json does not exist.*'entries_path'"):
        load(params, Run(params, tmp_path))
    with pytest.raises(ValueError, match="'entries_path'"):
        IngestParams(source="entries")
