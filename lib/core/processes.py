"""Several processes that work on one thing: started by torchrun or accelerate, or from a notebook by way of torchrun.

A process learns its rank from the environment that the launcher sets. One that nobody launched is a group of one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lib.core.errors import BadInput
from lib.core.files import ROOT, write_json

PATIENCE = timedelta(hours=2)  # how long a process waits for another, which may be validating
TAIL = 15  # lines of its log that the error of a failed launch shows
POLL_SECONDS = 0.5  # seconds
NEWS, FAILURE, LOG = "progress.json", "failure.json", "log.txt"


def launched() -> bool:
    """Whether a launcher has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def join(device: torch.device) -> torch.device:
    """Enter the group that a launcher has started this process in, if any; return the device that is this process's.

    Processes of a group talk by NCCL on GPUs, one card each, and by Gloo on CPU.
    """
    if not launched():
        return device
    on_gpu = device.type == "cuda"
    if on_gpu:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        options = {"device_id": device} if on_gpu else {}
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE, **options)
    return device


def leave() -> None:
    """Leave the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number in its group, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes in the group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(n: int) -> slice:
    """Which of n rows are this process's; those of all processes together are all rows, each once."""
    return slice(n * rank() // size(), n * (rank() + 1) // size())


def total(value: Tensor) -> Tensor:
    """The sum of every process's value, on all of them."""
    if size() > 1:
        dist.all_reduce(value)
    return value


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if size() > 1:
        dist.barrier()


def together(net: nn.Module) -> nn.Module:
    """The network, with gradients that are the mean over all processes when it is one of several."""
    if size() == 1:
        return net
    unused = {"find_unused_parameters": True}  # a batch without templates does not use the layers for them
    return DistributedDataParallel(net, forward_sync_buffers=False, gradient_as_bucket_view=True, **unused)


def launch(module: str, config: Path, n_processes: int, on_news: Callable[[dict], None]) -> None:
    """Run `python -m module config` in n processes of this machine, until they end.

    They report by :func:`attended` in the folder of `config`, where `log.txt` holds all they print; `on_news` is called
    with what the first of them last wrote of its progress. They end when this process does, however it ends: each
    watches its standard input, whose other end is here. Raises BadInput or FloatingPointError if a process failed; the
    message is its own, with the end of the log.
    """
    folder = config.resolve().parent
    for name in (NEWS, FAILURE):
        (folder / name).unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n_processes}"]
    command += ["-m", module, str(config.resolve()), "--attended"]

    def tell() -> None:
        if (folder / NEWS).exists():
            on_news(json.loads((folder / NEWS).read_text()))

    with (folder / LOG).open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                tell()
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
    tell()
    if process.returncode:
        kind, message = "BadInput", f"the training processes ended with code {process.returncode}"
        end = (folder / LOG).read_text(errors="replace")
        if (folder / FAILURE).exists():  # better than the log's end, which the launcher fills with its own troubles
            kind, message, end = json.loads((folder / FAILURE).read_text())
        tail = "\n".join(end.splitlines()[-TAIL:])
        error = FloatingPointError if kind == "FloatingPointError" else BadInput
        raise error(f"{message}; the log is {folder / LOG}, and says:\n{tail}")


@contextmanager
def attended(folder: Path) -> Iterator[None]:
    """Inside, this process ends when the one that launched it does, and what it fails of is told there."""

    def end_with_input() -> None:
        with suppress(OSError):
            while os.read(sys.stdin.fileno(), 1):
                pass
        os._exit(1)

    threading.Thread(target=end_with_input, daemon=True).start()
    try:
        yield
    except Exception as error:
        if not (folder / FAILURE).exists():  # the others fail because the first did
            kind = type(error).__name__
            told = str(error) if isinstance(error, BadInput | FloatingPointError) else f"{kind}: {error}"
            write_json(folder / FAILURE, [kind, told, traceback.format_exc()])
        raise


class News:
    """Stands in for a progress bar in a launched process: writes how far it is, once a second at most."""

    def __init__(self, folder: Path) -> None:
        self.path, self.step, self.history, self.written = folder / NEWS, 0, [], 0.0

    def __call__(self, *, initial: int, disable: bool = False, **_options: object) -> News:
        """Made like a progress bar."""
        self.step, self.disabled = initial, disable
        return self

    def update(self) -> None:
        """One step more."""
        self.step += 1
        if time.monotonic() - self.written > 1:
            self.close()

    def set_postfix(self, losses: dict[str, str]) -> None:
        """They are in the history."""

    def note(self, history: list[dict[str, float]]) -> None:
        """The losses so far."""
        self.history = history
        self.close()

    def close(self) -> None:
        """Write it now."""
        if not self.disabled:
            write_json(self.path, {"step": self.step, "history": self.history})
        self.written = time.monotonic()
