"""Coverage of one set of crystals by another, and compositions as matminer describes them."""

import json
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Composition, Lattice, Structure

from lib.core.errors import BadInput
from lib.metrics.coverage import Fingerprints, chgnet_features, covered, frechet_distance, magpie

RECORDED = json.loads((Path(__file__).parent / "recorded" / "magpie.json").read_text())


@pytest.mark.parametrize("formula", RECORDED["values"])
def test_compositions_are_those_of_matminer(formula):
    """Values of matminer 0.10.1, among them elements of which Magpie does not know everything."""
    species = [e.Z for e, n in Composition(formula).items() for _ in range(int(n))]
    np.testing.assert_allclose(magpie(np.array(species)), RECORDED["values"][formula], atol=1e-6)


@pytest.mark.slow
def test_a_set_covers_itself_and_what_is_alike_and_nothing_else():
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0, 0]])
    larger = Structure(salt.lattice.scale(200), salt.species, salt.frac_coords)
    graphite_like = Structure(Lattice.hexagonal(2.5, 6.7), ["C"] * 2, [[0, 0, 0], [1 / 3, 2 / 3, 0]])
    collapsed = Structure(Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.01, 0, 0]])
    reference, made = Fingerprints.of([salt, graphite_like]), Fingerprints.of([larger, None, collapsed, salt])
    assert made.known.tolist() == [True, False, False, True]
    assert covered(made, reference).tolist() == [True, False, False, True]
    assert covered(reference, made).tolist() == [True, False]
    assert covered(reference, reference).all()
    other = Fingerprints.of([salt.copy().replace_species({"Na": "U", "Cl": "N"})])  # the same motif
    assert np.allclose(other.structure[0], reference.structure[0]) and not covered(other, reference).any()
    with pytest.raises(BadInput, match="no structure has a fingerprint"):
        covered(reference, Fingerprints.of([None, collapsed]))


def test_the_distance_is_that_of_normal_distributions():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(20_000, 3)), 2 * rng.normal(size=(20_000, 3)) + [1, 0, 0]
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, other) == pytest.approx(1 + 3 * (2 - 1) ** 2, abs=0.1)
    with_none = np.concatenate([one, np.full((5, 3), np.nan)])
    assert frechet_distance(with_none, other) == frechet_distance(one, other)
    assert np.isnan(frechet_distance(one[:1], other))


@pytest.mark.slow
def test_features_are_of_what_the_potential_takes_for_a_crystal_whatever_stands_beside_it():
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0, 0]])
    collapsed = Structure(Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.01, 0, 0]])
    unknown = Structure(Lattice.cubic(3.0), ["Cm"], [[0, 0, 0]])
    primitive, strained = salt.get_primitive_structure(), salt.copy().scale_lattice(200)
    several = chgnet_features([salt, None, collapsed, unknown, primitive, strained])
    assert np.isnan(several).all(1).tolist() == [False, True, True, True, False, False]
    assert several.shape == (6, 64) and np.allclose(several[4], several[0], atol=1e-4)
    assert not np.allclose(several[5], several[0], atol=1e-2), "they follow from the structure"
    assert np.allclose(chgnet_features([salt])[0], several[0], atol=1e-5)
