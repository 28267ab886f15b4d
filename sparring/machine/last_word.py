"""A sentence for an end that Python does not see: the process is killed, or a library ends it by `_exit`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Waits for a line; the end of the file without one means that nobody is left to write it.
SHELL, SCRIPT = "/bin/sh", 'read -r _ || printf "%s\\n" "$1" >&2'


@contextmanager
def last_word(sentence: str) -> Iterator[None]:
    """Where this process ends within the block without leaving it, a shell says the sentence on standard error."""
    try:
        words = [SHELL, "-c", SCRIPT, "sh", sentence]
        listener = subprocess.Popen(  # in a session of its own: Ctrl-C is not for it
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
    except OSError:  # no shell, or no room for a process: nothing depends on it
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError, subprocess.TimeoutExpired):
            listener.communicate(b"\n", timeout=5)
