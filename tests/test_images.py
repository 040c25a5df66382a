"""Crystals as images and videos: what their pixels are, how they are read, and that the order of atoms is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_dismai_alloy import shuffled

from lib.dismai.alloy import FccSites, to_table
from lib.dismai.entrants import ORDERS, reordered
from lib.models.crystens import CrysTensNet, CrysTensStates, ImageSizes
from lib.models.unimat import ABSENT, UniMatNet, UniMatStates, VideoSizes


@pytest.fixture(scope="module")
def alloys():
    sites = FccSites.of(32)
    return to_table(shuffled(sites, 4), sites, "alloy")


def test_pixels_of_two_atoms_are_their_distance_and_their_difference(alloys):
    rep = CrysTensStates.fit(alloys)
    x = rep.pack(alloys).x_1
    image = rep.to_euclidean(x).unflatten(2, (34, 4))
    structure = alloys.structure(0)
    distance = (image[0, :32, :32, 0] + 1) / 2 * np.linalg.norm(alloys.lattice[0].sum(0)) / 2
    np.testing.assert_allclose(distance, structure.distance_matrix, atol=1e-3)
    difference = structure.frac_coords[5] - structure.frac_coords[9]
    np.testing.assert_allclose(image[0, 5, 9, 1:], difference, atol=1e-6)
    assert image.abs().max() <= 1 and image[0, :32, 32, 0].unique().tolist() == [-1, 0, 1]


def test_a_noised_image_is_read_better_by_all_its_pixels_than_by_one(alloys):
    rep = CrysTensStates.fit(alloys)
    x = rep.pack(alloys).x_1 * 0.5 + 0.25  # away from the faces
    z = rep.to_euclidean(x)
    noised = z + 0.1 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    error = (rep.from_euclidean(noised)[:, :-2] - x[:, :-2]).square().mean().sqrt()
    own = (noised.unflatten(2, (34, 4))[:, :32, 32, 1:] + 1) / 2 - x[:, :-2]
    assert error < own.square().mean().sqrt() / 2


def test_a_video_of_another_composition_is_no_structure(alloys):
    rep = UniMatStates.fit(alloys)
    batch = rep.pack(alloys)
    z = rep.to_euclidean(batch.x_1)
    frames = z[:, :-2].unflatten(2, (4, 3))
    assert (frames == ABSENT).sum() == 4 * 32 * 9 and (frames[0, 0, 0] == batch.x_1[0, 0]).all(), "Cr comes first"
    z[1, 0, 3:6] = 0.9  # the first atom, a Cr, as Fe, too
    z[1, 0, :3] = ABSENT
    made = rep.decode(rep.from_euclidean(z), batch)
    assert made[1] is None and made[0].composition == alloys.structure(0).composition


@pytest.mark.parametrize("states, network, sizes", [
    (CrysTensStates, CrysTensNet, ImageSizes(8, (1, 2))), (UniMatStates, UniMatNet, VideoSizes(8, 1)),
])  # fmt: skip
def test_the_order_of_atoms_is_seen(alloys, states, network, sizes):
    rep = states.fit(alloys)
    net, z = network(rep, sizes).eval(), rep.to_euclidean(rep.pack(alloys).x_1)
    order = torch.arange(34)
    order[[0, 1]] = order[[1, 0]]  # two Cr
    x = rep.pack(alloys).x_1[:, order]
    with torch.no_grad():
        answer, other = (net(y, torch.zeros(4), None) for y in (z, rep.to_euclidean(x)))
    back = (
        answer[:, order] if states is UniMatStates else answer.unflatten(2, (34, 4))[:, order][:, :, order].flatten(2)
    )
    assert (other - back).abs().max() > 1e-4


def test_other_orders_keep_the_crystal(alloys):
    several = reordered(alloys)
    assert len(several) == 4 * (1 + ORDERS) and len(set(several.id)) == len(several)
    assert (several.species.reshape(-1, 32) == alloys.species_of(0)).all()
    np.testing.assert_array_equal(several.frac_coords[: len(alloys.species)], alloys.frac_coords)
    one, other = several.frac_coords_of(1), several.frac_coords_of(5)
    assert not np.array_equal(one, other)
    for kind in np.unique(alloys.species):
        rows = alloys.species_of(1) == kind
        assert sorted(map(tuple, one[rows])) == sorted(map(tuple, other[rows]))
