"""Real servers: the bundled valkey-server and, where there is one, redis-server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.queue.server import EmbeddedServer, find_server

SERVER_BYTES = 32 << 20


def binary(name: str) -> Path:
    if name == "valkey":
        return find_server()
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server on PATH")
    return Path(found)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(SERVER_BYTES, binary=binary(request.param)) as started:
        yield started
