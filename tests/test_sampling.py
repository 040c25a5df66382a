"""What a request gets depends on the seed and on the request: on no other request, on no padding, on no batch."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import lib.flow
import lib.wrapped
from lib.crystals import CrystalTable
from lib.sampling import TrainedModel, request_streams
from lib.sources.embedded import EMBEDDED
from lib.streams import CrystalStreams, normal, numpy_stream, torch_stream, uniform
from lib.training import make_spec
from lib.transformer import TransformerSizes
from lib.unet import UNetSizes

CPU = torch.device("cpu")
MODELS = [("generation", "transformer", "cfm_normal", s) for s in lib.flow.SAMPLERS]
MODELS += [("generation", "transformer", "wrapped", s) for s in lib.wrapped.SAMPLERS]
MODELS += [("generation", network, "ddpm", s) for network in ("paper", "periodic") for s in ("ddpm", "ddim")]
MODELS += [("modification", "transformer", "cfm_noise", None), ("modification", "periodic", "diffusion", "ddpm")]


@pytest.fixture(scope="module")
def table() -> CrystalTable:
    """Crystals of 2 to 12 atoms and of many groups."""
    embedded = CrystalTable.from_parquet(EMBEDDED)
    _, first = np.unique(embedded.space_group, return_index=True)
    return embedded.take(first[embedded.n_sites[first] <= 12][::4])


def model_of(task: str, network: str, method: str, table: CrystalTable) -> TrainedModel:
    """A network of random weights, none of whose branches starts at zero."""
    sizes = (
        TransformerSizes(32, 1, 4, templates=True) if network == "transformer" else UNetSizes(8, (1,), 1, (1,), 8, 8)
    )
    spec = make_spec(task, network, method, table, sizes)
    rep, method, net = spec.build()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
    return TrainedModel(spec, rep, method, net.eval(), CPU, {"settings": {}}, "")


@pytest.mark.parametrize(("task", "network", "method", "sampler"), MODELS)
def test_neighbours_do_not_matter(table, task, network, method, sampler):
    model = model_of(task, network, method, table)
    states = []

    def generate(rows, batch_size=100, seed=1):
        asked = table.take(rows)
        states.clear()
        model.generate(
            [asked.species_of(i) for i in range(len(asked))],
            asked.space_group,
            asked.formation_energy,
            units=asked.asymmetric_units if network == "transformer" else None,
            x_0=asked if task == "modification" else None,
            steps=4,
            batch_size=batch_size,
            seed=seed,
            sampler=sampler,
        )
        return list(states)

    decode = model.representation.decode

    def seen(x, conditions):
        own = model.representation.rows(conditions)
        states.extend(one[rows] for one, rows in zip(x, own, strict=True))
        return decode(x, conditions)

    model.representation.decode = seen
    by_size = np.argsort(table.n_sites, kind="stable")
    small, large = by_size[0], by_size[-1]
    together = dict(zip(by_size, generate(by_size), strict=True))
    assert together[large].shape[0] > together[small].shape[0] or network == "paper"
    for rows, batch_size in [([small], 1), ([large, small], 2), (by_size[::-1], 3)]:
        for row, x in zip(rows, generate(np.array(rows), batch_size), strict=True):
            torch.testing.assert_close(x, together[row], atol=1e-4, rtol=1e-4)
    twice = generate(np.array([small, large, small]))
    torch.testing.assert_close(twice[0], together[small], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(twice[1], together[large], atol=1e-4, rtol=1e-4)
    assert (twice[2] - twice[0]).abs().max() > 1e-3, "equal requests are different draws"
    assert (generate(np.array([small]), seed=2)[0] - together[small]).abs().max() > 1e-3


def test_every_part_of_a_request_changes_its_noise(table):
    """And nothing else does, such as the free parameters of sites that nothing was lent for."""
    from dataclasses import replace

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
