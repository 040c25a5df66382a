"""What every command line does around its work: it ends in one sentence, no traceback, and its files are UTF-8."""

import argparse
import locale
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lib.core.errors import BadInput


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The description as it is written, and the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is None or action.default is False
        return action.help if nothing else super()._get_help_string(action)


def whole(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number, `least` or more; argparse says so of what is none."""

    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {10**9 - 1:,}")
        return int(text)

    return read


def positive(text: str) -> float:
    """The type of an option that is a number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above zero")
    return value


@contextmanager
def command() -> Iterator[None]:
    """Around the main function of a command: what cannot be done is one sentence on standard error, and status 1.

    In a locale of another encoding than UTF-8 the command starts itself again in Python's UTF-8 mode, as do the
    processes that it starts: what one machine writes, another reads.
    """
    if locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8") and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    try:
        yield
    except BadInput as error:
        sys.exit(f"\n{error}\n")
    except BrokenPipeError:  # whoever reads the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"\n{place}{error.strerror or error}; check the path, its permissions and the free space\n")
