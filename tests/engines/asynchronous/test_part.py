"""A trainer's own part of the shards: fetched beside its steps, reported, and forgotten when a step has taken it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.engines.asynchronous.part import Part
from sparring.errors import SparringError
from sparring.queue.messages import Controls, Key, Lease, Missing, Shard, Ticket
from sparring.queue.orders import Orders
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport
from sparring.trainer.experiment import Experiment, build_experiment
from tests.support.queues import opened
from tests.support.runs import small
from tests.support.shards import shard_of

TRAINERS = 2


@pytest.fixture
def sides(queue_server: EmbeddedServer, request: pytest.FixtureRequest) -> tuple[Transport, Orders]:
    """The queue of a run with two trainers, and their way to each other."""
    run = request.node.name
    transport = Transport(queue_server.client(), run, lease_s=5.0, timeout_s=5.0, parts=TRAINERS)
    opened(transport)
    return transport, Orders(queue_server.client(), run, "group", timeout_s=5.0)


@pytest.fixture
def part(sides: tuple[Transport, Orders]) -> Iterator[Part]:
    made = Part(*sides, 1, objection=lambda claims: "")
    yield made
    made.close()


def issue(experiment: Experiment, transport: Transport, numbers: range, attempt: int = 0) -> None:
    for number in numbers:
        indices = experiment.plan.indices(0, number)
        key = Key(0, number, attempt)
        transport.issue([Ticket(key, transport.fence, 0, indices, experiment.training.fingerprint)])


def commit(experiment: Experiment, transport: Transport) -> Key:
    """What a worker does with the next ticket."""
    lease = transport.lease("w", 1.0)
    assert isinstance(lease, Lease)
    made = shard_of(experiment, lease.ticket.key, Controls(0.2), 0, experiment.model, transport.fence)
    assert transport.commit(lease, made)
    return made.key


def reported(orders: Orders, count: int) -> list[Shard | Missing]:
    found: list[Shard | Missing] = []
    while len(found) < count:
        come = orders.reported(5.0)
        assert come, f"{count} were committed"
        found += come
    return found


def test_it_holds_its_own_tickets_until_a_step_takes_them(
    tmp_path: Path, sides: tuple[Transport, Orders], part: Part
) -> None:
    (transport, orders), experiment = sides, build_experiment(small(tmp_path))
    issue(experiment, transport, range(4))
    for _ in range(4):
        commit(experiment, transport)
    part.begin(transport.fence)
    assert sorted(record.key.number for record in reported(orders, 2)) == [1, 3]
    first = part.take([Key(0, 1, 0)])[0]
    assert first.key == Key(0, 1, 0) and first.delta.shape[2:] == experiment.training.shape[1:]
    with pytest.raises(SparringError, match=r"trainer 1 has no shard"):
        part.take([Key(0, 1, 0)])
    issue(experiment, transport, range(1, 2), attempt=1)
    commit(experiment, transport)
    assert [record.key for record in reported(orders, 1)] == [Key(0, 1, 1)], "rank 0 counts it"
    with pytest.raises(SparringError, match=r"trainer 1 has no shard"):
        part.take([Key(0, 1, 1)])
    rank_0 = [transport.receive(1.0), transport.receive(1.0)]
    assert [each.key.number for each in rank_0 if each is not None] == [0, 2]


def test_what_an_earlier_fence_left_is_forgotten(tmp_path: Path, sides: tuple[Transport, Orders], part: Part) -> None:
    (transport, orders), experiment = sides, build_experiment(small(tmp_path))
    part.begin(transport.fence)
    issue(experiment, transport, range(1, 2))
    commit(experiment, transport)
    (record,) = reported(orders, 1)
    assert isinstance(record, Shard)
    part.begin(opened(transport))
    with pytest.raises(SparringError, match=r"trainer 1 has no shard"):
        part.take([record.key])
    part.add(record)
    assert orders.reported(0.0) == [], "it is of the earlier fence"
