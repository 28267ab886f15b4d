"""Which examples every ticket of a run stands for, and how many steps that makes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import torch
from torch import Tensor

from sparring.queue.messages import Key
from sparring.randomness import generator


@dataclass(eq=False)
class Pruning:
    """From epoch `epoch` on, `size` examples are left: those at `kept`, int64 [size], once they are decided."""

    epoch: int
    size: int
    kept: Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """A run's order: each epoch is one permutation of the `size` training examples, cut into tickets.

    The last ticket of an epoch and its last step take what is left; no step mixes epochs. How many examples `pruning`
    leaves is known from the start, which ones only once the run has come so far.
    """

    size: int
    batch_size: int
    shards_per_step: int
    epochs: int
    seed: int
    pruning: Pruning | None = None

    def examples(self, epoch: int) -> int:
        """Examples that the epoch trains on."""
        return self.pruning.size if self.pruning is not None and epoch >= self.pruning.epoch else self.size

    def shards(self, epoch: int) -> int:
        """Tickets of the epoch."""
        return ceil(self.examples(epoch) / self.batch_size)

    def steps_of(self, epoch: int) -> int:
        """Steps of the epoch."""
        return ceil(self.shards(epoch) / self.shards_per_step)

    def steps_until(self, epochs: float) -> float:
        """Steps of the first `epochs` epochs, or of a share of one."""
        whole = epochs if self.pruning is None else min(epochs, self.pruning.epoch)
        return whole * self.steps_of(0) + (epochs - whole) * self.steps_of(self.epochs - 1)

    def epochs_at(self, step: int) -> float:
        """Epochs, and the share of one, that `step` steps make: the inverse of `steps_until`."""
        whole = step if self.pruning is None else min(step, self.pruning.epoch * self.steps_of(0))
        return whole / self.steps_of(0) + (step - whole) / self.steps_of(self.epochs - 1)

    @property
    def shards_by_epoch(self) -> tuple[int, ...]:
        return tuple(self.shards(epoch) for epoch in range(self.epochs))

    @property
    def total_steps(self) -> int:
        return sum(self.steps_of(epoch) for epoch in range(self.epochs))

    def indices(self, epoch: int, number: int) -> tuple[int, ...]:
        """Positions in the training set of the examples of ticket `number`; of a pruned epoch once it is decided."""
        start, size = number * self.batch_size, self.examples(epoch)
        places = _order(size, self.seed, epoch)[start : start + self.batch_size]
        if self.pruning is not None and epoch >= self.pruning.epoch:
            assert self.pruning.kept is not None, f"a ticket of epoch {epoch} before it is decided what is kept"
            places = self.pruning.kept[places]
        return tuple(places.tolist())

    def steps(self, epoch: int = 0, done: Mapping[str, Collection[int]] | None = None) -> Iterator[list[Key]]:
        """The tickets of every step from `epoch` on, without those that are `done` (by epoch, as a ledger keeps)."""
        for index in range(epoch, self.epochs):
            passed = set((done or {}).get(str(index), ()))
            numbers = [number for number in range(self.shards(index)) if number not in passed]
            for first in range(0, len(numbers), self.shards_per_step):
                yield [Key(index, number, 0) for number in numbers[first : first + self.shards_per_step]]


@lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(size, generator=generator(seed, "order", epoch))
