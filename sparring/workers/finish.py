"""Fresh finish: an attack begins under older weights, and its last steps use the weights that train on it.

The step n that trains on a ticket is known from the start. The head of the attack, and the allocator's classification,
use exactly the weights before step n - L (L: `staleness.lead`); the last `staleness.finish` steps use exactly those
before step n. So heads are made beside earlier training steps, and the result does not depend on who makes it or when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from sparring.attacks import frozen
from sparring.queue.messages import Controls, Finish, Key, Shard
from sparring.workers.generator import ShrinkingBatch, begin
from sparring.workers.task import AttackContext, Task
from sparring.workers.views import Augmentation


class Versions(Protocol):
    """Weights by fence and version, which can be loaded into the attacked model."""

    def has(self, order: tuple[int, int]) -> bool:
        """Whether the weights of (fence, version) are here."""

    def load(self, order: tuple[int, int]) -> Controls:
        """Load them into the model; returns the controls that go with them."""

    def newest(self, fence: int) -> int:
        """The latest version that is here; -1: none."""


class FinishedAttack:
    """The attack on one ticket, whose next step needs the weights of version `needs`."""

    def __init__(self, task: Task, head: int, finish: Finish, last_steps: int) -> None:
        self.task, self.head, self.finish, self.last_steps = task, head, finish, last_steps
        self._work: ShrinkingBatch | Augmentation | None = None

    @property
    def needs(self) -> tuple[int, int]:
        """Fence and version of the weights for the next step."""
        in_head = self._work is None or self._work.left > self.last_steps
        return self.task.fence, self.head if in_head else self.finish.version

    @property
    def active(self) -> int | None:
        """Examples that take part in the next step; None: the attack is to be prepared."""
        return None if self._work is None else self._work.active

    @property
    def orders(self) -> set[tuple[int, int]]:
        """Fence and version of all weights for the steps that are left."""
        return {self.needs, (self.task.fence, self.finish.version)}

    def advance(self, context: AttackContext, controls: Controls) -> Shard | None:
        """Prepare the attack, or make its next step, with the weights that it `needs`; the shard after the last one.

        ε is that of the step that trains on the ticket; the other `controls` are those of the head.
        """
        if self._work is None:
            controls = controls._replace(epsilon=self.finish.epsilon)
            self._work = begin(self.task, context, controls, self.head)
        elif not self._work.done:
            self._work.advance(self.needs[1])
        return self._work.shard() if self._work.done else None


class Finisher:
    """Attacks any number of tickets with a fresh finish: a ticket that waits for its weights lets others go on."""

    def __init__(self, context: AttackContext, versions: Versions, last_steps: int) -> None:
        self.context, self.versions, self.last_steps = context, versions, last_steps
        self.steps = 0  # that were made, on any ticket
        self._attacks: list[FinishedAttack] = []
        self._loaded: tuple[int, int] | None = None
        self._controls = Controls(0.0)

    @property
    def needs(self) -> list[tuple[int, int]]:
        """The weights that the tickets need next, those of the earliest step first."""
        return [attack.needs for attack in self._attacks]

    @property
    def orders(self) -> set[tuple[int, int]]:
        """All weights that the tickets still need."""
        return {order for attack in self._attacks for order in attack.orders}

    @property
    def active(self) -> int | None:
        """Examples that take part in the next step; None: an attack is to be prepared, or none can go on."""
        attack = self._next()
        return None if attack is None else attack.active

    @property
    def waits(self) -> bool:
        """No ticket can go on now."""
        return self._next() is None

    @property
    def at_gate(self) -> bool:
        """All tickets wait for the weights of their last steps; true also without a ticket."""
        return self.waits and all(attack.needs[1] == attack.finish.version for attack in self._attacks)

    def begin(self, task: Task, head: int, finish: Finish) -> None:
        """Accept a ticket; its head uses the weights of version `head`."""
        self._attacks.append(FinishedAttack(task, head, finish, self.last_steps))
        self._attacks.sort(key=lambda attack: (attack.finish.version, attack.task.key))

    def drop(self, owner: tuple[int, Key]) -> None:
        """Drop a ticket, given its fence and key."""
        self._attacks = [attack for attack in self._attacks if attack.task.owner != owner]

    def passed(self) -> list[tuple[int, Key]]:
        """Drop the tickets whose step has been made, as where another attempt was first; their fences and keys."""
        late = [each for each in self._attacks if each.finish.version < self.versions.newest(each.task.fence)]
        for attack in late:
            self._attacks.remove(attack)
        return [attack.task.owner for attack in late]

    def clear(self) -> None:
        """Drop all tickets."""
        self._attacks.clear()

    def advance(self) -> Shard | None:
        """Make one step on the earliest ticket whose weights are here; returns its shard after the last step."""
        attack = self._next()
        if attack is None:
            return None
        self.steps += 1
        if self._loaded != attack.needs:
            self._controls = self.versions.load(attack.needs)
            self._loaded = attack.needs
        with frozen(self.context.model):
            shard = attack.advance(self.context, self._controls)
        if shard is not None:
            self._attacks.remove(attack)
        return shard

    def _next(self) -> FinishedAttack | None:
        return next((attack for attack in self._attacks if self.versions.has(attack.needs)), None)


def finish_all(
    finisher: Finisher, tasks: Sequence[Task], head: int, finish: Finish, received: Callable[[Shard], Shard]
) -> list[Shard]:
    """The shards of several tickets of one step, in the same order, each as it is after `received`."""
    for task in tasks:
        finisher.begin(task, head, finish)
    shards: dict[Key, Shard] = {}
    while finisher.needs:
        shard = finisher.advance()
        if shard is not None:
            shards[shard.key] = received(shard)
    return [shards[task.key] for task in tasks]
