"""The trainer's own attack on a ticket of the queue, one step at a time while it waits for shards."""

from __future__ import annotations

from sparring.attacks import frozen
from sparring.attacks.starts import unpacked
from sparring.queue.messages import Lease, Shard
from sparring.queue.transport import Transport
from sparring.trainer.experiment import Experiment
from sparring.trainer.learner import Learner
from sparring.workers.generator import ShrinkingBatch, begin
from sparring.workers.task import Task
from sparring.workers.views import Augmentation


class OwnAttack:
    """An attack under the learner's present weights; `lease` is that of the ticket in work."""

    def __init__(self, experiment: Experiment, learner: Learner, transport: Transport) -> None:
        self._experiment, self._learner, self._transport = experiment, learner, transport
        self.lease: Lease | None = None
        self._work: ShrinkingBatch | Augmentation | None = None

    def begin(self) -> bool:
        """Take a ticket into work; False: there is none."""
        self.lease = self._transport.lease_local("trainer")
        if self.lease is None:
            return False
        ticket, learner, training = self.lease.ticket, self._learner, self._experiment.training
        controls = learner.controls()
        start = unpacked(ticket.starts, training.shape, controls.epsilon)
        task = Task(ticket.key, ticket.indices, ticket.fence, "trainer", start)
        with frozen(learner.model):
            self._work = begin(task, learner.context, controls, learner.step)
        return True

    def advance(self) -> Shard | None:
        """One attack step; the shard, once it is finished and its lease is still live."""
        work, lease = self._work, self.lease
        if work is None or lease is None:
            return None
        if not work.done:
            with frozen(self._learner.model):
                work.advance(self._learner.step)
        if not work.done:
            return None
        self.drop()
        return work.shard() if self._transport.finish_local(lease) else None

    def renew(self) -> None:
        """Renew the lease, where there is one."""
        if self.lease is not None:
            self._transport.renew(self.lease)

    def drop(self) -> None:
        """Forget the ticket in work."""
        self.lease = self._work = None
