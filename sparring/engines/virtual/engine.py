"""The asynchronous engine on a virtual clock: the same loop, ledger, permits and attackers, and no other process.

Every attack step, training step and publication is computed with the weights that its worker would have at that time,
so staleness is what the pipeline produces. The run's seconds are virtual.

Run it: sparring train RECIPE --engine virtual --workers 8
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from sparring.config import exchanges
from sparring.engines.asynchronous.loop import Loop
from sparring.engines.asynchronous.own_attack import own_attacks
from sparring.engines.virtual.cluster import Cluster, VirtualTransport
from sparring.engines.virtual.events import TrainerDied, populate, speed_of
from sparring.engines.virtual.own_attack import VirtualOwn, VirtualRank
from sparring.engines.virtual.times import allreduce_s, prepare_s
from sparring.engines.virtual.worker import FinishingWorker, NewestWorker, VirtualWorker
from sparring.queue.codec import Objection
from sparring.queue.messages import Key, Missing, RankOf, Shard
from sparring.queue.sizing import kept_snapshots
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.experiment import Experiment
from sparring.trainer.history import Past, networks_of
from sparring.trainer.learner import StepResult
from sparring.trainer.session import Session

L = TypeVar("L", bound="VirtualLoop")
GRADIENT_BYTES = 4  # of a parameter, as float32


def run(session: Session, experiment: Experiment, resumed: Checkpoint | None) -> str:
    """Train to the end of the run; returns how it ended. A trainer that dies goes on from the last checkpoint."""
    loop, deaths = loop_of(session, experiment, partial(VirtualLoop, session, experiment, resumed=resumed)), 0
    while True:
        try:
            return loop.run()
        except TrainerDied as death:
            deaths += 1
            loop = _revived(loop, death.down_s, deaths)


def _revived(loop: VirtualLoop, down_s: float, deaths: int) -> VirtualLoop:
    """The loop of the next trainer. The time since the last checkpoint and `down_s` stay counted."""
    session = loop.session
    loop.die()
    loop.cluster.advance(down_s)
    session.recorder.read_clock()
    lasted_s = session.state.seconds
    checkpoint = session.restore(again=True)
    session.state.seconds, session.state.trainer_restarts = lasted_s, deaths
    return VirtualLoop(session, loop.experiment, loop.cluster, checkpoint)


def loop_of(session: Session, experiment: Experiment, made: Callable[[Cluster], L]) -> L:
    """The loop that is made for the session's virtual cluster, whose workers come after it; the session goes by the
    cluster's clock."""
    config = experiment.config
    cluster = Cluster(config.virtual, lease_s=config.queue.lease_s, seed=config.train.seed)
    session.recorder.clock = cluster.clock
    loop = made(cluster)
    populate(cluster, config, partial(worker_of, cluster, experiment))
    return loop


def worker_of(cluster: Cluster, experiment: Experiment, number: int) -> VirtualWorker:
    """Worker `number`, from 1 on."""
    config, name = experiment.config, f"worker-{number}"
    speed = speed_of(config, number)
    if config.staleness.finish != "off":
        return FinishingWorker(experiment, cluster, name, speed)
    return NewestWorker(experiment, cluster, name, speed, exchange=exchanges(config.staleness))


class VirtualLoop(Loop):
    """The trainer's loop, whose steps and waits take virtual time.

    With `trainer.count` = R there are R − 1 more trainers. The shards of a step are divided among all R, the gradient
    is computed once on the whole batch, which is the sum over the ranks (and batch statistics are those of all). The
    step lasts until the last rank has ended, and the gradients are summed by an all-reduce. All ranks have the new
    weights then; workers have them after the latency of publication. A shard that a rank has attacked and another one
    trains on takes as long to get there as one of a worker.
    """

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
        takes_s = prepare_s(cluster.settings, experiment.attack, experiment.allocator, experiment.plan.batch_size)
        count = experiment.config.trainer.count
        self.own = VirtualOwn(self.own, cluster, takes_s, RankOf(0, count))
        self.ranks = [
            VirtualRank(
                own_attacks(experiment, self.learner, session.heads, transport, cluster.clock),
                cluster,
                takes_s,
                RankOf(rank, count),
            )
            for rank in range(1, count if self.attacks_itself else 1)
        ]
        size_bytes = sum(each.numel() for each in self.learner.model.parameters()) * GRADIENT_BYTES
        self._allreduce_s = allreduce_s(cluster.settings, count, size_bytes)

    def die(self) -> None:
        """Its trainers are gone, with what they attack."""
        for rank in self.ranks:
            rank.die()

    def step(self, keys: tuple[Key, ...]) -> None:
        for rank in self.ranks:
            rank.train()
        super().step(keys)
        for rank in self.ranks:
            rank.wake_up()

    def learn(self, shards: list[Shard], arrivals: list[int]) -> StepResult:
        state = self.session.state
        before = state.step_seconds
        result = super().learn(shards, arrivals)
        sizes, waits = [len(shard.labels) for shard in shards], [0.0, *(rank.busy_s for rank in self.ranks)]
        seconds = self.cluster.parallel_step_s(sizes, self.config.trainer.count, waits) + self._allreduce_s
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
