"""The ledger and the Lua scripts together: what the ledger decides and what Redis holds never disagree for good."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sparring.attacks import PGD
from sparring.queue.ledger import Ledger
from sparring.queue.messages import Key, Lease, Shard, Ticket
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import QueueLost, Transport
from tests.support.queues import opened

WORKERS = ("w0", "w1", "w2")
SERVERS: list[EmbeddedServer] = []
RUNS = count()


@pytest.fixture(scope="module", autouse=True)
def own_server() -> Iterator[None]:
    with EmbeddedServer(64 << 20) as started:
        SERVERS.append(started)
        yield
        SERVERS.clear()


class Run(RuleBasedStateMachine):
    """One trainer and three workers over a real server. Leases last for hours: they end by `drop_worker` alone."""

    @initialize(
        shards=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        barrier=st.booleans(),
        per_step=st.integers(1, 3),
        depth=st.integers(0, 2),
        spare=st.integers(0, 2),
        attempts=st.integers(1, 3),
    )
    def start(
        self, shards: tuple[int, int], barrier: bool, per_step: int, depth: int, spare: int, attempts: int
    ) -> None:
        self.bound = depth + spare
        self.options: dict[str, Any] = {
            "shards_by_epoch": shards,
            "barrier": 1 if barrier else None,
            "shards_per_step": per_step,
            "depth": depth,
            "max_staleness": self.bound,
            "attempts": attempts,
        }
        self.run = f"run-{next(RUNS)}"
        self.client = SERVERS[0].client()
        self.worker = self.connect()
        self.dead: list[Lease] = []
        self.held: list[Lease] = []
        self.fence = 0
        self.begin(Ledger(**self.options), step=0, history=[])
        self.save()

    def connect(self) -> Transport:
        return Transport(self.client, self.run, lease_s=3600, timeout_s=5, wire="exact")

    def begin(self, one: Ledger, step: int, history: list[Key]) -> None:
        """A trainer starts, with a fence above that of its checkpoint."""
        self.ledger, self.step, self.history = one, step, history
        self.training: tuple[Key, ...] = ()
        self.trainer = self.connect()
        self.open()

    def open(self) -> None:
        before, self.fence = self.fence, opened(self.trainer, self.fence)
        assert self.fence > before
        self.versions: dict[Key, int] = {}
        self.dead += self.held
        self.held = []

    @rule()
    def issue(self) -> None:
        keys = self.ledger.issue()
        self.trainer.issue([Ticket(key, self.fence, self.step, (key.number,), "f") for key in keys])

    @precondition(lambda self: self.ledger.held)
    @rule()
    def lift(self) -> None:
        assert self.trainer.sizes() == (0, 0, 0), "nothing crosses the barrier"
        self.ledger.lift()

    @rule(name=st.sampled_from(WORKERS))
    def lease(self, name: str) -> None:
        lease = self.worker.lease(name, 0)
        if isinstance(lease, Lease):
            assert lease.fence == self.fence
            assert lease.ticket.key not in {held.ticket.key for held in self.held}
            self.held.append(lease)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), lag=st.integers(0, 3))
    def commit(self, data: st.DataObject, lag: int) -> None:
        lease = self.pick(data)
        version = max(0, self.step - lag)
        assert self.worker.renew(lease) and self.worker.commit(lease, shard(lease, version))
        self.versions[lease.ticket.key] = version

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        lease = self.pick(data)
        assert data.draw(st.sampled_from([self.worker.hand_back, lambda it: self.worker.fail(it, "boom")]))(lease)

    @rule(name=st.sampled_from(WORKERS))
    def crash(self, name: str) -> None:
        self.trainer.drop_worker(name)
        self.dead += [lease for lease in self.held if lease.worker == name]
        self.held = [lease for lease in self.held if lease.worker != name]

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def the_dead_are_fenced_out(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.dead))
        assert not self.worker.renew(lease)
        assert not self.worker.commit(lease, shard(lease, self.step))

    @rule()
    def the_trainer_attacks(self) -> None:
        lease = self.trainer.lease_local("trainer")
        if lease is not None:
            assert self.trainer.finish_local(lease)
            assert self.ledger.arrive(lease.ticket.key, self.step) == "accepted"
            self.versions[lease.ticket.key] = self.step

    @rule()
    def keep_house(self) -> None:
        for back in self.trainer.expired(self.fence):
            if back.reason == "failed":
                assert self.ledger.fail(back.key, back.worker, back.detail)
            else:
                assert self.ledger.lose(back.key, back.reason)

    @rule()
    def receive(self) -> None:
        while (got := self.trainer.receive(0)) is not None:
            if isinstance(got, Shard):
                assert got.version == self.versions[got.key] and got.fence == self.fence
                assert self.ledger.arrive(got.key, got.version) == "accepted"
            else:
                assert self.ledger.lose(got.key, got.reason)

    @rule()
    def payloads_vanish(self) -> None:
        for name in self.client.scan_iter(match=f"sparring:{{{self.run}}}:payload:*", count=1000):
            self.client.delete(name)

    @precondition(lambda self: not self.training)
    @rule()
    def take(self) -> None:
        taken = self.ledger.take(self.step)
        if taken is not None and taken.keys:
            assert all(self.step - self.versions[key] <= self.bound for key in taken.keys)
            assert len({key.epoch for key in taken.keys}) == 1
            self.history += taken.keys
            self.training = taken.keys
            self.step += 1

    @precondition(lambda self: self.training)
    @rule()
    def the_step_ends(self) -> None:
        self.ledger.retire(self.training)
        self.training = ()

    @precondition(lambda self: not self.training)
    @rule()
    def save(self) -> None:
        self.saved = self.ledger.state(), self.step, list(self.history)

    @rule()
    def resume(self) -> None:
        state, step, history = self.saved
        one = Ledger(**self.options)
        one.restore(**state)  # type: ignore[arg-type]
        self.begin(one, step, list(history))

    @rule()
    def the_server_is_emptied(self) -> None:
        self.client.flushall()
        with pytest.raises(QueueLost):
            self.trainer.expired(self.fence)
        self.open()
        self.ledger.reissue_everything()

    @invariant()
    def redis_and_ledger_agree(self) -> None:
        held = self.trainer.sizes()
        assert held.tickets + held.leased + held.ready <= self.ledger.outstanding <= self.ledger.permits()
        names = [key[:2] for key in self.history]
        assert len(names) == len(set(names))

    def teardown(self) -> None:
        """Whatever has happened, the run ends, and every ticket was consumed once or is set aside."""
        if not hasattr(self, "ledger"):
            return
        for name in WORKERS:
            self.crash(name)
        for _ in range(100):
            if self.ledger.finished:
                break
            self.drive()
        assert self.ledger.finished
        aside = [key[:2] for key in self.ledger.set_aside]
        every = [(epoch, number) for epoch in range(2) for number in range(self.options["shards_by_epoch"][epoch])]
        assert sorted([key[:2] for key in self.history] + aside) == every
        assert self.trainer.sizes() == (0, 0, 0)
        self.worker.forget()
        assert not list(self.client.scan_iter(match=f"sparring:{{{self.run}}}:*", count=1000))
        self.client.close()

    def drive(self) -> None:
        self.keep_house()
        if self.ledger.held:
            self.lift()
        self.issue()
        while isinstance(lease := self.worker.lease("w0", 0), Lease):
            assert self.worker.commit(lease, shard(lease, self.step))
            self.versions[lease.ticket.key] = self.step
        self.receive()
        if not self.training:
            self.take()
        if self.training:
            self.the_step_ends()

    def pick(self, data: st.DataObject) -> Lease:
        return self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))


def shard(lease: Lease, version: int) -> Shard:
    """A product of one pixel."""
    delta, labels = torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64)
    return Shard(lease.ticket.key, lease.fence, version, version, PGD(0.1).record, delta, labels, lease.worker)


Run.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRun = Run.TestCase
