"""Faults that are put into the code: each of the list can be put in, and what its tests make of it is told apart."""

from __future__ import annotations

import json
import subprocess

import pytest

from benchmarks.faults import Fault, listed, outdated, run
from lib.core.errors import BadInput
from lib.core.files import ROOT

TESTS = ["tests/test_half.py::test_half"]
HALF = "def half(x):\n    return x / 2  # not //\n"
CAUGHT = Fault("whole halves", "lib/half.py", "x / 2", "x // 2", TESTS)
MISSED = Fault("no comment", "lib/half.py", "  # not //", "", TESTS)
BROKEN = Fault("no colon", "lib/half.py", "(x):", "(x)", TESTS)


@pytest.fixture
def root(tmp_path):
    """A repository of one function and its test."""
    files = {"lib/half.py": HALF, "tests/test_half.py": "from lib.half import half\n\ndef test_half():\n"}
    files["tests/test_half.py"] += "    assert half(3) == 1.5\n\ndef test_later():\n    assert False\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def test_every_fault_of_the_list_can_be_put_in():
    faults = listed()
    assert not outdated(faults)
    for fault in faults:
        assert fault.tests and fault.old != fault.new
        for test in fault.tests:
            file, _, name = test.partition("::")
            assert f"def {name.partition('[')[0]}" in (ROOT / file).read_text(), f"{fault.name}: there is no {test}"


@pytest.mark.slow
def test_what_is_caught_missed_and_broken_is_told_apart_and_kept(root, tmp_path, monkeypatch):
    record = tmp_path / "out" / "faults.jsonl"
    table = run([CAUGHT, MISSED, BROKEN], root, record)
    assert table.outcome.tolist() == ["caught", "missed", "no test could run"]
    assert "assert 1 == 1.5" in table.why[0] and table.test[0].endswith("test_half::test_half")
    assert (root / "lib" / "half.py").read_text() == HALF, "faults are put into a copy"
    whole = record.read_text()
    record.write_text(whole[: len(whole) - 40])  # killed while it wrote the last line
    monkeypatch.setattr("benchmarks.faults._Tree.judged", lambda tree, fault: {"outcome": "again", "seconds": 0})
    assert run([CAUGHT, MISSED, BROKEN], root, record).outcome.tolist() == ["caught", "missed", "again"]
    assert len([json.loads(line) for line in record.read_text().splitlines()]) == 4


@pytest.mark.slow
def test_tests_that_fail_without_a_fault_and_faults_that_cannot_be_put_in_are_named(root, tmp_path):
    record = tmp_path / "faults.jsonl"
    for tests in (["tests/test_half.py::test_later"], ["tests/test_half.py::test_none"]):
        with pytest.raises(BadInput, match="test_later: failure|test_none: not found"):
            run([Fault("whole halves", "lib/half.py", "x / 2", "x // 2", tests)], root, record)
    for old in ("x / 3", "x"):
        with pytest.raises(BadInput, match=f"whole halves: '{old}' .*lib/half.py"):
            run([Fault("whole halves", "lib/half.py", old, "y", TESTS)], root, record)
