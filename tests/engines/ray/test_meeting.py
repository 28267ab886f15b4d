"""Trainers find each other at the address that rank 0 gives out."""

from __future__ import annotations

from pathlib import Path

from sparring.engines.ray.meeting import Meeting, meeting_at, orders_of
from sparring.queue.opening import QueueAddress
from sparring.queue.orders import Begin
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport
from tests.support.queues import opened
from tests.support.runs import small


def test_what_one_writes_the_other_reads() -> None:
    first = Meeting(2)
    second = meeting_at(first.address, 2)
    second.set("ready/1", "yes")
    assert first.store.get("ready/1") == b"yes"


def test_orders_of_a_group_reach_it(tmp_path: Path, queue_server: EmbeddedServer) -> None:
    config, place = small(tmp_path), QueueAddress(queue_server.url, queue_server.password, b"secret")
    fence = opened(Transport(queue_server.client(), "meeting", lease_s=5.0, timeout_s=5.0))
    with orders_of(config, "meeting", "g", place) as leader, orders_of(config, "meeting", "g", place) as follower:
        leader.give(Begin(fence), fence)
        assert follower.next(1.0) == [Begin(fence)]
