"""The trainer's tickets over a real queue, without its loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparring.engines.asynchronous.tickets import UNHELD_S, Tickets
from sparring.errors import SparringError
from sparring.queue.codec import Claims
from sparring.queue.messages import Controls, Key, Lease, Returned, Shard
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import FencedOut, Transport
from sparring.trainer.session import Session
from tests.support.sessions import session_in
from tests.support.shards import shard_of

AHEAD = 2  # steps, of two shards each


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(maxmemory=64 << 20) as server:
        yield server


def transport_of(server: EmbeddedServer, session: Session) -> Transport:
    return Transport(server.client(), session.run.id, lease_s=5.0, timeout_s=5.0)


def opened(root: Path, server: EmbeddedServer, **groups: Any) -> tuple[Session, Transport, Tickets]:
    """The first tickets are issued, with version 0."""
    train = {"max_steps": None, "batch_size": 100, "shards_per_step": 2}
    session = session_in(root, train=train, attack={"steps": 1, "warmup_epochs": 0}, **groups)
    transport = transport_of(server, session)
    tickets = Tickets(session, transport, 1, None)
    tickets.issue(AHEAD - 1, None, 0)
    return session, transport, tickets


def claims_of(shard: Shard) -> Claims:
    size, *shape = shard.delta.shape
    return Claims(shard.key, shard.fence, shard.version, shard.start_version, shard.attack, size, tuple(shape))


def test_tickets_are_issued_for_the_steps_ahead_and_carry_fence_version_and_examples(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    session, transport, tickets = opened(tmp_path, server)
    leases = [transport.lease("w", 1.0) for _ in range(2 * AHEAD)]
    assert transport.lease("w", 0.01) is None
    for number, lease in enumerate(leases):
        assert isinstance(lease, Lease)
        ticket = lease.ticket
        assert ticket.key == Key(0, number, 0) and ticket.fence == tickets.fence > 0 and ticket.version == 0
        assert ticket.indices == session.plan.indices(0, number)


def test_a_shard_is_accepted_once_and_only_for_what_was_asked(tmp_path: Path, server: EmbeddedServer) -> None:
    session, _, tickets = opened(tmp_path, server)
    shard = shard_of(session.experiment, Key(0, 0, 0), Controls(0.2), 0, fence=tickets.fence)
    assert tickets.objection(claims_of(shard)) == ""
    assert tickets.objection(claims_of(replace(shard, labels=shard.labels[:1], delta=shard.delta[:1])))
    assert tickets.objection(claims_of(replace(shard, version=7)))
    assert tickets.arrive(shard) and not tickets.arrive(shard)
    assert tickets.shards == {shard.key: (shard, 0)}
    tickets.drop((shard.key,))
    assert not tickets.shards


def test_tickets_in_nobodys_hands_are_issued_again_after_a_while(tmp_path: Path, server: EmbeddedServer) -> None:
    _, transport, tickets = opened(tmp_path, server)
    for held, arrivals, now in [(4, 0, 0.0), (0, 0, 1.0), (0, 1, UNHELD_S), (0, 1, 2 * UNHELD_S)]:
        tickets.reissue_unheld(held, arrivals, now)
        assert tickets.ledger.dropped["unheld"] == 0
    tickets.reissue_unheld(0, 1, 2 * UNHELD_S + 0.1)
    assert tickets.ledger.dropped["unheld"] == 2 * AHEAD
    tickets.issue(AHEAD - 1, None, 0)
    assert transport.sizes().tickets == 2 * 2 * AHEAD, "the old attempts, which nobody waits for, and the new ones"


def test_only_an_attack_that_failed_counts_against_a_ticket(tmp_path: Path, server: EmbeddedServer) -> None:
    _, _, tickets = opened(tmp_path, server, queue={"attempts": 1})
    for attempt, reason in enumerate(("lease_expired", "queue_full", "handed_back")):
        tickets.lose(Returned(Key(0, 0, attempt), reason))
        tickets.issue(AHEAD - 1, None, 0)
    assert not tickets.ledger.set_aside and tickets.complaints() == ""
    with pytest.raises(SparringError, match=r"4 tickets were set aside .* ValueError: poison\. See the logs"):
        fail_on_everything(tickets)


def fail_on_everything(tickets: Tickets) -> None:
    """Each attempt fails on another worker."""
    for turn in range(40):
        for key in tickets.ledger.issued:
            tickets.lose(Returned(key, "failed", "ValueError: poison", f"w-{turn}"))
        tickets.issue(AHEAD - 1, None, 0)
    raise AssertionError("the run would never end")


def test_what_went_wrong_is_put_into_words(tmp_path: Path, server: EmbeddedServer) -> None:
    session, _, tickets = opened(tmp_path, server)
    tickets.lose(Returned(Key(0, 0, 0), "failed", "ValueError: poison.", "w"))
    tickets.lose(Returned(Key(0, 1, 0), "payload_missing"))
    assert tickets.complaints() == (
        ", the last error of a worker: ValueError: poison; 1 shards had no payload in Redis"
    )
    tickets.count()
    assert session.state.dropped == {"failed": 1, "payload_missing": 1} and session.state.missing == 0
    assert session.state.outstanding == 2 * (AHEAD - 1)


def test_a_new_start_takes_a_fence_above_all_and_the_older_one_is_shut_out(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    session, _, tickets = opened(tmp_path, server)
    first = tickets.fence
    tickets.start_over()
    assert tickets.fence > first and tickets.ledger.outstanding == 0
    later = Tickets(session, transport_of(server, session), 1, None)
    assert later.fence > tickets.fence
    with pytest.raises(FencedOut):
        tickets.start_over()
