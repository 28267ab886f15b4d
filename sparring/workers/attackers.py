"""Two ways to attack tasks behind one interface: one after the other in a batch that shrinks, or in slots."""

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
    """Takes tasks in and makes attack steps on all of them; newer weights may be loaded between two calls."""

    @property
    def room(self) -> bool:
        """Another task is welcome."""

    @property
    def busy(self) -> bool:
        """There are tasks in work."""

    def begin(self, task: Task, controls: Controls, version: int) -> None:
        """Take a task in; `version` is that of the weights the model holds now."""

    def drop(self, owner: tuple[int, Key]) -> None:
        """Forget a task, named by fence and key."""

    def clear(self) -> None:
        """Forget all tasks."""

    def advance(self, version: int) -> list[Shard]:
        """Make one attack step under the weights of `version`; the shards that it ends."""


class OneByOne:
    """The attack on one task at a time; see `ShrinkingBatch`."""

    def __init__(self, context: AttackContext) -> None:
        self.context = context
        self._work: ShrinkingBatch | Augmentation | None = None

    @property
    def room(self) -> bool:
        return self._work is None

    @property
    def busy(self) -> bool:
        return self._work is not None

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
    """`Slots`, so many, or one task after the other where there are none; `hold_back` matters to `Slots`."""
    return Slots(context, slots, hold_back=hold_back) if slots else OneByOne(context)


def produce_all(
    tasks: Sequence[Task], context: AttackContext, controls: Controls, version: int, slots: int = 0
) -> list[Shard]:
    """The shards of several tasks under weights that do not change, in their order."""
    attacker, waiting = attacker_of(context, slots, hold_back=False), list(tasks)
    made: dict[Key, Shard] = {}
    with frozen(context.model):
        while waiting or attacker.busy:
            while waiting and attacker.room:
                attacker.begin(waiting.pop(0), controls, version)
            made.update({shard.key: shard for shard in attacker.advance(version)})
    return [made[task.key] for task in tasks]
