"""Whoever is ended without a chance to speak has said before what to say."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from sparring.machine.last_word import last_word
with last_word("it's gone: $HOME"):
    {body}
"""


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("os._exit(3)", 3, True),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, True),
        ("sys.exit(4)", 4, False),
        ("pass", 0, False),
    ],
)
def test_the_sentence_is_said_only_where_the_block_was_not_left(body: str, code: int, said: bool) -> None:
    program = PROGRAM.format(body=body)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == ("it's gone: $HOME\n" if said else "")


def test_without_a_shell_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.machine import last_word as module

    monkeypatch.setattr(module, "SHELL", "/nowhere/sh")
    with module.last_word("never said"):
        pass
