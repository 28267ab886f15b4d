"""`sparring serve-queue`: a queue's server for other hosts."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from sparring.commands.serve_queue import bytes_of_size, listens
from sparring.errors import UsageError
from sparring.queue.connection import connect
from tests.support.ports import free_port
from tests.support.waiting import wait_for

Serve = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[subprocess.Popen[str]] = []

    def start(port: int, *arguments: str) -> subprocess.Popen[str]:
        words = ["serve-queue", "--port", str(port), "--address", "127.0.0.1", "--maxmemory", "64mb"]
        files = ["--password-file", str(tmp_path / "secret")]
        command = [sys.executable, "-m", "sparring", *words, *files, *arguments]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=20)


def client(port: int, password: str) -> redis.Redis:
    return connect(f"redis://127.0.0.1:{port}/0", password, 2.0)


def test_it_serves_with_a_password_of_its_own_that_only_its_owner_can_read(serve: Serve, tmp_path: Path) -> None:
    port = free_port()
    serve(port)
    wait_for("the server", lambda: listens("127.0.0.1", port), 20)
    secret = tmp_path / "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    with client(port, secret.read_text()) as known, client(port, "guessed") as stranger:
        assert known.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert known.config_get("maxmemory") == {"maxmemory": str(64 << 20)}
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f":{port}" in listed and str(secret) in listed
    assert secret.read_text() not in listed


def test_it_ends_when_what_it_stands_beside_has_gone(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        process = serve(port := free_port(), "--beside-port", str(head.getsockname()[1]))
        wait_for("the server", lambda: listens("127.0.0.1", port), 20)
        head.settimeout(20)
        head.accept()[0].close()
        assert process.poll() is None
    assert process.wait(20) == 0
    assert not listens("127.0.0.1", port)


@pytest.mark.parametrize(("text", "size"), [("512", 512), ("64mb", 64 << 20), ("4GB", 4 << 30), ("2g", 2 << 30)])
def test_memory_is_given_as_redis_writes_it(text: str, size: int) -> None:
    assert bytes_of_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "4tb", "-1", "many"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--maxmemory"):
        bytes_of_size(text)
