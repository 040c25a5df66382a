"""Weights that travel: small, faithful, and open about what they are."""

import json
import re
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

import lib.generation.ship
from lib.core.errors import BadInput
from lib.core.files import sha256_of
from lib.generation.sampling import load_model
from lib.generation.ship import (
    PUBLISHED_SCORES,
    SCORE_LINE,
    WEIGHTS,
    Shipped,
    card,
    default_weights,
    export,
    halved,
    read_card,
    write_card,
)
from lib.training.checkpoints import check_same_model, load_weights
from lib.training.spec import ModelSpec, TrainSettings

FACTS = {"data": "Al-Ni crystals", "licence": "CC-BY-4.0", "command": "make report PROFILE=x"}
SCORE = {
    "id": "x.match",
    "value": 0.5,
    "unit": "match rate",
    "n": 90,
    "ci_low": 0.4,
    "ci_high": 0.61,
    "machine": "an H200",
}


def test_weights_are_half_as_large_and_read_as_single_precision(small_model, small_weights):
    tensors, about = load_weights(small_weights, torch.device("cpu"))
    assert {t.dtype for t in tensors.values()} == {torch.float16} and about["shipped"]["precision"] == "float16"
    original, _ = load_weights(small_model, torch.device("cpu"))
    assert sum(t.nbytes for t in tensors.values()) * 2 == sum(t.nbytes for t in original.values())
    assert {p.dtype for p in load_model(small_weights).net.parameters()} == {torch.float32}


def test_samples_are_nearly_those_of_the_weights_before_rounding(small_model, small_weights, small_table):
    species = [small_table.species_of(i) for i in range(6)]
    request = species, small_table.space_group[:6], small_table.formation_energy[:6]
    how = {"steps": 10, "units": small_table.asymmetric_units[:6]}
    for one, other in zip(
        load_model(small_model).generate(*request, **how),
        load_model(small_weights).generate(*request, **how),
        strict=True,
    ):
        np.testing.assert_allclose(one.lattice.parameters, other.lattice.parameters, rtol=5e-3)
        apart = one.frac_coords - other.frac_coords
        assert np.abs(apart - np.round(apart)).max() < 5e-3


def test_the_format_that_rounds_less_is_chosen():
    usual = {"a": torch.randn(1000, generator=torch.Generator().manual_seed(0))}
    _, name, error = halved(usual)
    assert name == "float16" and 0 < error < 5e-4
    rounded, name, error = halved(usual | {"b": torch.tensor([1e6])})  # more than the largest fp16, 65504
    assert name == "bfloat16" and rounded["b"].dtype == torch.bfloat16 and error < 5e-3
    with pytest.raises(BadInput, match="not finite"):
        halved({"a": torch.tensor([1.0, torch.nan])})


def test_the_file_says_what_the_training_set_was_like(small_weights, small_table):
    shipped = Shipped.within(load_model(small_weights).about)
    assert shipped.crystals == len(small_table) and shipped.elements == (13, 28)
    assert shipped.n_sites == (small_table.n_sites.min(), 4)
    assert shipped.energy == pytest.approx(
        (small_table.formation_energy.min(), small_table.formation_energy.max()), abs=1e-3
    )
    assert shipped.energy_kind == small_table.energy_kind and shipped.licence == "MIT"
    assert shipped.sampling == {"steps": 5} and shipped.volumes.shape == (119,)
    assert sum(here.n for by_sites in shipped.sites.by_counts.values() for here in by_sites.values()) > 0
    assert set(shipped.energies.pairs) == {"Al-Ni"}


def test_weights_that_were_not_exported_are_refused(small_model):
    with pytest.raises(BadInput, match="export them first: python -m lib.ship"):
        Shipped.within(load_model(small_model).about, small_model)


def test_another_training_table_is_refused(small_model, small_table, tmp_path):
    with pytest.raises(BadInput, match="give the one it was trained on"):
        export(small_model, tmp_path / "x.safetensors", small_table.take(range(5)), **FACTS)
    with pytest.raises(BadInput, match="give the one it was trained on"):  # as many crystals, but others
        export(
            small_model,
            tmp_path / "x.safetensors",
            replace(small_table, id=np.char.add(small_table.id, "_other")),
            **FACTS,
        )
    assert not list(tmp_path.iterdir())


def test_large_weights_are_refused(small_model, small_table, tmp_path, monkeypatch):
    monkeypatch.setattr(lib.generation.ship, "MAX_BYTES", 10_000)
    with pytest.raises(BadInput, match="more than 10,000; train a smaller network"):
        export(small_model, tmp_path / "x.safetensors", small_table, **FACTS)
    assert not list(tmp_path.iterdir())


def test_the_card_says_everything(small_model, small_table, tmp_path):
    limits = ["It knows two elements.", "At most 4 atoms."]
    path = export(small_model, tmp_path / "al_ni.safetensors", small_table, limits=limits, **FACTS)
    text = path.with_suffix(".md").read_text()
    about = load_model(path).about
    assert text == card(about, sha256_of(path), [])
    assert text.startswith("# al_ni\n")
    expected = [
        *FACTS.values(),
        *limits,
        sha256_of(path),
        sha256_of(small_model),
        "2: Al, Ni",
        "statistics fitted on the data, under their licence, and no crystal",
        "where at least 2 do, how often each element stands on each of the positions",
        about["shipped"]["commit"],
    ]
    expected += [
        f"{len(small_table):,} crystals",
        small_table.energy_kind,
        "None is named.",
    ]
    assert [fact for fact in expected if fact not in text] == []


def test_a_card_shows_what_has_been_published_since(small_model, small_table, tmp_path):
    path = export(small_model, tmp_path / "al_ni.safetensors", small_table, scores=["x.match", "y.match"], **FACTS)
    assert "| `x.match` | not measured: not published |" in path.with_suffix(".md").read_text()
    published = tmp_path / "scores.json"
    published.write_text(json.dumps([SCORE, SCORE | {"id": "of.another_model"}]))
    text = write_card(path, published=published).read_text()
    assert "| `x.match` | 0.5 match rate (0.4 to 0.61) | 90 |" in text and "another_model" not in text
    assert "| `y.match` | not measured: not published |" in text
    assert write_card(path, ["x.match"], published).read_text() == card(
        load_model(path).about, sha256_of(path), [SCORE]
    )
    assert read_card(path) == path.with_suffix(".md").read_text()
    path.with_suffix(".md").unlink()
    assert read_card(path) == card(load_model(path).about, sha256_of(path), [])
    assert "None is named." in write_card(path, published=published).read_text()


def test_command_line_exports(small_model, small_table, tmp_path, monkeypatch, capsys):
    table, target = small_table.to_parquet(tmp_path / "train.parquet"), tmp_path / "made.safetensors"
    words = [small_model, target, "--training", table, "--data", "d", "--licence", "MIT", "--command", "c"]
    monkeypatch.setattr(sys, "argv", ["ship", *map(str, words), "--sampling", '{"steps": 7}', "--limit", "l"])
    lib.generation.ship.main()
    assert "made.md" in capsys.readouterr().out
    assert Shipped.within(load_model(target).about).sampling == {"steps": 7}
    for wrong in ("steps=7", "[7]", '{"stepz": 7}'):
        monkeypatch.setattr(sys, "argv", ["ship", *map(str, words), "--sampling", wrong])
        with pytest.raises(SystemExit, match=f"{re.escape(repr(wrong))} is no JSON object"):
            lib.generation.ship.main()


def test_missing_weights_are_named_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(lib.generation.ship, "WEIGHTS", tmp_path)
    with pytest.raises(BadInput, match="generation_mp20.safetensors .*check them out"):
        default_weights("generation_mp20")


def test_what_ships_is_small_and_has_its_card():
    shipped = sorted(WEIGHTS.rglob("*.safetensors"))
    if not shipped:
        pytest.skip("no weights in lib/weights")
    published = {score["id"]: score for score in json.loads(PUBLISHED_SCORES.read_text())}
    for path in shipped:
        assert path.stat().st_size <= 8e6
        model, text = load_model(path), path.with_suffix(".md").read_text()
        shown = SCORE_LINE.findall(text)
        assert (shown or path.parent != WEIGHTS) and text == card(
            model.about, model.checksum, [published[id] for id in shown]
        )


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*/*.safetensors")), ids=lambda path: path.stem)
def test_the_papers_networks_are_taken_whatever_settings_there_were_when_they_were_trained(path):
    about = load_weights(path, torch.device("cpu"))[1]
    mine = {"spec": asdict(ModelSpec.from_dict(about["spec"])), "settings": asdict(TrainSettings(**about["settings"]))}
    check_same_model(about, mine | {"parent": None}, path)
    with pytest.raises(BadInput, match="its settings has steps"):
        check_same_model(about, mine | {"settings": asdict(TrainSettings(steps=1)), "parent": None}, path)


def test_the_scores_of_what_ships_are_of_these_very_weights():
    manifest = json.loads((PUBLISHED_SCORES.parent / "mp20_cpu" / "manifest.json").read_text())
    read = {name: sha for notebook in manifest["notebooks"].values() for name, sha in notebook["inputs"].items()}
    for path in WEIGHTS.glob("*.safetensors"):
        assert read[f"lib/weights/{path.name}"] == sha256_of(path)
