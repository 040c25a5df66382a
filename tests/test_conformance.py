"""What every registered method and network must hold: to be listed in lib.training.registry is to be tested here.

A network that is new also names small sizes below. A method from outside of the package trains and samples as it is.
"""

from dataclasses import asdict, dataclass, replace
from pkgutil import resolve_name
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import table as crystal_table
from pymatgen.core import Lattice, Structure
from test_training import CPU, table, trainer  # noqa: F401

from lib.core.run import Run
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.generation.sampling import TrainedModel, load_model
from lib.metrics.matching import compare
from lib.models.batch import Batch
from lib.models.cell_state import FIRST_ORTHORHOMBIC
from lib.models.cryingan import GanSizes
from lib.models.crystens import ImageSizes
from lib.models.dimenet import DimeNetSizes
from lib.models.graph import GraphSizes
from lib.models.interfaces import Draw, Method, Representation
from lib.models.transformer import TransformerSizes
from lib.models.unet import UNetSizes
from lib.models.unimat import VideoSizes
from lib.studies.model_plan import trainers
from lib.studies.params import TrainGenerationParams
from lib.training.registry import METHODS, NETWORKS, MethodEntry, model_names, model_rows
from lib.training.spec import ModelSpec, make_spec

UNET, TRANSFORMER = UNetSizes(8, (1,), 1, (1,), 8, 8), TransformerSizes(32, 1, 4, templates=True)
DIMENET = DimeNetSizes(width=16, out=16, interaction=8, basis=4, blocks=1, cutoff=4.0, most_near=8)
SMALL_SIZES = {"paper": UNET, "periodic": UNET, "transformer": TRANSFORMER}
SMALL_SIZES |= {"dimenet": DIMENET, "dimenet_lengths": DIMENET, "dimenet_sites": DIMENET}
SMALL_SIZES |= {"graph": GraphSizes(16, 1, 2), "cryingan": GanSizes(8, 16), "cryingan_repaired": GanSizes(8, 16)}
SMALL_SIZES |= {"crystens": ImageSizes(8, (1, 2)), "unimat": VideoSizes(8, 1)}
ONE_CELL = {network for entry in METHODS.values() if entry.task == "one_cell" for network in entry.networks}
MODELS = [(entry.task, network, name) for name, entry in METHODS.items() for network in entry.networks]
SAMPLERS = [  # one of each network, and all of a method's with the last network that learns it
    (entry.task, network, name, sampler)
    for name, entry in METHODS.items()
    for network in entry.networks
    for sampler in (resolve_name(entry.factory).samplers or (None,))[: None if network == entry.networks[-1] else 1]
]
every_model = pytest.mark.parametrize(("task", "network", "method"), MODELS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def various() -> CrystalTable:
    """Crystals of 2 to 12 atoms and of many groups."""
    embedded = CrystalTable.from_parquet(EMBEDDED)
    _, first = np.unique(embedded.space_group, return_index=True)
    return embedded.take(first[embedded.n_sites[first] <= 12][::8])


@pytest.fixture(scope="module")
def one_cell() -> CrystalTable:
    """Crystals of one composition in one cell."""
    rng, corners = np.random.default_rng(0), np.indices((2, 2, 2)).reshape(3, -1).T / 2
    coords = [corners[rng.permutation(8)] + rng.uniform(0, 0.1, (8, 3)) for _ in range(16)]
    cells = [Structure(Lattice.cubic(6), ["Fe"] * 5 + ["Ni"] * 3, several) for several in coords]
    return crystal_table(cells, [1] * 16, rng.random(16))


def of_those(network: str, crystals: CrystalTable) -> CrystalTable:
    """Crystals whose cells a network describes."""
    return crystals.take(crystals.space_group >= FIRST_ORTHORHOMBIC) if network == "dimenet_lengths" else crystals


@pytest.fixture
def suited(network, various, one_cell) -> CrystalTable:
    """Crystals that a network can learn."""
    return one_cell if network in ONE_CELL else of_those(network, various)


def model_of(task: str, network: str, method: str, crystals: CrystalTable) -> TrainedModel:
    """A network of random weights, none of whose branches starts at zero; those for one cell have none that does."""
    spec = make_spec(task, network, method, crystals, SMALL_SIZES[network])
    torch.manual_seed(0)
    rep, process, net = spec.build()
    for parameter in () if network in ONE_CELL else net.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator())
    return TrainedModel(spec, rep, process, net.eval(), CPU, {"settings": {}}, "")


def batch_of(rep: Representation, task: str, crystals: CrystalTable) -> Batch:
    """A table's crystals; for modification each is made of the one before it."""
    batch = rep.pack(crystals)
    if task == "modification":
        x_0, species_0 = (values.roll(1, 0) for values in rep.initial(crystals))
        batch = replace(batch, x_0=x_0, species_0=species_0)
    return rep.trim(batch)


# ---------------------------------------------------------------------------------------------------- models


@every_model
def test_trains_and_generates(table, one_cell, tmp_path, task, network, method):  # noqa: F811
    table = one_cell if network in ONE_CELL else of_those(network, table)  # noqa: F811
    spec = make_spec(task, network, method, table, SMALL_SIZES[network])
    assert ModelSpec.from_dict(asdict(spec)) == spec and f"{network}_{method}" in model_names(task)
    path = tmp_path / f"{spec.name}.safetensors"
    history = trainer(table, path, spec, steps=3, validate_every=3).run()
    assert np.isfinite(history["validation"]).all()
    model = load_model(path)
    few = table.take(range(5))
    species = [few.species_of(i) for i in range(5)]
    asked = {"x_0": few if task == "modification" else None, "steps": 3, "batch_size": 2}
    if network == "dimenet_lengths":  # without positions a cell has no symmetry, which lengths do not describe
        species = [unit.species for unit in few.asymmetric_units]
        asked["units"] = few.asymmetric_units
    first, again = (model.generate(species, few.space_group, few.formation_energy, **asked) for _ in range(2))
    assert len(first) == 5
    assert network in ("paper", "unimat") or any(first), "three steps leave the cell some shape, and tell elements"
    assert all(a == b for a, b in zip(first, again, strict=True)), "the same seed gives the same structures"
    for structure, numbers in zip(first, species, strict=True):
        assert structure is None or list(structure.atomic_numbers) == numbers.tolist()


@every_model
def test_losses_are_of_each_crystal_however_a_batch_is_shared(suited, task, network, method):
    """All that is random is in the draw, which is sliced with the batch."""
    model = model_of(task, network, method, suited)
    batch = batch_of(model.representation, task, suited)
    draw, again = (model.method.draw(batch, generator(3)) for _ in range(2))
    whole = model.method.losses(model.net, batch, draw)
    assert whole.shape == (len(batch),) and whole.isfinite().all() and whole.std() > 0
    assert torch.equal(model.method.losses(model.net, batch, again), whole)
    shares = [slice(0, 3), slice(3, 4), slice(4, len(batch))]
    parts = [model.method.losses(model.net, batch[share], draw[share]) for share in shares]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=1e-4)


@every_model
def test_the_network_is_told_nothing_of_what_it_should_find(suited, task, network, method):
    model = model_of(task, network, method, suited)
    batch = batch_of(model.representation, task, suited)
    seen = []

    def watched(x, t, told):
        seen.append(model.net(x, t, replace(told, x_1=torch.full_like(told.x_1, torch.nan))))
        return model.net(x, t, told)

    model.method.losses(watched, batch, model.method.draw(batch, generator()))
    assert seen[0].isfinite().all()


@pytest.mark.parametrize("network", ["paper", "periodic"])
def test_diffusion_alone_sees_x_0_beside_its_state(various, network):
    """As published: a flow that saw x_t and x_0 would know already where it leads."""
    for method, sees in (("cfm", False), ("diffusion", True)):
        model = model_of("modification", network, method, various)
        batch = batch_of(model.representation, "modification", various)
        x = model.representation.to_euclidean(batch.x_1) if model.method.euclidean else batch.x_1
        others = replace(batch, x_0=batch.x_0.roll(1, 0))
        first, second = (model.net(x, torch.zeros(len(batch)), told) for told in (batch, others))
        assert torch.equal(first, second) != sees, method


@pytest.mark.parametrize(("task", "network", "method", "sampler"), SAMPLERS)
def test_a_sample_depends_on_its_request_alone(suited, task, network, method, sampler):
    """Neither on the other requests, nor on the size of batches, nor on padding."""
    model = model_of(task, network, method, suited)
    states = []

    def generate(rows, batch_size=100, seed=1):
        asked = suited.take(rows)
        states.clear()
        model.generate(
            [asked.species_of(i) for i in range(len(asked))],
            asked.space_group,
            asked.formation_energy,
            units=asked.asymmetric_units if NETWORKS[network].open_conditions else None,
            x_0=asked if task == "modification" else None,
            steps=3,
            batch_size=batch_size,
            seed=seed,
            sampler=sampler,
        )
        return list(states)

    decode = model.representation.decode

    def seen(x, batch):
        states.extend(one[rows] for one, rows in zip(x, model.representation.rows(batch), strict=True))
        return decode(x, batch)

    model.representation.decode = seen
    by_size = np.argsort(suited.n_sites, kind="stable")
    small, large = by_size[0], by_size[-1]
    together = dict(zip(by_size, generate(by_size), strict=True))
    for rows, batch_size in [([small], 1), ([large, small], 2), (by_size[::-1], 3)]:
        for row, x in zip(rows, generate(np.array(rows), batch_size), strict=True):
            torch.testing.assert_close(x, together[row], atol=1e-4, rtol=1e-4)
    if model.method.samplers and METHODS[method].options.get("source") != "data":  # noise takes part
        twice = generate(np.array([small, large, small]))
        torch.testing.assert_close(twice[0], together[small], atol=1e-4, rtol=1e-4)
        assert (twice[2] - twice[0]).abs().max() > 1e-3, "equal requests are different draws"
        assert (generate(np.array([small]), seed=2)[0] - together[small]).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------- representations


every_network = pytest.mark.parametrize("network", NETWORKS)


@pytest.fixture
def fitted(network, suited) -> Representation:
    return resolve_name(NETWORKS[network].representation).fit(suited)


@every_network
def test_states_are_the_crystals_that_they_were_packed_from(network, fitted, suited):
    batch = fitted.trim(fitted.pack(suited))
    again = type(fitted)(**fitted.state()).pack(suited.take([1, 3]))
    torch.testing.assert_close(again.x_1, fitted.pack(suited)[torch.tensor([1, 3])].x_1)
    for i, structure in enumerate(fitted.decode(batch.x_1, batch)):
        assert compare(structure, suited.structure(i))["match_strict"], suited.id[i]
    kept = fitted.decode(fitted.constrain(batch.x_1, batch), batch)
    freed = fitted.freed(batch)
    for i, pair in enumerate(zip(kept, fitted.decode(freed.x_1, freed), strict=True)):
        assert all(compare(one, suited.structure(i))["match_csp"] for one in pair), suited.id[i]


@every_network
def test_the_velocity_leads_from_noise_to_the_crystal(network, fitted, suited):
    batch = fitted.trim(fitted.pack(suited))
    for kind in ("normal", "uniform"):
        x_0 = fitted.noise(kind, batch.x_1, generator())
        velocity = fitted.velocity(x_0, batch.x_1)
        end = fitted.advance(x_0, velocity)
        for x in (end, fitted.interpolate(x_0, batch.x_1, torch.ones(len(x_0)))):
            assert fitted.velocity(x, batch.x_1).abs().max() < 1e-5
        halfway = fitted.interpolate(x_0, batch.x_1, torch.full((len(x_0),), 0.5))
        torch.testing.assert_close(fitted.velocity(halfway, batch.x_1), velocity / 2, atol=1e-5, rtol=1e-4)
        assert (fitted.velocity_loss(velocity, velocity, batch) == 0).all()
        wrong = fitted.velocity_loss(velocity + torch.rand_like(velocity), velocity, batch)
        assert wrong.shape == (len(batch),) and (wrong > 0).all()


@every_network
def test_a_request_has_the_shape_and_the_conditions_of_what_is_packed(network, fitted, suited):
    species = [suited.species_of(i) for i in range(len(suited))]
    asked = fitted.request(species, suited.space_group, suited.formation_energy, suited.asymmetric_units)
    packed = fitted.pack(suited)
    assert (asked.x_1 == 0).all() and asked.x_1.shape == packed.x_1.shape
    assert torch.equal(asked.conditions.species, packed.conditions.species)
    assert torch.equal(fitted.rows(asked), fitted.rows(packed))


def test_vectors_are_states_and_back(various, one_cell):
    for network in {n for name, e in METHODS.items() if resolve_name(e.factory).euclidean for n in e.networks}:
        crystals = one_cell if network in ONE_CELL else various
        rep = resolve_name(NETWORKS[network].representation).fit(crystals)
        batch = rep.pack(crystals)
        z = rep.to_euclidean(batch.x_1)
        assert rep.velocity(rep.from_euclidean(z), batch.x_1).abs().max() < 1e-5
        assert (rep.loss(z, z, batch.conditions) == 0).all()


# --------------------------------------------------------------------------------------- from outside of lib


@dataclass(frozen=True)
class OneStep(Method):
    """The mean velocity at pure noise, along which it goes in a single step."""

    samplers: ClassVar[tuple[str, ...]] = ("one_step",)
    predicts_velocity: ClassVar[bool] = True

    representation: Representation

    def draw(self, batch, generator):
        return Draw(batch.x_1.new_zeros(len(batch)), self.representation.noise("uniform", batch.x_1, generator))

    def losses(self, net, batch, draw):
        target = self.representation.velocity(draw.noise, batch.x_1)
        return self.representation.velocity_loss(net(draw.noise, draw.t, batch), target, batch)

    @torch.no_grad()
    def sample(self, net, batch, streams, steps, sampler=None):
        x = self.representation.noise("uniform", batch.x_1, streams)
        return self.representation.advance(x, net(x, x.new_zeros(len(x)), batch))


def test_a_method_from_outside_is_a_method(table, tmp_path, monkeypatch):  # noqa: F811
    """Its entry is enough for parameters, training, checkpoints, tables and sampling."""
    entry = MethodEntry("generation", ("periodic", "transformer"), {"One step": None}, "test_conformance:OneStep")
    monkeypatch.setitem(METHODS, "one_step", entry)
    how = {"networks": ["periodic", "transformer"], "methods": ["one_step"], "steps": 2, "validate_matches": 2}
    params = TrainGenerationParams(run="trial", **how)
    trained = list(trainers(Run(params, root=tmp_path), "generation", table, table))
    rows = model_rows("generation", params.networks, params.methods)
    assert rows == {f"One step, {n}": (f"{n}_one_step", None) for n in ("periodic", "transformer")}
    assert [f"generation_{model}" for model, _ in rows.values()] == [one.name for one in trained]
    few = table.take(range(3))
    for one in trained:
        assert one.run()["validation"].notna().all() and one.step == 2
        request = [few.species_of(i) for i in range(3)], few.space_group, few.formation_energy
        assert any(load_model(one.path).generate(*request, steps=1))
