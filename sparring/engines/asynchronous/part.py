"""The shards of one trainer's part, fetched and decoded in a thread beside its steps."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence

from sparring.errors import SparringError
from sparring.queue.codec import Objection
from sparring.queue.messages import Key, Missing, Shard
from sparring.queue.orders import Orders
from sparring.queue.transport import FencedOut, QueueLost, Transport

log = logging.getLogger(__name__)
RECEIVE_S = 0.5
REMEMBERED = 4096  # tickets: another attempt at one that a step has taken is not kept


class Part:
    """Holds the shards of part `rank` until a step takes them, and reports each to rank 0; `whole`: with its product.

    objection: see `decode_shard`. What goes wrong in the thread is raised by `check`.
    """

    def __init__(
        self, transport: Transport, orders: Orders, rank: int, *, objection: Objection, whole: bool = False
    ) -> None:
        self._transport, self._orders, self._rank, self._whole = transport, orders, rank, whole
        self._objection = objection
        self._held: dict[Key, Shard] = {}
        self._taken: deque[tuple[int, int]] = deque(maxlen=REMEMBERED)  # epoch and number
        self._fence = 0
        self._failure: Exception | None = None
        self._begun, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._receive, name="part", daemon=True)
        self._thread.start()

    def begin(self, fence: int) -> None:
        """Forget the shards of earlier fences; from now on those of `fence` are fetched."""
        self._fence = fence
        self._held.clear()
        self._taken.clear()
        self._begun.set()

    def take(self, keys: Sequence[Key]) -> list[Shard]:
        """The shards of a step. Other attempts at its tickets are forgotten.

        Raises:
            SparringError: rank 0 asks for one that was never reported.
        """
        missing = [key for key in keys if key not in self._held]
        if missing:
            raise SparringError(f"trainer {self._rank} has no shard {missing[0]}. Please report this as a bug.")
        taken = [self._held[key] for key in keys]
        tickets = {(key.epoch, key.number) for key in keys}
        for key in [key for key in self._held.copy() if (key.epoch, key.number) in tickets]:
            del self._held[key]
        self._taken.extend(tickets)
        return taken

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        if self._failure is not None:
            raise self._failure

    def add(self, received: Shard | Missing) -> None:
        """Report a shard, and keep it unless a step has taken another attempt; one of another fence is dropped."""
        if received.fence != self._fence:
            return
        if isinstance(received, Shard) and (received.key.epoch, received.key.number) not in self._taken:
            self._held[received.key] = received
        self._orders.report(received, whole=self._whole)

    def close(self) -> None:
        """Fetch no more."""
        self._closing.set()
        self._begun.set()
        self._thread.join(timeout=5)

    def _receive(self) -> None:
        self._begun.wait()
        while not self._closing.is_set():
            try:
                received = self._transport.receive(RECEIVE_S, self._fence, self._objection, self._rank)
                if received is not None:
                    self.add(received)
            except (FencedOut, QueueLost) as error:
                log.info("%s", error)  # rank 0 notices too, and begins anew
            except Exception as error:
                self._failure = error
                return
