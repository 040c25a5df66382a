"""Patient requests: back-off on faults that pass, a clear sentence on those that don't."""

from collections.abc import Callable
from typing import TypeVar

import httpx
import tenacity

from lib.core.errors import BadInput

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between attempts, doubling
ATTEMPTS = 7
TIMEOUT = httpx.Timeout(30, read=300)  # a page of AFLOW can take minutes

T = TypeVar("T")


class PassingFault(Exception):
    """A server's fault of the moment: worth another attempt."""


def client() -> httpx.Client:
    """A client that follows redirects and waits as long as AFLOW needs."""
    return httpx.Client(timeout=TIMEOUT, follow_redirects=True, headers={"User-Agent": "conditional-crystals"})


def patiently(request: Callable[[], T], what: str) -> T:
    """The result of `request`, repeated with growing waits while the connection or the server fails. Raises BadInput if
    it still fails after the last attempt."""
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((httpx.TransportError, PassingFault)),
        wait=tenacity.wait_exponential_jitter(initial=FIRST_WAIT, max=LONGEST_WAIT, jitter=FIRST_WAIT),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    try:
        return attempts(request)
    except (httpx.TransportError, PassingFault) as error:
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
