"""Fixtures of the tests of the asynchronous engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport
from tests.support.queues import opened


@pytest.fixture(scope="module")
def queue_server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(maxmemory=64 << 20) as server:
        yield server


@pytest.fixture
def transport(queue_server: EmbeddedServer, request: pytest.FixtureRequest) -> Transport:
    """Of a run of the test's own."""
    made = Transport(queue_server.client(), request.node.name, lease_s=5.0, timeout_s=5.0)
    opened(made)
    return made
