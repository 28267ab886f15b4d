"""The trainer's own attacks on tickets of the queue, one step at a time while it waits for shards."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from sparring.attacks import frozen
from sparring.attacks.starts import unpacked
from sparring.config import gate_patience_s, share_of_step
from sparring.queue.connection import QueueRefused, QueueUnavailable
from sparring.queue.messages import TRAINER, Key, Lease, RankOf, Shard
from sparring.queue.transport import FencedOut, QueueFull, QueueLost, Transport
from sparring.trainer.experiment import Experiment
from sparring.trainer.finish import Heads
from sparring.trainer.learner import Learner
from sparring.workers.gate import Gate
from sparring.workers.generator import ShrinkingBatch, begin
from sparring.workers.task import Task
from sparring.workers.views import Augmentation

log = logging.getLogger(__name__)
ALONE = RankOf()


def name_of(rank: int) -> str:
    """Name of a trainer as the maker of shards."""
    return TRAINER if rank == 0 else f"{TRAINER}-{rank}"


def ended(transport: Transport, lease: Lease, shard: Shard, me: RankOf) -> Shard | None:
    """End the lease of a finished attack: the shard if this trainer trains on it, else it goes through the queue. None
    also where the lease was lost."""
    if me.trains_on(shard.key):
        return shard if transport.finish_local(lease) else None
    try:
        transport.commit(lease, shard)
    except QueueFull as error:
        transport.refuse(lease, "queue_full", str(error))
    return None


def attack_a_little(own: OwnAttacks, may_begin: bool) -> tuple[bool, Shard | None]:
    """One step of a trainer's own attack: whether there was one to make, and the shard that it has finished.

    Whatever a user's method raises costs the tickets in work an attempt, as it does with a worker.
    """
    try:
        if not own.ready and not (may_begin and own.begin()):
            return False, None
        return True, own.advance()
    except (QueueUnavailable, QueueRefused, QueueLost, FencedOut):
        raise
    except Exception as error:
        log.error("a trainer's own attack failed", exc_info=error)
        own.fail(f"{type(error).__name__}: {str(error)[:500]}")
        return True, None


class OwnAttacks(Protocol):
    """What the trainer attacks itself."""

    @property
    def ready(self) -> bool:
        """Whether a ticket is in work that can go on now."""

    @property
    def active(self) -> int | None:
        """Examples that take part in the next step; None: the attack is to be prepared."""

    def begin(self) -> bool:
        """Take a ticket into work; False: there is none."""

    def advance(self) -> Shard | None:
        """One attack step; the shard, once it is finished and its lease is still live."""

    def fail(self, error: str) -> None:
        """Give the tickets in work back, since the attack failed."""

    def drop(self) -> None:
        """Forget the tickets in work."""


class OwnAttack:
    """An attack under the learner's present weights; `lease` is that of the ticket in work."""

    def __init__(self, experiment: Experiment, learner: Learner, transport: Transport, me: RankOf = ALONE) -> None:
        self._experiment, self._learner, self._transport = experiment, learner, transport
        self._me, self._name = me, name_of(me.rank)
        self.lease: Lease | None = None
        self._work: ShrinkingBatch | Augmentation | None = None

    @property
    def ready(self) -> bool:
        return self.lease is not None

    @property
    def active(self) -> int | None:
        return None if self._work is None else self._work.active

    def begin(self) -> bool:
        self.lease = self._transport.lease_local(self._name)
        if self.lease is None:
            return False
        ticket, learner, training = self.lease.ticket, self._learner, self._experiment.training
        controls = learner.controls()
        start = unpacked(ticket.starts, training.shape, controls.epsilon)
        task = Task(ticket.key, ticket.indices, ticket.fence, self._name, start)
        with frozen(learner.model):
            self._work = begin(task, learner.context, controls, learner.step)
        return True

    def advance(self) -> Shard | None:
        work, lease = self._work, self.lease
        if work is None or lease is None:
            return None
        if not work.done:
            with frozen(self._learner.model):
                work.advance(self._learner.step)
        if not work.done:
            return None
        self.drop()
        return ended(self._transport, lease, work.shard(), self._me)

    def fail(self, error: str) -> None:
        if self.lease is not None:
            self._transport.fail(self.lease, error)
        self.drop()

    def drop(self) -> None:
        self.lease = self._work = None


class OwnFinish:
    """Attacks with a fresh finish, as workers make them."""

    def __init__(
        self,
        experiment: Experiment,
        heads: Heads,
        transport: Transport,
        clock: Callable[[], float] = time.monotonic,
        me: RankOf = ALONE,
    ) -> None:
        self._experiment, self._heads, self._transport = experiment, heads, transport
        self._me, self._name = me, name_of(me.rank)
        self._finisher, config = heads.finisher(), experiment.config
        self._gate = Gate(self._finisher, share_of_step(config), gate_patience_s(config), clock)
        self._leases: dict[tuple[int, Key], Lease] = {}

    @property
    def ready(self) -> bool:
        return not self._finisher.waits

    @property
    def active(self) -> int | None:
        return self._finisher.active

    def begin(self) -> bool:
        for owner in self._finisher.passed():
            self._transport.hand_back(self._leases.pop(owner))
        lease = self._transport.lease_local(self._name, self._gate.room)
        if lease is None:
            return False
        ticket, shape = lease.ticket, self._experiment.training.shape
        head, finish = self._heads.of(ticket.key)
        start = unpacked(ticket.starts, shape, finish.epsilon)
        task = Task(ticket.key, ticket.indices, ticket.fence, self._name, start)
        self._finisher.begin(task, head, finish)
        self._leases[lease.owner] = lease
        return True

    def advance(self) -> Shard | None:
        shard = self._finisher.advance()
        if shard is None:
            return None
        lease = self._leases.pop((shard.fence, shard.key))
        mine = ended(self._transport, lease, shard, self._me)
        return None if mine is None else self._heads.received(mine)

    def fail(self, error: str) -> None:
        for lease in self._leases.values():
            self._transport.fail(lease, error)
        self.drop()

    def drop(self) -> None:
        self._leases.clear()
        self._finisher.clear()


def own_attacks(
    experiment: Experiment,
    learner: Learner,
    heads: Heads,
    transport: Transport,
    clock: Callable[[], float] = time.monotonic,
    me: RankOf = ALONE,
) -> OwnAttacks:
    """The attacks of a trainer, with a fresh finish where the recipe has one."""
    if heads.on:
        return OwnFinish(experiment, heads, transport, clock, me)
    return OwnAttack(experiment, learner, transport, me)
