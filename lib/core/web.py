"""Patient requests: back-off on faults that pass, a clear sentence on those that don't."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
import tenacity

from lib.core.errors import BadInput
from lib.core.files import replacing, sha256_of
from lib.core.workers import progress

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between attempts, doubling
ATTEMPTS = 7
CHUNK = 1 << 20  # bytes of a download
TIMEOUT = httpx.Timeout(30, read=300)  # a page of AFLOW can take minutes
LONGEST_ANSWER = 900.0  # seconds for the whole of one: a server that sends a byte a minute never meets the time-out
AGENT = "conditional-crystals/0.1.0 (arXiv:2411.03156)"
BREAKS = (httpx.TransportError, httpx.DecodingError)  # connections that fail, and compressed answers cut short

T = TypeVar("T")


class PassingFault(Exception):
    """A server's fault of the moment: worth another attempt."""


def client(contact: str | None = None) -> httpx.Client:
    """A client that follows redirects, waits as long as AFLOW needs, and says who asks: this project and, where it is
    given, whom to write to."""
    agent = f"{AGENT} {contact}" if contact else AGENT
    return httpx.Client(timeout=TIMEOUT, follow_redirects=True, headers={"User-Agent": agent})


def patiently(request: Callable[[], T], what: str) -> T:
    """The result of `request`, repeated with growing waits while the connection or the server fails. Raises BadInput if
    it still fails after the last attempt."""
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((*BREAKS, PassingFault)),
        wait=tenacity.wait_exponential_jitter(initial=FIRST_WAIT, max=LONGEST_WAIT, jitter=FIRST_WAIT),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    try:
        return attempts(request)
    except (*BREAKS, PassingFault) as error:
        reason = str(error) or type(error).__name__
        raise BadInput(f"{what} did not come in {ATTEMPTS} attempts ({reason}); run again later to go on") from error


def checked(response: httpx.Response) -> httpx.Response:
    """The response, if the server gave what was asked for.

    Raises PassingFault if the server is busy or broken at the moment (5xx, 408, 429), and BadInput if it refuses the
    request (other 4xx).
    """
    if response.status_code >= 400:
        response.read()
    if response.status_code >= 500 or response.status_code in (408, 429):
        raise PassingFault(f"status {response.status_code} {response.reason_phrase}")
    if response.status_code >= 400:
        said = f"{response.status_code} {response.reason_phrase} {response.text[:300]}".strip()
        raise BadInput(f"{response.url} is refused ({said}); check the address")
    return response


def body(http: httpx.Client, url: str) -> bytes:
    """The whole of one answer. Raises as :func:`checked`, and PassingFault if it takes longer than LONGEST_ANSWER."""
    started, pieces = time.monotonic(), []
    with http.stream("GET", url) as response:
        for piece in checked(response).iter_bytes():
            pieces.append(piece)
            if time.monotonic() - started > LONGEST_ANSWER:
                raise PassingFault(f"not all had come after {LONGEST_ANSWER:g} s")
    return b"".join(pieces)


def fetch(url: str, sha256: str, path: Path, remedy: str) -> Path:
    """Download a file unless it is there; it appears under its name only when whole and of the right checksum.

    Args:
        remedy: what to do if it is not what it should be, in words.

    Raises:
        BadInput: the download breaks off or has another checksum.
    """
    if path.exists() and sha256_of(path) == sha256:
        return path
    with client() as http, replacing(path) as temporary:
        patiently(partial(_stream, http, url, temporary), url)
        found = sha256_of(temporary)
        if found != sha256:
            raise BadInput(f"{url} has checksum {found}, not {sha256}; {remedy}")
    return path


def _stream(http: httpx.Client, url: str, path: Path) -> None:
    """One attempt, from the start; httpx raises where fewer bytes come than were announced."""
    with http.stream("GET", url) as response, path.open("wb") as file:
        size = int(checked(response).headers.get("content-length", 0)) or None
        with progress(total=size, desc=Path(url).name, unit="B", unit_scale=True) as bar:
            for piece in response.iter_bytes(CHUNK):
                file.write(piece)
                bar.update(len(piece))
