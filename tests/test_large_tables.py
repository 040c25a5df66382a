"""Tables in shards, in parts and on disk are the same tables, and so are the batches that are taken of them."""

import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.crystals import columns, mapped
from lib.crystals.table import CrystalTable
from lib.datasets.prototypes import new_prototypes, prototypes
from lib.datasets.shards import do_shard, in_shards, shard_path
from lib.datasets.sources.embedded import EMBEDDED
from lib.metrics.duplicates import twins
from lib.models.transformer import TransformerSizes
from lib.models.unet import UNetSizes
from lib.retrieval.templates import ElementRanking
from lib.symmetry.packed import PackedUnits
from lib.symmetry.wyckoff import AsymmetricUnit, Site
from lib.training import batches
from lib.training.batches import PackedData
from lib.training.spec import TrainSettings, make_spec


@pytest.fixture(scope="module")
def crystals():
    """Crystals of two groups, so that their symmetry is found quickly, with a column of their own."""
    table = CrystalTable.from_parquet(EMBEDDED)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(table.space_group, [123, 221])))
    table = table.take(rows[:60])
    return table.with_notes(extra={"number": np.arange(60)}, about={"source": "this test"})


def assert_same(one, other):
    assert len(one) == len(other) and one.about == other.about and one.energy_kind == other.energy_kind
    for field in fields(CrystalTable):
        if isinstance(value := getattr(one, field.name), np.ndarray):
            np.testing.assert_array_equal(value, getattr(other, field.name))
    assert one.extra.keys() == other.extra.keys()
    for name, column in one.extra.items():
        np.testing.assert_array_equal(column, other.extra[name])
    for field in fields(PackedUnits):
        if isinstance(value := getattr(one.asymmetric_units, field.name), np.ndarray):
            np.testing.assert_array_equal(value, getattr(other.asymmetric_units, field.name))
    np.testing.assert_array_equal(one.formula, other.formula)
    np.testing.assert_array_equal(one.reduced_formula, other.reduced_formula)


@pytest.mark.slow
def test_four_shards_give_the_same_table_as_one(crystals, tmp_path, monkeypatch):
    source = crystals.to_parquet(tmp_path / "table.parquet")
    whole = in_shards("asymmetric_units", source, tmp_path / "one", n_workers=1, of=1)
    command = [sys.executable, "-m", "lib.datasets", "asymmetric_units", source, "2", "4", tmp_path / "four"]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True)  # as a job of a cluster does it
    done = shard_path(tmp_path / "four", 2, 4)
    before = done.stat().st_mtime_ns
    assert_same(in_shards("asymmetric_units", source, tmp_path / "four", n_workers=1, of=4), whole)
    assert done.stat().st_mtime_ns == before, "what is done is not done again"
    assert_same(CrystalTable.from_parquet(tmp_path / "four").with_notes(about=whole.about), replace_about(whole, done))
    standard = in_shards("standard_cells", source, tmp_path / "cells", n_workers=1, of=4)
    np.testing.assert_array_equal(standard.lattice, CrystalTable.from_parquet(source).standardised().lattice)
    other = crystals.take(range(30)).to_parquet(source)
    assert len(in_shards("asymmetric_units", other, tmp_path / "four", n_workers=1, of=4)) == 30, "of another table"
    with pytest.raises(BadInput, match="no shard 4 of 4"):
        do_shard("asymmetric_units", source, 4, 4, tmp_path)


def replace_about(table, part):
    """The table with what its parts say of themselves."""
    return table.with_notes(about=CrystalTable.from_parquet(part, range(0)).about)


def test_tables_are_read_by_row_groups(crystals, tmp_path, monkeypatch):
    len(crystals.asymmetric_units)  # written with the table
    one = CrystalTable.from_parquet(crystals.to_parquet(tmp_path / "one.parquet"))
    monkeypatch.setattr("lib.crystals.table.ROW_GROUP", 17)
    path = crystals.to_parquet(tmp_path / "many.parquet")
    assert columns.n_rows(path) == 60 and len(list(columns.row_groups(path))) == 4
    assert_same(CrystalTable.from_parquet(path), one)
    for rows in (range(10, 40), range(17, 34), range(59, 60), range(0)):
        assert_same(CrystalTable.from_parquet(path, rows), one.take(np.array(rows, dtype=int)))
    crystals.take(range(40)).to_parquet(tmp_path / "parts" / "a.parquet")
    crystals.take(range(40, 60)).to_parquet(tmp_path / "parts" / "b.parquet")
    assert_same(CrystalTable.from_parquet(tmp_path / "parts"), one)
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInput, match="none holds no parquet file"):
        CrystalTable.from_parquet(tmp_path / "none")


def test_large_tables_are_mapped_and_written_once(crystals, tmp_path, monkeypatch):
    path = crystals.to_parquet(tmp_path / "table.parquet")
    assert_same(mapped.opened(path, tmp_path / "arrays"), CrystalTable.from_parquet(path))
    assert not (tmp_path / "arrays").exists(), "a small table is read"
    monkeypatch.setattr(mapped, "IN_MEMORY", 10)
    assert_same(mapped.opened(path, tmp_path / "arrays"), CrystalTable.from_parquet(path))
    monkeypatch.setattr(CrystalTable, "from_parquet", None)  # so that it cannot be read again
    opened = mapped.opened(path, tmp_path / "arrays")
    assert isinstance(opened.frac_coords.base, np.memmap) and len(opened.take([3, 1])) == 2
    (tmp_path / "arrays" / "table.lattice.npy").write_bytes(b"")
    with pytest.raises(BadInput, match="arrays.* delete the folder"):
        mapped.opened(path, tmp_path / "arrays")


def assert_equal(one, other):
    for field in fields(one):
        value = getattr(one, field.name)
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, getattr(other, field.name), rtol=0, atol=0)
        elif value is not None:
            assert_equal(value, getattr(other, field.name))


UNET = UNetSizes(16, (1, 2), 1, (1, 2), 16, 16)


@pytest.mark.parametrize(
    "task, network, method, sizes",
    [
        ("generation", "transformer", "cfm_uniform", TransformerSizes(16, 1, 2, templates=True)),
        ("modification", "transformer", "cfm_noise", TransformerSizes(16, 1, 2, templates=True)),
        ("modification", "periodic", "cfm", UNET),
        ("generation", "paper", "ddpm", UNET),
    ],
)
def test_batches_of_a_table_on_disk_are_those_of_packed_tensors(crystals, monkeypatch, task, network, method, sizes):
    len(crystals.asymmetric_units)  # found once
    spec = make_spec(task, network, method, crystals, sizes)
    rep = spec.build()[0]
    how = rep, crystals, TrainSettings(steps=1, batch_size=8), torch.device("cpu")
    packed = PackedData(spec, *how)
    monkeypatch.setattr(batches, "IN_MEMORY", 10)
    read = PackedData(spec, *how)
    assert read.crystals is None and packed.crystals is not None
    order = packed.epoch(3)
    for one, other in zip(order, read.epoch(3), strict=True):
        np.testing.assert_array_equal(one, other)
    rows = [side[:8] for side in order]
    drawn = [data.batch(*rows, torch.Generator().manual_seed(1)) for data in (packed, read)]
    assert_equal(*drawn)
    assert (drawn[0].template is None) == (network != "transformer")


def test_an_epoch_may_be_balanced_over_numbers_of_atoms(crystals):
    spec = make_spec("generation", "paper", "ddpm", crystals, UNET)
    settings = TrainSettings(steps=1, batch_size=8, max_sites_share=0.4)
    data = PackedData(spec, spec.build()[0], crystals, settings, torch.device("cpu"))
    epochs = [data.epoch(i)[1] for i in range(2)]
    for rows in epochs:
        assert np.bincount(crystals.n_sites[rows]).max() <= 0.4 * len(rows) and len(set(rows)) == len(rows)
    assert set(epochs[0]) != set(epochs[1]), "others are left out each time"


def test_units_are_the_same_packed():
    sites = Site(5, 0, np.array([0.1, 0.2]), lender=6), Site(73, 1, np.array([0.3, 0.1, 0.4]))
    corner = (Site(73, 0, np.zeros(0)),)
    units = [AsymmetricUnit(3 * np.eye(3), 8, sites), AsymmetricUnit(4 * np.eye(3), 221, corner)]
    packed = PackedUnits.of(units)
    assert len(packed) == 2 and packed.n_orbits.tolist() == [2, 1] and packed[-1] is packed[1]
    for one, other in zip(units, packed.take(np.array([1, 0])), strict=False):
        assert (one.symmetry, len(one.sites)) != (other.symmetry, len(other.sites))
    for one, other in zip(units, PackedUnits.join([packed.take(np.array([i])) for i in (0, 1)]), strict=True):
        assert one.symmetry == other.symmetry and one.species.tolist() == other.species.tolist()
        for site, again in zip(one.sites, other.sites, strict=True):
            assert (site.species, site.position, site.lender) == (again.species, again.position, again.lender)
            assert site.parameters.tolist() == again.parameters.tolist()
    np.testing.assert_array_equal(packed.sums(np.arange(119.0)), [unit.species.sum() for unit in units])
    with pytest.raises(IndexError):
        packed[2]


def test_templates_are_looked_for_among_so_many_at_most(crystals):
    ranking = ElementRanking(crystals)
    found = [ranking.retrieve(crystals.species_of(i), [int(crystals.space_group[i])]) for i in range(len(crystals))]
    i = int(np.argmax([len(every.rows) for every in found]))
    few = ranking.retrieve(crystals.species_of(i), [int(crystals.space_group[i])], most=2)
    assert len(few.rows) == 2 < len(found[i].rows) and set(few.rows) < set(found[i].rows)


def test_a_prototype_has_no_elements_and_no_origin(crystals):
    cell = 4 * np.eye(3)
    cubic = [[0, 0, 0], [0.5, 0.5, 0.5]]
    swapped = [[0.5, 0.5, 0.5], [0, 0, 0]]
    kinds = {"CsCl": ([17, 55], cubic), "other origin": ([17, 55], swapped), "NiAl": ([13, 28], cubic)}
    cells = [(cell, np.array(places), np.array(atoms)) for atoms, places in kinds.values()]
    cells.append((cell, np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]), np.array([13, 28, 28, 28])))
    facts = {"formation_energy": [0] * 4, "space_group": [221] * 4, "energy_kind": "none"}
    table = CrystalTable.of_cells(cells, id=[*kinds, "Ni3Al"], **facts)
    first, *others, last = prototypes(table).tolist()
    assert first.startswith("AB 221 ") and others == [first, first] and last.startswith("AB3 221 ")
    assert new_prototypes(table, table.take([0]))["prototype not in training"].tolist() == ["Ni3Al"]


def test_twins_are_named_after_the_first_that_they_match():
    cubic = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    cells = [(size * np.eye(3), cubic, np.array([13, 28])) for size in (3.0, 3.05)]
    cells.append((np.diag([2.0, 2.0, 9.0]), np.array([[0, 0, 0], [0, 0, 0.3]]), np.array([13, 28])))
    facts = {"formation_energy": [0, 1, 2], "space_group": [221] * 3, "energy_kind": "none"}
    table = CrystalTable.of_cells(cells, id=["low", "same", "other"], **facts)
    assert twins(table, [np.arange(3)], n_workers=1).tolist() == ["low", "low", "other"]
    assert twins(replace(table), [], n_workers=1).tolist() == ["low", "same", "other"], "each alone"
