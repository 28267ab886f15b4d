"""Real servers: the bundled valkey-server and, where there is one, redis-server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparring.queue.server import EmbeddedServer
from tests.support.servers import SERVERS, binary

SERVER_BYTES = 32 << 20


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(SERVER_BYTES, binary=binary(request.param)) as started:
        yield started
