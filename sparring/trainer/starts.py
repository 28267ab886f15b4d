"""Warm starts of attacks: where those on the previous batch ended, or where the last attack on the example ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparring.attacks.starts import Rows, WarmStart, packed, unpacked
from sparring.queue.messages import Key, Shard
from sparring.trainer.plan import Plan

Shape = tuple[int, int, int]


class PreviousBatch:
    """Row i of a batch begins where row i of the batch before ended, the first batch at zero (Wong et al.).

    A shorter last batch takes and replaces the first rows only, as in the authors' code.
    """

    def __init__(self, plan: Plan, shape: Shape) -> None:
        self.batch_size, self.shards_per_step = plan.batch_size, plan.shards_per_step
        self.delta = torch.zeros(plan.largest_step, *shape)

    def given(self, key: Key, indices: Sequence[int], radius: float) -> WarmStart:
        """The start of the attack on ticket `key`, which the attack projects to its image and ball."""
        return WarmStart(self.delta[self._rows(key, len(indices))], torch.ones(len(indices), dtype=torch.bool))

    def remember(self, shard: Shard, indices: Sequence[int]) -> None:
        """`shard` is trained on."""
        self.delta[self._rows(shard.key, len(indices))] = shard.delta.detach().cpu()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"delta": self.delta}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from `state()`; without one, from the beginning."""
        self.delta = torch.zeros_like(self.delta) if state is None else state["delta"].clone()

    def _rows(self, key: Key, count: int) -> slice:
        first = key.number % self.shards_per_step * self.batch_size
        return slice(first, first + count)


class LastPerturbations:
    """The last perturbation of every training example: int8 [size, C, H, W] of ε/127, so C·H·W bytes an example.

    They are kept relative to the radius they were made with, so that they grow with the ball. Losing them is harmless:
    an example without one begins as the attack does. The starts of a ticket are read when it is first issued and kept
    until it is trained on, so that every attempt has the same.

    recent: the examples that are trained on while the attack on a ticket may be under way already; they have no start.
    """

    def __init__(self, size: int, shape: Shape, recent: Callable[[Key], list[int]] = lambda key: []) -> None:
        self.shape, self.recent = shape, recent
        self.steps = torch.zeros(size, *shape, dtype=torch.int8)
        self.known = torch.zeros(size, dtype=torch.bool)
        self._issued: dict[tuple[int, int], Rows] = {}

    def rows(self, key: Key, indices: Sequence[int]) -> Rows:
        """The starts of ticket `key`, as the ticket carries them."""
        ticket = (key.epoch, key.number)
        if ticket not in self._issued:
            at = torch.tensor(indices)
            steps, known = self.steps[at].numpy(), self._known(key, at).tolist()
            self._issued[ticket] = tuple(row.tobytes() if has else None for row, has in zip(steps, known, strict=True))
        return self._issued[ticket]

    def _known(self, key: Key, at: Tensor) -> Tensor:
        return self.known[at] & ~torch.isin(at, torch.tensor(self.recent(key), dtype=at.dtype))

    def given(self, key: Key, indices: Sequence[int], radius: float) -> WarmStart | None:
        """The same for an attack in this process, with a ball of `radius`."""
        return unpacked(self.rows(key, indices), self.shape, radius)

    def remember(self, shard: Shard, indices: Sequence[int]) -> None:
        """`shard` is trained on. Examples that were not attacked (δ = 0) keep their last perturbation."""
        self._issued.pop((shard.key.epoch, shard.key.number), None)
        delta = shard.delta.detach().cpu()
        attacked = delta.flatten(1).any(1)
        at = torch.tensor(indices)[attacked]
        self.steps[at] = packed(delta[attacked], shard.radius)
        self.known[at] = True

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"steps": self.steps, "known": self.known}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from `state()`; without one, as if no example had been attacked."""
        self._issued.clear()
        self.steps = torch.zeros_like(self.steps) if state is None else state["steps"].clone()
        self.known = torch.zeros_like(self.known) if state is None else state["known"].clone()


def starts_of(
    start: str, plan: Plan, size: int, shape: Shape, *, lead: int = 0
) -> PreviousBatch | LastPerturbations | None:
    """The perturbations that `attack.start` needs for `size` training examples; None if attacks have no warm start.

    lead: steps before its own in which the attack on a ticket may be under way (a fresh finish).
    """

    def recent(key: Key) -> list[int]:
        return [index for each in plan.keys_before(key.epoch, key.number, lead) for index in plan.indices(*each)]

    if start == "previous":
        return PreviousBatch(plan, shape)
    return LastPerturbations(size, shape, recent) if start == "last" else None
