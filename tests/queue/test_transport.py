"""Leases, shards and fences over real servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis
import torch

from sparring.attacks import PGD
from sparring.errors import SparringError
from sparring.queue import transport as module
from sparring.queue.connection import QueueRefused
from sparring.queue.messages import Controls, Key, Lease, Missing, Shard, Sizes, Stop, Ticket, WorkerTarget
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import FencedOut, QueueFull, QueueLost, Received, Transport
from tests.support.queues import opened
from tests.support.waiting import wait_for

MIB = 1 << 20


@pytest.fixture
def make(server: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[Callable[..., Transport]]:
    """Transports of one run, which is forgotten at the end."""
    made: list[Transport] = []

    def one(**options: Any) -> Transport:
        options = {"lease_s": 30.0, "timeout_s": 5.0, **options}
        made.append(Transport(server.client(), request.node.name, **options))
        return made[-1]

    yield one
    one().forget()
    for each in made:
        each.close()


def ticket(number: int, fence: int, epoch: int = 0, attempt: int = 0) -> Ticket:
    return Ticket(Key(epoch, number, attempt), fence, 0, (1, 2), "f")


def product(lease: Lease, version: int = 0, n: int = 2, size: int = 4) -> Shard:
    delta = torch.zeros(n, 1, size, size)
    labels = torch.zeros(n, dtype=torch.int64)
    return Shard(lease.ticket.key, lease.fence, version, version, PGD(0.1).record, delta, labels, lease.worker)


def leased(worker: Transport, name: str = "w") -> Lease:
    lease = worker.lease(name, 1.0)
    assert isinstance(lease, Lease)
    return lease


def received(trainer: Transport) -> Received:
    got = trainer.receive(2.0)
    assert got is not None
    return got


def test_the_server_tells_its_memory_its_limit_and_what_it_has_moved(
    make: Callable[..., Transport], server: EmbeddedServer
) -> None:
    trainer, worker = make(), make()
    trainer.issue([ticket(0, opened(trainer))])
    before = trainer.usage()
    lease = leased(worker)
    assert worker.commit(lease, product(lease, n=1000, size=32))
    after = trainer.usage()
    assert after.limit_bytes == 32 * MIB
    assert after.memory_bytes - before.memory_bytes > MIB * 0.9, "a MiB of int8 lies in the queue"
    assert after.received_bytes - before.received_bytes > MIB * 0.9
    assert after.sent_bytes > before.sent_bytes
    with server.client() as client:
        client.config_set("maxmemory", 0)
        assert trainer.usage().limit_bytes is None
        client.config_set("maxmemory", 32 * MIB)


def test_a_shard_travels_and_leaves_nothing_behind(make: Callable[..., Transport], server: EmbeddedServer) -> None:
    trainer, worker = make(), make()
    fence = opened(trainer)
    worker.check_protocol()
    trainer.issue([ticket(3, fence)])
    lease = leased(worker)
    assert lease.ticket == ticket(3, fence)
    assert worker.commit(lease, product(lease, version=7))
    got = received(trainer)
    assert isinstance(got, Shard) and (got.key, got.version, got.worker) == (Key(0, 3, 0), 7, "w")
    assert trainer.receive(0) is None and trainer.expired(fence) == [] and trainer.sizes() == Sizes(0, 0, 0)
    left = {key.decode().partition("}:")[2] for key in keys(server, trainer)}
    assert left <= {"fence", "meta", "wake", f"arrived:{fence}"}


def test_the_lowest_version_comes_first_and_an_epoch_before_the_next(make: Callable[..., Transport]) -> None:
    trainer = make()
    fence = opened(trainer)
    work = {(1, 0): 3, (0, 1): 9, (0, 2): 8}
    trainer.issue([ticket(number, fence, epoch) for epoch, number in work])
    for version in work.values():
        lease = leased(trainer)
        assert trainer.commit(lease, product(lease, version))
    assert [received(trainer).key[:2] for _ in work] == [(0, 2), (0, 1), (1, 0)]


def test_a_late_commit_is_fenced_out(make: Callable[..., Transport], server: EmbeddedServer) -> None:
    trainer = make()
    fence = opened(trainer)
    trainer.issue([ticket(0, fence)])
    lease = leased(trainer)
    trainer.drop_worker("w")
    assert not trainer.commit(lease, product(lease))
    assert not trainer.renew(lease)
    assert [(back.key, back.reason) for back in trainer.expired(fence)] == [(Key(0, 0, 0), "lease_expired")]
    assert not trainer.commit(lease, product(lease)) and not trainer.hand_back(lease)
    assert trainer.receive(0) is None and trainer.expired(fence) == []
    assert not [key for key in keys(server, trainer) if b"payload" in key]


def test_an_expired_lease_frees_its_ticket_and_a_renewed_one_does_not(make: Callable[..., Transport]) -> None:
    trainer, brief = make(), make(lease_s=1.0)
    fence = opened(trainer)
    trainer.issue([ticket(0, fence), ticket(1, fence)])
    lost, kept = leased(brief, "dies"), leased(brief, "lives")

    def freed() -> list[Any]:
        assert brief.renew(kept)
        return trainer.expired(fence)

    (back,) = wait_for("the ticket that is free again", freed, 5, 0.005)
    assert back.key == lost.ticket.key and back.reason == "lease_expired"
    assert not brief.commit(lost, product(lost))
    trainer.issue([ticket(0, fence, attempt=1)])
    again = leased(trainer)
    assert again.ticket.key == Key(0, 0, 1) and trainer.commit(again, product(again))
    assert brief.commit(kept, product(kept))


def test_a_deadline_from_before_the_clock_was_put_back_is_set_anew(
    make: Callable[..., Transport], server: EmbeddedServer
) -> None:
    trainer, worker = make(lease_s=0.3), make(lease_s=0.3)
    fence = opened(trainer)
    trainer.issue([ticket(0, fence), ticket(1, fence)])
    theirs, own = leased(worker), trainer.lease_local("trainer")
    assert own is not None
    hour_ms = 3600 * 1000
    with server.client() as client:
        client.zincrby(trainer._key("leases"), hour_ms, "0:0:0")
    assert trainer.expired(fence) == [] and worker.renew(theirs), "a living worker keeps its lease"
    with server.client() as client:
        client.zincrby(trainer._key("leases"), hour_ms, "0:0:0")
    back = wait_for("the lease's end", lambda: trainer.expired(fence), 5.0)
    assert [(each.key, each.reason) for each in back] == [(Key(0, 0, 0), "lease_expired")]
    assert trainer.finish_local(own), "the trainer's own lease has no deadline before or after"


def test_a_report_is_repeated_until_it_has_arrived(make: Callable[..., Transport]) -> None:
    trainer, restarted = make(), make()
    fence = opened(trainer)
    trainer.issue([ticket(0, fence), ticket(1, fence)])
    assert trainer.hand_back(leased(trainer))
    assert trainer.fail(leased(trainer), "ValueError: no such image\nat line 3")
    expected = {(0, "handed_back", ""), (1, "failed", "ValueError: no such image\nat line 3")}
    for side in (trainer, restarted):
        assert {(back.key.number, back.reason, back.detail) for back in side.expired(fence)} == expected
    assert trainer.expired(fence) == []


def test_committing_twice_is_committing_once(make: Callable[..., Transport]) -> None:
    trainer = make()
    fence = opened(trainer)
    trainer.issue([ticket(0, fence)])
    lease = leased(trainer)
    assert trainer.commit(lease, product(lease)) and trainer.commit(lease, product(lease))
    assert isinstance(received(trainer), Shard) and trainer.receive(0) is None


def test_a_lost_payload_counts_as_missing(make: Callable[..., Transport], server: EmbeddedServer) -> None:
    trainer = make()
    fence = opened(trainer)
    trainer.issue([ticket(number, fence) for number in range(3)])
    for number in range(3):
        lease = leased(trainer)
        trainer.commit(lease, product(lease, version=number))
    with server.client() as client:
        names = [f"sparring:{{{run(trainer)}}}:payload:{fence}:0:{number}:0" for number in range(3)]
        client.delete(names[0])
        client.set(names[1], b"not a shard")
        client.copy(names[0].replace(":0:0:0", ":0:2:0"), names[1], replace=True)
        client.set(names[2], b"not a shard")
    reasons = [(got.key.number, got.reason) for got in map(missing, [trainer] * 3)]
    assert reasons == [(0, "payload_missing"), (1, "payload_corrupt"), (2, "payload_corrupt")]


def missing(trainer: Transport) -> Missing:
    got = received(trainer)
    assert isinstance(got, Missing)
    return got


def test_a_reply_lost_on_the_way_to_the_trainer_loses_no_shard(
    make: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make()
    fence = opened(trainer)
    trainer.issue([ticket(number, fence) for number in range(2)])
    for _ in range(2):
        lease = leased(trainer)
        trainer.commit(lease, product(lease))
    first = received(trainer)
    look, cut = trainer._first_ready, [True]

    def looked(fence: int, place: str) -> Any:
        found = look(fence, place)
        if cut and cut.pop():
            raise redis.ConnectionError("the reply was lost")
        return found

    monkeypatch.setattr(trainer, "_first_ready", looked)
    second = received(trainer)
    assert isinstance(first, Shard) and isinstance(second, Shard) and not cut
    assert {first.key.number, second.key.number} == {0, 1}
    assert trainer.receive(0) is None and trainer.sizes() == Sizes(0, 0, 0)


def test_issuing_the_same_request_again_adds_nothing(
    make: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make()
    fence = opened(trainer)
    evalsha = trainer._redis.evalsha
    calls: list[Any] = []

    def twice(*call: Any) -> Any:
        calls.append(call)
        reply = evalsha(*call)
        if len(calls) == 1:
            raise redis.TimeoutError("the reply was lost")
        return reply

    monkeypatch.setattr(trainer._redis, "evalsha", twice)
    trainer.issue([ticket(0, fence), ticket(1, fence)])
    assert len(calls) == 2 and trainer.sizes().tickets == 2


def test_resume_raises_the_fence_and_flushes_the_queue(make: Callable[..., Transport], server: EmbeddedServer) -> None:
    old, new = make(), make()
    before = opened(old)
    old.issue([ticket(number, before) for number in range(4)])
    ready, running = leased(old), leased(old)
    assert old.commit(ready, product(ready))
    old.hand_back(leased(old))
    old.request_stop()
    after = opened(new, before + 5)
    assert after == before + 6 and not new.stop_requested()
    assert new.sizes() == Sizes(0, 0, 0) and new.receive(0) is None and new.expired(after) == []
    assert not [key for key in keys(server, new) if b"payload" in key]
    assert not old.renew(running) and not old.commit(running, product(running))
    for refused in (
        lambda: old.issue([ticket(9, before)]),
        lambda: old.expired(before),
    ):
        with pytest.raises(FencedOut):
            refused()
    assert new.lease("w", 0) is None and opened(new) == after + 1


def test_a_server_that_is_back_with_older_data_has_lost_the_queue(
    make: Callable[..., Transport], server: EmbeddedServer
) -> None:
    trainer = make()
    fence = opened(trainer, 4)
    server.client().set(trainer._key("fence"), fence - 1)
    for request in (
        lambda: trainer.issue([ticket(0, fence)]),
        lambda: trainer.expired(fence),
        lambda: trainer.put_weights(fence, 1, Controls(0.1), b"new", keep=2),
    ):
        with pytest.raises(QueueLost, match="or with older data"):
            request()
    assert opened(trainer, fence) == fence + 1
    trainer.issue([ticket(0, fence + 1)])
    assert trainer.sizes().tickets == 1


@pytest.mark.parametrize(
    ("key", "command", "value"),
    [
        ("fence", "RPUSH", "x"),
        ("fence", "SET", "9223372036854775806"),
        ("fence", "SET", "later"),
        ("owners", "SET", "x"),
        ("meta", "SET", "x"),
        ("tickets", "SET", "x"),
    ],
)
def test_a_key_that_is_no_longer_what_it_was_keeps_no_run_from_being_resumed(
    key: str, command: str, value: str, make: Callable[..., Transport], server: EmbeddedServer
) -> None:
    trainer = make()
    fence = opened(trainer)
    client: Any = server.client()
    client.delete(trainer._key(key))
    client.execute_command(command, trainer._key(key), value)
    found = trainer.current_fence()
    assert found == (0 if key == "fence" else fence)
    trainer.open(fence + 1)
    trainer.issue([ticket(0, fence + 1)])
    assert trainer.current_fence() == fence + 1 and trainer.sizes().tickets == 1
    client.delete(trainer._key(key))
    client.execute_command(command, trainer._key(key), value)
    trainer.forget()
    assert not keys(server, trainer)


def test_a_trainer_that_was_replaced_takes_no_shard_of_its_successor(make: Callable[..., Transport]) -> None:
    old, new = make(), make()
    opened(old)
    fence = opened(new)
    new.issue([ticket(0, fence)])
    lease = leased(new)
    new.commit(lease, product(lease))
    assert old.receive(0) is None
    assert isinstance(received(new), Shard)


def test_who_still_asks_for_an_older_fence_takes_nothing(make: Callable[..., Transport]) -> None:
    trainer = make()
    before, fence = opened(trainer), opened(trainer)
    trainer.issue([ticket(number, fence) for number in range(2)])
    for _ in range(2):
        lease = leased(trainer)
        trainer.commit(lease, product(lease))
    first = received(trainer)
    assert trainer.receive(0, before) is None
    second = received(trainer)
    assert isinstance(first, Shard) and isinstance(second, Shard) and first.key != second.key
    assert trainer.receive(0) is None and trainer.sizes() == Sizes(0, 0, 0)


def test_an_idle_worker_wakes_promptly(make: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BLOCK_S", 8.0)
    trainer, worker = make(), make()
    fence = opened(trainer)
    woken: list[float] = []

    def wait() -> None:
        assert isinstance(worker.lease("w", 8.0), Lease)
        woken.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for("a blocked trainer", lambda: blocked(trainer), 5, 0.005)
    issued = time.monotonic()
    trainer.issue([ticket(0, fence)])
    thread.join(5)
    assert woken and woken[0] - issued < 2


def test_the_trainer_wakes_promptly(make: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BLOCK_S", 8.0)
    trainer, worker = make(), make()
    fence = opened(trainer)
    trainer.issue([ticket(0, fence)])
    lease = leased(worker)
    came: list[Received | None] = []
    thread = threading.Thread(target=lambda: came.append(trainer.receive(8.0)))
    thread.start()
    wait_for("a blocked worker", lambda: blocked(worker), 5, 0.005)
    committed = time.monotonic()
    worker.commit(lease, product(lease))
    thread.join(5)
    assert isinstance(came[0], Shard) and time.monotonic() - committed < 2


def blocked(side: Transport) -> bool:
    return bool(side._redis.info("clients")["blocked_clients"])


def test_a_wait_without_result_ends_in_time(make: Callable[..., Transport]) -> None:
    trainer = make()
    opened(trainer)
    began = time.monotonic()
    assert trainer.lease("w", 0.1) is None and trainer.receive(0.1) is None
    assert 0.15 < time.monotonic() - began < 5


def test_the_trainer_leases_as_a_worker_does(make: Callable[..., Transport]) -> None:
    trainer = make()
    fence = opened(trainer)
    trainer.issue([ticket(0, fence), ticket(1, fence)])
    trainer.request_stop()
    assert trainer.lease("w", 0) is Stop.STOP
    first, second = trainer.lease_local("trainer"), trainer.lease_local("trainer")
    assert first is not None and second is not None and trainer.lease_local("trainer") is None
    assert trainer.renew(first) and trainer.finish_local(first) and trainer.expired(fence) == []
    trainer.drop_worker("trainer")
    assert not trainer.finish_local(second)
    assert [back.key for back in trainer.expired(fence)] == [second.ticket.key]


def test_who_has_room_for_repeated_tickets_alone_gets_no_other(make: Callable[..., Transport]) -> None:
    trainer = make()
    fence = opened(trainer)
    trainer.issue([ticket(0, fence)])
    assert trainer.lease("w", 0, "again") is None and trainer.lease_local("trainer", "again") is None
    assert trainer.lease_local("trainer", "none") is None and trainer.sizes().tickets == 1
    trainer.issue([ticket(1, fence, attempt=10)])
    lease = trainer.lease("w", 0, "again")
    assert isinstance(lease, Lease) and lease.ticket.key == Key(0, 1, 10)
    assert trainer.lease("w", 0, "again") is None
    first = trainer.lease("w", 0, "any")
    assert isinstance(first, Lease) and first.ticket.key == Key(0, 0, 0)


def test_a_stop_reaches_all_or_one(make: Callable[..., Transport]) -> None:
    trainer = make()
    opened(trainer)
    trainer.request_stop("w1")
    assert trainer.lease("w1", 0) is Stop.DRAIN and trainer.lease("w2", 0) is None
    assert trainer.stopping("w1") is Stop.DRAIN and trainer.stopping("w2") is None and not trainer.stop_requested()
    trainer.request_stop()
    assert trainer.lease("w2", 0) is Stop.STOP and trainer.stopping("w2") is Stop.STOP and trainer.stop_requested()


def test_state_and_heartbeats_are_told(make: Callable[..., Transport]) -> None:
    trainer, other = make(), make()
    assert other.state() is None and other.heartbeats() == {}
    trainer.set_state({"step": 4, "share": 0.5})
    trainer.heartbeat("w", {"shards": 3, "name": "μ"})
    assert other.state() == {"step": 4, "share": 0.5}
    reported = other.heartbeats()["w"]
    assert reported.pop("age_s") in (0, 1) and reported == {"shards": 3, "name": "μ"}
    trainer.forget()
    assert other.state() is None and other.heartbeats() == {}


def test_two_runs_share_a_server_and_nothing_else(make: Callable[..., Transport], server: EmbeddedServer) -> None:
    one, other = make(), Transport(server.client(), "other[*]?", lease_s=5, timeout_s=5)
    fence = opened(one)
    one.issue([ticket(0, fence)])
    assert opened(other) == 1 and other.lease("w", 0) is None
    other.forget()
    assert isinstance(one.lease("w", 0), Lease)
    other.close()


def test_another_protocol_is_refused(make: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    monkeypatch.setattr(module, "PROTOCOL", 99)
    opened(trainer)
    monkeypatch.undo()
    with pytest.raises(SparringError, match="protocol 99"):
        trainer.check_protocol()


def test_full_memory_is_back_pressure(make: Callable[..., Transport], server: EmbeddedServer) -> None:
    trainer, worker = make(), make(timeout_s=0.3)
    fence = opened(trainer)
    trainer.issue([ticket(0, fence), ticket(1, fence), ticket(2, fence)])
    first, second, third = leased(trainer), leased(worker), leased(worker)
    assert trainer.commit(first, product(first))
    with full_memory(server):
        with pytest.raises(QueueFull, match=r"queue\.maxmemory_mb"):
            worker.commit(second, product(second))
        assert worker.renew(second) and worker.hand_back(third)
        trainer.issue([ticket(5, fence)])
        trainer.set_state({"step": 1})
        trainer.heartbeat("w", {})
        assert [back.reason for back in trainer.expired(fence)] == ["handed_back"]
        assert isinstance(trainer.lease("w", 0), Lease) and isinstance(received(trainer), Shard)
        worker.timeout_s, done = 20.0, list[bool]()
        thread = threading.Thread(target=lambda: done.append(worker.commit(second, product(second))))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
    thread.join(20)
    assert done == [True] and isinstance(received(trainer), Shard)


@contextmanager
def full_memory(server: EmbeddedServer) -> Iterator[None]:
    with server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 32 * MIB)


def test_a_lease_lost_while_memory_is_full_ends_the_wait(
    make: Callable[..., Transport], server: EmbeddedServer
) -> None:
    trainer = make(timeout_s=30.0)
    fence = opened(trainer)
    trainer.issue([ticket(0, fence)])
    lease = leased(trainer)
    with full_memory(server):
        trainer.drop_worker("w")
        began = time.monotonic()
        assert not trainer.commit(lease, product(lease))
        assert time.monotonic() - began < 5


def test_a_server_restarted_empty_is_noticed(make: Callable[..., Transport], server: EmbeddedServer) -> None:
    trainer = make()
    fence = opened(trainer)
    trainer.issue([ticket(0, fence)])
    lease = leased(trainer)
    with server.client() as client:
        client.flushall()
        client.script_flush()
    for raises in (lambda: trainer.expired(fence), lambda: trainer.issue([ticket(1, fence)])):
        with pytest.raises(QueueLost):
            raises()
    assert not trainer.renew(lease) and not trainer.commit(lease, product(lease))
    assert trainer.lease("w", 0) is None and opened(trainer, fence) == fence + 1


def test_an_outage_is_survived() -> None:
    with EmbeddedServer(16 * MIB) as first:
        trainer = Transport(first.client(), "run", lease_s=5, timeout_s=20)
        fence = opened(trainer)
    lost: list[type[Exception]] = []

    def ask() -> None:
        try:
            trainer.expired(fence)
        except SparringError as error:
            lost.append(type(error))

    thread = threading.Thread(target=ask)
    thread.start()
    with EmbeddedServer(16 * MIB, port=first.port, password=first.password):
        thread.join(20)
        assert lost == [QueueLost] and opened(trainer, fence) == fence + 1
    trainer.close()


def run(side: Transport) -> str:
    return side._prefix.split("{", 1)[1].rsplit("}", 1)[0]


def keys(server: EmbeddedServer, side: Transport) -> list[bytes]:
    with server.client() as client:
        return [key for key in client.scan_iter(count=1000) if key.startswith(side._prefix.encode())]


def test_a_shard_under_another_tickets_name_counts_as_corrupt(make: Callable[..., Transport]) -> None:
    trainer = make()
    fence = opened(trainer)
    trainer.issue([ticket(0, fence)])
    lease = leased(trainer)
    trainer.commit(lease, replace(product(lease), fence=fence + 1))
    assert missing(trainer).reason == "payload_corrupt"


def test_a_ticket_that_is_issued_again_is_served_first(make: Callable[..., Transport]) -> None:
    trainer = make()
    fence = opened(trainer)
    trainer.issue([ticket(0, fence), ticket(1, fence)])
    trainer.issue([ticket(2, fence), ticket(3, fence, attempt=1), ticket(4, fence, attempt=2)])
    assert [leased(trainer).ticket.key.number for _ in range(5)] == [3, 4, 0, 1, 2]


def test_snapshots_of_the_weights_travel_and_the_oldest_are_forgotten(make: Callable[..., Transport]) -> None:
    trainer, worker = make(), make()
    fence = opened(trainer)
    assert worker.newer_weights((0, -1), 0.01) is None
    for version in (0, 3, 5):
        trainer.put_weights(fence, version, Controls(0.1 * version, 0.5), f"weights {version}".encode(), keep=2)
    trainer.put_weights(fence, 5, Controls(0.1 * 5, 0.5), b"weights 5", keep=2)
    assert worker.newer_weights((0, -1), 1.0) == (fence, 5, Controls(0.1 * 5, 0.5), b"weights 5")
    assert worker.newer_weights((fence, 5), 0.01) is None
    assert worker.weights((fence, 3), 0.1) == (fence, 3, Controls(0.1 * 3, 0.5), b"weights 3")
    assert worker.weights((fence, 0), 0.01) is None


def test_whoever_waits_for_newer_weights_gets_them_when_they_come(make: Callable[..., Transport]) -> None:
    trainer, worker = make(), make()
    fence = opened(trainer)
    trainer.put_weights(fence, 1, Controls(0.1), b"old", keep=2)
    timer = threading.Timer(0.7, lambda: trainer.put_weights(fence, 2, Controls(0.2), b"new", keep=2))
    timer.start()
    assert worker.newer_weights((fence, 1), 5.0) == (fence, 2, Controls(0.2), b"new")
    timer.join()


def test_weights_of_an_older_start_are_gone_and_cannot_come_back(make: Callable[..., Transport]) -> None:
    old, new, worker = make(), make(), make()
    before = opened(old)
    old.put_weights(before, 9, Controls(0.1), b"old", keep=2)
    fence = opened(new)
    with pytest.raises(FencedOut):
        old.put_weights(before, 10, Controls(0.1), b"old", keep=2)
    assert worker.newer_weights((before, 9), 0.01) is None
    new.put_weights(fence, 4, Controls(0.1), b"new", keep=2)
    assert worker.newer_weights((before, 9), 1.0) == (fence, 4, Controls(0.1), b"new")


def test_weights_are_broadcast_even_while_memory_is_full(
    make: Callable[..., Transport], server: EmbeddedServer
) -> None:
    trainer, worker = make(), make()
    fence = opened(trainer)
    client = server.client()
    before = str(client.config_get("maxmemory")["maxmemory"])
    client.config_set("maxmemory", 1)
    try:
        trainer.put_weights(fence, 0, Controls(0.1), b"w" * 100_000, keep=2)
        assert worker.newer_weights((0, -1), 1.0) is not None
    finally:
        client.config_set("maxmemory", before)


def test_the_target_of_workers_is_set_added_to_and_falls_by_one_for_each_that_is_drained(
    make: Callable[..., Transport],
) -> None:
    driver, shell = make(), make()
    assert shell.worker_target() is None and shell.target_count() is None
    assert shell.change_worker_target("set", 4, 0, 9) == -1, "before the run has begun"
    assert driver.change_worker_target("start", 2) == 2
    assert shell.change_worker_target("set", 4, 0, 9) == 4
    assert shell.change_worker_target("add", 2, 0, 9) == 6
    assert [shell.change_worker_target("drain", name, 0, 9) for name in ("worker-1", "worker-1", "worker-0")] == [
        5,
        5,
        4,
    ]
    assert driver.worker_target() == WorkerTarget(4, frozenset({"worker-0", "worker-1"}))
    driver.change_worker_target("leave", "worker-5")
    assert shell.change_worker_target("drain", "worker-5", 0, 9) == 4, "it was counted out already"
    assert driver.change_worker_target("start", 3) == 3
    assert driver.worker_target() == WorkerTarget(3, frozenset())


def test_a_target_outside_its_bounds_changes_nothing(make: Callable[..., Transport]) -> None:
    driver = make()
    driver.change_worker_target("start", 2)
    assert driver.change_worker_target("set", 0, 1, 9) == driver.change_worker_target("add", 8, 1, 9) == -2
    driver.change_worker_target("set", 1, 1, 9)
    assert driver.change_worker_target("drain", "worker-0", 1, 9) == -2
    assert driver.worker_target() == WorkerTarget(1, frozenset())


def test_a_target_outlives_a_trainer_that_starts_again_and_is_changed_in_a_full_memory(
    make: Callable[..., Transport], server: EmbeddedServer
) -> None:
    driver = make()
    driver.change_worker_target("start", 2)
    driver.set_pool({"worker-0": "serving"})
    opened(driver)
    assert driver.target_count() == 2 and driver.pool() == {"worker-0": "serving"}
    with full_memory(server):
        assert driver.change_worker_target("add", 1, 0, 9) == 3
        driver.set_pool({"worker-0": "leaving"})
    assert driver.pool() == {"worker-0": "leaving"}


def test_what_a_worker_said_is_forgotten_once_it_has_left(make: Callable[..., Transport]) -> None:
    driver = make()
    driver.heartbeat("worker-0", {"shards": 1})
    driver.heartbeat("worker-1", {"shards": 2})
    driver.forget_worker("worker-0")
    assert list(driver.heartbeats()) == ["worker-1"]
    driver.heartbeat("worker-0", {"shards": 1})
    assert list(driver.heartbeats()) == ["worker-1"], "what was under way does not bring it back"


def test_what_was_changed_on_its_way_is_refused_and_its_ticket_comes_back(
    make: Callable[..., Transport], server: EmbeddedServer
) -> None:
    trainer, worker = make(), make()
    fence = opened(trainer)
    trainer.issue([ticket(0, fence)])
    lease = leased(worker)
    assert worker.commit(lease, product(lease))
    name = worker._key(f"payload:{fence}:0:0:0")
    with server.client() as client:
        payload = bytearray(client.get(name) or b"")
        payload[-1] ^= 1
        client.set(name, bytes(payload))
    lost = missing(trainer)
    assert lost.reason == "payload_corrupt" and "checksum" in lost.detail


def test_without_the_secret_nobody_can_send_anything(make: Callable[..., Transport]) -> None:
    trainer, worker, stranger = make(secret=b"ours"), make(secret=b"ours"), make(secret=b"theirs")
    fence = opened(trainer)
    stranger.fence = fence
    trainer.issue([ticket(0, fence)])
    lease = leased(worker)
    assert stranger.commit(lease, product(lease)) and missing(trainer).reason == "payload_corrupt"
    for _ in range(2):  # the first has the number of the trainer's request and is taken for it
        stranger.issue([ticket(1, fence)])
    assert worker.lease("w", 0) is None and worker.refused["ticket"] == 1
    assert [(each.key, each.reason) for each in trainer.expired(fence)] == [(Key(0, 1, 0), "ticket_corrupt")]
    stranger.put_weights(fence, 3, Controls(0.1), b"weights", keep=2)
    assert worker.newer_weights((0, -1), 0.01) is None and worker.refused["weights"] == 1
    assert worker.weights((fence, 3), 0.01) is None


def test_a_shard_is_refused_by_what_it_says_of_itself(make: Callable[..., Transport]) -> None:
    trainer = make()
    fence = opened(trainer)
    trainer.issue([ticket(0, fence)])
    lease = leased(trainer)
    trainer.commit(lease, product(lease, version=10**9))
    got = trainer.receive(1.0, objection=lambda claims: "too new" if claims.version > 5 else "")
    assert isinstance(got, Missing) and (got.reason, got.detail) == ("payload_corrupt", "too new")


def test_an_answer_that_waiting_does_not_cure_is_told_at_once(
    make: Callable[..., Transport], server: EmbeddedServer
) -> None:
    trainer = make()
    with server.client() as client:
        client.rpush(trainer._key("state"), "a list")
        with pytest.raises(QueueRefused, match=r"WRONGTYPE.*sparring resume"):
            trainer.state()
        client.delete(trainer._key("state"))
        fence = opened(trainer)
        client.delete(trainer._key("fence"))
        client.rpush(trainer._key("fence"), "a list")
        with pytest.raises(QueueRefused, match=r"WRONGTYPE[\w ]*\. Keys of this run") as refused:
            trainer.issue([ticket(0, fence)])
        assert "script" not in str(refused.value)
        client.delete(trainer._key("fence"))


def test_what_passes_is_waited_for(make: Callable[..., Transport], server: EmbeddedServer) -> None:
    """As after a failover, while the server is a replica that takes no writes."""
    trainer = make()
    with server.client() as client:
        client.replicaof("127.0.0.1", 1)
        timer = threading.Timer(0.3, lambda: client.replicaof("NO", "ONE"))
        timer.start()
        try:
            assert opened(trainer) == 1
        finally:
            timer.join()


@pytest.mark.parametrize("damage", ["arrays", "behind"])
def test_a_snapshot_that_was_damaged_or_stands_behind_another_is_published_anew(
    make: Callable[..., Transport], server: EmbeddedServer, damage: str
) -> None:
    trainer, worker = make(), make()
    fence = opened(trainer)
    trainer.put_weights(fence, 3, Controls(0.1), b"weights", keep=2)
    with server.client() as client:
        key, (name, fields) = trainer._key("weights"), client.xrange(trainer._key("weights"))[0]
        if damage == "arrays":
            client.delete(key)
            client.xadd(key, {**fields, b"arrays": b"damaged"}, id=name)
        else:
            client.xadd(key, {"x": "y"}, id=f"{fence + 9}-9")
    trainer.put_weights(fence, 4 if damage == "behind" else 3, Controls(0.1), b"weights", keep=2)
    found = worker.newer_weights((0, -1), 1.0)
    assert found is not None and found.arrays == b"weights"
