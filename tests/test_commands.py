"""How a command ends when something cannot be done, and in which encoding it reads and writes."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys

import pytest
from pymatgen.core import Lattice, Structure

from lib.core.commands import command
from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.studies import evaluation as evaluate


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BadInput("formula 'Xx' does not parse"), "\nformula 'Xx' does not parse\n"),
        (
            OSError(errno.EROFS, "Read-only file system", "outputs/x/made"),
            "outputs/x/made: Read-only file system; check",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "weights"), "weights: Permission denied; check the path"),
        (OSError("the disk is gone"), "the disk is gone; check"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(error, words):
    with pytest.raises(SystemExit) as end, command():
        raise error
    assert words in end.value.code and len(end.value.code.strip().splitlines()) == 1


def test_faults_of_the_project_itself_keep_their_traceback():
    with pytest.raises(KeyError), command():
        raise KeyError("no such thing")


WORDS = "\n".join(
    [
        "import pathlib, sys",
        "from lib.core.commands import command",
        "with command():",
        "    pathlib.Path(sys.argv[1]).write_text('\\u00c5\\u207b\\u00b3')",
        "    print(sys.flags.utf8_mode, *sys.argv[2:])",
    ]
)


@pytest.mark.parametrize("options", [[], ["-X", "utf8=0"]])
def test_files_are_utf_8_whatever_the_locale(tmp_path, options):
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    path = tmp_path / "page.html"
    call = [sys.executable, *options, "-c", WORDS, path, "two words", "$HOME"]
    done = subprocess.run(call, cwd=ROOT, env=os.environ | plain, capture_output=True, text=True)
    if options:  # as somebody insists; the command is not started again without end
        assert done.returncode != 0 and "UnicodeEncodeError" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert path.read_text("utf-8") == "Å⁻³" and done.stdout.strip() == "1 two words $HOME"


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    Structure(Lattice.cubic(4), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(str(tmp_path / "cscl.cif"))
    (tmp_path / "file").touch()
    for name in ("made", "made.csv"):
        place = str(tmp_path / "file" / name)
        monkeypatch.setattr(sys, "argv", ["lib.evaluate", str(tmp_path / "cscl.cif"), "--export", "lemat", place])
        with pytest.raises(SystemExit) as end:
            evaluate.main()
        assert place in end.value.code and len(end.value.code.strip().splitlines()) == 1


def test_output_that_nobody_reads_any_more_is_no_fault():
    words = "from lib.core.commands import command\nwith command():\n    for i in range(10**5):\n        print(i)"
    child = subprocess.Popen(
        [sys.executable, "-c", words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == "" and child.wait() == 1


@pytest.mark.parametrize(
    ("module", "words", "sentence"),
    [
        ("lib.training.trainer", ["absent.json"], "absent.json: No such file or directory; check the path"),
        ("lib.training.trainer", ["empty.json"], "empty.json is damaged"),
        ("lib.training.trainer", ["list.json"], "list.json lacks device, model, parent, settings, spec, training"),
        ("lib.datasets.build_embedded", ["assemble", "--shards", "."], "no shards in ."),
        ("lib.datasets.build_embedded", ["relax", "--workers", "0"], "'0' is no whole number from 1"),
        ("lib.generation.generate", ["NiAl", "--out", "x", "--seed", "-1"], "--seed: '-1' is no whole number from 0"),
        ("lib.generation.generate", ["NiAl", "--out", "x", "--steps", "0"], "--steps: '0' is no whole number from 1"),
        ("lib.dismai.commands", ["silicon", "--cells", "-1"], "--cells: '-1' is no whole number from 1"),
        ("lib.studies.first_principles", ["a.csv", "Al", "--out", "x", "--cutoff", "nan"], "'nan' is no number above"),
        (
            "lib.studies.outside_training",
            ["a.parquet", "--out", "x", "--systems", "0"],
            "'0' is no whole number from 1",
        ),
    ],
)
def test_words_that_no_command_can_take_are_named(module, words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.json").touch()
    (tmp_path / "list.json").write_text("[1]")
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module).main()
    said = str(end.value) if isinstance(end.value.code, str) else capsys.readouterr().err.splitlines()[-1]
    assert end.value.code and sentence in said and len(said.strip().splitlines()) == 1
