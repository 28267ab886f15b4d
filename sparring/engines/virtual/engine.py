"""The asynchronous engine on a virtual clock: the same loop, ledger, permits and attackers, and no other process.

Every attack step, training step and publication is computed with the weights that its worker would have at that time,
so staleness is what the pipeline produces. The run's seconds are virtual.

Run it: sparring train RECIPE --engine virtual --workers 8
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from sparring.config import Config, exchanges
from sparring.engines.asynchronous.loop import Loop
from sparring.engines.asynchronous.own_attack import OwnAttacks
from sparring.engines.virtual.cluster import Cluster, VirtualTransport
from sparring.engines.virtual.worker import FinishingWorker, NewestWorker, VirtualWorker
from sparring.queue.codec import Objection
from sparring.queue.messages import Missing, Shard
from sparring.queue.sizing import kept_snapshots
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.experiment import Experiment
from sparring.trainer.history import Past, networks_of
from sparring.trainer.learner import StepResult
from sparring.trainer.session import Session


def run(session: Session, experiment: Experiment, resumed: Checkpoint | None) -> str:
    """Train to the end of the run; returns how it ended."""
    config = experiment.config
    cluster = Cluster(config.virtual, lease_s=config.queue.lease_s, seed=config.train.seed)
    session.recorder.clock = cluster.clock
    loop = VirtualLoop(session, experiment, cluster, resumed)
    _people(cluster, experiment)
    return loop.run()


def _people(cluster: Cluster, experiment: Experiment) -> None:
    """The workers, and what happens to them."""
    config = experiment.config
    joining = {event.worker for event in config.virtual.events if event.what == "joins"}
    workers = {n: worker_of(cluster, experiment, n) for n in range(1, config.workers.count + 1) if n not in joining}

    def join(number: int) -> None:
        workers[number] = worker_of(cluster, experiment, number)
        workers[number].wake()

    def slow(number: int, speed: float) -> None:
        workers[number].speed = speed

    def die(number: int) -> None:
        workers[number].die()

    for event in config.virtual.events:
        happens = {
            "dies": partial(die, event.worker),
            "joins": partial(join, event.worker),
            "slows": partial(slow, event.worker, event.speed),
        }
        cluster.after(event.at_s, happens[event.what])


def worker_of(cluster: Cluster, experiment: Experiment, number: int) -> VirtualWorker:
    """Worker `number`, from 1 on."""
    config, name = experiment.config, f"worker-{number}"
    speed = speed_of(config, number)
    if config.staleness.finish != "off":
        return FinishingWorker(experiment, cluster, name, speed)
    return NewestWorker(experiment, cluster, name, speed, exchange=exchanges(config.staleness))


def speed_of(config: Config, number: int) -> float:
    """Speed of worker `number`; 1 where none is set."""
    speeds = config.virtual.speeds
    return speeds[number - 1] if number <= len(speeds) else 1.0


class VirtualLoop(Loop):
    """The trainer's loop, whose steps and waits take virtual time."""

    def __init__(self, session: Session, experiment: Experiment, cluster: Cluster, resumed: Checkpoint | None) -> None:
        transport: Any = VirtualTransport(cluster)
        broadcaster: Any = VirtualBroadcaster(session, cluster)
        super().__init__(
            session,
            experiment,
            transport,
            broadcaster,
            VirtualInbox(cluster),
            resumed=resumed,
            clock=cluster.clock,
        )
        self.cluster = cluster
        self.own = VirtualOwn(self.own, experiment, cluster)

    def learn(self, shards: list[Shard], arrivals: list[int]) -> StepResult:
        state = self.session.state
        before = state.step_seconds
        result = super().learn(shards, arrivals)
        seconds = self.cluster.varied(self.cluster.step_s(sum(len(shard.labels) for shard in shards)))
        self.cluster.advance(seconds)
        state.step_seconds = before + seconds
        return result


class VirtualInbox:
    """What has arrived at the virtual time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def start(self, objection: Objection) -> None:
        """Nothing to start."""

    def take(self, timeout_s: float) -> list[Shard | Missing]:
        if not self._cluster.arrived:
            self._cluster.wait(timeout_s)
        taken: list[Shard | Missing] = [*self._cluster.arrived]
        self._cluster.arrived.clear()
        return taken

    def close(self) -> None:
        """Nothing to close."""


class VirtualBroadcaster:
    """Sends copies of the weights to all workers; they arrive a little later."""

    def __init__(self, session: Session, cluster: Cluster) -> None:
        self.published = -1
        self._session, self._cluster, learner = session, cluster, session.learner
        self._trained = networks_of(learner.model, learner.experiment.changing_helper)
        self._keep = kept_snapshots(session.config.staleness)

    def start(self, fence: int, older: Sequence[Past] = ()) -> None:
        learner, state = self._session.learner, self._session.state
        for past in older:
            self._cluster.publish((fence, past.version), past.weights, past.controls, self._keep)
        weights = {name: tensor.clone() for name, tensor in self._trained.state_dict().items()}
        self._cluster.publish((fence, learner.step), weights, learner.controls(), self._keep)
        self.published = state.version = learner.step
        state.fence, state.publications = fence, state.publications + 1

    def settle(self, wait: bool = True) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        """Nothing to close."""


class VirtualOwn:
    """The trainer's own attacks, whose steps take virtual time."""

    def __init__(self, own: OwnAttacks, experiment: Experiment, cluster: Cluster) -> None:
        self._own, self._experiment, self._cluster = own, experiment, cluster

    @property
    def ready(self) -> bool:
        return self._own.ready

    @property
    def active(self) -> int | None:
        return self._own.active

    def begin(self) -> bool:
        return self._own.begin()

    def advance(self) -> Shard | None:
        active = self._own.active
        seconds = 0.0 if active is None else self._cluster.attack_step_s(active)
        shard = self._own.advance()
        self._cluster.advance(self._cluster.varied(seconds))
        return shard

    def drop(self) -> None:
        self._own.drop()
