"""JupyterLab as `make lab` opens it, in a real browser without a network: no question asked, crystals to turn."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from browser import CHROMIUM, open_browser

from lib.core.files import ROOT

CELL = """
from pymatgen.core import Lattice, Structure
from lib.figures.structures import live_view
salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
live_view([salt, salt], ["one", "two"])
"""


def until(found: Callable[[], object], what: str, seconds: float = 90) -> object:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"no {what} after {seconds:g} s"
        time.sleep(0.3)
    return value


@pytest.fixture
def browser(tmp_path):
    """A Chromium of its own: JupyterLab holds its page against being left."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with open_browser(tmp_path / "chromium") as tab:
        yield tab


@pytest.fixture
def lab(tmp_path):
    """Address and log of a JupyterLab with a notebook of one cell, and nothing that a user has configured."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "crystals.ipynb")
    kinds = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR")
    kinds = {kind: str(tmp_path / kind) for kind in (*kinds, "JUPYTERLAB_WORKSPACES_DIR")}
    command = [
        Path(sys.executable).parent / "jupyter",
        "lab",
        "--no-browser",
        "--allow-root",
        f"--notebook-dir={tmp_path}",
    ]
    command += ["--port=0", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    log = tmp_path / "lab.log"
    with log.open("w") as file:
        environment = os.environ | kinds | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=file, stderr=file)
    try:
        lines = until(lambda: [w for w in log.read_text().split() if w.startswith("http://127.0.0.1:")], "server")
        yield lines[0], log
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_crystals_turn_in_live_jupyterlab_without_a_network_and_nothing_asks_for_a_build(lab, browser):
    address, log = lab
    browser.visit(f"{address.removesuffix('/lab')}/lab/tree/crystals.ipynb")
    until(lambda: browser.ask("document.querySelector('.jp-Notebook .cm-content') !== null"), "notebook")
    until(lambda: "Kernel started" in log.read_text(), "kernel")

    def run() -> object:
        browser.ask("document.querySelector('.jp-Notebook .cm-content').focus()")
        for kind in ("keyDown", "keyUp"):  # shift and return
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 8}
            browser.call("Input.dispatchKeyEvent", type=kind, **key)
        return browser.ask("document.querySelector('.jp-InputPrompt').innerText.trim() !== '[ ]:'")

    until(run, "execution")
    view = until(lambda: browser.ask("document.querySelector('.jp-OutputArea-output iframe')?.src"), "view of crystals")
    assert not browser.ask("[...document.querySelectorAll('.jp-Dialog')].map(dialog => dialog.innerText).join()")
    assert "Build recommended" not in log.read_text()

    def drawn() -> bool:
        """Whether both crystals stand in the frame, which has another origin than the page around it."""
        created = (e["params"]["context"] for e in browser.events if e["method"] == "Runtime.executionContextCreated")
        for context in [context["id"] for context in created if context["origin"] == view.rstrip("/")]:
            count = {"expression": "document.querySelectorAll('canvas').length", "contextId": context}
            return browser.call("Runtime.evaluate", **count)["result"]["value"] == 2
        return False

    until(drawn, "crystals")
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith(view) for url in requests)
    assert all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in requests), requests
