"""The command and its function: requests in, files out that say where they come from."""

import csv
import fcntl
import json
import os
import re
import shlex
import shutil

import ase.io
import pandas as pd
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

import lib.generation.answers
import lib.generation.generate
from lib.core.errors import BadInput
from lib.crystals.exchange import read_structures
from lib.generation.generate import cif_of, claimed, generate, main, readable
from lib.generation.sampling import TrainedModel, load_model
from lib.methods.flow import FlowMatching


@pytest.fixture(scope="module")
def model(small_weights) -> TrainedModel:
    return load_model(small_weights)


def cscl(a: float, shift: float = 0.5) -> Structure:
    return Structure(Lattice.cubic(a), ["Ni", "Al"], [[0, 0, 0], [shift, 0.5, 0.5]])


@pytest.fixture(scope="module")
def made(small_weights, tmp_path_factory):
    """What the command leaves; the folder held an earlier answer of its own and a user's file."""
    folder = tmp_path_factory.mktemp("out")
    command = [*WORDS, "--weights", str(small_weights), "--out", str(folder)]
    (folder / "about.json").write_text(json.dumps({"command": shlex.join(["python", "-m", "lib.generate", *command])}))
    (folder / "summary.csv").write_text("name\nold_001\n")
    (folder / "old_001.cif").write_text("old")
    (folder / "mine.cif").write_text("mine")
    main(command)
    return folder


WORDS = ["NiAl", "--space-group", "Pm-3m,225", "--n", "4", "--relax", "none"]


def rows_of(folder) -> list[dict]:
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def test_files_hold_the_same_structures(made):
    rows = rows_of(made)
    assert rows and [row["name"] for row in rows] == [f"NiAl_{i + 1:03d}" for i in range(len(rows))]
    cifs = read_structures([made / f"{row['name']}.cif" for row in rows])
    frames = read_structures([made / "structures.extxyz"])
    assert list(cifs) == list(frames) == [row["name"] for row in rows]
    for name, cif in cifs.items():
        assert StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.1, scale=False).fit(cif, frames[name])


def test_the_folder_is_what_evaluate_reads(made, tmp_path):
    for path in made.iterdir():
        if path.name != "mine.cif":
            shutil.copy(path, tmp_path)
    names = [row["name"] for row in rows_of(made)]
    assert sorted(read_structures([tmp_path])) == names, "each once, though it stands there as a CIF and as a frame"


def test_cifs_and_frames_have_the_same_exact_symmetry(small_weights, monkeypatch, tmp_path):
    monkeypatch.setattr(lib.generation.answers, "_sampled", lambda *_, **__: [cscl(2.9, 0.501)])
    generate("NiAl", n=1, z=1, relax="none", known=False, weights=small_weights, out=tmp_path)
    for name in ("structures.extxyz", "NiAl_001.cif"):
        (structure,) = read_structures([tmp_path / name]).values()
        assert structure.get_space_group_info(1e-4)[1] == 221, "it was 0.003 Å away from it"
    assert list(read_structures([tmp_path])) == ["NiAl_001"]


def test_files_say_where_they_come_from(made, small_weights, model):
    expected = {"weights": "shipped.safetensors", "weights_sha256": model.checksum, "licence": "MIT", "seed": "42"}
    expected |= {"asked": "NiAl, space group 221,225, energy any, z any, n 4"}
    about = json.loads((made / "about.json").read_text())
    assert about["command"].startswith("python -m lib.generate NiAl --space-group Pm-3m,225")
    assert about["trained_on"].startswith("Al-Ni crystals (") and about["version"]
    for row, atoms in zip(rows_of(made), ase.io.read(made / "structures.extxyz", ":"), strict=True):
        lines = (made / f"{row['name']}.cif").read_text().splitlines()
        comments = dict(line.removeprefix("# ").split(": ", 1) for line in lines if line.startswith("# "))
        for facts in (comments, {key: str(value) for key, value in atoms.info.items()}):
            assert expected.items() <= facts.items() and facts["id"] == row["name"]
            assert facts["command"] == about["command"] and facts["space_group_0.1"] == row["space_group_0.1"]


def test_a_cif_has_its_symmetry():
    text = cif_of(cscl(2.9), "x", {"note": "several\nlines"})
    assert "# note: several lines\n" in text and "\ndata_x\n" in text
    assert "_symmetry_Int_Tables_number   221" in text


def test_an_earlier_answer_is_replaced_and_other_files_are_left(made):
    assert not (made / "old_001.cif").exists() and (made / "mine.cif").read_text() == "mine"
    assert not [path.name for path in made.iterdir() if path.name.startswith(".")], "nothing is half written"


def test_a_folder_keeps_the_answer_to_another_command(made, small_weights):
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    for words in (["Ni3Al", *WORDS[1:]], [*WORDS, "--seed", "1"]):
        with pytest.raises(SystemExit, match="the answer.*choose another folder"):
            main([*words, "--weights", str(small_weights), "--out", str(made)])
    with pytest.raises(BadInput, match="choose another folder"):
        generate("NiAl", n=1, relax="none", weights=small_weights, out=made)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    main([*WORDS, "--weights", str(small_weights), "--out", str(made)])
    after = {path.name: path.read_bytes() for path in made.iterdir()}
    assert after == before, "the same command leaves the same files"


@pytest.mark.parametrize("name", ["structures.extxyz", "summary.csv", "NiAl_001.cif"])
def test_structures_of_something_else_stay(name, tmp_path, small_weights):
    (tmp_path / name).write_text("mine")
    with pytest.raises(BadInput, match=f"{name} of something else; choose another folder"):
        generate("NiAl", n=1, relax="none", weights=small_weights, out=tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_a_command_killed_between_its_files_goes_on(tmp_path, small_weights, monkeypatch):
    def killed(*_):
        raise Killed

    how = {"n": 1, "relax": "none", "known": False, "weights": small_weights, "out": tmp_path, "steps": 2}
    with monkeypatch.context() as patch:
        patch.setattr(lib.generation.generate.shutil, "rmtree", killed)
        with pytest.raises(Killed):
            generate("NiAl", **how)
    (tmp_path / "about.json").unlink()
    generate("NiAl", **how)
    assert (tmp_path / "about.json").exists()


def test_three_lines_of_python_do_the_same(made, small_weights):
    answers = generate("NiAl", space_group="Pm-3m,225", n=4, relax="none", weights=small_weights)
    assert answers.table["name"].tolist() == [row["name"] for row in rows_of(made)]
    written = read_structures([made / "structures.extxyz"]).values()
    assert all(StructureMatcher().fit(*pair) for pair in zip(answers.structures, written, strict=True))


def test_the_screen_says_how_many_rows_it_hides(made):
    table = pd.read_csv(made / "summary.csv")
    text = readable(table, most=1)
    assert f"and {len(table) - 1} more, in summary.csv" in text and "more" not in readable(table)
    first = table.iloc[0]
    assert f"{first['a']:.4g}" in text and text.count("eV/atom") == 2, "energies have units"
    assert all(f"{first[name]:.3f}" in text for name in ("volume_per_atom", "shortest_distance"))


def test_help_names_defaults_and_has_no_markup(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "default: chgnet" in text and "default: 16" in text and "default: None" not in text
    assert not re.search(r":class:|:mod:|:func:|`", text)


class Killed(Exception):
    """Stands for kill -9."""


def test_an_interrupted_command_goes_on(small_weights, tmp_path, monkeypatch):
    path = tmp_path / "requests.csv"
    path.write_text("formula,space_group,n\nNiAl,221,1\nNi3Al,221,1\n")
    command = ["--requests", str(path), "--relax", "none", "--no-known", "--weights", str(small_weights)]
    command += ["--out", str(tmp_path / "out")]
    sample, batches = FlowMatching.sample, []

    def counted(*args, **settings):
        batches.append(1)
        return sample(*args, **settings)

    def killed(*_):
        raise Killed

    monkeypatch.setattr(FlowMatching, "sample", counted)
    with monkeypatch.context() as patch:
        patch.setattr(lib.generation.answers, "distinct", killed)
        with pytest.raises(Killed):
            main(command)
    assert (tmp_path / "out" / ".resume").is_dir() and len(batches) == 1
    with pytest.raises(SystemExit, match="an interrupted command has done"):
        main([*command, "--seed", "1"])
    main(command)
    assert len(batches) == 1, "what was sampled is not sampled again"
    assert not (tmp_path / "out" / ".resume").exists() and len(rows_of(tmp_path / "out")) >= 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give formulas, or --requests, or --system"),
        (["NiAl", "--system", "Al-Ni"], "one of the four"),
        (["NiAl", "--energy", "cold"], "energy 'cold'"),
        (["NiAl KCl"], "without quotes: NiAl KCl"),
        (["NiAl", "--guidance", "nan"], "guidance nan is not between 0 and 20; 1 is as trained"),
        (["--improve", "some.cif", "--z", "2"], "--z 2 is not for --improve"),
        (
            ["NiAl", "--templates", "outputs/nothing"],
            "nothing/data/train.parquet does not exist; name the folder of a run",
        ),
        (["NiAl", "--weights", "none.safetensors"], "the weights none.safetensors do not exist"),
        (["TaW"], "contains Ta, W, which none of the model's training crystals does"),
    ],
)
def test_commands_that_cannot_be_answered_end_with_a_sentence(words, sentence, small_weights, tmp_path):
    weights = [] if "--weights" in words else ["--weights", str(small_weights)]
    with pytest.raises(SystemExit, match=sentence):
        main([*words, *weights, "--out", str(tmp_path)])
    assert not list(tmp_path.glob("*.cif"))
    if (tmp_path / ".resume").exists():  # it had begun; the folder is free for the command as it is meant
        assert claimed(tmp_path, {"command": "another"}).is_dir()


def test_two_commands_at_once_do_not_share_a_folder(small_weights, tmp_path):
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(BadInput, match=f"another process writes {tmp_path}; .*another folder for --out"):
        generate("NiAl", n=1, relax="none", weights=small_weights, out=tmp_path)
    os.close(held)
    assert not list(tmp_path.iterdir())


def test_nothing_left_is_said_in_words(made):
    table = pd.read_csv(made / "summary.csv")
    assert "nothing is left" in readable(table.head(0)) and "Empty" not in readable(table.head(0))


@pytest.mark.slow
def test_guidance_pulls_elsewhere():
    volumes = []
    for guidance in (1, 1, 3):
        how = {"energy": -0.5, "n": 4, "steps": 4, "guidance": guidance, "relax": "none", "known": False}
        volumes.append(generate("NiAl", **how).table["volume_per_atom"].tolist())
    assert volumes[0] == volumes[1] != volumes[2]


def test_missing_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lib.generation.ship, "WEIGHTS", tmp_path)
    with pytest.raises(SystemExit, match="generation_mp20.safetensors .*check them out"):
        main(["NiAl", "--out", str(tmp_path / "out")])


def test_files_of_crystals_are_improved(small_modifier, tmp_path):
    cscl(2.9).to(str(tmp_path / "mine.cif"))
    words = ["--improve", str(tmp_path / "mine.cif"), "--n", "3", "--relax", "none", "--weights", str(small_modifier)]
    main([*words, "--out", str(tmp_path / "out")])
    with (tmp_path / "out" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["formula"] for row in rows} == {"AlNi"} and "below_given" in rows[0]
    assert len(list((tmp_path / "out").glob("*.cif"))) == len(rows) > 0
    with pytest.raises(SystemExit, match="none.cif"):
        main(["--improve", str(tmp_path / "none.cif"), "--out", str(tmp_path / "out")])
