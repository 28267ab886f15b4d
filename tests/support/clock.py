"""Servers whose wall clock jumps, by Debian's package faketime; their monotonic clock goes on as it is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparring.queue.server import EmbeddedServer

ENVIRONMENT = threading.Lock()  # servers may be started by several threads
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


class JumpingClock:
    """The wall clock of all servers that are started under it. `file` holds its offset."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """The clock now shows the true time and so many seconds."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(f"{seconds:+d}\n")

    def server(self, maxmemory: int, *, port: int | None = None, password: str | None = None) -> EmbeddedServer:
        """A server with this clock; with the true one where the package is missing."""
        with self._environment():
            return EmbeddedServer(maxmemory, port=port, password=password)

    @contextmanager
    def _environment(self) -> Iterator[None]:
        names = {
            "LD_PRELOAD": str(LIBRARY or ""),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        with ENVIRONMENT:
            os.environ.update(names)
            try:
                yield
            finally:
                for name in names:
                    del os.environ[name]
