"""Versioned weight snapshots: put once into Ray's object store, handed out by a small actor, never by value.

A snapshot is named by (fence, version): weights of an earlier start of the run are never newer than those of a
later one, whatever their versions.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

Arrays = dict[str, "np.ndarray[Any, Any]"]


class Notice(NamedTuple):
    """What the store tells of a snapshot; `ref` is a list of one object reference, so that Ray does not resolve it."""

    fence: int
    version: int
    epsilon: float
    ref: list[Any]

    @property
    def order(self) -> tuple[int, int]:
        return (self.fence, self.version)


def to_arrays(model: nn.Module) -> Arrays:
    """Parameters and buffers as contiguous CPU arrays."""
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in model.state_dict().items()}


def load_arrays(model: nn.Module, arrays: Arrays) -> None:
    """Copy a snapshot into the model in place; safe between two attack steps."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(torch.frombuffer(arrays[name].data, dtype=tensor.dtype).view(tensor.shape))


class SnapshotStore:
    """Keeps the references of the last `keep` snapshots; an asyncio Ray actor, so that many workers can wait in it."""

    def __init__(self, keep: int = 2) -> None:
        self.keep = keep
        self.notices: list[Notice] = []
        self.changed = asyncio.Condition()

    async def publish(self, notice: Notice) -> None:
        """Add a snapshot; those of older fences are forgotten."""
        async with self.changed:
            same = [old for old in self.notices if old.fence == notice.fence and old.version != notice.version]
            self.notices = sorted([*same, notice], key=lambda each: each.order)[-self.keep :]
            self.changed.notify_all()

    async def newer(self, order: tuple[int, int], timeout_s: float) -> Notice | None:
        """The newest snapshot, as soon as it is newer than `order`; None after `timeout_s`."""
        return await self._first(lambda: self.notices[-1:], lambda each: each.order > order, timeout_s)

    async def exactly(self, order: tuple[int, int], timeout_s: float) -> Notice | None:
        """The snapshot named `order`; None where it does not come within `timeout_s`."""
        return await self._first(lambda: self.notices, lambda each: each.order == order, timeout_s)

    async def _first(self, candidates: Any, wanted: Any, timeout_s: float) -> Notice | None:
        def found() -> Notice | None:
            return next((each for each in candidates() if wanted(each)), None)

        async with self.changed:
            try:
                await asyncio.wait_for(self.changed.wait_for(lambda: found() is not None), timeout_s)
            except TimeoutError:
                return None
            return found()
