"""The programs that a queue's tests run against: the bundled valkey-server and, where there is one, redis-server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sparring.queue.server import find_server

SERVERS = ("valkey", "redis")


def binary(name: str) -> Path:
    """The server's program; the test is skipped where there is none."""
    if name == "valkey":
        return find_server()
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server on PATH")
    return Path(found)
