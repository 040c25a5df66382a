"""A headless Chromium spoken to over the DevTools protocol: what a reader's browser does with a page."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
]


@dataclass
class Visit:
    """What happened while a page was open: problems, requests, and at each width the answers to questions asked."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    answers: dict[int, dict[str, object]] = field(default_factory=dict)


class Tab:
    """One tab; `call` sends a DevTools command and collects the events that arrive meanwhile."""

    def __init__(self, port: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
            target = next(t for t in json.load(answer) if t["type"] == "page")
        self.socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=30, suppress_origin=True)
        self.events: list[dict] = []
        self.count = 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv())).get("id") != self.count:
            self.events.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def ask(self, expression: str) -> object:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return result["result"].get("value")

    def visit(self, url: str, *, widths: Sequence[int] = (1200,), questions: dict[str, str] | None = None) -> Visit:
        """Open a page, wait until it is loaded, ask the questions at each width in CSS pixels, tell what happened."""
        self.events.clear()
        self._resize(widths[0])
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + 30
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url} did not load")
            self.ask("new Promise(done => setTimeout(done, 100))")
        visit = Visit()
        for width in widths:
            self._resize(width)
            self.ask("new Promise(done => setTimeout(done, 300))")
            visit.answers[width] = {name: self.ask(question) for name, question in (questions or {}).items()}
        for event in self.events:
            what = event.get("params", {})
            match event["method"]:
                case "Runtime.exceptionThrown":
                    visit.errors.append(str(what["exceptionDetails"]))
                case "Runtime.consoleAPICalled" if what["type"] in ("error", "warning", "assert"):
                    visit.errors.append(str(what["args"]))
                case "Log.entryAdded" if what["entry"]["level"] in ("error", "warning"):
                    visit.errors.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")
                case "Network.loadingFailed":
                    visit.errors.append(f"loading failed: {what['errorText']}")
                case "Network.requestWillBeSent":
                    visit.requests.append(what["request"]["url"])
        return visit

    def _resize(self, width: int) -> None:
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **screen)


@contextmanager
def open_browser(profile: Path) -> Iterator[Tab]:
    """A tab of a fresh Chromium whose profile lies in an empty folder."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file, deadline = profile / "DevToolsActivePort", time.monotonic() + 30
        while not port_file.exists() or not port_file.read_text().strip():
            if time.monotonic() > deadline or process.poll() is not None:
                raise TimeoutError("Chromium did not start")
            time.sleep(0.1)
        yield Tab(int(port_file.read_text().split()[0]))
    finally:
        process.terminate()
        process.wait(20)
