"""Attackers of the clock alone: they take tickets and time as the virtual engine's do, and compute nothing."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from sparring.attacks import AttackRecord
from sparring.engines.virtual.cluster import Cluster
from sparring.queue.messages import Lease, RankOf, Room, Shard

NOTHING = torch.empty(0)
UNNAMED = AttackRecord("", "", 0.0, 0.0, 0)
COUNTED_STEPS = 2  # a shard's version is the older one of its last two attack steps (docs/architecture.md)


class Work(NamedTuple):
    """The attack on a ticket: its examples, and how many of them take part in each of its steps."""

    examples: int
    steps: tuple[int, ...]


class Course(Protocol):
    """What attackers know of the run."""

    cluster: Cluster
    step: int
    finish: bool
    exchange: bool
    share: int
    patience_s: float

    def attack(self, lease: Lease) -> HollowAttack:
        """The attack on a ticket."""

    def lasts_s(self, attack: HollowAttack) -> float:
        """Time of its next step at speed 1."""


class HollowAttack:
    """A ticket in work. made: attack steps, -1 before it is prepared; versions: of the weights of each step."""

    def __init__(self, lease: Lease, work: Work, last_steps: int) -> None:
        self.lease, self.work, self.made = lease, work, -1
        self.versions: list[int] = []
        self._last_steps = last_steps

    @property
    def needs(self) -> int:
        """With a fresh finish: the version of the weights for the next step."""
        ticket = self.lease.ticket
        in_head = self.made < 0 or len(self.work.steps) - self.made > self._last_steps
        return ticket.version if in_head or ticket.finish is None else ticket.finish.version

    @property
    def at_gate(self) -> bool:
        """With a fresh finish: it needs the weights of its last steps."""
        finish = self.lease.ticket.finish
        return finish is not None and self.needs == finish.version

    @property
    def done(self) -> bool:
        return self.made == len(self.work.steps)

    def go_on(self, version: int) -> None:
        """Prepare it, or make its next step."""
        self.made += 1
        self.versions.append(version)

    def shard(self, worker: str) -> Shard:
        """What it comes to, without perturbations."""
        key, fence, version = self.lease.ticket.key, self.lease.ticket.fence, self.versions[0]
        counted = self.versions[1:][-COUNTED_STEPS:] or self.versions
        return Shard(key, fence, min(counted), version, UNNAMED, NOTHING, NOTHING, worker)


class HollowAttacker:
    """A device that attacks."""

    def __init__(self, course: Course, name: str, speed: float = 1.0) -> None:
        self.course, self.cluster, self.name, self.speed = course, course.cluster, name, speed
        self.attacks: list[HollowAttack] = []
        self.alive, self.busy, self.free_at = True, False, 0.0
        self._since = 0.0  # when its last step ended
        self.cluster.wakers.append(self.wake)

    def die(self) -> None:
        """Its tickets are lost."""
        self.alive = False
        for attack in self.attacks:
            self.cluster.abandon(attack.lease)

    def wake(self) -> None:
        """Make a step, if there is one."""
        if self.busy or not self.alive:
            return
        step = self.next_step()
        if step is not None:
            seconds, done = step
            self.busy, self.free_at = True, self.cluster.now + seconds
            self.cluster.after(seconds, lambda: self._end(done))

    def _end(self, done: HollowAttack | None) -> None:
        if not self.alive:
            return
        self.busy = False
        if done is not None:
            self.deliver(done)
        self.wake()

    def next_step(self) -> tuple[float, HollowAttack | None] | None:
        """Make the next step: what it takes, and the attack that it has finished. None: no ticket can go on."""
        self._drop_passed()
        attack = self._ready()
        if attack is None and (lease := self.cluster.lease(self.name, self.room)) is not None:
            self.attacks.append(self.course.attack(lease))
            self.attacks.sort(key=lambda each: each.lease.ticket.key[:2])
            attack = self._ready()
        if attack is None:
            return None
        version = self.version_for(attack)
        seconds = self.cluster.varied(self.course.lasts_s(attack) + self.loading_s(version)) / self.speed
        self._since = self.cluster.now + seconds
        attack.go_on(version)
        return seconds, attack if attack.done else None

    def _ready(self) -> HollowAttack | None:
        return next((attack for attack in self.attacks if self.can_go_on(attack)), None)

    @property
    def room(self) -> Room:
        """Which other tickets it takes where none can go on (workers/gate.py)."""
        if not all(attack.at_gate for attack in self.attacks):
            return "none"
        course = self.course
        free = len(self.attacks) < course.share or self.cluster.now - self._since >= course.patience_s
        return "any" if free else "again"

    def _drop_passed(self) -> None:
        """Drop the tickets whose step has been made (workers/finish.py)."""
        for attack in list(self.attacks):
            finish = attack.lease.ticket.finish
            if finish is not None and finish.version < self.newest(attack.lease.fence):
                self.attacks.remove(attack)
                self.cluster.give_up(attack.lease)

    def newest(self, fence: int) -> int:
        """The latest version of the weights that is here."""
        raise NotImplementedError

    def can_go_on(self, attack: HollowAttack) -> bool:
        """Whether the weights for its next step are here."""
        raise NotImplementedError

    def version_for(self, attack: HollowAttack) -> int:
        """The version of these weights."""
        raise NotImplementedError

    def loading_s(self, version: int) -> float:
        """Time until these weights are loaded: the trainer has them."""
        return 0.0

    def deliver(self, attack: HollowAttack) -> None:
        """Send the finished shard."""
        raise NotImplementedError


class HollowWorker(HollowAttacker):
    """A worker, which has new weights after their latency."""

    _loaded = -1

    def can_go_on(self, attack: HollowAttack) -> bool:
        if self.course.finish:
            return self.cluster.at((attack.lease.fence, attack.needs)) is not None
        return attack.made >= 0 or self.newest(attack.lease.fence) >= attack.lease.ticket.version

    def version_for(self, attack: HollowAttack) -> int:
        if self.course.finish:
            return attack.needs
        return self.newest(attack.lease.fence) if self.course.exchange or not attack.versions else attack.versions[0]

    def loading_s(self, version: int) -> float:
        is_loaded, self._loaded = version == self._loaded, version
        return 0.0 if is_loaded else self.cluster.settings.load_s

    def newest(self, fence: int) -> int:
        newest = self.cluster.newest(fence)
        return -1 if newest is None else newest[0]

    def deliver(self, attack: HollowAttack) -> None:
        self.attacks.remove(attack)
        self.cluster.commit(attack.lease, self.cluster.timed(attack.shard(self.name)))


class HollowTrainer(HollowAttacker):
    """A trainer between its training steps, which has the present weights; `me`: which of them."""

    training = False

    def __init__(self, course: Course, me: RankOf) -> None:
        super().__init__(course, "trainer")
        self.me = me

    @property
    def busy_s(self) -> float:
        """Seconds until the attack step under way has ended."""
        return max(0.0, self.free_at - self.cluster.now)

    def wake(self) -> None:
        if not self.training:
            super().wake()

    def newest(self, fence: int) -> int:
        return self.course.step

    def can_go_on(self, attack: HollowAttack) -> bool:
        return not self.course.finish or attack.needs <= self.course.step

    def version_for(self, attack: HollowAttack) -> int:
        return attack.needs if self.course.finish else self.course.step

    def deliver(self, attack: HollowAttack) -> None:
        self.attacks.remove(attack)
        if self.cluster.leases.pop(attack.lease.owner, None) is attack.lease:
            self.cluster.deliver(self.cluster.timed(attack.shard(self.name)), self.me)
