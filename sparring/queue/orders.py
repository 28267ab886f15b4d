"""Between the trainers of a run: rank 0 orders the steps, the others tell it which shards they have fetched.

Both go through streams of the queue's Redis. Reading takes nothing out, so a lost reply loses nothing. Each life of the
trainers is a group with streams of its own: nothing of an earlier one is read.

    orders:GROUP                                         of rank 0, for all others
    records:GROUP                                        of the others, for rank 0
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from hmac import compare_digest
from typing import Any

import msgpack  # type: ignore[import-untyped]
import redis
import torch

from sparring.queue.codec import CodecError, Wire, decode_shard, encode_shard
from sparring.queue.connection import answered
from sparring.queue.messages import Key, Missing, Shard, part_of
from sparring.queue.signature import TAG_BYTES, tag_of
from sparring.queue.transport import LUA, MAX_BLOCK_S, prefix_of, require_accepted

log = logging.getLogger(__name__)
KEEP_MS, MOST_ORDERS, MOST_RECORDS = 24 * 3600 * 1000, 1000, 100_000  # no rank is ever so far behind


@dataclass(frozen=True)
class Begin:
    """Meet rank 0 to take over its weights and training state; then the queue has this fence."""

    fence: int


@dataclass(frozen=True)
class Step:
    """Train on a step's shards, each rank on its own part.

    version: steps made before it; versions, sizes: of each shard, also those of other ranks; half_life: of the age
    weights (None: all examples weigh the same); refresh: further attack steps before it.
    """

    version: int
    keys: tuple[Key, ...]
    versions: tuple[int, ...]
    sizes: tuple[int, ...]
    half_life: float | None = None
    refresh: int = 0


@dataclass(frozen=True)
class End:
    """There are no further steps."""


Order = Begin | Step | End


class Orders:
    """One trainer's way to the others of its `group`."""

    def __init__(
        self, client: redis.Redis, run: str, group: str, *, timeout_s: float, wire: Wire = "int8", secret: bytes = b""
    ) -> None:
        self._client, self._prefix, self._timeout_s, self._wire = client, prefix_of(run), timeout_s, wire
        self._secret = secret
        self._redis: Any = client
        self._tell = client.register_script((LUA / "tell.lua").read_text())
        self._orders, self._records = f"orders:{group}", f"records:{group}"
        self._most = {self._orders: MOST_ORDERS, self._records: MOST_RECORDS}
        self._read: dict[str, bytes] = {}  # the last entry read of each stream
        self._given, self._followed = 0, 0  # the last order given, and the last one followed

    def give(self, order: Order, fence: int) -> None:
        """Order all other ranks; raises as `Transport.issue` does."""
        self._given += 1
        self._add(self._orders, fence, "order", msgpack.packb((self._given, type(order).__name__, *astuple(order))))

    def next(self, timeout_s: float) -> list[Order]:
        """The orders that have come, in order; waits up to `timeout_s` for the first. A copy of one is dropped."""
        orders = []
        for _, message in self._next(self._orders, timeout_s):
            number, order = _order(message)
            if number > self._followed:
                self._followed = number
                orders.append(order)
        return orders

    def report(self, received: Shard | Missing, *, whole: bool = False) -> None:
        """Tell rank 0 of a shard, which stays here unless it is to be sent `whole`, or of one that is missing."""
        if isinstance(received, Missing):
            self._add(self._records, received.fence, "missing", msgpack.packb(received))
            return
        record = received if whole else record_of(received)
        self._add(self._records, received.fence, "shard", encode_shard(record, self._wire))

    def reported(self, timeout_s: float) -> list[Shard | Missing]:
        """What the others have told since the last call; waits up to `timeout_s` for the first."""
        received = self._next(self._records, timeout_s)
        if received:
            last = self._read[self._records]
            self._retry(partial(self._redis.xtrim, self._prefix + self._records, minid=last, approximate=False))
        return [_record(kind, message) for kind, message in received]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _add(self, stream: str, fence: int, kind: str, message: bytes) -> None:
        keys = [self._prefix + name for name in ("fence", stream, "meta")]
        entry = self._tag(stream, kind.encode(), message) + message
        arguments = (fence, KEEP_MS, self._most[stream], kind, entry, stream)
        reply = self._retry(lambda: self._tell(keys=keys, args=arguments))
        require_accepted(self._client, int(reply), fence)

    def _next(self, stream: str, timeout_s: float) -> list[tuple[bytes, memoryview]]:
        """The entries after those that were read: their kinds and messages, without those of nobody of this group."""
        key, deadline = self._prefix + stream, time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            block_ms = round(1000 * min(left_s, MAX_BLOCK_S)) or None
            after = {key: self._read.get(stream, b"0")}
            found = self._retry(partial(self._redis.xread, after, block=block_ms))
            if found:
                ((_, entries),) = found
                self._read[stream] = entries[-1][0]
                received = [self._verified(stream, fields) for _, fields in entries]
                if any(received):
                    return [each for each in received if each is not None]
            if left_s <= MAX_BLOCK_S:
                return []

    def _verified(self, stream: str, fields: dict[bytes, bytes]) -> tuple[bytes, memoryview] | None:
        """Kind and message of an entry; None, with a warning, where its checksum is not that of this group's stream."""
        for kind, entry in fields.items():
            content = memoryview(entry)[TAG_BYTES:]
            if len(fields) == 1 and compare_digest(entry[:TAG_BYTES], self._tag(stream, kind, content)):
                return kind, content
        log.warning("refused from the queue: an entry of %s without the checksum of this run's trainers", stream)
        return None

    def _tag(self, stream: str, kind: bytes, message: bytes | memoryview) -> bytes:
        """Of this stream, and so of this group, alone."""
        return tag_of(self._secret, stream.encode(), kind, message)

    def _retry(self, operation: Callable[[], Any]) -> Any:
        return answered(self._client, operation, self._timeout_s, self._prefix)


def record_of(shard: Shard) -> Shard:
    """The shard without its product: δ, or its views, of one pixel."""
    count = len(shard.labels)
    if shard.views is not None:
        return replace(shard, views=torch.zeros(2, count, 1, 1, 1, dtype=torch.uint8))
    return replace(shard, delta=torch.zeros(count, 1, 1, 1))


def own(keys: Sequence[Key], rank: int, parts: int) -> list[int]:
    """Places among `keys` of the shards that a rank trains on."""
    return [place for place, key in enumerate(keys) if part_of(key, parts) == rank]


def _order(message: memoryview) -> tuple[int, Order]:
    """Its number, and what is ordered."""
    try:
        number, name, *fields = msgpack.unpackb(message)
        if name == "Step":
            version, keys, versions, sizes, half_life, refresh = fields
            of_shards = tuple(Key(*key) for key in keys), tuple(versions), tuple(sizes)
            return number, Step(version, *of_shards, half_life, refresh)
        return number, Begin(*fields) if name == "Begin" else End(*fields)
    except (ValueError, TypeError) as error:
        raise CodecError(f"an order between trainers is malformed: {error!s:.80}") from error


def _record(kind: bytes, message: memoryview) -> Shard | Missing:
    if kind == b"shard":
        return decode_shard(message)
    try:
        key, reason, detail, fence = msgpack.unpackb(message)
        return Missing(Key(*key), reason, detail, fence)
    except (ValueError, TypeError) as error:
        raise CodecError(f"a word between trainers of a missing shard is malformed: {error!s:.80}") from error
