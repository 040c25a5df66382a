"""How a command ends when something cannot be done, and in which encoding it reads and writes."""

from __future__ import annotations

import errno
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
