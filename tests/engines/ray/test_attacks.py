"""A worker's attacks under fixed weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparring.attacks import PGD
from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.engines.ray.attacks import FixedWeights
from sparring.engines.ray.snapshots import QueueRoute
from sparring.engines.ray.versions import FetchedVersions
from sparring.errors import SparringError
from sparring.models.arrays import to_arrays
from sparring.queue.messages import Controls, Finish, Key, Ticket
from sparring.queue.transport import Transport
from sparring.workers.finish import Finisher
from sparring.workers.gate import Gate
from sparring.workers.task import AttackContext, Task
from tests.support.digits import half_trained, training_digits
from tests.support.waiting import wait_for

DIGITS = training_digits()
KEY = Key(0, 0, 0)


@pytest.fixture
def attacks(transport: Transport) -> Iterator[FixedWeights]:
    model = half_trained(DIGITS)
    context = AttackContext(model, DIGITS, PGD(0.2, steps=3), None, seed=0)
    versions = FetchedVersions(QueueRoute(transport, keep=3), model, keep=3)
    finisher = Finisher(context, versions, 1)
    made = FixedWeights(finisher, Gate(finisher, 2, 60.0), versions, {}, timeout_s=0.2)
    yield made
    made.stop()


def ticket(finish: Finish | None, fence: int) -> Ticket:
    return Ticket(KEY, fence, 0, (1, 2, 3), "", (), finish)


def task_of(epsilon: float) -> Task:
    return Task(KEY, (1, 2, 3), 1)


def publish(attacks: FixedWeights, transport: Transport, version: int) -> None:
    arrays = to_arrays(attacks.versions.model)
    attacks.versions.route.publish(Snapshot(transport.fence, version, Controls(0.1), arrays))


def test_a_ticket_goes_on_when_its_weights_have_come_and_waits_are_counted(
    attacks: FixedWeights, transport: Transport
) -> None:
    assert attacks.room(0) == "any"
    publish(attacks, transport, 0)
    assert attacks.begin(ticket(Finish(1, 0.2), transport.fence), task_of, lambda: False)
    assert attacks.room(1) == "none", "its head comes first"
    wait_for("the gate", lambda: attacks.advance() or attacks.room(1) != "none")
    publish(attacks, transport, 1)
    (shard,) = wait_for("the shard", attacks.advance)
    assert (shard.start_version, shard.attack.epsilon, attacks.version) == (0, 0.2, 1)
    assert attacks.waits["gate"] > 0 and attacks.room(0) == "any"


def test_weights_that_never_come_are_an_error_with_the_setting(attacks: FixedWeights, transport: Transport) -> None:
    attacks.begin(ticket(Finish(1, 0.2), transport.fence), task_of, lambda: False)
    with pytest.raises(SparringError, match=r"no snapshot of version 0 arrived within trainer\.wait_timeout_s = "):
        wait_for("the time-out", attacks.advance)


def test_a_ticket_without_a_finish_is_refused(attacks: FixedWeights, transport: Transport) -> None:
    with pytest.raises(SparringError, match="has no finish"):
        attacks.begin(ticket(None, transport.fence), task_of, lambda: False)
