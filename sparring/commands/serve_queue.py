"""A queue's server for other hosts: `sparring serve-queue`, beside the head of a Ray cluster.

It is the embedded server on a port and an address that are known beforehand, with a password that a file holds.
It ends with Ray's head: `ray down` stops Ray and nothing else on a host that stays.
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

LOOK_EVERY_S = 1.0
START_S = 30.0
BESIDE_S = 120.0
FREE_S = 15.0
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True)
class Serving:
    """What `serve` is asked for: it listens on `address` beside the loopback; `maxmemory` in bytes."""

    port: int
    address: str
    maxmemory: int
    password_file: Path
    beside_port: int | None
    """Port of a server on the same host (Ray's head) that this one ends with."""

    @property
    def url(self) -> str:
        """Where other hosts reach it; the password is apart."""
        return f"redis://{self.address}:{self.port}/0"


def serve(wanted: Serving) -> None:
    """Serve until told to stop, or until nothing listens on `wanted.beside_port` any more.

    Raises:
        SparringError: the server did not start, or died.
    """
    password, stopped = _password(wanted.password_file), Event()
    with stopping_on_signals(lambda reason: stopped.set()):
        _until_free(wanted.port, stopped)
        if stopped.is_set():
            return
        with EmbeddedServer(wanted.maxmemory, port=wanted.port, password=password, address=wanted.address) as server:
            _attend(server, wanted, stopped)


def _attend(server: EmbeddedServer, wanted: Serving, stopped: Event) -> None:
    limit, seen = time.monotonic() + BESIDE_S, False
    while not stopped.wait(LOOK_EVERY_S):
        if not server.alive:
            raise SparringError(f"the server on port {wanted.port} has died; start it again.")
        if wanted.beside_port is None:
            continue
        there = listens(wanted.address, wanted.beside_port)
        if seen and not there:
            return
        seen = seen or there
        if not seen and time.monotonic() > limit:
            raise SparringError(
                f"--beside-port {wanted.beside_port}: nothing has listened there for {BESIDE_S:.0f} s. Start Ray's "
                f"head on that port right after this server."
            )


def serve_detached(wanted: Serving, arguments: list[str], log: Path) -> None:
    """Start `serve` in a session of its own and wait until it answers; its output goes to `log`.

    Raises:
        SparringError: it ended, or did not answer in time.
    """
    password = _password(wanted.password_file)
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
            said = log.read_text().strip().splitlines() or ["it said nothing"]
            raise SparringError(f"the queue's server did not start: {said[-1].removeprefix('sparring: ')}")
        with contextlib.suppress(Exception), connect(f"redis://127.0.0.1:{wanted.port}/0", password, 2.0) as client:
            client.ping()
            return
        time.sleep(0.1)
    child.terminate()
    raise SparringError(f"the queue's server did not answer on port {wanted.port} within {START_S:.0f} s; see {log}.")


def bytes_of_size(text: str) -> int:
    """`512mb`, `4gb` or a number of bytes, as Redis writes them.

    Raises:
        UsageError: it is no size.
    """
    match = re.fullmatch(r"(\d+)([kmg]?)b?", text.lower())
    if match is None or int(match[1]) == 0:
        raise UsageError(f"--maxmemory {text}: no size. Give bytes, or a number with mb or gb, for example 4gb.")
    return int(match[1]) * _UNITS[match[2]]


def _password(path: Path) -> str:
    """The file's content; a random one is written, for its owner only, where there is no file."""
    path = path.expanduser()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32))
    return read_password(path, "--password-file")


def _until_free(port: int, stopped: Event) -> None:
    """A predecessor that ends with an earlier Ray may still be about to go."""
    limit = time.monotonic() + FREE_S
    while listens("127.0.0.1", port) and time.monotonic() < limit and not stopped.wait(0.2):
        pass


def listens(host: str, port: int) -> bool:
    """False only where the connection is refused: a slow answer is none."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True
    return True
