"""What a request gets depends on the seed and on the request: on no other request, on no padding, on no batch."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from lib.core.streams import CrystalStreams, normal, numpy_stream, torch_stream, uniform
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.generation.sampling import request_streams

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def table() -> CrystalTable:
    """Crystals of 2 to 12 atoms and of many groups."""
    embedded = CrystalTable.from_parquet(EMBEDDED)
    _, first = np.unique(embedded.space_group, return_index=True)
    return embedded.take(first[embedded.n_sites[first] <= 12][::4])


def test_every_part_of_a_request_changes_its_noise(table):
    """And nothing else does, such as the free parameters of sites that nothing was lent for."""
    unit = next(u for u in table.asymmetric_units if any(len(s.parameters) for s in u.sites) and u.symmetry > 1)
    lent = replace(unit, sites=tuple(replace(s, lender=13) for s in unit.sites))

    def first(seed=1, species=(5, 5), group=1, energy=-0.5, units=None, x_0=None):
        return request_streams(seed, [np.array(species)], [group], [energy], units, x_0)[0].random()

    moved = [replace(u, sites=tuple(replace(s, parameters=s.parameters + 0.1) for s in u.sites)) for u in (unit, lent)]
    several = [first(), first(seed=2), first(species=(5, 6)), first(species=(5,)), first(group=2), first(energy=-0.4)]
    several += [first(energy=np.nan), first(units=[unit]), first(units=[lent]), first(units=[moved[1]])]
    several += [first(x_0=table.take([0])), first(x_0=table.take([1]))]
    assert len(set(several)) == len(several)
    assert first(units=[unit]) == first(units=[moved[0]])
    assert first() == first() and first(energy=np.float32(-0.5)) == first()


def test_equal_requests_are_counted():
    streams = request_streams(0, [np.array([5])] * 300, np.ones(300), np.zeros(300))
    draws = [stream.random() for stream in streams]
    assert len(set(draws)) == 300
    again = request_streams(0, [np.array([5])] * 2, np.ones(2), np.zeros(2))
    assert [stream.random() for stream in again] == draws[:2]


def test_no_two_purposes_share_a_stream():
    """Seeds 0 to 99, numbered purposes of several names: what was the sum of seed and number is now neither's."""
    keys = [(seed, name, i) for seed in range(100) for name in ("a", "b", "a1") for i in range(12)]
    keys += [(seed, name) for seed in range(100) for name in ("a", "b", "a1")]
    assert len({numpy_stream(*key).random() for key in keys}) == len(keys)
    of_torch = torch.stack([torch.rand(2, generator=torch_stream(CPU, *key)) for key in keys[:400]])
    assert len(torch.unique(of_torch, dim=0)) == 400
    assert numpy_stream(3, "a", 1).random() == numpy_stream(3, "a", 1).random()


def test_a_crystal_draws_what_it_needs_whatever_its_padding():
    def drawn(n_atoms: list[int], n_rows: int, draw):
        rows = torch.arange(n_rows) < torch.tensor(n_atoms)[:, None]
        streams = CrystalStreams([numpy_stream(n) for n in n_atoms], rows)
        x = [draw(torch.zeros(len(n_atoms), n_rows, 3), streams) for _ in range(3)]
        assert (torch.stack(x)[:, ~rows] == 0).all()
        return {n: torch.stack([one[i, :n] for one in x]) for i, n in enumerate(n_atoms)}

    for draw, mean, std in ((normal, 0.0, 1.0), (uniform, 0.5, 12**-0.5)):
        alone, among = drawn([4000], 4000, draw), drawn([2, 4000, 7], 5000, draw)
        assert torch.equal(alone[4000], among[4000])
        numbers = alone[4000]
        assert numbers.mean().item() == pytest.approx(mean, abs=0.02)
        assert numbers.std().item() == pytest.approx(std, abs=0.02)
        assert all((a != b).all() for a, b in pairwise(numbers)), "a step draws other numbers than the one before"
