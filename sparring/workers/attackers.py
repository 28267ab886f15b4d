"""Two ways to attack tickets behind one interface: one after the other in a batch that shrinks, or in slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from sparring.attacks import frozen
from sparring.attacks.starts import Given
from sparring.config import Config, slots_of
from sparring.data import TrainingSet
from sparring.queue.messages import Controls, Key, Shard
from sparring.workers.generator import Production, begin
from sparring.workers.slots import Slots
from sparring.workers.views import Augmentation


class Attacker(Protocol):
    """Takes tickets in and makes attack steps on all of them; newer weights may be loaded between two calls."""

    @property
    def room(self) -> bool:
        """Another ticket is welcome."""

    @property
    def busy(self) -> bool:
        """There are tickets in work."""

    def begin(
        self,
        key: Key,
        indices: tuple[int, ...],
        controls: Controls,
        version: int,
        *,
        fence: int = 0,
        worker: str = "",
        start: Given | None = None,
    ) -> None:
        """Take a ticket in; `version` is that of the weights the model holds now."""

    def drop(self, owner: tuple[int, Key]) -> None:
        """Forget a ticket, named by fence and key."""

    def clear(self) -> None:
        """Forget all tickets."""

    def advance(self, version: int) -> list[Shard]:
        """Make one attack step under the weights of `version`; the shards that it ends."""


class OneByOne:
    """The attack on one ticket at a time; see `Production`."""

    def __init__(self, config: Config, model: nn.Module, dataset: TrainingSet) -> None:
        self.config, self.model, self.dataset = config, model, dataset
        self._production: Production | Augmentation | None = None

    @property
    def room(self) -> bool:
        return self._production is None

    @property
    def busy(self) -> bool:
        return self._production is not None

    def begin(
        self,
        key: Key,
        indices: tuple[int, ...],
        controls: Controls,
        version: int,
        *,
        fence: int = 0,
        worker: str = "",
        start: Given | None = None,
    ) -> None:
        self._production = begin(
            self.config,
            self.model,
            self.dataset,
            key,
            indices,
            controls,
            version,
            fence=fence,
            worker=worker,
            start=start,
        )

    def drop(self, owner: tuple[int, Key]) -> None:
        if self._production is not None and self._production.owner == owner:
            self.clear()

    def clear(self) -> None:
        self._production = None

    def advance(self, version: int) -> list[Shard]:
        if self._production is None:
            return []
        if not self._production.done:
            self._production.advance(version)
        if not self._production.done:
            return []
        shard = self._production.shard()
        self.clear()
        return [shard]


def attacker_of(config: Config, model: nn.Module, dataset: TrainingSet, *, hold_back: bool) -> Attacker:
    """What the settings ask for; `hold_back` matters to `Slots`."""
    count = slots_of(config)
    if count:
        return Slots(config, model, dataset, count, hold_back=hold_back)
    return OneByOne(config, model, dataset)


def produce_all(
    config: Config,
    model: nn.Module,
    dataset: TrainingSet,
    tickets: Sequence[tuple[Key, tuple[int, ...], Given | None]],
    controls: Controls,
    version: int,
) -> list[Shard]:
    """The shards of several tickets (key, examples, start) under weights that do not change, in their order."""
    attacker, waiting = attacker_of(config, model, dataset, hold_back=False), list(tickets)
    made: dict[Key, Shard] = {}
    with frozen(model):
        while waiting or attacker.busy:
            while waiting and attacker.room:
                key, indices, start = waiting.pop(0)
                attacker.begin(key, indices, controls, version, start=start)
            made.update({shard.key: shard for shard in attacker.advance(version)})
    return [made[key] for key, _, _ in tickets]
