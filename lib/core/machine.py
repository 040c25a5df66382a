"""What the numbers were made with: the code's version, this machine, its torch device."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from lib.core.errors import BadInput
from lib.core.files import ROOT

if TYPE_CHECKING:
    import torch


@functools.cache
def code_version() -> dict[str, object]:
    """Git commit and whether the tree differs from it ("unknown" outside a checkout)."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": None}


@functools.cache
def hardware() -> dict[str, object]:
    """Processor, cores, memory and GPU of this machine."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(names, platform.processor()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def machine() -> str:
    """This machine in words, for `scores.json`."""
    facts = hardware()
    return f"{facts['cpu']}, {facts['cores']} cores" + (f", {facts['gpu']}" if facts["gpu"] else "")


def measured_by(command: str) -> dict[str, object]:
    """What a row of `scores.json` says of its origin: machine, command, commit."""
    return {"machine": machine(), "command": command, "commit": code_version()["commit"]}


def torch_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu" or "cuda". Raises BadInput if cuda was asked for and there is none."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("parameter 'device' is 'cuda', but no GPU is visible to torch; use 'auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
