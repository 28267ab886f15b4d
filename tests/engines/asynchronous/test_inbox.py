"""What workers commit arrives beside the loop; what goes wrong in the thread is raised where it is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sparring.engines.asynchronous.inbox import Inbox
from sparring.queue.codec import Objection
from sparring.queue.messages import Controls, Key, Lease, Missing, Shard, Ticket
from sparring.queue.transport import QueueLost, Transport
from sparring.trainer.experiment import build_experiment
from tests.support.runs import small
from tests.support.shards import shard_of


@contextmanager
def inbox(transport: Any) -> Iterator[Inbox]:
    made = Inbox(transport, lambda: transport.fence)
    made.start(lambda claims: "")
    try:
        yield made
    finally:
        made.close()


def test_all_that_has_arrived_is_taken_at_once(tmp_path: Path, transport: Transport) -> None:
    experiment = build_experiment(small(tmp_path))
    keys = [Key(0, number, 0) for number in range(3)]
    issued = [
        Ticket(key, transport.fence, 0, experiment.plan.indices(0, key.number), experiment.training.fingerprint)
        for key in keys
    ]
    with inbox(transport) as received:
        assert received.take(0.01) == []
        transport.issue(issued)
        for _ in keys:
            lease = transport.lease("w", 1.0)
            assert isinstance(lease, Lease)
            shard = shard_of(experiment, lease.ticket.key, Controls(0.2), 0, experiment.model, transport.fence)
            transport.commit(lease, shard)
        taken: list[Shard | Missing] = []
        while len(taken) < 3:
            arrived = received.take(5.0)
            assert arrived, "three were committed"
            taken += arrived
        assert sorted(each.key for each in taken) == keys


class Failing:
    fence = 1

    def receive(self, timeout_s: float, fence: int, objection: Objection) -> None:
        raise QueueLost("the server is away")


def test_a_failure_in_the_thread_is_raised_by_take() -> None:
    with inbox(Failing()) as received, pytest.raises(QueueLost, match="the server is away"):
        received.take(5.0)
