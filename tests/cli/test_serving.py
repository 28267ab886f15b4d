"""`sparring serve-queue`: words that cannot be meant are refused; in the background it says where it is reached."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sparring.commands.serve_queue import listens
from sparring.queue.connection import connect
from tests.support.commands import Say, run_command
from tests.support.ports import free_port
from tests.support.waiting import wait_for


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--maxmemory", "4tb"], "--maxmemory 4tb: not a size"),
        (["--port", "0"], "Invalid value for '--port'"),
        (["--port", "65536"], "Invalid value for '--port'"),
        (["--beside-port", "ray"], "Invalid value for '--beside-port'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence_and_leaves_nothing(
    say: Say, elsewhere: Path, words: list[str], reason: str
) -> None:
    said = say("serve-queue", "--address", "127.0.0.1", "--password-file", "secret", *words)
    assert said.code == 2 and reason in said.complaint and (said.out, len(said.err.splitlines())) == ("", 1)
    assert os.listdir(elsewhere) == []


def test_detached_it_prints_the_url_once_it_answers_and_ends_with_what_it_stands_beside(elsewhere: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as head:
        words = ["--port", port, "--address", "127.0.0.1", "--maxmemory", "64mb", "--password-file", "secret"]
        beside = ["--log", "log", "--beside-port", head.getsockname()[1]]
        said = run_command("serve-queue", "--detach", *words, *beside)
        assert (said.code, said.out) == (0, f"redis://127.0.0.1:{port}/0\n"), said.err
        with connect(f"redis://127.0.0.1:{port}/0", (elsewhere / "secret").read_text(), 2.0) as client:
            assert client.ping()
        head.settimeout(20)
        head.accept()[0].close()
    wait_for("its end", lambda: not listens("127.0.0.1", port), 20)
