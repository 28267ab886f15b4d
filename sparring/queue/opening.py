"""The queue's server that a run uses: one that the settings name, or an embedded one of the run's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from sparring.config import Config
from sparring.errors import UsageError
from sparring.queue.connection import check_server, connect, password_of
from sparring.queue.server import EmbeddedServer, find_server
from sparring.queue.sizing import needed_memory

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Queue:
    """How the queue is reached; the password goes into no file but the run's own, readable by its owner."""

    url: str
    password: str | None
    embedded: bool
    memory_for: Callable[[Config], int]  # bytes that what a run may have outstanding needs


def require_queue(config: Config, shape: Shape, snapshot_bytes: int, views: bool = False) -> None:
    """Refuse a server that cannot serve the run; nothing is started.

    Args:
        shape: of an image, (C, H, W). snapshot_bytes: of the weights. views: shards carry views of the images.

    Raises:
        SparringError: it cannot be reached, would lose or refuse what the run puts into it, or there is none to start.
    """
    settings, needed = config.queue, needed_memory(config, shape, snapshot_bytes, views)
    if settings.redis_url is not None:
        with connect(settings.redis_url, password_of(settings), settings.timeout_s) as client:
            check_server(client, needed, settings.timeout_s)
        return
    if config.ray.address != "local":
        raise UsageError(
            f"ray.address = {config.ray.address!r} with queue.redis_url unset: other hosts cannot reach an embedded "
            f"server. Set queue.redis_url to a Redis that all hosts reach."
        )
    find_server()


@contextmanager
def open_queue(config: Config, shape: Shape, snapshot_bytes: int, views: bool = False) -> Iterator[Queue]:
    """The server of the settings, or an embedded one that ends with the run; raises as `require_queue`."""
    require_queue(config, shape, snapshot_bytes, views)
    memory_for = partial(needed_memory, shape=shape, snapshot_bytes=snapshot_bytes, views=views)
    settings = config.queue
    if settings.redis_url is not None:
        yield Queue(settings.redis_url, password_of(settings), False, memory_for)
        return
    memory = memory_for(config) if settings.maxmemory_mb is None else settings.maxmemory_mb << 20
    with EmbeddedServer(maxmemory=memory) as server:
        yield Queue(server.url, server.password, True, memory_for)
