"""A worker of the Ray engine over a real queue, driven step by step: leases, pushes, failures, leaving."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparring.config import new_run
from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.engines.ray.actor_inputs import ActorInputs
from sparring.engines.ray.snapshots import QueueRoute
from sparring.engines.ray.worker import Worker
from sparring.models.arrays import to_arrays
from sparring.queue.messages import Controls, Key, Lease, Shard, Stop, Ticket
from sparring.queue.opening import QueueAddress
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import QueueFull, Transport
from sparring.trainer.experiment import build_experiment
from tests.support.digits import half_trained, training_digits
from tests.support.queues import opened
from tests.support.runs import small


class Scene:
    """A worker with slots over a real queue, driven step by step, and the trainer's side of that queue."""

    def __init__(self, root: Path, server: EmbeddedServer, model: nn.Module) -> None:
        config = small(
            root,
            allocator={"name": "bullettrain", "slots": 160},
            train={"epochs": 1, "max_steps": None, "batch_size": 40},
            workers={"count": 1, "threads": torch.get_num_threads()},
            queue={"weights": "redis"},
        )
        self.experiment, run = build_experiment(config), new_run(config)
        self.experiment.model.load_state_dict(model.state_dict())
        self.trainer = Transport(server.client(), run.id, lease_s=5.0, timeout_s=5.0)
        self.fence = opened(self.trainer)
        self.publish(0)
        tree = config.model_dump(mode="json", exclude_none=True)
        self.worker = Worker(
            tree, "w", str(run.path), run.id, QueueAddress(server.url, server.password), "", ActorInputs((), {}, ())
        )
        self.issue(3)
        self.worker.take_tickets()

    def publish(self, version: int) -> None:
        arrays = to_arrays(self.experiment.model)
        QueueRoute(self.trainer, 2).publish(Snapshot(self.fence, version, Controls(0.2, 0.4), arrays))

    def issue(self, count: int) -> None:
        fingerprint = self.experiment.training.fingerprint
        self.trainer.issue(
            [Ticket(Key(0, n, 0), self.fence, 0, self.experiment.plan.indices(0, n), fingerprint) for n in range(count)]
        )

    def finish(self) -> list[Key]:
        """The tickets that the worker commits."""
        for _ in range(100):
            self.worker.free_lost()
            self.worker.advance()
        self.worker.push_made()
        self.worker.settle_push()
        keys = []
        while (received := self.trainer.receive(0.0)) is not None:
            assert isinstance(received, Shard)
            keys.append(received.key)
        return sorted(keys)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return half_trained(training_digits())


@pytest.fixture
def scene(tmp_path: Path, model: nn.Module) -> Iterator[Scene]:
    threads = torch.get_num_threads()
    with EmbeddedServer(maxmemory=64 << 20) as server:
        made = Scene(tmp_path, server, model)
        try:
            yield made
        finally:
            made.worker.attacks.stop()
            torch.set_num_threads(threads)


def test_a_lost_lease_costs_its_own_ticket_alone(scene: Scene) -> None:
    worker = scene.worker
    leases = list(worker.leases.values())
    assert len(leases) == 3 and scene.trainer.sizes().leased == 3
    worker.advance()
    scene.trainer.hand_back(leases[0])  # as the server does where a lease runs out
    worker.renew()
    assert scene.finish() == [leases[1].ticket.key, leases[2].ticket.key]
    assert worker.counts["abandoned"] == 1 and not worker.leases and worker.attacks.room(0) == "any"


def test_tickets_that_fail_together_cost_none_an_attempt_and_are_attacked_alone(scene: Scene) -> None:
    def broken(module: nn.Module, images: tuple[Tensor]) -> None:
        raise RuntimeError("out of memory")

    hook = scene.worker.model.register_forward_pre_hook(broken)
    scene.worker.advance()
    lost = scene.trainer.expired(scene.fence)
    assert sorted(each.key.number for each in lost) == [0, 1, 2]
    assert all(each.reason == "failed_together" and "out of memory" in each.detail for each in lost)
    assert not scene.worker.leases and scene.worker.attacks.room(0) == "any"
    hook.remove()
    scene.issue(3)
    for number in range(3):
        scene.worker.take_tickets()
        assert [lease.ticket.key.number for lease in scene.worker.leases.values()] == [number]
        assert [key.number for key in scene.finish()] == [number]


def test_a_shard_is_sent_beside_the_next_attack_and_its_lease_is_renewed_meanwhile(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, renewed = threading.Event(), list[Lease]()
    commit, renew = scene.worker.transport.commit, scene.worker.beating.renew

    def slow(lease: Lease, shard: Shard) -> bool:
        assert shard.key != last or go.wait(10)
        return commit(lease, shard)

    def note(lease: Lease) -> bool:
        renewed.append(lease)
        return renew(lease)

    while scene.worker.leases:
        scene.worker.advance()
    last = scene.worker.made[-1][1].key
    monkeypatch.setattr(scene.worker.transport, "commit", slow)
    scene.worker.push_made()
    push = scene.worker.under_way
    assert push is not None and scene.trainer.sizes().leased == 1
    before = scene.worker.counts["shards"]
    scene.worker.settle_push(wait=False)
    monkeypatch.setattr(scene.worker.beating, "renew", note)
    scene.worker.renew()
    assert push[0] in renewed and scene.worker.counts["shards"] == before
    go.set()
    scene.worker.settle_push()
    assert scene.worker.under_way is None and scene.worker.counts["shards"] == before + 1


@pytest.mark.parametrize("fault", ["refused", "lost"])
def test_a_shard_that_is_not_taken_costs_its_own_ticket_alone(
    scene: Scene, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = scene.worker.transport.commit
    tried: list[Key] = []

    def faulty(lease: Lease, shard: Shard) -> bool:
        tried.append(shard.key)
        if len(tried) > 1:
            return commit(lease, shard)
        if fault == "refused":
            raise QueueFull("no memory for a shard")
        scene.trainer.hand_back(lease)  # as the server does where a lease runs out
        return commit(lease, shard)

    monkeypatch.setattr(scene.worker.transport, "commit", faulty)
    committed = scene.finish()
    (back,) = scene.trainer.expired(scene.fence)
    assert back.key == tried[0] and sorted([back.key, *committed]) == [Key(0, n, 0) for n in range(3)]
    assert back.reason == ("queue_full" if fault == "refused" else "handed_back")
    assert scene.worker.counts["abandoned"] == (0 if fault == "refused" else 1)


def test_a_worker_that_is_told_to_stop_hands_all_its_tickets_back(scene: Scene) -> None:
    serving = threading.Thread(target=scene.worker.serve)
    scene.worker.model.register_forward_pre_hook(lambda module, images: scene.worker.stopping.set())
    serving.start()
    serving.join(timeout=10)
    assert not serving.is_alive()
    back = scene.trainer.expired(scene.fence)
    assert sorted((each.key.number, each.reason) for each in back) == [(n, "handed_back") for n in range(3)]


def test_a_worker_that_is_drained_finishes_its_tickets_and_takes_no_more(scene: Scene) -> None:
    scene.issue(4)  # the fourth waits
    scene.trainer.request_stop("w")
    assert scene.worker.serve() == "left"
    committed = scene.finish()
    assert committed == [Key(0, 0, 0), Key(0, 1, 0), Key(0, 2, 0)]
    assert scene.trainer.expired(scene.fence) == [] and scene.worker.counts["abandoned"] == 0
    assert scene.trainer.sizes().tickets >= 1, "others get what it did not take"


def test_a_worker_that_is_drained_hands_back_what_it_cannot_finish_in_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.engines.ray.worker.LEAVE_WITHIN_S", 0.0)
    scene.worker.model.register_forward_pre_hook(lambda module, images: scene.worker.obey(Stop.DRAIN))
    assert scene.worker.serve() == "left"
    back = scene.trainer.expired(scene.fence)
    assert {each.reason for each in back} == {"handed_back"} and len(back) + len(scene.finish()) == 3
    assert len(back) >= 1


def test_a_worker_shares_the_cores_with_as_many_as_there_are_to_be(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.config.derived.cores", lambda: 7)  # one of them is the trainer's
    free = scene.worker.config.workers.model_copy(update={"threads": None})
    scene.worker.config = scene.worker.config.model_copy(update={"workers": free})
    for wanted, threads in ((1, 6), (3, 2), (12, 1)):
        scene.worker.target_count = wanted
        scene.worker.share_cores()
        assert torch.get_num_threads() == threads
