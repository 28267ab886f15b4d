"""The two kinds of attackers: one task after the other in a batch that shrinks, or several tasks in slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sparring.attacks import frozen
from sparring.queue.messages import Controls, Key, Shard
from sparring.workers.generator import ShrinkingBatch, begin
from sparring.workers.slots import Slots
from sparring.workers.task import AttackContext, Task
from sparring.workers.views import Augmentation


class Attacker(Protocol):
    """Accepts tasks and makes attack steps on all of them. Newer weights may be loaded between two calls."""

    @property
    def has_room(self) -> bool:
        """Whether another task can be accepted."""

    @property
    def busy(self) -> bool:
        """Whether there are unfinished tasks."""

    @property
    def active(self) -> int:
        """Rows of the batches that the next step computes."""

    def begin(self, task: Task, controls: Controls, version: int) -> None:
        """Accept a task; `version` is that of the model's current weights."""

    def drop(self, owner: tuple[int, Key]) -> None:
        """Drop a task, given its fence and key."""

    def clear(self) -> None:
        """Drop all tasks."""

    def advance(self, version: int) -> list[Shard]:
        """Make one attack step with the weights of `version`; returns the shards that are finished by it."""


class OneByOne:
    """Attacks one task at a time; see `ShrinkingBatch`."""

    def __init__(self, context: AttackContext) -> None:
        self.context = context
        self._work: ShrinkingBatch | Augmentation | None = None

    @property
    def has_room(self) -> bool:
        return self._work is None

    @property
    def busy(self) -> bool:
        return self._work is not None

    @property
    def active(self) -> int:
        return 0 if self._work is None else self._work.active

    def begin(self, task: Task, controls: Controls, version: int) -> None:
        self._work = begin(task, self.context, controls, version)

    def drop(self, owner: tuple[int, Key]) -> None:
        if self._work is not None and self._work.task.owner == owner:
            self.clear()

    def clear(self) -> None:
        self._work = None

    def advance(self, version: int) -> list[Shard]:
        if self._work is None:
            return []
        if not self._work.done:
            self._work.advance(version)
        if not self._work.done:
            return []
        shard = self._work.shard()
        self.clear()
        return [shard]


def attacker_of(context: AttackContext, slots: int, *, hold_back: bool) -> Attacker:
    """`Slots` with this number of slots, or `OneByOne` if `slots` is 0; only `Slots` uses `hold_back`."""
    return Slots(context, slots, hold_back=hold_back) if slots else OneByOne(context)


def produce_all(
    tasks: Sequence[Task], context: AttackContext, controls: Controls, version: int, slots: int = 0
) -> list[Shard]:
    """The shards of several tasks, in the same order, with fixed weights."""
    attacker, waiting = attacker_of(context, slots, hold_back=False), list(tasks)
    shards: dict[Key, Shard] = {}
    with frozen(context.model):
        while waiting or attacker.busy:
            while waiting and attacker.has_room:
                attacker.begin(waiting.pop(0), controls, version)
            shards.update({shard.key: shard for shard in attacker.advance(version)})
    return [shards[task.key] for task in tasks]
