"""A virtual worker: it attacks as a worker of the Ray engine does, and each step takes its virtual time."""

from __future__ import annotations

from collections.abc import Callable

from sparring.attacks import frozen
from sparring.attacks.starts import unpacked
from sparring.config import gate_patience_s, last_steps, share_of_step, slots_of, tickets_at_once
from sparring.engines.virtual.cluster import Cluster, Order, Sent
from sparring.engines.virtual.times import prepare_s
from sparring.queue.codec import received
from sparring.queue.messages import Controls, Key, Lease, Room, Shard
from sparring.trainer.experiment import Experiment
from sparring.workers.attackers import attacker_of
from sparring.workers.finish import Finisher
from sparring.workers.gate import Gate
from sparring.workers.task import Task


class Arrived:
    """The weights that have arrived at a worker; `load` puts them into its networks."""

    def __init__(self, cluster: Cluster, load: Callable[[Sent], None]) -> None:
        self._cluster, self._load = cluster, load

    def has(self, order: Order) -> bool:
        return self._cluster.at(order) is not None

    def newest(self, fence: int) -> int:
        found = self._cluster.newest(fence)
        return -1 if found is None else found[0]

    def load(self, order: Order) -> Controls:
        sent = self._cluster.at(order)
        if sent is None:
            raise KeyError(order)
        self._load(sent)
        return sent.controls


class VirtualWorker:
    """One worker of `speed`; `alive` until it dies."""

    def __init__(self, experiment: Experiment, cluster: Cluster, name: str, speed: float) -> None:
        self.experiment, self.cluster, self.name, self.speed = experiment, cluster, name, speed
        self.alive = True
        self._networks, self._context = experiment.attacker()
        self._held: dict[tuple[int, Key], Lease] = {}
        self._busy, self._loading_s = False, 0.0
        self.prepare_s = prepare_s(
            cluster.settings, experiment.attack, experiment.allocator, experiment.config.train.batch_size
        )
        cluster.wakers.append(self.wake)
        cluster.on_void.append(self.forget)

    def wake(self) -> None:
        """Go on, unless a step is under way."""
        if self.alive and not self._busy:
            self.go_on()

    def die(self) -> None:
        """Its tickets are lost."""
        self.alive = False
        for lease in self._held.values():
            self.cluster.abandon(lease)

    def forget(self) -> None:
        """Nobody waits for its tickets any more; a step that is under way still takes its time."""
        self._held.clear()

    def go_on(self) -> None:
        """Take a ticket or make a step, if there is one."""
        raise NotImplementedError

    def _take(self, room: Room = "any") -> Lease | None:
        lease = self.cluster.lease(self.name, room)
        if lease is not None:
            self._held[lease.owner] = lease
        return lease

    def _task(self, lease: Lease, epsilon: float) -> Task:
        ticket = lease.ticket
        start = unpacked(ticket.starts, self.experiment.training.shape, epsilon)
        return Task(ticket.key, ticket.indices, ticket.fence, self.name, start)

    def _load_weights(self, sent: Sent) -> None:
        """Put them into the networks; the next step takes so much longer."""
        self._networks.load_state_dict(sent.weights)
        self._loading_s = self.cluster.settings.load_s

    def _take_time(self, seconds: float, shards: list[Shard]) -> None:
        """The step made now ends later; then its shards are sent."""
        whole_s, self._busy, self._loading_s = seconds + self._loading_s, True, 0.0
        self.cluster.after(self.cluster.varied(whole_s) / self.speed, lambda: self._end(shards))

    def _end(self, shards: list[Shard]) -> None:
        if not self.alive:
            return
        self._busy = False
        for shard in shards:
            lease = self._held.pop((shard.fence, shard.key), None)
            if lease is not None:
                shard = received(shard, self.experiment.config.queue.wire)
                self.cluster.commit(lease, self.cluster.timed(shard))
        self.go_on()


class NewestWorker(VirtualWorker):
    """Attacks with the newest weights that have arrived; with `exchange` newer ones are loaded between two steps. With
    slots it attacks several tickets together."""

    def __init__(self, experiment: Experiment, cluster: Cluster, name: str, speed: float, *, exchange: bool) -> None:
        super().__init__(experiment, cluster, name, speed)
        config, views = experiment.config, experiment.attack.makes_views
        self.exchange, self.most_tickets = exchange, tickets_at_once(config, views)
        self._attacker = attacker_of(self._context, slots_of(config, views), hold_back=config.allocator.hold_back)
        self._waiting: Lease | None = None
        self._version = -1

    def forget(self) -> None:
        super().forget()
        self._attacker.clear()
        self._waiting, self._version = None, -1  # a version of another fence has other weights

    def go_on(self) -> None:
        if self._waiting is None and self._attacker.has_room and len(self._held) < self.most_tickets:
            self._waiting = self._take()
        if self._waiting is not None and not self.cluster.is_live(self._waiting):
            self._held.pop(self._waiting.owner, None)
            self._waiting = None
        if self._waiting is None:
            if self._attacker.busy:
                self._step()
            return
        newest = self.cluster.newest(self._waiting.ticket.fence)
        if newest is not None and newest[0] >= self._waiting.ticket.version:
            lease, self._waiting = self._waiting, None
            self._begin(lease, *newest)

    def _begin(self, lease: Lease, version: int, sent: Sent) -> None:
        self._load(version, sent)
        with frozen(self._context.model):
            self._attacker.begin(self._task(lease, sent.controls.epsilon), sent.controls, version)
        self._fence = lease.ticket.fence
        self._take_time(self.prepare_s, [])

    def _step(self) -> None:
        newest = self.cluster.newest(self._fence)
        if self.exchange and newest is not None and newest[0] > self._version:
            self._load(*newest)
        seconds = self.cluster.attack_step_s(self._attacker.active)
        with frozen(self._context.model):
            shards = self._attacker.advance(self._version)
        self._take_time(seconds, shards)

    def _load(self, version: int, sent: Sent) -> None:
        if version != self._version:
            self._load_weights(sent)
            self._version = version


class FinishingWorker(VirtualWorker):
    """Attacks with a fresh finish."""

    def __init__(self, experiment: Experiment, cluster: Cluster, name: str, speed: float) -> None:
        super().__init__(experiment, cluster, name, speed)
        steps = last_steps(experiment.config.staleness, experiment.attack.steps)
        self._finisher, config = Finisher(self._context, Arrived(cluster, self._load_weights), steps), experiment.config
        self._gate = Gate(self._finisher, share_of_step(config), gate_patience_s(config), cluster.clock)

    def forget(self) -> None:
        super().forget()
        self._finisher.clear()

    def go_on(self) -> None:
        for owner in self._finisher.passed():
            self.cluster.give_up(self._held.pop(owner))
        if (lease := self._take(self._gate.room)) is not None:
            finish = lease.ticket.finish
            if finish is None:
                raise ValueError(f"ticket {lease.ticket.key} has no finish")
            self._finisher.begin(self._task(lease, finish.epsilon), lease.ticket.version, finish)
        if self._finisher.waits:
            return
        active = self._finisher.active
        seconds = self.prepare_s if active is None else self.cluster.attack_step_s(active)
        shard = self._finisher.advance()
        self._take_time(seconds, [] if shard is None else [shard])
