"""A queue server for other hosts: `sparring serve-queue`, next to the head of a Ray cluster.

It is the embedded server with a fixed port and address, and a password from a file. It ends together with Ray's head,
because on a host that stays up `ray down` stops only Ray.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from sparring.errors import SparringError, UsageError
from sparring.machine.signals import stopping_on_signals
from sparring.queue.connection import connect, read_password
from sparring.queue.server import EmbeddedServer

POLL_S = 1.0
START_S = 30.0
BESIDE_S = 120.0
FREE_S = 15.0
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True)
class Serving:
    """Settings of `serve`. It listens on `address` and on the loopback; `maxmemory` is in bytes."""

    port: int
    address: str
    maxmemory: int
    password_file: Path
    beside_port: int | None
    """Port of a server on the same host (Ray's head); this server ends when that one does."""

    @property
    def url(self) -> str:
        """The URL for other hosts, without the password."""
        return f"redis://{self.address}:{self.port}/0"


def serve(settings: Serving) -> None:
    """Serve until a signal stops it, or until nothing listens on `settings.beside_port` any more.

    Raises:
        SparringError: the server did not start, or died.
    """
    password, stopped = _password(settings.password_file), Event()
    with stopping_on_signals(lambda reason: stopped.set()):
        _until_free(settings.port, stopped)
        if stopped.is_set():
            return
        with EmbeddedServer(
            settings.maxmemory, port=settings.port, password=password, address=settings.address
        ) as server:
            _attend(server, settings, stopped)


def _attend(server: EmbeddedServer, settings: Serving, stopped: Event) -> None:
    limit, was_up = time.monotonic() + BESIDE_S, False
    while not stopped.wait(POLL_S):
        if not server.alive:
            raise SparringError(f"the server on port {settings.port} has died; start it again.")
        if settings.beside_port is None:
            continue
        is_up = listens(settings.address, settings.beside_port)
        if was_up and not is_up:
            return
        was_up = was_up or is_up
        if not was_up and time.monotonic() > limit:
            raise SparringError(
                f"--beside-port {settings.beside_port}: nothing has listened there for {BESIDE_S:.0f} s. Start Ray's "
                f"head on that port right after this server."
            )


def serve_detached(settings: Serving, arguments: list[str], log: Path) -> None:
    """Start `serve` in a background process and wait until the server answers; output goes to `log`.

    Raises:
        SparringError: the server ended, or did not answer in time.
    """
    password = _password(settings.password_file)
    with log.open("w") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "sparring", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    limit = time.monotonic() + START_S
    while time.monotonic() < limit:
        if child.poll() is not None:
            output_lines = log.read_text().strip().splitlines() or ["it printed nothing"]
            raise SparringError(f"the queue's server did not start: {output_lines[-1].removeprefix('sparring: ')}")
        with contextlib.suppress(Exception), connect(f"redis://127.0.0.1:{settings.port}/0", password, 2.0) as client:
            client.ping()
            return
        time.sleep(0.1)
    child.terminate()
    raise SparringError(f"the queue's server did not answer on port {settings.port} within {START_S:.0f} s; see {log}.")


def bytes_of_size(text: str) -> int:
    """`512mb`, `4gb` or a number of bytes, as Redis writes them.

    Raises:
        UsageError: `text` is not a size.
    """
    match = re.fullmatch(r"(\d+)([kmg]?)b?", text.lower())
    if match is None or int(match[1]) == 0:
        raise UsageError(f"--maxmemory {text}: not a size. Give bytes, or a number with mb or gb, for example 4gb.")
    return int(match[1]) * _UNITS[match[2]]


def _password(path: Path) -> str:
    """The password in the file. If there is no file, it is created with a random password, readable by its owner."""
    path = path.expanduser()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32))
    return read_password(path, "--password-file")


def _until_free(port: int, stopped: Event) -> None:
    """Wait for the server of an earlier Ray cluster, which may still be stopping."""
    limit = time.monotonic() + FREE_S
    while listens("127.0.0.1", port) and time.monotonic() < limit and not stopped.wait(0.2):
        pass


def listens(host: str, port: int) -> bool:
    """Whether something listens there. False only if the connection is refused; a timeout counts as listening."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True
    return True
