"""The virtual clock: what happens when, and who holds which ticket."""

from __future__ import annotations

from typing import Any

import torch

from sparring.attacks import AttackRecord
from sparring.config import VirtualSettings
from sparring.engines.virtual.cluster import Cluster, VirtualTransport
from sparring.queue.messages import Controls, Key, Shard, Ticket


def cluster(**settings: Any) -> Cluster:
    return Cluster(VirtualSettings(**settings), lease_s=3.0, seed=0)


def ticket(number: int, attempt: int = 0) -> Ticket:
    return Ticket(Key(0, number, attempt), 1, 0, (number,), "")


def shard(number: int) -> Shard:
    record = AttackRecord("pgd", "linf", 0.1, 0.1, 1)
    return Shard(Key(0, number, 0), 1, 0, 0, record, torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64))


def test_events_happen_in_the_order_of_their_times_and_what_they_cause_too() -> None:
    made = cluster()
    seen: list[tuple[str, float]] = []

    def early() -> None:
        seen.append(("early", made.now))
        made.after(0.5, lambda: seen.append(("then", made.now)))

    made.after(2.0, lambda: seen.append(("late", made.now)))
    made.after(1.0, early)
    made.advance(1.2)
    assert (seen, made.now) == ([("early", 1.0)], 1.2)
    made.advance(5.0)
    assert (seen[1:], made.now) == ([("then", 1.5), ("late", 2.0)], 6.2)


def test_waiting_ends_with_an_arrival_or_with_its_time() -> None:
    made = cluster(push_s=0.25)
    VirtualTransport(made).issue([ticket(0)])
    lease = made.lease("worker-1")
    assert lease is not None
    made.after(1.0, lambda: made.commit(lease, shard(0)))
    made.wait(0.5)
    assert (made.now, made.arrived) == (0.5, [])
    made.wait(5.0)
    assert made.now == 1.25 and [each.key.number for each in made.arrived] == [0]


def test_a_lease_that_is_abandoned_comes_back_when_it_expires_and_its_next_attempt_goes_first() -> None:
    made = cluster()
    transport = VirtualTransport(made)
    transport.issue([ticket(0), ticket(1)])
    lease = made.lease("worker-1")
    assert lease is not None
    made.abandon(lease)
    made.advance(2.9)
    assert transport.expired(1) == []
    made.advance(0.1)
    assert [(each.key, each.reason) for each in transport.expired(1)] == [(Key(0, 0, 0), "lease_expired")]
    transport.issue([ticket(2), ticket(0, attempt=1)])
    found = [made.lease("worker-2") for _ in range(3)]
    assert [each.ticket.key for each in found if each] == [Key(0, 0, 1), Key(0, 1, 0), Key(0, 2, 0)]
    made.commit(lease, shard(0))
    made.advance(1.0)
    assert made.arrived == [], "the late one is fenced out"


def test_weights_are_seen_after_their_latency_and_the_oldest_go() -> None:
    made = cluster(publish_s=0.5)
    for version in range(3):
        made.publish((1, version), {"w": torch.tensor(float(version))}, Controls(0.1), keep=2)
        made.advance(0.4)
    newest = made.newest(1)
    assert newest is not None and newest[0] == 1
    assert made.at((1, 0)) is None and made.at((1, 1)) is not None and made.at((1, 2)) is None
    made.advance(0.1)
    assert made.at((1, 2)) is not None and made.newest(2) is None


def test_durations_have_a_constant_part_one_for_each_example_and_jitter() -> None:
    made = cluster(attack_s=0.1, attack_example_s=0.01, step_s=0.2, step_example_s=0.02, jitter=0.5)
    assert (made.attack_step_s(10), made.attack_step_s(0), made.step_s(10)) == (0.2, 0.0, 0.4)
    drawn = [made.varied(2.0) for _ in range(200)]
    assert 1.0 <= min(drawn) < 1.2 and 2.8 < max(drawn) <= 3.0
