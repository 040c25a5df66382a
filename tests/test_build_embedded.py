"""The embedded set is what its builder makes: energies and rebuilt structures agree, and the sieve works."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from lib.crystals.table import CrystalTable
from lib.datasets.build_embedded import (
    GROUND_STATES,
    decorate,
    merge_duplicates,
    prototype_candidates,
    reason_to_drop,
    relax_candidate,
)
from lib.datasets.sources.embedded import EMBEDDED
from lib.energies.potentials import potential_provenance
from lib.energies.relaxation import single_point

MEV = 0.001
REBUILT = 6


@pytest.fixture(scope="module")
def table() -> CrystalTable:
    return CrystalTable.from_parquet(EMBEDDED)


def formation_energy(table: CrystalTable, structure: Structure, energy: float) -> float:
    elements = table.about["element_energies_eV_per_atom"]
    return energy - np.mean([elements[site.specie.symbol] for site in structure])


def test_it_says_whose_energies_these_are(table):
    assert "CHGNet" in table.about["description"] and "DFT" in table.about["description"]
    provenance = potential_provenance("chgnet")
    assert {key: table.about[key] for key in provenance} == provenance
    assert sum(table.about["dropped"].values()) + len(table) == table.about["relaxed"]
    assert set(table.about["element_energies_eV_per_atom"]) == set(GROUND_STATES)


@pytest.mark.slow
def test_single_point_energies_of_thirty_agree(table):
    for i in np.random.default_rng(0).permutation(len(table))[:30]:
        structure = table.structure(i)
        found = formation_energy(table, structure, single_point(structure))
        assert found == pytest.approx(table.formation_energy[i], abs=MEV), table.id[i]


@pytest.mark.slow
def test_six_are_rebuilt_from_their_prototypes(table):
    """Decoration, starting volume and relaxation, for the smallest cells of systems far apart in the list."""
    rebuilt = 0
    for system in (("B", "Ta"), ("Al", "Ni"), ("Al", "Ti"), ("Au", "Cu"), ("Ni", "Ti"), ("Mo", "Ta")):
        known = set(table.id)
        candidate = next(c for c in prototype_candidates(system, 4) if c.id in known and len(c.structure) == 4)
        row = relax_candidate(candidate)
        assert row["failure"] == ""
        structure = Structure(
            np.reshape(row["lattice"], (3, 3)), row["species"], np.reshape(row["frac_coords"], (-1, 3))
        )
        i = int(np.flatnonzero(table.id == candidate.id)[0])
        found = formation_energy(table, structure, row["energy"])
        assert found == pytest.approx(table.formation_energy[i], abs=MEV), candidate.id
        assert structure.volume / len(structure) == pytest.approx(table.volume_per_atom[i], rel=2e-3)
        rebuilt += 1
    assert rebuilt == REBUILT


def test_elements_lie_on_the_hull_by_construction(table):
    for symbol in GROUND_STATES:
        pure = table.reduced_formula == symbol
        assert np.abs(table.formation_energy[pure]).min() < MEV, symbol


def test_the_sieve_names_its_reason():
    fcc = Structure(Lattice.cubic(4.05), ["Al"] * 4, [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    assert reason_to_drop(fcc, 0.0, fcc.volume) == ""
    assert reason_to_drop(fcc, 1.2, fcc.volume) == "energy outside the window"
    assert reason_to_drop(fcc, 0.0, 2 * fcc.volume) == "volume outside the window"
    tight = fcc.copy()
    tight.translate_sites([0], [0.4, 0.4, 0.0])
    assert reason_to_drop(tight, 0.0, fcc.volume) == "atoms too close"
    skewed = Structure(Lattice([[8, 0, 0], [7.5, 1.5, 0], [0, 0, 8]]), ["Al"], [[0, 0, 0]])
    assert reason_to_drop(skewed, 0.0, skewed.volume) == "atoms too close", "its image lies at a - b"


def test_merging_keeps_distinct_crystals_and_the_lowest_of_equal_ones():
    fcc = Structure(Lattice.cubic(4.0), ["Al"] * 4, [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    l12 = decorate(Structure(fcc.lattice, ["He", "H", "H", "H"], fcc.frac_coords), ("Al", "Ni"))
    moved = l12.copy()
    moved.translate_sites(range(4), [0.1, 0.2, 0.3])
    larger = l12.copy()
    larger.scale_lattice(1.2 * l12.volume)
    rows = [
        {"id": "first", "structure": l12, "space_group": 221, "formation_energy": -0.4},
        {"id": "moved", "structure": moved, "space_group": 221, "formation_energy": -0.4005},
        {"id": "other energy", "structure": moved, "space_group": 221, "formation_energy": -0.3},
        {"id": "other volume", "structure": larger, "space_group": 221, "formation_energy": -0.4},
    ]
    assert sorted(row["id"] for row in merge_duplicates(rows)) == ["moved", "other energy", "other volume"]
