"""Payloads on servers of their own: where they go, where they are looked for, and what a server's death costs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import redis
import torch

from sparring.attacks import PGD
from sparring.queue import payloads as module
from sparring.queue.connection import QueueUnavailable, connect
from sparring.queue.messages import Key, Lease, Missing, Shard, Sizes, Ticket
from sparring.queue.payloads import NoPayloadServer, Payloads
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport
from tests.support.queues import opened
from tests.support.waiting import wait_for

MIB = 1 << 20
RUN = "payloads[*]"


class Cluster:
    """A server for the queue and two for payloads, and both sides of a run."""

    def __init__(self, servers: ExitStack) -> None:
        self.control, *self.servers = (servers.enter_context(EmbeddedServer(16 * MIB)) for _ in range(3))
        self.trainer, self.worker = self.side(), self.side()

    def side(self, **options: Any) -> Transport:
        clients = [connect(each.url, each.password, 2.0) for each in self.servers]
        options = {"lease_s": 30.0, "timeout_s": 5.0, **options}
        return Transport(self.control.client(), RUN, payload_servers=clients, **options)

    def payloads(self) -> Payloads:
        return Payloads([connect(each.url, each.password, 2.0) for each in self.servers], f"sparring:{{{RUN}}}:")

    def kept(self) -> list[int]:
        """Number of keys of each payload server."""
        return [int(self.asked(each).dbsize()) for each in self.servers]

    def asked(self, server: EmbeddedServer) -> Any:
        client: redis.Redis = server.client()
        return client

    def send(self, number: int, fence: int, size: int = 4) -> bool:
        """Issue a ticket, attack it and commit the shard."""
        self.trainer.issue([Ticket(Key(0, number, 0), fence, 0, (1, 2), "f")])
        lease = self.worker.lease("w", 1.0)
        assert isinstance(lease, Lease)
        return self.worker.commit(lease, shard_of(lease, size))


def shard_of(lease: Lease, size: int = 4) -> Shard:
    delta, labels = torch.zeros(2, 1, size, size), torch.zeros(2, dtype=torch.int64)
    return Shard(lease.ticket.key, lease.fence, 0, 0, PGD(0.1).record, delta, labels, lease.worker)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with ExitStack() as servers:
        yield Cluster(servers)


def test_shards_spread_by_number_and_leave_nothing_behind(cluster: Cluster) -> None:
    fence = opened(cluster.trainer)
    for number in range(6):
        assert cluster.send(number, fence)
    assert cluster.kept() == [3, 3]
    with cluster.control.client() as client:
        names: Any = client.keys("*:payload:*")
        assert names == [], "the queue's own server carries no payload"
    numbers = []
    for _ in range(6):
        got = cluster.trainer.receive(2.0)
        assert isinstance(got, Shard)
        numbers.append(got.key.number)
    assert numbers == list(range(6))
    assert cluster.trainer.receive(0) is None and cluster.trainer.sizes() == Sizes(0, 0, 0)
    wait_for("the payloads to go", lambda: cluster.kept() == [0, 0])


def test_a_server_that_dies_costs_its_shards_and_the_next_takes_its_place(cluster: Cluster) -> None:
    fence = opened(cluster.trainer)
    for number in range(4):
        assert cluster.send(number, fence)
    cluster.servers[1].stop()
    got = [cluster.trainer.receive(2.0) for _ in range(4)]
    assert [each.key.number for each in got if isinstance(each, Shard)] == [0, 2]
    assert [(each.key.number, each.reason) for each in got if isinstance(each, Missing)] == [
        *((1, "payload_missing"), (3, "payload_missing"))
    ]
    assert cluster.trainer.usage().payload_servers_down == 1
    assert cluster.send(5, fence), "its own server is dead"
    after = cluster.trainer.receive(2.0)
    assert isinstance(after, Shard) and after.key.number == 5


def test_where_none_answers_a_shard_waits_and_then_the_worker_says_why(cluster: Cluster) -> None:
    fence = opened(cluster.trainer)
    cluster.worker = cluster.side(timeout_s=0.5)
    for each in cluster.servers:
        each.stop()
    with pytest.raises(QueueUnavailable, match=r"no server of queue\.payload_urls took a shard of \d+ bytes.*0\.5 s"):
        cluster.send(0, fence)
    assert cluster.trainer.sizes().leased == 1, "its lease is still there, and runs out"


def test_a_full_server_passes_a_payload_on_and_two_full_ones_refuse_it(cluster: Cluster) -> None:
    payloads, key = cluster.payloads(), Key(0, 0, 0)
    cluster.asked(cluster.servers[0]).config_set("maxmemory", 1)
    payloads.put("1:0:0:0", key, b"a")
    assert cluster.kept() == [0, 1] and payloads.down() == 0
    assert payloads.get("1:0:0:0", key) == b"a"
    cluster.asked(cluster.servers[1]).config_set("maxmemory", 1)
    with pytest.raises(NoPayloadServer, match="command not allowed when used memory > 'maxmemory'"):
        payloads.put("1:0:2:0", Key(0, 2, 0), b"b")


def test_another_attempt_has_another_server(cluster: Cluster) -> None:
    payloads = cluster.payloads()
    payloads.put("1:0:0:0", Key(0, 0, 0), b"a")
    payloads.put("1:0:0:1", Key(0, 0, 1), b"b")
    assert cluster.kept() == [1, 1]


def test_a_server_that_was_down_is_asked_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads, clock = cluster.payloads(), [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    first = cluster.asked(cluster.servers[0])
    first.execute_command("CLIENT", "PAUSE", 3000, "ALL")
    payloads.put("1:0:0:0", Key(0, 0, 0), b"a")
    assert payloads.down() == 1
    payloads.put("1:0:2:0", Key(0, 2, 0), b"b")
    for _ in range(3):
        payloads._note(0, redis.ConnectionError("what was under way when it was found to be down"))
    clock[0] += module.DOWN_S + 1
    payloads.put("1:0:4:0", Key(0, 4, 0), b"c")
    assert cluster.kept() == [1, 2]


def test_a_late_commit_leaves_no_payload(cluster: Cluster) -> None:
    fence = opened(cluster.trainer)
    cluster.trainer.issue([Ticket(Key(0, 0, 0), fence, 0, (1, 2), "f")])
    lease = cluster.worker.lease("w", 1.0)
    assert isinstance(lease, Lease)
    cluster.trainer.drop_worker("w")
    assert not cluster.worker.commit(lease, shard_of(lease))
    assert cluster.kept() == [0, 0]


@pytest.mark.parametrize("end", [opened, Transport.forget])
def test_a_new_fence_and_the_end_delete_the_payloads_of_this_run_alone(
    cluster: Cluster, end: Callable[[Transport], object]
) -> None:
    fence = opened(cluster.trainer)
    for number in range(3):
        assert cluster.send(number, fence)
    for each in cluster.servers:
        cluster.asked(each).set("sparring:{payloadsX}:payload:1:0:0:0", b"another run's")
    end(cluster.trainer)
    assert cluster.kept() == [1, 1]


def test_a_repeated_opening_keeps_its_own_payloads(cluster: Cluster) -> None:
    fence = opened(cluster.trainer)
    assert cluster.send(0, fence)
    cluster.trainer.open(fence)
    assert isinstance(cluster.trainer.receive(2.0), Shard)


def test_what_an_entry_names_that_is_none_is_refused(cluster: Cluster) -> None:
    fence = opened(cluster.trainer)
    with cluster.control.client() as client:
        client.zadd(f"sparring:{{{RUN}}}:ready:{fence}", {"rubbish": -1.0})
    assert cluster.send(1, fence)
    got = cluster.trainer.receive(2.0)
    assert isinstance(got, Shard) and cluster.trainer.refused == {"member": 1}


def test_memory_and_traffic_are_those_of_all_servers(cluster: Cluster) -> None:
    fence = opened(cluster.trainer)
    before = cluster.trainer.usage()
    assert cluster.send(0, fence, size=1024)
    after = cluster.trainer.usage()
    assert before.limit_bytes == 3 * 16 * MIB
    assert after.memory_bytes - before.memory_bytes > 2 * MIB * 0.9
    cluster.servers[0].stop()
    assert cluster.trainer.usage().limit_bytes == 2 * 16 * MIB


@pytest.mark.parametrize(
    "answer", [b":abc\r\n", b":1000000000000\r\n", b"*1\r\n$1\r\nx\r\n", b"$-7\r\n", b"?\r\n", b"$9\r\n"]
)
def test_a_server_that_answers_nonsense_is_passed_over(cluster: Cluster, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_answer, args=(listening, answer), daemon=True).start()
        nonsense = connect(f"redis://127.0.0.1:{listening.getsockname()[1]}/0", None, 2.0)
        nonsense.connection_pool.connection_kwargs.update(
            socket_timeout=0.3, protocol=2, lib_name=None, lib_version=None
        )
        good = connect(cluster.servers[0].url, cluster.servers[0].password, 2.0)
        good.set("p:payload:1:0:0:0", b"whole")
        payloads, key = Payloads([nonsense, good], "p:"), Key(0, 0, 0)
        assert payloads.get("1:0:0:0", key) == b"whole"
        payloads.drop("1:0:0:0", key)
        payloads.clear()
        assert len(payloads.usage()) <= 1
        payloads.close()
        payloads.release("1:0:0:0", key)  # closed: nothing


def _answer(listening: socket.socket, answer: bytes) -> None:
    """The same to whatever anybody asks."""
    while True:
        try:
            asking, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_repeat, args=(asking, answer), daemon=True).start()


def _repeat(asking: socket.socket, answer: bytes) -> None:
    with asking, suppress(OSError):
        while asking.recv(1 << 16):
            asking.sendall(answer)
