"""Whether the tests can fail: faults are put into the code one at a time, and a named test has to catch each.

    python -m benchmarks.faults                    all of benchmarks/faults.yaml: half an hour on one core
    python -m benchmarks.faults --only wyckoff     those with this word in their name or file; may be given again

The working tree is copied to a temporary folder. A fault replaces a text that stands once in its file; then its tests
run there alone, after all of them have passed without any fault. Caught is what makes one of them fail: a fault by
which the code does not even import counts as little as one that nobody notices. What has been found stays in
`outputs/tests/faults.jsonl` until all is done, so that a killed command goes on, as long as neither code nor tests
change.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pandas as pd

from benchmarks.scores import TESTS, note
from lib.core.commands import command
from lib.core.errors import BadInput
from lib.core.files import ROOT, replacing
from lib.core.strict_yaml import read_yaml
from lib.core.workers import THREAD_VARIABLES, progress

LIST = "benchmarks/faults.yaml"
SECONDS = 100  # of processor time for a test
CAUGHT, MISSED, BROKEN = "caught", "missed", "no test could run"


@dataclass(frozen=True)
class Fault:
    """A mistake in the code that somebody might make, or has made.

    Attributes:
        name: what is wrong then, in words.
        file: path of the file from the root of the repository.
        old, new: the text that stands once in it, and what replaces it.
        tests: those of which one must fail, as pytest names them.
    """

    name: str
    file: str
    old: str
    new: str
    tests: Sequence[str]

    @contextmanager
    def put_into(self, root: Path) -> Iterator[None]:
        """The fault in the files of a folder, for as long as the block lasts."""
        path = root / self.file
        right = path.read_bytes()
        path.write_text(right.decode().replace(self.old, self.new))
        try:
            yield
        finally:
            path.write_bytes(right)


def listed(path: Path = ROOT / LIST) -> list[Fault]:
    """The faults of a list: name -> file, old, new and tests."""
    return [Fault(name, **entry) for name, entry in read_yaml(path).items()]


def outdated(faults: Sequence[Fault], root: Path = ROOT) -> list[str]:
    """A sentence for each fault that cannot be put in: its text must stand once in its file."""
    found = []
    for fault in faults:
        path = root / fault.file
        times = path.read_text().count(fault.old) if path.is_file() else 0
        if times != 1:
            where = f"stands {times} times in {fault.file}, not once"
            found.append(f"{fault.name}: {fault.old!r} {where}; bring {LIST} up to date")
    return found


def run(faults: Sequence[Fault], root: Path, record: Path) -> pd.DataFrame:
    """Put each fault in and run its tests: name, file, outcome, test (the one that failed), why and seconds.

    Args:
        root: the repository, of which the files count that git knows or would take.
        record: jsonl file that keeps each result and gives back those of an interrupted call.

    Raises:
        BadInput: a fault cannot be put in, or a test fails or is skipped without any.
    """
    if sentences := outdated(faults, root):
        raise BadInput("\n".join(sentences))
    known = _read(record)
    with _Tree(root) as tree, record.open("a") as file:

        def kept(what: object, find: Callable[[], object]) -> object:
            key = hashlib.sha256(json.dumps([tree.state, what]).encode()).hexdigest()
            if key not in known:
                known[key] = find()
                print(json.dumps([key, known[key]]), file=file, flush=True)
            return known[key]

        tests = sorted({test for fault in faults for test in fault.tests})
        print(f"{len(tests)} tests without a fault, then {len(faults)} faults", flush=True)
        alone = kept(tests, lambda: tree.outcomes(tests))
        bad = [f"{name}: {outcome} {why}" for name, (outcome, why) in alone.items() if outcome != "passed"]
        bad += [f"{test}: not found" for test in tests if not any(name.startswith(_dotted(test)) for name in alone)]
        if bad:
            raise BadInput("without a fault these tests do not pass, so that they prove nothing:\n" + "\n".join(bad))
        rows = []
        for fault in progress(faults, desc="faults", unit="fault"):
            found = kept(asdict(fault), lambda fault=fault: tree.judged(fault))
            rows.append({"name": fault.name, "file": fault.file} | found)
            print(f"{found['outcome']:>8}  {fault.name} ({found['seconds']:.0f} s)", flush=True)
    return pd.DataFrame(rows)


def _dotted(test: str) -> str:
    """A test's name as reports have it."""
    file, _, name = test.partition(".py")
    return file.replace("/", ".") + name


def _read(record: Path) -> dict[str, object]:
    text = record.read_text() if record.exists() else ""
    whole = text[: text.rfind("\n") + 1]  # the last line may be cut short
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(whole)
    return dict(json.loads(line) for line in whole.splitlines())


class _Tree:
    """A copy of the working tree, in which tests run.

    Attributes:
        state: checksum of all that a test may depend on; the list of faults is not among it.
    """

    def __init__(self, root: Path) -> None:
        self.temporary = TemporaryDirectory()
        above = Path(self.temporary.name)
        self.folder, self.report, self.log = above / "tree", above / "report.xml", above / "log"
        words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(words, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
        whole = hashlib.sha256()
        for name in sorted({name for name in names if (root / name).is_file()}):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, self.folder / name)
            if name.startswith(("lib/", "tests/", "notebooks/", "params/", "benchmarks/")) and name != LIST:
                whole.update(name.encode() + (root / name).read_bytes())
        self.state = whole.hexdigest()
        # by their content: two versions of a file may have one length and be of one second
        compileall.compile_dir(self.folder / "lib", quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)

    def __enter__(self) -> _Tree:
        settings = os.environ | dict.fromkeys(THREAD_VARIABLES, "1") | {"PYTHONDONTWRITEBYTECODE": "1"}
        self.server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("forked_pytest.py")],
            cwd=self.folder,
            env=settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("wb"),
            text=True,
        )
        return self

    def __exit__(self, *_) -> None:
        self.server.kill()
        self.server.wait()
        self.temporary.cleanup()

    def outcomes(self, tests: Sequence[str], *options: str) -> dict[str, tuple[str, str]]:
        """Test -> "passed", "failure", "error" or "skipped", and why; empty where SECONDS were not enough."""
        self.report.unlink(missing_ok=True)
        words = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", f"--junitxml={self.report}", *options, *tests]
        print(json.dumps([SECONDS * len(tests), *words]), file=self.server.stdin, flush=True)
        if not self.server.stdout.readline():
            raise BadInput(f"pytest does not run: {self.log.read_text()[-500:]}")
        found = {}
        for case in ElementTree.parse(self.report).iter("testcase") if self.report.exists() else []:
            name = f"{case.get('classname')}::{case.get('name')}".lstrip(":")
            outcome = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
            why = "" if outcome is None else outcome.get("message", "").split("\n")[0][:200]
            found[name] = "passed" if outcome is None else outcome.tag, why
        return found

    def judged(self, fault: Fault) -> dict[str, object]:
        """What the tests of a fault make of it."""
        started = time.monotonic()
        with fault.put_into(self.folder):
            outcomes = self.outcomes(fault.tests, "-x")
        failed = [(name, why) for name, (outcome, why) in outcomes.items() if outcome == "failure"]
        broken = [(name, why) for name, (outcome, why) in outcomes.items() if outcome == "error"]
        outcome = CAUGHT if failed else BROKEN if broken or not outcomes else MISSED
        test, why = (failed + broken or [("", "")])[0]
        return {"outcome": outcome, "test": test, "why": why, "seconds": round(time.monotonic() - started, 1)}


@command()
def main(words: Sequence[str] | None = None) -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="those with this word in name or file; may be given again")
    only = parser.parse_args(words).only
    faults = [fault for fault in listed() if not only or any(word in f"{fault.file} {fault.name}" for word in only)]
    record = TESTS / "faults.jsonl"
    table = run(faults, ROOT, record)
    escaped = table[table.outcome != CAUGHT]
    if not only:
        with replacing(TESTS / "tables" / "faults.csv") as temporary:
            table.to_csv(temporary, index=False)
        note("house.faults_caught", len(table) - len(escaped), "faults", n=len(table), command="make faults")
        record.unlink()
    print(f"{len(table) - len(escaped)} of {len(table)} faults caught")
    if len(escaped):
        raise BadInput("\n".join(f"{row.outcome}: {row.name} ({row.file}) {row.why}" for row in escaped.itertuples()))


if __name__ == "__main__":
    main()
