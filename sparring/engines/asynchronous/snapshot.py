"""Versioned snapshots of the weights. They are ordered by (fence, version): those of a later start of the run are
newer, whatever their versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from sparring.models.arrays import Arrays
from sparring.queue.messages import Controls


class Snapshot(NamedTuple):
    """Weights and the controls that go with them."""

    fence: int
    version: int
    controls: Controls
    arrays: Arrays

    @property
    def order(self) -> tuple[int, int]:
        return (self.fence, self.version)


class Route(Protocol):
    """How snapshots reach the workers. Methods that wait return None after their time-out."""

    def publish(self, snapshot: Snapshot, copied: Callable[[], None] = lambda: None) -> None:
        """Broadcast it; the oldest kept snapshot is removed. Calls `copied` once the arrays may change."""

    def newer(self, order: tuple[int, int], timeout_s: float) -> Snapshot | None:
        """The newest snapshot, as soon as it is newer than `order`."""

    def exactly(self, order: tuple[int, int], timeout_s: float) -> Snapshot | None:
        """The snapshot named `order`."""
