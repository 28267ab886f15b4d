"""Standard streams that cannot end a run: standard error that is full or closed loses lines, no more."""

from __future__ import annotations

import io
import locale
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class Unfailing:
    """A stream for people: what cannot be written to it is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def begin_in_utf_8() -> None:
    """Begin this process again in Python's UTF-8 mode where the locale has another encoding.

    A run's files are UTF-8, and its tables have letters such as ε, whatever the locale is. Processes that it starts
    inherit the mode.
    """
    if sys.flags.utf8_mode or locale.getencoding().lower().replace("-", "") == "utf8":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # nosec B606  # itself, without a shell


@contextmanager
def unfailing_streams() -> Iterator[None]:
    """Give a command the streams that were closed for it (nowhere), and standard error as `Unfailing`."""
    _fill_gaps()
    before = sys.stdin, sys.stdout, sys.stderr
    with open(os.devnull, "r+") as nowhere:
        error: Any = Unfailing(sys.stderr or nowhere)
        sys.stdin, sys.stdout, sys.stderr = sys.stdin or nowhere, sys.stdout or nowhere, error
        for stream in before[1:]:
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # PYTHONIOENCODING may ask for an encoding without ε
        try:
            yield
        finally:
            sys.stdin, sys.stdout, sys.stderr = before


def _fill_gaps() -> None:
    """A descriptor from 0 to 2 that is closed would be that of the next file, into which libraries then print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
