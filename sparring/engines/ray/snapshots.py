"""The two routes of snapshots: through the queue's Redis, or through Ray's object store.

Large weights are put into Ray's object store once per version, one copy per node, and a small actor hands out the
references. Even for small weights this costs about 20 ms of processor time per broadcast, summed over the processes
(docs/results.md); through the queue's Redis they cost a tenth of that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ray
from safetensors.numpy import load, save

from sparring.config import Config
from sparring.engines.asynchronous.snapshot import Route, Snapshot
from sparring.queue.messages import Controls, Weights
from sparring.queue.sizing import kept_snapshots, through_object_store
from sparring.queue.transport import Stream, Transport

log = logging.getLogger(__name__)
FETCH_TIMEOUT_S = 60.0
RETRY_S = 0.2


def open_route(
    config: Config, snapshot_bytes: int, transport: Transport, store: str, stream: Stream = "weights"
) -> Route:
    """The route for the settings and the size of a snapshot; `store` is the name of the `SnapshotStore` actor.

    stream: the weights that workers attack under, or those that are judged, of which only the last are kept.
    """
    if through_object_store(config.queue, snapshot_bytes):
        return RayRoute(ray.get_actor(store), stream)
    return QueueRoute(transport, kept_snapshots(config.staleness) if stream == "weights" else 1, stream)


class QueueRoute:
    """Snapshots in a Redis stream of the run, with entry ids fence-version."""

    def __init__(self, transport: Transport, keep: int, stream: Stream = "weights") -> None:
        self.transport, self.keep, self.stream = transport, keep, stream

    def publish(self, snapshot: Snapshot, copied: Callable[[], None] = lambda: None) -> None:
        packed = save(snapshot.arrays)
        copied()
        self.transport.put_weights(snapshot.fence, snapshot.version, snapshot.controls, packed, self.keep, self.stream)

    def newer(self, order: tuple[int, int], timeout_s: float) -> Snapshot | None:
        return _unpacked(self.transport.newer_weights(order, timeout_s, self.stream))

    def exactly(self, order: tuple[int, int], timeout_s: float) -> Snapshot | None:
        return _unpacked(self.transport.weights(order, timeout_s, self.stream))


def _unpacked(found: Weights | None) -> Snapshot | None:
    return None if found is None else Snapshot(found.fence, found.version, found.controls, load(found.arrays))


class RayRoute:
    """Snapshots in Ray's object store; `SnapshotStore` knows the newest references."""

    def __init__(self, store: Any, stream: Stream = "weights") -> None:
        self.store, self.stream = store, stream
        self._last: Any = None

    def publish(self, snapshot: Snapshot, copied: Callable[[], None] = lambda: None) -> None:
        notice = Notice(snapshot.fence, snapshot.version, snapshot.controls, [ray.put(snapshot.arrays)])
        copied()
        self._last = self.store.publish.remote(notice, self.stream)

    def newer(self, order: tuple[int, int], timeout_s: float) -> Snapshot | None:
        return self._fetched(self.store.newer.remote(order, timeout_s, self.stream), timeout_s)

    def exactly(self, order: tuple[int, int], timeout_s: float) -> Snapshot | None:
        return self._fetched(self.store.exactly.remote(order, timeout_s, self.stream), timeout_s)

    def _fetched(self, asked: Any, timeout_s: float) -> Snapshot | None:
        """The snapshot that the store names; None also while the store restarts: the caller asks again."""
        try:
            notice = ray.get(asked, timeout=timeout_s + 10)
            if notice is None:
                return None
            arrays = ray.get(notice.ref[0], timeout=FETCH_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            log.info("snapshot not fetched: %s", type(error).__name__)
            time.sleep(RETRY_S)
            return None
        return Snapshot(notice.fence, notice.version, notice.controls, arrays)


class Notice(NamedTuple):
    """A snapshot in the store; `ref` is a list with one object reference, so that Ray does not resolve it."""

    fence: int
    version: int
    controls: Controls
    ref: list[Any]

    @property
    def order(self) -> tuple[int, int]:
        return (self.fence, self.version)


class SnapshotStore:
    """Keeps the references of the last `keep` snapshots of the weights, and the last of those that are judged; an
    asyncio Ray actor, so that many workers can wait in it."""

    def __init__(self, keep: int = 2) -> None:
        self.keep: dict[Stream, int] = {"weights": keep, "judged": 1}
        self.notices: dict[Stream, list[Notice]] = {"weights": [], "judged": []}
        self.changed = asyncio.Condition()

    async def publish(self, notice: Notice, stream: Stream = "weights") -> None:
        """Add a snapshot; those of older fences are removed."""
        async with self.changed:
            before = self.notices[stream]
            same = [old for old in before if old.fence == notice.fence and old.version != notice.version]
            self.notices[stream] = sorted([*same, notice], key=lambda each: each.order)[-self.keep[stream] :]
            self.changed.notify_all()

    async def newer(self, order: tuple[int, int], timeout_s: float, stream: Stream = "weights") -> Notice | None:
        """The newest snapshot, as soon as it is newer than `order`; None after `timeout_s`."""
        return await self._first(lambda: self.notices[stream][-1:], lambda each: each.order > order, timeout_s)

    async def exactly(self, order: tuple[int, int], timeout_s: float, stream: Stream = "weights") -> Notice | None:
        """The snapshot named `order`; None where it does not come within `timeout_s`."""
        return await self._first(lambda: self.notices[stream], lambda each: each.order == order, timeout_s)

    async def _first(self, candidates: Any, wanted: Any, timeout_s: float) -> Notice | None:
        def found() -> Notice | None:
            return next((each for each in candidates() if wanted(each)), None)

        async with self.changed:
            try:
                await asyncio.wait_for(self.changed.wait_for(lambda: found() is not None), timeout_s)
            except TimeoutError:
                return None
            return found()
