"""The order of a run: the examples of every ticket, and the tickets of every step."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil

import torch
from torch import Tensor

from sparring.config import AttackSettings, PruningSettings
from sparring.errors import SparringError, UsageError
from sparring.queue.messages import Key
from sparring.randomness import generator


@dataclass(eq=False)
class Pruning:
    """From `epoch` on, training uses `size` examples: those at `kept`, int64 [size], once that is decided."""

    epoch: int
    size: int
    kept: Tensor | None = None


def planned(settings: PruningSettings, epochs: int, size: int) -> Pruning | None:
    """The pruning of `size` training examples that the settings ask for in `epochs` epochs; None: no pruning.

    Raises:
        UsageError: no epoch would follow it, or it would drop nothing or everything.
    """
    if settings.name == "none":
        return None
    if settings.epoch >= epochs:
        raise UsageError(
            f"pruning.epoch = {settings.epoch} of {epochs} epochs (train.epochs over train.replays): pruning.epoch < "
            f"{epochs} fails, no epoch would be trained on what is kept. Prune earlier or train longer."
        )
    dropped = dropped_of(settings.share, size)
    if not 0 < dropped < size:
        raise UsageError(
            f"pruning.share = {settings.share:g} of {size} training examples drops {dropped} of them: it must drop "
            f"some and keep some. Change pruning.share, or set pruning.name to 'none'."
        )
    return Pruning(settings.epoch, size - dropped)


def dropped_of(share: float, size: int) -> int:
    """Number of examples that pruning drops of `size`."""
    return round(share * size)


@dataclass(frozen=True)
class Plan:
    """A run's order: each epoch is one permutation of the `size` training examples, cut into tickets.

    The last ticket of an epoch and its last step take what is left; no step mixes epochs. One example that would be
    left alone joins the ticket before it, which then has b + 1: batch norm cannot train on one example. With `replays`
    above 1 (Free) every batch makes so many steps. How many examples `pruning` leaves is known from the start, which
    ones only once the run has come so far. With `extra` examples, which are numbered from `size` on, a ticket of b
    holds round(extra_fraction · b) of them. They are no part of an epoch: their permutation goes on from one to the
    next, and a fresh one follows when all have been used.
    """

    size: int
    batch_size: int
    shards_per_step: int
    epochs: int
    seed: int
    pruning: Pruning | None = None
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

    def examples(self, epoch: int) -> int:
        """Training examples that the epoch trains on."""
        return self.pruning.size if self.pruning is not None and epoch >= self.pruning.epoch else self.size

    def shards(self, epoch: int) -> int:
        """Tickets of the epoch."""
        return ceil(self.examples(epoch) / self.real_per_ticket) - self._joins(epoch)

    def _joins(self, epoch: int) -> bool:
        """Whether the last example of the epoch would be left alone, and joins the ticket before."""
        examples, full = self.examples(epoch), self.real_per_ticket
        return examples > full and examples % full == 1

    @property
    def largest_step(self) -> int:
        """Examples of the largest step."""
        joined = any(self._joins(epoch) for epoch in (0, self.epochs - 1))
        return self.batch_size * self.shards_per_step + joined

    def smallest_ticket(self, epoch: int) -> int:
        """Examples of the smallest ticket of the epoch: its last one, or a full one."""
        last = self.examples(epoch) - (self.shards(epoch) - 1) * self.real_per_ticket
        real = min(self.real_per_ticket, last)
        return real + self._extra_beside(real)

    def steps_of(self, epoch: int) -> int:
        """Steps of the epoch."""
        return ceil(self.shards(epoch) / self.shards_per_step) * self.replays

    def step_of(self, epoch: int, number: int) -> int:
        """The step that trains on a ticket where all are consumed in order, without replays."""
        return sum(self.steps_of(earlier) for earlier in range(epoch)) + number // self.shards_per_step

    def keys_before(self, epoch: int, number: int, steps: int) -> list[tuple[int, int]]:
        """Epoch and number of the tickets in the `steps` steps before that of a ticket."""
        found, step = [], number // self.shards_per_step
        for _ in range(steps):
            step -= 1
            if step < 0 and epoch == 0:
                break
            if step < 0:
                epoch -= 1
                step = self.steps_of(epoch) - 1
            first = step * self.shards_per_step
            found += [(epoch, n) for n in range(first, min(first + self.shards_per_step, self.shards(epoch)))]
        return found

    def steps_until(self, epochs: float) -> float:
        """Steps of the first `epochs` epochs, which may be a fraction."""
        whole = epochs if self.pruning is None else min(epochs, self.pruning.epoch)
        return whole * self.steps_of(0) + (epochs - whole) * self.steps_of(self.epochs - 1)

    def epochs_at(self, step: int) -> float:
        """Epochs that `step` steps make, as a fraction: the inverse of `steps_until`."""
        whole = step if self.pruning is None else min(step, self.pruning.epoch * self.steps_of(0))
        return whole / self.steps_of(0) + (step - whole) / self.steps_of(self.epochs - 1)

    def warmup_steps(self, settings: AttackSettings) -> float:
        """Steps over which ε grows."""
        if settings.warmup_epochs is not None:
            return self.steps_until(settings.warmup_epochs)
        return settings.warmup * self.total_steps

    @property
    def shards_by_epoch(self) -> tuple[int, ...]:
        return tuple(self.shards(epoch) for epoch in range(self.epochs))

    @cached_property
    def total_steps(self) -> int:
        """Cached: it is needed at every step, and counting takes time proportional to the epochs."""
        return sum(self.steps_of(epoch) for epoch in range(self.epochs))

    def indices(self, epoch: int, number: int) -> tuple[int, ...]:
        """Positions in the training set of the examples of ticket `number`, then those of its extra examples.

        Of a pruned epoch they are known once it is decided what is kept.
        """
        start = number * self.real_per_ticket
        end = None if number == self.shards(epoch) - 1 else start + self.real_per_ticket
        places = _order(self.examples(epoch), self.seed, epoch)[start:end]
        if self.pruning is not None and epoch >= self.pruning.epoch:
            if self.pruning.kept is None:
                raise SparringError(f"a ticket of epoch {epoch} before pruning has decided which examples are kept")
            places = self.pruning.kept[places]
        return (*places.tolist(), *self._extra_indices(epoch, number, len(places)))

    def _extra_indices(self, epoch: int, number: int, real: int) -> list[int]:
        """The extra examples of a ticket with `real` training examples; the last ticket of an epoch keeps the ratio."""
        before = sum(self._extra_of(earlier) for earlier in range(epoch)) if self.extra else 0
        first = before + number * self.extra_per_ticket
        places = [divmod(place, self.extra) for place in range(first, first + self._extra_beside(real))]
        return [self.size + int(_order(self.extra, self.seed, turn, "extra")[place]) for turn, place in places]

    def _extra_of(self, epoch: int) -> int:
        """Extra examples of the whole epoch."""
        full = self.shards(epoch) - 1
        return full * self.extra_per_ticket + self._extra_beside(self.examples(epoch) - full * self.real_per_ticket)

    def _extra_beside(self, real: int) -> int:
        return round(real * self.extra_per_ticket / self.real_per_ticket)

    def steps(self, epoch: int = 0, done: Mapping[str, Collection[int]] | None = None) -> Iterator[list[Key]]:
        """The tickets of every batch from `epoch` on, without those that are `done` (by epoch, as a ledger keeps)."""
        for index in range(epoch, self.epochs):
            passed = set((done or {}).get(str(index), ()))
            numbers = [number for number in range(self.shards(index)) if number not in passed]
            for first in range(0, len(numbers), self.shards_per_step):
                yield [Key(index, number, 0) for number in numbers[first : first + self.shards_per_step]]


@lru_cache(maxsize=8)
def _order(size: int, seed: int, turn: int, purpose: str = "order") -> torch.Tensor:
    return torch.randperm(size, generator=generator(seed, purpose, turn))
