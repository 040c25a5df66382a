"""Two processes on CPU, started as a notebook starts them, train what one does and end with the notebook."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_training import CPU, SIZES, SMALL, killed_at, table  # noqa: F401

from lib.core import processes
from lib.core.errors import BadInput
from lib.core.files import ROOT
from lib.crystals.table import CrystalTable
from lib.training.checkpoints import load_weights
from lib.training.spec import TrainSettings, make_spec
from lib.training.trainer import Trainer

pytestmark = pytest.mark.slow
SETTINGS = {"steps": 12, "batch_size": 15, "precision": "fp32", "learning_rate": 1e-3, "warmup_steps": 2}
SETTINGS |= {"validate_every": 3, "checkpoint_every": 4}


def trainer(crystals: CrystalTable, path: Path, spec, n_processes: int = 1, **others) -> Trainer:
    settings = TrainSettings(**SETTINGS | others.pop("settings", {}))
    return Trainer(spec, crystals, crystals.take(range(10)), settings, path, CPU, n_processes=n_processes, **others)


def test_two_processes_give_the_curve_of_one(table, tmp_path):  # noqa: F811
    """And go on with what one of them began."""
    spec = make_spec("generation", "transformer", "cfm_uniform", table, SMALL)
    changes = {"settings": {"forget": 0.3, "validate_matches": 2}}
    one, two, seen = tmp_path / "one.safetensors", tmp_path / "two.safetensors", []
    expected = trainer(table, one, spec, **changes).run()
    killed_at(5, trainer(table, two, spec, **changes))
    shared = trainer(
        table, two, spec, n_processes=2, on_validation=lambda history: seen.append(len(history)), **changes
    )
    history = shared.run()
    np.testing.assert_allclose(history, expected, atol=1e-5)
    weights, others = load_weights(one, CPU)[0], load_weights(two, CPU)[0]
    torch.testing.assert_close(others, weights, rtol=1e-4, atol=1e-5)
    assert shared.step == 12 and seen and seen[-1] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.{kind}" for name in ("one", "two") for kind in ("json", "safetensors")
    )


def test_torchrun_by_hand_trains_what_one_process_does(table, tmp_path):  # noqa: F811
    spec = make_spec("generation", "periodic", "cfm_uniform", table, SIZES)
    expected = trainer(table, tmp_path / "one.safetensors", spec).run()
    config = trainer(table, tmp_path / "two.safetensors", spec).write_config()
    command = [Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*command, "-m", "lib.training", config], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    history = pd.DataFrame(load_weights(tmp_path / "two.safetensors", CPU)[1]["history"])
    np.testing.assert_allclose(history, expected, atol=1e-5)


def test_a_batch_is_divided_once_and_whole(monkeypatch):
    for n, size in [(256, 8), (15, 2), (3, 8), (1, 2)]:
        monkeypatch.setattr(processes, "size", lambda size=size: size)
        rows = []
        for rank in range(size):
            monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
            rows += range(n)[processes.share(n)]
        assert rows == list(range(n))


def test_what_fails_there_is_said_here(table, tmp_path):  # noqa: F811
    spec = make_spec("generation", "periodic", "cfm_uniform", table, SIZES)
    broken = trainer(table, tmp_path / "m.safetensors", spec, n_processes=2, settings={"learning_rate": 1e30})
    sentence = r"the loss of m or its gradient is (nan|inf) at step \d+ \(crystals .*log\.txt"
    with pytest.raises(FloatingPointError, match=sentence):
        broken.run()
    with pytest.raises(BadInput, match="train it in one"):
        trainer(table, tmp_path / "m.safetensors", spec, n_processes=2, loss_function=lambda *_: None)


NOTEBOOK = """
import sys
from pathlib import Path
from test_processes import *
embedded = CrystalTable.from_parquet(sys.argv[1])
spec = make_spec("generation", "periodic", "cfm_uniform", embedded, SIZES)
trainer(embedded, Path(sys.argv[2]), spec, n_processes=2, settings={"steps": 10**6}).run()
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="children are found in /proc")
def test_the_processes_end_with_a_killed_notebook(table, tmp_path):  # noqa: F811
    data, folder = table.to_parquet(tmp_path / "data.parquet"), tmp_path / "m.training"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", NOTEBOOK, str(data), str(tmp_path / "m.safetensors")]
    notebook = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: (folder / processes.NEWS).exists(), 300)
        assert len(those_with(folder)) == 3, "torchrun and its two processes"
    finally:
        notebook.send_signal(signal.SIGKILL)
        notebook.wait()
    wait_until(lambda: not those_with(folder), 60)


def those_with(folder: Path) -> list[str]:
    """Processes whose command names the folder."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return [command for command in commands if str(folder) in command]


def wait_until(true, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
