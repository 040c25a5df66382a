"""Files are written whole or not at all, and what the system refuses is told in one sentence."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lib.core.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
_UMASK = os.umask(0)  # the only way to read it is to set it
os.umask(_UMASK)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make a file's folder; what the system refuses while the block writes the file is said in one sentence. Raises
    BadInput if the disk is full or the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(f"cannot write {path}: {reason}; free some space or choose another folder") from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it if the block ends well and removed if not; see :func:`writing`."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with writing(path):
            yield temporary
            temporary.chmod(0o666 & ~_UMASK)  # safetensors writes its files readable by their owner only
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: object) -> Path:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")
    return Path(path)


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises BadInput if it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}); delete it and give the same command again") from error


def parquet_flaw(path: Path) -> str:
    """Why a file is no whole parquet file, or "": those cut short lack their last bytes, which say what is in them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        return str(error).splitlines()[0]
    return ""


@contextmanager
def only_one_in(folder: Path, remedy: str, name: str = "") -> Iterator[None]:
    """A lock on a folder, or on its file of this name, that the system drops when its holder dies, so that kill -9
    leaves nothing behind; a file system without locks has none. Raises BadInput if another process holds it."""
    with writing(folder / (name or "files")):
        held = os.open(folder / name, os.O_RDWR | os.O_CREAT) if name else os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        raise BadInput(f"another process writes {folder}; wait for it or {remedy}") from error
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(held)


def sha256_of(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
