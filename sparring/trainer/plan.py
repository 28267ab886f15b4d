"""Which examples every ticket of a run stands for, and how many steps that makes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import torch

from sparring.queue.messages import Key
from sparring.randomness import generator


@dataclass(frozen=True)
class Plan:
    """A run's order: each epoch is one permutation of the `size` training examples, cut into tickets.

    The last ticket of an epoch and its last step take what is left; no step mixes epochs. With `replays` above 1 (Free)
    every batch makes so many steps. With `extra` examples, which are numbered from `size` on, a ticket of b holds
    round(extra_fraction · b) of them. They are no part of an epoch: their permutation goes on from one to the next, and
    a fresh one follows when all have been used.
    """

    size: int
    batch_size: int
    shards_per_step: int
    epochs: int
    seed: int
    replays: int = 1
    extra: int = 0
    extra_fraction: float = 0.0

    @property
    def extra_per_ticket(self) -> int:
        """Extra examples of a full ticket."""
        return round(self.extra_fraction * self.batch_size) if self.extra else 0

    @property
    def real_per_ticket(self) -> int:
        """Training examples of a full ticket."""
        return self.batch_size - self.extra_per_ticket

    @property
    def shards_per_epoch(self) -> int:
        return ceil(self.size / self.real_per_ticket)

    @property
    def steps_per_epoch(self) -> int:
        return ceil(self.shards_per_epoch / self.shards_per_step) * self.replays

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def indices(self, epoch: int, number: int) -> tuple[int, ...]:
        """Positions in the training set of the examples of ticket `number`, then those of its extra ones."""
        start = number * self.real_per_ticket
        real = _order(self.size, self.seed, epoch)[start : start + self.real_per_ticket].tolist()
        return (*real, *self._extra_indices(epoch, number, len(real)))

    def _extra_indices(self, epoch: int, number: int, real: int) -> list[int]:
        """What goes with `real` training examples; the last ticket of an epoch keeps the proportion."""
        last_real = self.size - (self.shards_per_epoch - 1) * self.real_per_ticket
        per_epoch = (self.shards_per_epoch - 1) * self.extra_per_ticket + self._extra_beside(last_real)
        first = epoch * per_epoch + number * self.extra_per_ticket
        places = [divmod(place, self.extra) for place in range(first, first + self._extra_beside(real))]
        return [self.size + int(_order(self.extra, self.seed, turn, "extra")[place]) for turn, place in places]

    def _extra_beside(self, real: int) -> int:
        return round(real * self.extra_per_ticket / self.real_per_ticket)

    def steps(self, epoch: int = 0, done: Mapping[str, Collection[int]] | None = None) -> Iterator[list[Key]]:
        """The tickets of every batch from `epoch` on, without those that are `done` (by epoch, as a ledger keeps)."""
        for index in range(epoch, self.epochs):
            passed = set((done or {}).get(str(index), ()))
            numbers = [number for number in range(self.shards_per_epoch) if number not in passed]
            for first in range(0, len(numbers), self.shards_per_step):
                yield [Key(index, number, 0) for number in numbers[first : first + self.shards_per_step]]


@lru_cache(maxsize=8)
def _order(size: int, seed: int, turn: int, purpose: str = "order") -> torch.Tensor:
    return torch.randperm(size, generator=generator(seed, purpose, turn))
