"""The trainer's loop over a real queue, with workers that are threads of the test: what stragglers, failures and a lost
server do to it."""

from __future__ import annotations

import copy
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.config import new_run
from sparring.engines.asynchronous.broadcaster import Broadcaster
from sparring.engines.asynchronous.inbox import Inbox
from sparring.engines.asynchronous.loop import Loop
from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.errors import SparringError
from sparring.models.arrays import size_bytes
from sparring.observe.state import RunState
from sparring.queue.messages import Controls, Key, Lease, Shard
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import FencedOut, Transport
from sparring.runs import Run
from sparring.trainer.experiment import build_experiment
from sparring.trainer.guards.staleness import Remedies
from sparring.trainer.session import Session
from tests.support.processes import epochs_of
from tests.support.runs import small
from tests.support.shards import shard_of

SHARDS = 15  # of 100 examples each in an epoch of the digits


class Scene:
    """A loop, its server, the route of its snapshots, and workers that do as each test says."""

    def __init__(self, root: Path, server: EmbeddedServer, of: Run | None = None, **groups: Any) -> None:
        """of: a run that is continued."""
        train = {"epochs": 1, "max_steps": None, "batch_size": 100, **groups.pop("train", {})}
        attack = {"steps": 1, "warmup_epochs": 0, **groups.pop("attack", {})}
        workers = {"count": 2} | groups.pop("workers", {})
        self.config = small(root, train=train, attack=attack, workers=workers, **groups)
        self.server = server
        self.run = of or new_run(self.config)
        experiment = build_experiment(self.config)
        self.experiment = experiment
        self.session = Session(experiment, self.run, torch.device("cpu"))
        self.weights: dict[int, dict[str, Tensor]] = {}
        self.before_copying: Callable[[], None] = lambda: None
        self.after_sending: Callable[[Snapshot], None] = lambda snapshot: None
        self.ended = threading.Event()
        self.threads: list[threading.Thread] = []
        transport = self.transport()
        self.loop = Loop(
            self.session,
            experiment,
            transport,
            Broadcaster(self.session, self),
            Inbox(transport, lambda: transport.fence),
            resumed=self.session.restore() if of else None,
        )

    def transport(self) -> Transport:
        return Transport(self.server.client(), self.run.id, lease_s=5.0, timeout_s=5.0)

    def publish(self, snapshot: Snapshot, copied: Callable[[], None] = lambda: None) -> None:
        self.before_copying()
        arrays = snapshot.arrays.items()
        self.weights[snapshot.version] = {name: torch.from_numpy(array.copy()) for name, array in arrays}
        copied()
        self.after_sending(snapshot)

    def newer(self, order: tuple[int, int], timeout_s: float) -> Snapshot | None:
        raise NotImplementedError("these workers know of the weights without asking")

    exactly = newer

    def worker(self, name: str, attend: Callable[[Transport, Lease], None]) -> None:
        """A thread that leases tickets and lets `attend` deal with them."""

        def serve() -> None:
            transport = self.transport()
            while not self.ended.is_set():
                lease = transport.lease(name, 0.1)
                if isinstance(lease, Lease):
                    attend(transport, lease)

        self.thread(serve)

    def thread(self, work: Callable[[], None]) -> None:
        """Runs beside the loop, and is waited for when that has ended."""
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self.threads.append(thread)

    def attack(self, transport: Transport, lease: Lease) -> None:
        """What an honest worker does, with the version that its ticket names."""
        ticket = lease.ticket
        weights = self.published(ticket.version)
        if weights is None:
            return
        model = copy.deepcopy(self.experiment.model)
        model.load_state_dict(weights)
        shard = shard_of(self.experiment, ticket.key, Controls(0.2), ticket.version, model, ticket.fence)
        transport.commit(lease, shard)

    def published(self, version: int) -> dict[str, Tensor] | None:
        """The weights of `version`, which may be on their way; None where the run has ended without them."""
        while version not in self.weights and not self.ended.is_set():
            time.sleep(0.001)
        return self.weights.get(version)

    def run_to_end(self) -> str:
        try:
            return self.loop.run()
        finally:
            self.ended.set()
            for thread in self.threads:
                thread.join(timeout=10)


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(maxmemory=64 << 20) as server:
        yield server


def test_a_stragglers_shard_is_dropped_and_attacked_again(tmp_path: Path, server: EmbeddedServer) -> None:
    staleness = {"max_staleness": 2, "depth": 1, "exchange": False, "trainer_attacks": "never"}
    scene = Scene(tmp_path, server, staleness=staleness)
    scene.loop.broadcaster.start(scene.loop.fence)
    scene.loop.issue()
    slow = scene.transport()
    held = slow.lease("slow", 5.0)
    assert isinstance(held, Lease)

    def be_late() -> None:
        while scene.session.learner.step < 6 and not scene.ended.is_set():
            time.sleep(0.005)
            slow.renew(held)
        scene.attack(slow, held)

    scene.thread(be_late)
    scene.worker("quick", scene.attack)
    assert scene.run_to_end() == "finished"
    state = scene.session.state
    assert state.dropped["stale"] == 1
    assert max(state.staleness) <= 2
    assert epochs_of(scene.run) == {0: Counter(range(SHARDS))}


def test_a_server_that_lost_everything_costs_nothing_but_time(tmp_path: Path, server: EmbeddedServer) -> None:
    scene = Scene(tmp_path, server)
    lost: list[int] = []

    def attack_and_lose(transport: Transport, lease: Lease) -> None:
        if not lost and scene.session.learner.step >= 4:
            lost.append(scene.session.learner.step)
            server.client().flushall()
            return
        scene.attack(transport, lease)

    scene.worker("w", attack_and_lose)
    assert scene.run_to_end() == "finished"
    assert lost
    assert scene.loop.fence == 2
    assert epochs_of(scene.run) == {0: Counter(range(SHARDS))}


def test_garbage_in_every_part_of_the_queue_is_refused_and_costs_nothing(
    tmp_path: Path, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.engines.asynchronous.loop.HOUSEKEEPING_S", 0.0)
    scene = Scene(tmp_path, server)
    client, key = server.client(), scene.loop.transport._key

    def litter(transport: Transport, lease: Lease) -> None:
        client.zadd(key(f"ready:{lease.fence}"), {"garbage": 0, "0:99999:0": 0})
        client.lpush(key("tickets"), "junk", f"{lease.fence} 0:5:7 junk")
        client.hset(key("heartbeat"), "w9", b"1 \xc1")
        client.hset(key("worker_target"), "count", "many")
        client.hset(key("returned"), "junk", "junk")
        client.zadd(key("leases"), {"junk": 0})
        client.set(key("state"), "[")
        scene.attack(transport, lease)

    scene.worker("w", litter)
    assert scene.run_to_end() == "finished"
    assert {"member", "worker_target"} <= scene.session.state.refused.keys()
    assert epochs_of(scene.run) == {0: Counter(range(SHARDS))}


def test_what_is_signed_but_not_what_was_asked_for_is_attacked_again(tmp_path: Path, server: EmbeddedServer) -> None:
    scene, spoilt = Scene(tmp_path, server), set[Key]()

    def spoil_once(transport: Transport, lease: Lease) -> None:
        key = lease.ticket.key
        if key.attempt == 0 and key.number % 3 == 0:
            spoilt.add(key)
            few = torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64)
            record, version = scene.experiment.attack.record, lease.ticket.version
            wrong = Shard(key, lease.fence, version, version, record, *few, worker="w")
            transport.commit(lease, wrong)
        else:
            scene.attack(transport, lease)

    scene.worker("w", spoil_once)
    assert scene.run_to_end() == "finished" and len(spoilt) == 5
    assert scene.session.state.dropped["payload_corrupt"] == 5
    assert epochs_of(scene.run) == {0: Counter(range(SHARDS))}


def test_a_ticket_that_nobody_holds_is_issued_again(
    tmp_path: Path, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.engines.asynchronous.tickets.UNHELD_S", 0.3)
    scene, client, damaged = Scene(tmp_path, server), server.client(), list[int]()

    def damage_once(transport: Transport, lease: Lease) -> None:
        if not damaged:
            damaged.append(client.llen(transport._key("tickets")))
            client.delete(transport._key("tickets"))
        scene.attack(transport, lease)

    scene.worker("w", damage_once)
    assert scene.run_to_end() == "finished" and damaged[0] > 0
    assert scene.session.state.dropped["unheld"] == damaged[0]
    assert epochs_of(scene.run) == {0: Counter(range(SHARDS))}


def test_what_fails_before_the_weights_change_costs_no_step(tmp_path: Path, server: EmbeddedServer) -> None:
    scene = Scene(tmp_path, server)

    def other_labels(transport: Transport, lease: Lease) -> None:
        if lease.ticket.key.number < 5:
            scene.attack(transport, lease)
            return
        model, ticket = copy.deepcopy(scene.experiment.model), lease.ticket
        made = shard_of(scene.experiment, ticket.key, Controls(0.2), ticket.version, model, ticket.fence)
        transport.commit(lease, replace(made, labels=(made.labels + 1) % 10))

    scene.worker("w", other_labels)
    with pytest.raises(SparringError, match="carries other labels"):
        scene.run_to_end()
    assert scene.loop.between_steps and scene.session.learner.step == 5
    scene.session.save()
    again = Scene(tmp_path, server, of=scene.run)
    again.worker("w", again.attack)
    assert again.run_to_end() == "finished"
    assert epochs_of(scene.run) == {0: Counter(range(SHARDS))}


def test_a_fence_is_never_handed_out_twice_whatever_is_lost(tmp_path: Path, server: EmbeddedServer) -> None:
    """The server is restarted empty, then server and trainer are lost at once."""
    scene = Scene(tmp_path, server)
    first = scene.loop.fence
    server.client().flushall()
    scene.loop._start_over()
    second = scene.loop.fence
    server.client().flushall()
    again = Scene(tmp_path, server, of=scene.run)
    assert first < second < again.loop.fence == scene.run.fence
    with pytest.raises(FencedOut):
        scene.loop._start_over()
    again.ended.set()


@pytest.mark.parametrize(
    ("share", "phase", "most_steps"), [(0.0, "incomplete", None), (0.0, "incomplete", 1000), (0.1, "finished", None)]
)
def test_a_ticket_that_always_fails_is_set_aside_and_the_run_does_not_end_as_if_it_had_it(
    tmp_path: Path, server: EmbeddedServer, share: float, phase: str, most_steps: int | None
) -> None:
    train = {"max_steps": most_steps}
    scene = Scene(tmp_path, server, queue={"missing_share": share}, train=train)

    def fail_on_the_third(transport: Transport, lease: Lease) -> None:
        if lease.ticket.key.number == 2:
            transport.fail(lease, "this image is cursed")
        else:
            scene.attack(transport, lease)

    scene.worker("w", fail_on_the_third)
    assert scene.run_to_end() == phase
    assert scene.session.state.set_aside == 1 and scene.session.state.missing == 100
    assert scene.session.state.dropped["failed"] == 6  # there is one worker only
    assert epochs_of(scene.run) == {0: Counter(set(range(SHARDS)) - {2})}
    again = Scene(tmp_path, server, of=scene.run, train=train)
    again.worker("w", again.attack)
    assert again.run_to_end() == "finished" and again.session.state.set_aside == 0
    assert epochs_of(scene.run) == {0: Counter(range(SHARDS))}


def test_every_attempt_at_a_ticket_carries_the_same_warm_starts(tmp_path: Path, server: EmbeddedServer) -> None:
    scene = Scene(tmp_path, server, train={"epochs": 2}, attack={"start": "last"}, data={"limit": 300})
    carried: dict[tuple[int, int], list[tuple[bytes | None, ...]]] = {}

    def note_and_fail_once(transport: Transport, lease: Lease) -> None:
        ticket = lease.ticket
        attempts = carried.setdefault((ticket.key.epoch, ticket.key.number), [])
        attempts.append(ticket.starts)
        if len(attempts) == 1:
            transport.fail(lease, "this attempt is cursed")
        else:
            scene.attack(transport, lease)

    scene.worker("w", note_and_fail_once)
    assert scene.run_to_end() == "finished"
    assert sorted(carried) == [(epoch, number) for epoch in (0, 1) for number in range(3)]
    for (epoch, number), attempts in carried.items():
        assert len(attempts) >= 2 and len(set(attempts)) == 1
        assert len(attempts[0]) == 100
        if epoch == 0:
            assert set(attempts[0]) == {None}, number
    assert any(row is not None for row in carried[1, 2][0]), "the second epoch begins where the first ended"


def test_an_epoch_whose_last_ticket_is_set_aside_is_pruned_all_the_same(tmp_path: Path, server: EmbeddedServer) -> None:
    scene = Scene(tmp_path, server, train={"epochs": 2}, pruning={"name": "random", "share": 0.6})

    def fail_on_the_last(transport: Transport, lease: Lease) -> None:
        if lease.ticket.key[:2] == (0, SHARDS - 1):
            transport.fail(lease, "this image is cursed")
        else:
            scene.attack(transport, lease)

    scene.worker("w", fail_on_the_last)
    assert scene.run_to_end() == "incomplete"
    assert scene.session.state.set_aside == 1 and scene.session.state.kept == 575
    assert epochs_of(scene.run) == {0: Counter(range(SHARDS - 1)), 1: Counter(range(6))}


def test_a_server_that_is_lost_while_the_trainer_prunes_costs_nothing(
    tmp_path: Path, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.engines.asynchronous.loop.HOUSEKEEPING_S", 0.0)
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    scene = Scene(tmp_path, server, train={"epochs": 2}, pruning={"name": "high", "share": 0.6})
    reported: list[tuple[str, int]] = []

    def report(state: RunState) -> None:
        reported.append((state.message, scene.loop.fence))
        if state.message.startswith("pruning: 500 of 1437") and scene.loop.fence == 1:
            server.client().flushall()

    scene.session.recorder.report = report
    scene.worker("w", scene.attack)
    assert scene.run_to_end() == "finished"
    assert ("pruning: 800 of 1437 training examples attacked", 2) in reported, "housekeeping goes on meanwhile"
    assert epochs_of(scene.run) == {0: Counter(range(SHARDS)), 1: Counter(range(6))}


def test_a_stop_that_is_asked_for_while_the_trainer_prunes_is_honoured(
    tmp_path: Path, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.engines.asynchronous.loop.HOUSEKEEPING_S", 0.0)
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    scene = Scene(tmp_path, server, train={"epochs": 2}, pruning={"name": "high", "share": 0.6})

    def report(state: RunState) -> None:
        if state.message.startswith("pruning: 500 of 1437"):
            scene.loop.transport.request_stop()

    scene.session.recorder.report = report
    scene.worker("w", scene.attack)
    assert scene.run_to_end() == "stopped"
    assert scene.session.learner.step == SHARDS and not scene.run.kept.exists()
    assert scene.loop.between_steps and scene.loop.ledger.epoch == 1


def test_workers_that_fail_on_everything_end_the_run_with_their_words(tmp_path: Path, server: EmbeddedServer) -> None:
    scene = Scene(tmp_path, server)
    scene.worker("w", out_of_memory)
    with pytest.raises(SparringError, match=r"CUDA out of memory.*logs"):
        scene.run_to_end()


def out_of_memory(transport: Transport, lease: Lease) -> None:
    transport.fail(lease, "RuntimeError: CUDA out of memory")


def test_shards_that_are_of_no_use_do_not_count_as_work(tmp_path: Path, server: EmbeddedServer) -> None:
    """Workers whose secret is another one send what is refused, for ever."""
    never = {"trainer_attacks": "never"}
    scene = Scene(tmp_path, server, workers={"count": 2, "start_timeout_s": 1.0}, staleness=never)
    other = Transport(server.client(), scene.run.id, lease_s=5.0, timeout_s=5.0, secret=b"of another run")
    scene.worker("w", lambda transport, lease: scene.attack(other, lease))
    with pytest.raises(
        SparringError, match=r"no shard came for .*start_timeout_s = 1\).* shards were damaged or of an"
    ):
        scene.run_to_end()


def test_without_workers_the_run_ends_with_the_reason(tmp_path: Path, server: EmbeddedServer) -> None:
    scene = Scene(tmp_path, server, workers={"count": 2, "start_timeout_s": 0.5})
    with pytest.raises(
        SparringError, match=r"no shard came for .*workers.start_timeout_s = 0.5.*0 of workers.count = 2"
    ):
        scene.run_to_end()


def test_other_labels_than_the_trainers_are_refused(tmp_path: Path, server: EmbeddedServer) -> None:
    scene = Scene(tmp_path, server)

    def mislabel(transport: Transport, lease: Lease) -> None:
        ticket = lease.ticket
        model = copy.deepcopy(scene.experiment.model)
        shard = shard_of(scene.experiment, ticket.key, Controls(0.2), 0, model, ticket.fence)
        transport.commit(lease, replace(shard, labels=(shard.labels + 1) % 10))

    scene.worker("w", mislabel)
    with pytest.raises(SparringError, match="the hosts' training sets differ"):
        scene.run_to_end()


def test_augmix_views_go_through_the_queue_and_the_trainer_makes_its_own(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    scene = Scene(
        tmp_path,
        server,
        attack={"name": "augmix"},
        objective={"name": "augmix"},
        allocator={"name": "bullettrain", "robust_steps": 0},
        staleness={"trainer_attacks": "always"},
    )
    scene.worker("w-0", scene.attack)
    assert scene.run_to_end() == "finished"
    assert epochs_of(scene.run) == {0: Counter(range(SHARDS))}
    state = scene.session.state
    assert state.worker_shards > 0 and state.trainer_shards > 0 and state.gradients == 0
    assert sum(state.allocated.values()) == state.examples == 1437
    assert state.fresh_minus_stale is None


def test_permits_in_flight_and_the_trainers_own_attacks_follow_the_number_of_workers(
    tmp_path: Path, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.engines.asynchronous.loop.HOUSEKEEPING_S", 0.0)
    monkeypatch.setattr("sparring.config.derived.cores", lambda: 4)
    own = {"trainer_attacks": "auto"}
    loop = Scene(tmp_path, server, workers={"count": 1}, attack={"steps": 3}, staleness=own).loop
    loop.broadcaster.start(loop.fence)
    loop.issue()
    assert loop.attacks_itself and loop.in_flight == 2
    assert loop._attack_a_little() and loop.own.ready
    loop.transport.change_worker_target("start", 8)
    loop._housekeep()
    assert (loop.session.state.workers_wanted, loop.in_flight, loop.attacks_itself) == (8, 8, False)
    while loop._attack_a_little():
        pass
    assert not loop.own.ready and loop.ledger.ready == 1, "what it had begun itself it has ended"


def test_a_snapshot_holds_the_weights_of_its_version_however_late_they_are_copied(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    scene = Scene(tmp_path, server)
    weights: dict[int, dict[str, Tensor]] = {}
    arrived = threading.Event()

    def note() -> None:
        """When the trainer wants to change them, it has come as far as it may."""
        learner = scene.session.learner
        weights[learner.step] = {name: each.clone() for name, each in learner.model.state_dict().items()}
        arrived.set()
        scene.loop.broadcaster.until_copied()

    def linger() -> None:
        arrived.wait(0.2)
        arrived.clear()

    scene.session.learner.before_change, scene.before_copying = note, linger
    scene.worker("w", scene.attack)
    assert scene.run_to_end() == "finished"
    assert len(weights) == SHARDS
    for version, tensors in weights.items():
        assert all(torch.equal(tensor, scene.weights[version][name]) for name, tensor in tensors.items()), version
    state = scene.session.state
    assert state.publish_bytes == state.publications * size_bytes(scene.session.learner.model)


def test_a_snapshot_that_cannot_be_sent_ends_the_run(tmp_path: Path, server: EmbeddedServer) -> None:
    scene = Scene(tmp_path, server)

    def refuse() -> None:
        if scene.session.learner.step == 3:
            raise SparringError("the object store is full")

    scene.before_copying = refuse
    scene.worker("w", scene.attack)
    with pytest.raises(SparringError, match="the object store is full"):
        scene.run_to_end()


def test_a_server_that_is_lost_while_a_snapshot_is_under_way_costs_nothing_but_time(
    tmp_path: Path, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.engines.asynchronous.loop.HOUSEKEEPING_S", 0.0)
    scene = Scene(tmp_path, server)
    sent: list[int] = []

    def lose_everything(snapshot: Snapshot) -> None:
        if snapshot.version == 4 and not sent:
            sent.append(snapshot.version)
            server.client().flushall()
            limit = time.monotonic() + 0.5
            while scene.loop.fence == 1 and time.monotonic() < limit:  # the trainer might start over meanwhile
                time.sleep(0.01)

    scene.after_sending = lose_everything
    scene.worker("w", scene.attack)
    assert scene.run_to_end() == "finished"
    assert sent and scene.loop.fence == 2
    assert epochs_of(scene.run) == {0: Counter(range(SHARDS))}


@pytest.mark.parametrize("name", ["none", "publish_every", "refresh", "depth"])
def test_the_loop_does_what_the_remedies_say(tmp_path: Path, server: EmbeddedServer, name: str) -> None:
    """The recipe's own: 4 steps between broadcasts, 4 steps' worth of shards outstanding, no refresh."""
    staleness = {"max_staleness": 12, "depth": 4, "publish_every": 4, "exchange": False, "trainer_attacks": "never"}
    scene = Scene(tmp_path, server, staleness=staleness)
    guard = scene.session.staleness
    remedy: dict[str, Remedies] = {
        "none": guard.remedies,
        "publish_every": replace(guard.remedies, publish_every=1),
        "refresh": replace(guard.remedies, refresh=2),
        "depth": replace(guard.remedies, publish_every=1, depth=0),
    }
    guard.rungs = (remedy[name],)
    scene.worker("honest", scene.attack)
    assert scene.run_to_end() == "finished"
    state = scene.session.state
    assert state.step == SHARDS
    assert state.publications == (1 + SHARDS if name in ("publish_every", "depth") else 1 + SHARDS // 4)
    assert state.refresh_steps == (2 * SHARDS if name == "refresh" else 0)
    assert (max(state.staleness) == 0) == (name == "depth")
