"""A run in one process whose parts can die: the real loop, ledger, transport and session over a real Redis, and workers
that are threads which send unperturbed images."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sparring.config import Config, new_run
from sparring.engines.asynchronous.broadcaster import Broadcaster
from sparring.engines.asynchronous.inbox import Inbox
from sparring.engines.asynchronous.loop import Loop
from sparring.engines.asynchronous.snapshot import Snapshot
from sparring.errors import SparringError
from sparring.queue.connection import connect
from sparring.queue.messages import Key, Lease, Shard
from sparring.queue.transport import Transport
from sparring.runs import Run
from sparring.trainer.experiment import build_experiment
from sparring.trainer.session import Session
from tests.support.clock import JumpingClock

LEASE_S, TIMEOUT_S = 0.3, 4.0
MEMORY = 64 << 20


class Killed(BaseException):
    """The trainer's process is gone, in the middle of whatever it did."""


class World:
    """A run, its server and its workers. `at_step` is called in the trainer, before each of its steps."""

    def __init__(self, config: Config, seed: int, workers: int) -> None:
        self.config, self.random = config, random.Random(seed)
        self.run: Run = new_run(config)
        self.experiment = build_experiment(config)
        self.secret, self.workers = self.random.randbytes(32), workers
        self.paused: dict[str, float] = {}  # for how many seconds a worker does nothing, not even renew
        self.poisoned: set[tuple[int, int]] = set()
        self.at_step: Callable[[int], None] = lambda step: None
        self.steps_at: list[float] = []  # when each step was made
        self.later: dict[int, list[Callable[[World], None]]] = {}  # what happens when so many steps were made
        self.lives = 0
        self.clock = JumpingClock(self.run.path / "clock")

    def then(self, steps: int, faults: list[Callable[[World], None]]) -> None:
        """Let faults happen so many steps later."""
        self.later.setdefault(len(self.steps_at) + steps, []).extend(faults)

    def transport(self) -> Transport:
        client = connect(self.server.url, self.server.password, TIMEOUT_S)
        return Transport(client, self.run.id, lease_s=LEASE_S, timeout_s=TIMEOUT_S, secret=self.secret)

    @property
    def tickets(self) -> list[list[int]]:
        """Examples of each ticket of each epoch."""
        plan = self.experiment.plan
        return [[len(plan.indices(epoch, n)) for n in range(plan.shards(epoch))] for epoch in range(plan.epochs)]

    def live(self) -> str:
        """Train from the newest checkpoint to the end of the run, through as many lives of the trainer as it takes;
        returns how it ended."""
        self.server, self.ended = self.clock.server(MEMORY), threading.Event()
        threads = [threading.Thread(target=self._work, args=(f"w{n}",), daemon=True) for n in range(self.workers)]
        for thread in threads:
            thread.start()
        try:
            while (phase := self._one_life()) == "":
                pass
            return phase
        finally:
            self.ended.set()
            for thread in threads:
                thread.join(timeout=30)
            self.server.stop()

    def _one_life(self) -> str:
        """How the run ended; empty: the trainer was killed."""
        self.lives += 1
        session = Session(build_experiment(self.config), self.run, torch.device("cpu"))
        transport = self.transport()
        inbox = Inbox(transport, lambda: transport.fence)
        broadcaster = Broadcaster(session, _Nowhere())
        loop = None
        try:
            resumed = session.restore()
            loop = _Watched(self, session, session.experiment, transport, broadcaster, inbox, resumed=resumed)
            return loop.run()
        except Killed:
            return ""
        except SparringError as error:
            if loop is not None and loop.between_steps:
                session.save()
            return f"failed: {error}"
        finally:
            inbox.close()
            broadcaster.close()
            transport.close()

    def _work(self, name: str) -> None:
        transport, plan = self.transport(), self.experiment.plan
        while not self.ended.is_set():
            try:
                lease = transport.lease(name, 0.05)
                if isinstance(lease, Lease):
                    self._attack(transport, lease, plan.indices(*lease.ticket.key[:2]))
            except SparringError:
                continue
        transport.close()

    def _attack(self, transport: Transport, lease: Lease, indices: tuple[int, ...]) -> None:
        """An attack that takes a little time; a pause outlasts the lease."""
        pause_s = self.paused.pop(lease.worker, 0.0)
        if pause_s:
            self.ended.wait(pause_s)
        if lease.ticket.key[:2] in self.poisoned:
            transport.fail(lease, "ValueError: poison")
            return
        transport.commit(lease, self._shard(lease, indices))

    def _shard(self, lease: Lease, indices: tuple[int, ...]) -> Shard:
        data, version = self.experiment.training, lease.ticket.version
        _, labels = data.batch(torch.tensor(indices), lease.ticket.key.epoch)
        delta = torch.zeros(len(indices), *data.shape)
        record = self.experiment.attack.record
        return Shard(lease.ticket.key, lease.fence, version, version, record, delta, labels, lease.worker)


class _Watched(Loop):
    """A loop whose steps are counted, and in which faults happen."""

    def __init__(self, world: World, *parts: Any, **options: Any) -> None:
        self.world = world
        super().__init__(*parts, **options)

    def step(self, keys: tuple[Key, ...]) -> None:
        world = self.world
        for fault in world.later.pop(len(world.steps_at), ()):
            fault(world)
        world.at_step(self.learner.step)
        super().step(keys)
        self.world.steps_at.append(time.monotonic())


class _Nowhere:
    """A route of snapshots to workers that need none."""

    def publish(self, snapshot: Snapshot, copied: Callable[[], None] = lambda: None) -> None:
        copied()

    def newer(self, order: tuple[int, int], timeout_s: float) -> Snapshot | None:
        raise AssertionError("these workers attack without weights")

    exactly = newer


def recipe(root: Path, random_: random.Random) -> dict[str, Any]:
    """Settings of a short run, drawn at random; as `tests.support.runs.small` takes them."""
    depth = random_.choice((0, 1, 2, 3))
    return {
        "data": {"limit": 200},
        "train": {
            "epochs": 2,
            "max_steps": random_.choice((None, 1000)),
            "batch_size": 20,
            "shards_per_step": random_.choice((1, 2, 3)),
            "seed": random_.randrange(1000),
        },
        "attack": {"steps": 1, "warmup_epochs": 0},
        "staleness": {
            "depth": depth,
            "max_staleness": depth + random_.choice((1, 2)),
            "exchange": random_.random() < 0.5,
            "trainer_attacks": random_.choice(("never", "always")),
        },
        "checkpoint": {"every_steps": random_.choice((1, 2, 3, 5)), "keep": 3},
        "queue": {"lease_s": LEASE_S, "timeout_s": TIMEOUT_S},
        "trainer": {"wait_timeout_s": 30.0, "threads": 1},
    }
