"""Standard streams that cannot end a run: standard error that is full or closed loses lines, no more."""

from __future__ import annotations

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


@contextmanager
def unfailing_streams() -> Iterator[None]:
    """Give a command the streams that were closed for it (nowhere), and standard error as `Unfailing`."""
    _fill_gaps()
    before = sys.stdin, sys.stdout, sys.stderr
    with open(os.devnull, "r+") as nowhere:
        error: Any = Unfailing(sys.stderr or nowhere)
        sys.stdin, sys.stdout, sys.stderr = sys.stdin or nowhere, sys.stdout or nowhere, error
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
