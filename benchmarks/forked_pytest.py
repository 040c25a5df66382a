"""pytest time and again in the current folder, each time in a fork of a process that has loaded what most tests load.

A line of standard input holds the most seconds of processor time and the words of a call, as JSON; its exit status is
answered on standard output. Of the project itself nothing is loaded before a fork: every call sees its files as they
are then.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys

import pytest

LOADED = ["chgnet.model.model", "gemmi", "matplotlib.pyplot", "pandas", "pyarrow.parquet", "pydantic", "scipy.stats"]
LOADED += ["pymatgen.analysis.structure_matcher", "safetensors.torch", "seaborn", "websocket"]
WAITING = 50  # times the processor's seconds


def serve() -> None:
    """See the module's first lines."""
    sys.path[0] = os.getcwd()
    for name in LOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        seconds, *words = json.loads(line)
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)  # standard output is for the answers
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))  # ends it, and so does waiting without end
            signal.alarm(WAITING * seconds)
            os._exit(pytest.main(words))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
