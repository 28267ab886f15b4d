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
    every batch makes so many steps.
    """

    size: int
    batch_size: int
    shards_per_step: int
    epochs: int
    seed: int
    replays: int = 1

    @property
    def shards_per_epoch(self) -> int:
        return ceil(self.size / self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return ceil(self.shards_per_epoch / self.shards_per_step) * self.replays

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def indices(self, epoch: int, number: int) -> tuple[int, ...]:
        """Positions in the training set of the examples of ticket `number`."""
        start = number * self.batch_size
        return tuple(_order(self.size, self.seed, epoch)[start : start + self.batch_size].tolist())

    def steps(self, epoch: int = 0, done: Mapping[str, Collection[int]] | None = None) -> Iterator[list[Key]]:
        """The tickets of every batch from `epoch` on, without those that are `done` (by epoch, as a ledger keeps)."""
        for index in range(epoch, self.epochs):
            passed = set((done or {}).get(str(index), ()))
            numbers = [number for number in range(self.shards_per_epoch) if number not in passed]
            for first in range(0, len(numbers), self.shards_per_step):
                yield [Key(index, number, 0) for number in numbers[first : first + self.shards_per_step]]


@lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(size, generator=generator(seed, "order", epoch))
