"""How the trainers of a run find each other: a store of torch.distributed at rank 0, and the queue's Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import ray
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from sparring.config import Config
from sparring.queue.connection import connect
from sparring.queue.opening import QueueAddress
from sparring.queue.orders import Orders

CONNECT_S = timedelta(seconds=60)


class Meeting:
    """The store of rank 0, at a free port of its node."""

    def __init__(self, count: int) -> None:
        self._host = ray.util.get_node_ip_address()
        self.store = TCPStore(self._host, 0, count, is_master=True, timeout=CONNECT_S, wait_for_workers=False)

    @property
    def address(self) -> str:
        return f"{self._host}:{self.store.port}"


def meeting_at(address: str, count: int) -> Store:
    """The same store, for another rank."""
    host, _, port = address.rpartition(":")
    return TCPStore(host, int(port), count, is_master=False, timeout=CONNECT_S)


@contextmanager
def orders_of(config: Config, run_id: str, group: str, queue: QueueAddress) -> Iterator[Orders]:
    """The way to the other trainers of a group."""
    settings = config.queue
    client = connect(queue.url, queue.login, settings.timeout_s)
    orders = Orders(client, run_id, group, timeout_s=settings.timeout_s, wire=settings.wire, secret=queue.secret)
    try:
        yield orders
    finally:
        orders.close()
