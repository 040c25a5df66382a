"""What AFLUX answers: pages of entries, kept as they came, compressed, with what was asked and when."""

import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from lib.core.errors import BadInput
from lib.core.files import replacing
from lib.core.web import PassingFault

LEVEL = 4  # of gzip: 6 makes pages 4 % smaller and takes twice as long


def entries_of(text: bytes | str, question: str) -> tuple[list[object], int | None]:
    """The entries of a page, and how many there are on all pages where the answer tells.

    Newer answers are arrays; older ones are objects keyed "1 of 912", "2 of 912", ...; without entries both are `[]`.
    Raises BadInput, which quotes AFLOW, if the answer is an error, and PassingFault if it is no page at all, as when
    AFLOW's database is down ("DB Fail!null") or gives nothing ("null").
    """
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError:  # of what it refuses, such as NaN, the reader of the standard library takes some
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PassingFault(f"no JSON but {text[:100]!r}") from error
    if isinstance(answer, list) and (not answer or not all(isinstance(entry, str) for entry in answer)):
        return answer, None
    if not answer:
        raise PassingFault(f"no page of entries but {text[:100]!r}")
    if isinstance(answer, dict) and all(re.fullmatch(r"\d+ of \d+", key) for key in answer):
        return list(answer.values()), int(next(iter(answer)).split(" of ")[1])
    if isinstance(answer, dict) and len(answer) == 1:
        answer = next(iter(answer.values()))
    said = answer if isinstance(answer, str) else json.dumps(answer)
    raise BadInput(f"AFLOW refuses the summons {question}: {said[:300]}")


@dataclass(frozen=True)
class Head:
    """The first line of a kept page: what was asked when, and what came.

    The file is gzip of this line in JSON and the answer as it came, two members, so that `zcat` shows both.
    """

    url: str
    asked: str  # UTC, ISO 8601
    seconds: float  # until it had come
    sha256: str  # of the answer
    size: int  # bytes of the answer
    entries: int
    told: int | None  # how many entries AFLOW says there are on all pages
    content: str  # checksum of which entries they are


def content_of(entries: Sequence[object]) -> str:
    """Equal for pages of the same entries in the same order."""
    names = [entry.get("auid") or repr(entry) if isinstance(entry, dict) else repr(entry) for entry in entries]
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()[:16]


def keep(path: Path, head: Head, answer: bytes) -> None:
    """Write a page, whole or not at all."""
    line = json.dumps(asdict(head)).encode() + b"\n"
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(line, 1, mtime=0) + gzip.compress(answer, LEVEL, mtime=0))


def kept_head(path: Path) -> Head:
    """The first line of a page. Raises BadInput if it is damaged."""
    try:
        with gzip.open(path) as file:
            return Head(**json.loads(file.readline()))
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise _damaged(path) from error


def kept_entries(path: Path) -> list[object]:
    """The entries of a page. Raises BadInput if it is damaged."""
    try:
        line, _, answer = gzip.decompress(path.read_bytes()).partition(b"\n")
        head = Head(**json.loads(line))
        if hashlib.sha256(answer).hexdigest() != head.sha256:
            raise ValueError("another checksum")
        return entries_of(answer, head.url)[0]
    except (OSError, EOFError, ValueError, TypeError, PassingFault) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> BadInput:
    return BadInput(f"the page {path} is damaged; delete it and run again")
