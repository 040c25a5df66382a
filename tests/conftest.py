"""What several test files share: the browser, one run of the whole chain, and the time that all tests took."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Tab, open_browser
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.groups import SpaceGroup

from benchmarks.scores import note
from lib.core.files import ROOT
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.generation.ship import export
from lib.models.batch import Batch
from lib.models.interfaces import Method
from lib.models.periodic_state import PeriodicTensors
from lib.models.transformer import TransformerSizes
from lib.training.spec import TrainSettings, make_spec
from lib.training.trainer import Trainer

# pymatgen forgets a group that nobody holds, and takes half a second to work out the operations of a cubic one again
SpaceGroup.from_int_number = functools.cache(SpaceGroup.from_int_number)
CHAIN_RUN = "smoke_of_the_tests"
CHAINS = ["test_chain", "test_score_chain", "test_dismai_chain"]
QUICK = "not slow"  # what `make quicktest` chooses


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Tab]:
    """A headless Chromium; tests that use it are skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with open_browser(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


@pytest.fixture
def running() -> Iterator[Callable]:
    """Runs a socket server in a thread; all end with the test."""
    servers = []

    def run(server):
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


def bare_periodic(n_sites: int) -> PeriodicTensors:
    """The periodic representation without statistics: 12 Å^3 an atom, lattice values as they are."""
    return PeriodicTensors(n_sites, [0.0] + [12.0] * 118, np.zeros((2, 3)), np.ones((2, 3)))


def loss_of(method: Method, net: Callable, batch: Batch, generator: torch.Generator) -> torch.Tensor:
    """The mean loss of a batch."""
    return method.losses(net, batch, method.draw(batch, generator)).mean()


def table(structures: Iterable[Structure], space_group=None, energy=None) -> CrystalTable:
    """Crystals c0, c1, ...; groups are found where none are given, energies are zero."""
    structures = list(structures)
    n = len(structures)
    return CrystalTable.from_structures(
        structures,
        id=[f"c{i}" for i in range(n)],
        formation_energy=np.zeros(n) if energy is None else energy,
        space_group=space_group,
        energy_kind="test",
    )


def rock_salt(a: float, *symbols: str) -> Structure:
    """The cubic cell, a in Å."""
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return Structure(Lattice.cubic(a), np.repeat(symbols, 4).tolist(), np.concatenate([fcc, fcc + 0.5]) % 1)


def named_table(structures: dict[str, Structure], energies: list[float]) -> CrystalTable:
    """Crystals by id, with their formation energies."""
    return CrystalTable.from_structures(
        structures.values(), id=list(structures), formation_energy=energies, energy_kind="test"
    )


@pytest.fixture(scope="session")
def small_table() -> CrystalTable:
    """Some Al-Ni crystals of the embedded set, of at most four atoms."""
    embedded = CrystalTable.from_parquet(EMBEDDED)
    small = embedded.take(embedded.n_sites <= 4)
    return small.take(np.isin(small.formula, ["Al1Ni1", "Al1Ni2", "Al2Ni1", "Al1Ni3", "Al3Ni1"]))


def trained(table: CrystalTable, task: str, method: str, path: Path) -> Path:
    """Weights of a transformer that was trained on a table for a few steps, as training leaves them."""
    spec = make_spec(task, "transformer", method, table, TransformerSizes(32, 1, 4))
    settings = TrainSettings(
        steps=30, batch_size=16, precision="fp32", validate_every=30, checkpoint_every=30, ema_decay=0.9, forget=0.1
    )
    Trainer(spec, table, table, settings, path, torch.device("cpu")).run()
    return path


FACTS = {"data": "Al-Ni crystals", "licence": "MIT", "command": "pytest", "sampling": {"steps": 5}}


@pytest.fixture(scope="session")
def small_model(small_table, tmp_path_factory) -> Path:
    """A generator of such crystals."""
    return trained(small_table, "generation", "cfm_uniform", tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture(scope="session")
def small_weights(small_model, small_table) -> Path:
    """The same, exported."""
    return export(small_model, small_model.with_name("shipped.safetensors"), small_table, **FACTS)


@pytest.fixture(scope="session")
def small_modifier(small_table, tmp_path_factory) -> Path:
    """A model that modifies such crystals, exported."""
    path = tmp_path_factory.mktemp("weights") / "modifier.safetensors"
    trained(small_table, "modification", "cfm_noise", path)
    return export(path, path.with_name("shipped.safetensors"), small_table, **FACTS)


def make(*words: str) -> subprocess.CompletedProcess:
    """`make` as a user calls it, in the environment that runs the tests."""
    options = ["--old-file=.venv/ready", f"BIN={Path(sys.executable).parent}"]
    return subprocess.run(["make", *options, *words], cwd=ROOT, capture_output=True, text=True)


@dataclass
class Chain:
    """The notebooks, run once by `make study PROFILE=smoke`, which makes the report first."""

    folder: Path
    output: str
    seconds: float


@pytest.fixture(scope="session")
def chain() -> Chain:
    """The whole chain with `params/smoke`, through Makefile and Snakefile; fails with its output where it stops."""
    folder = ROOT / "outputs" / CHAIN_RUN
    if not os.environ.get("KEEP_CHAIN"):  # set while writing tests, to look at the last run again
        shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    done = make("study", "PROFILE=smoke", f"RUN={CHAIN_RUN}")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return Chain(folder, done.stdout, time.monotonic() - started)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Chains go first, since they take longest; what runs one, opens a browser or matches many templates is slow."""
    for item in items:
        if {"chain", "browser", "examples"} & set(item.fixturenames):
            item.add_marker("slow")
    items.sort(key=lambda item: CHAINS.index(item.path.stem) if item.path.stem in CHAINS else len(CHAINS))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """One thread of torch: two that wait for each other on busy cores take many times as long for small networks."""
    torch.set_num_threads(1)  # a test before may have begun a run, which sets its own number


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_STARTED] = time.time()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """After all tests, or all quick ones, have passed, note their time where `make publish RUN=tests` finds it."""
    options = session.config.option
    chosen = options.keyword or options.collectonly or options.markexpr not in ("", QUICK)
    if exitstatus or chosen or session.config.args != session.config.getini("testpaths"):
        return
    if hasattr(session.config, "workerinput"):  # a part of the tests, in a process of pytest-xdist
        return
    name, command = ("tests.quick_seconds", "make quicktest") if options.markexpr else ("tests.seconds", "make test")
    note(name, round(time.time() - session.config.stash[_STARTED], 1), "s", n=1, command=command)


_STARTED = pytest.StashKey[float]()
