"""The virtual clock alone: when the steps of a run end on it, without computing a gradient.

Ledger, leases, latencies and the time model are those of the virtual engine; only attacks and training steps are left
out. A test holds that both agree. Where the weights do not depend on the clock (a fresh finish), one training serves
every number of devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparring.config import Config, depth, exchanges, gate_patience_s, last_steps, share_of_step, trainer_attacks
from sparring.engines.asynchronous.loop import HOUSEKEEPING_S, WAIT_S
from sparring.engines.asynchronous.pace import Pace
from sparring.engines.virtual.cluster import Cluster, VirtualTransport
from sparring.engines.virtual.events import populate, speed_of
from sparring.engines.virtual.hollow import HollowAttack, HollowTrainer, HollowWorker, Work
from sparring.engines.virtual.times import allreduce_s, prepare_s
from sparring.errors import SparringError, UsageError
from sparring.queue.ledger import Ledger
from sparring.queue.messages import Controls, Finish, Key, Lease, RankOf, Shard, Ticket
from sparring.queue.sizing import kept_snapshots
from sparring.trainer.experiment import methods_of

FENCE = 1


@dataclass(frozen=True)
class Clocked:
    """A run on the clock. ends: when each step ended, in seconds; staleness: that of each shard, in steps."""

    ends: tuple[float, ...]
    staleness: tuple[int, ...]

    @property
    def seconds(self) -> float:
        """When the last step ended."""
        return self.ends[-1]


def clocked(config: Config, works: Sequence[Work], size_bytes: int = 0) -> Clocked:
    """The clock of one epoch of tickets, in their order. size_bytes: of the gradients, which trainers add up.

    Raises:
        SparringError: no shard came for trainer.wait_timeout_s virtual seconds.
        UsageError: a trainer is to die.
    """
    if any(event.what == "trainer_dies" for event in config.virtual.events):
        raise UsageError(
            'virtual.events with what = "trainer_dies": the clock alone has no checkpoints to go on from. Use '
            "`sparring train --engine virtual`."
        )
    return _Run(config, works, size_bytes).to_the_end()


class _Run:
    """The loop of the trainers, as `engines/asynchronous/loop.py` has it."""

    def __init__(self, config: Config, works: Sequence[Work], size_bytes: int) -> None:
        settings, methods = config.staleness, methods_of(config)
        self.config, self.works, self.methods = config, works, methods
        self.finish, self.exchange = settings.finish != "off", exchanges(settings)
        self.share, self.patience_s = share_of_step(config), gate_patience_s(config)
        self.cluster = Cluster(config.virtual, lease_s=config.queue.lease_s, seed=config.train.seed)
        self.transport = VirtualTransport(self.cluster)
        self.ledger = Ledger(
            shards_by_epoch=(len(works),),
            shards_per_step=config.train.shards_per_step,
            depth=depth(settings),
            max_staleness=settings.max_staleness,
            attempts=config.queue.attempts,
            in_order=settings.lockstep or self.finish,
        )
        self.step = self.published = 0
        self.pace = Pace(config.train.shards_per_step)
        self._housekept_at = self._progressed_at = 0.0
        self._allreduce_s = allreduce_s(config.virtual, config.trainer.count, size_bytes)
        self._last_steps = last_steps(settings, methods.attack.steps)
        self._shards: dict[Key, Shard] = {}
        self._ends: list[float] = []
        self._staleness: list[int] = []
        count = config.trainer.count if trainer_attacks(config) else 0
        self._trainers = [HollowTrainer(self, RankOf(rank, count)) for rank in range(count)]
        for first in self._trainers[:1]:
            self.cluster.wakers.remove(first.wake)  # it attacks in the loop
        populate(self.cluster, config, self._worker)

    def _worker(self, number: int) -> HollowWorker:
        return HollowWorker(self, f"worker-{number}", speed_of(self.config, number))

    def attack(self, lease: Lease) -> HollowAttack:
        return HollowAttack(lease, self.works[lease.ticket.key.number], self._last_steps)

    def lasts_s(self, attack: HollowAttack) -> float:
        if attack.made >= 0:
            return self.cluster.attack_step_s(attack.work.steps[attack.made])
        return prepare_s(self.config.virtual, self.methods.attack, self.methods.allocator, attack.work.examples)

    def to_the_end(self) -> Clocked:
        self._publish()
        while not self.ledger.finished:
            came = self._drain()
            self._housekeep()
            self._issue()
            self._issue_copies()
            taken = self.ledger.take(self.step)
            if taken is not None:
                self._train(taken.keys)
            elif not came and not self._attack_a_little():
                self._wait()
        return Clocked(tuple(self._ends), tuple(self._staleness))

    def _publish(self) -> None:
        order = (FENCE, self.step)
        self.cluster.publish(order, {}, Controls(0.0), kept_snapshots(self.config.staleness))
        self.published = self.step

    def _issue(self) -> None:
        keys = self.ledger.issue(self._in_flight if self.exchange else None)
        if keys:
            self.transport.issue([self._ticket(key) for key in keys])

    def _issue_copies(self) -> None:
        times = self.config.staleness.copy_after
        if times is None or not self.finish:
            return
        waited_s = self.cluster.now - (self._ends[-1] if self._ends else 0.0)
        self.pace.waits(self.step, self.ledger.ready, waited_s)
        if self.pace.is_late(waited_s, times):
            self.transport.issue([self._ticket(key) for key in self.ledger.copies()])

    def _ticket(self, key: Key) -> Ticket:
        if not self.finish:
            return Ticket(key, FENCE, self.published, (), "")
        step = key.number // self.config.train.shards_per_step
        head = max(step - self.config.staleness.lead, 0)
        return Ticket(key, FENCE, head, (), "", finish=Finish(step, 0.0))

    @property
    def _in_flight(self) -> int:
        return self.pace.in_flight(self.config.workers.count + len(self._trainers))

    def _drain(self) -> bool:
        if not self.cluster.arrived:
            self.cluster.wait(0.0)
        arrived = [*self.cluster.arrived]
        self.cluster.arrived.clear()
        for shard in arrived:
            self._progressed_at = self.cluster.now
            if self.ledger.arrive(shard.key, shard.version) == "accepted":
                self._shards[shard.key] = shard
                self.pace.arrived(shard.attack_seconds)
        return bool(arrived)

    def _housekeep(self) -> None:
        if self.cluster.now - self._housekept_at >= HOUSEKEEPING_S:
            self._housekept_at = self.cluster.now
            for returned in self.transport.expired(FENCE):
                self.ledger.lose(returned.key, returned.reason)

    def _attack_a_little(self) -> bool:
        step = self._trainers[0].next_step() if self._trainers else None
        if step is None:
            return False
        seconds, done = step
        self.cluster.advance(seconds)
        if done is not None:
            self._trainers[0].deliver(done)
        return True

    def _wait(self) -> None:
        self.cluster.wait(WAIT_S)
        if self.cluster.now - self._progressed_at > self.config.trainer.wait_timeout_s:
            raise SparringError(
                f"no shard came for trainer.wait_timeout_s = {self.config.trainer.wait_timeout_s:g} virtual seconds, "
                f"of workers.count = {self.config.workers.count}. Let a worker live, or the trainers attack."
            )

    def _train(self, keys: tuple[Key, ...]) -> None:
        """A step on these shards; without any, those that were too stale are issued again under the newest weights."""
        if keys:
            self._make_step(keys)
        elif self.published < self.step:
            self._publish()

    def _make_step(self, keys: tuple[Key, ...]) -> None:
        others = self._trainers[1:]
        for trainer in others:
            trainer.training = True
        self._staleness += [self.step - self._shards.pop(key).version for key in keys]
        sizes = [self.works[key.number].examples for key in keys]
        waits = [0.0, *(trainer.busy_s for trainer in others)]
        seconds = self.cluster.parallel_step_s(sizes, self.config.trainer.count, waits) + self._allreduce_s
        self.cluster.advance(seconds)
        self.pace.stepped(seconds, len(keys))
        self.step += 1
        if self.step % self.config.staleness.publish_every == 0:
            self._publish()
        self.ledger.retire(keys)
        self._ends.append(self.cluster.now)
        for trainer in others:
            trainer.training = False
            trainer.wake()
