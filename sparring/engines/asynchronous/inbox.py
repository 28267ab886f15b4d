"""What workers have committed, fetched and decoded in a thread beside the trainer's loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

from sparring.queue.codec import Objection
from sparring.queue.messages import Missing, Shard
from sparring.queue.transport import Transport

RECEIVE_S = 0.5
Source = Callable[[float], list[Shard | Missing]]  # waits so many seconds for the first


class Arrivals(Protocol):
    """What has come to the trainer."""

    def start(self, objection: Objection) -> None:
        """Begin to receive; `objection` may be asked in another thread."""

    def take(self, timeout_s: float) -> list[Shard | Missing]:
        """All that has arrived; waits up to `timeout_s` for the first."""

    def close(self) -> None:
        """Receive no more."""


class Inbox:
    """Receives under the fence that `fence` gives at the time; what goes wrong in a thread is raised by `take`.

    reported: what other trainers have received, with a thread of its own.
    """

    def __init__(
        self,
        transport: Transport,
        fence: Callable[[], int],
        reported: Source | None = None,
    ) -> None:
        self._transport, self._fence = transport, fence
        self._received: queue.Queue[Shard | Missing | Exception] = queue.Queue()
        self._closing = threading.Event()
        self._sources: list[Source] = [self._committed] if reported is None else [self._committed, reported]
        self._threads: list[threading.Thread] = []

    def start(self, objection: Objection) -> None:
        self._objection = objection
        for source in self._sources:
            thread = threading.Thread(target=self._receive, args=(source,), name="inbox", daemon=True)
            thread.start()
            self._threads.append(thread)

    def take(self, timeout_s: float) -> list[Shard | Missing]:
        taken: list[Shard | Missing] = []
        while True:
            try:
                received = self._received.get(timeout=0 if taken else timeout_s)
            except queue.Empty:
                return taken
            if isinstance(received, Exception):
                raise received
            taken.append(received)

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def _committed(self, timeout_s: float) -> list[Shard | Missing]:
        received = self._transport.receive(timeout_s, self._fence(), self._objection)
        return [] if received is None else [received]

    def _receive(self, source: Source) -> None:
        while not self._closing.is_set():
            try:
                for received in source(RECEIVE_S):
                    self._received.put(received)
            except Exception as error:
                self._received.put(error)
                return
