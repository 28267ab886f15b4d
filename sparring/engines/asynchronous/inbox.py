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


class Arrivals(Protocol):
    """What has come to the trainer."""

    def start(self, objection: Objection) -> None:
        """Begin to receive; `objection` may be asked in another thread."""

    def take(self, timeout_s: float) -> list[Shard | Missing]:
        """All that has arrived; waits up to `timeout_s` for the first."""

    def close(self) -> None:
        """Receive no more."""


class Inbox:
    """Receives under the fence that `fence` gives at the time; what goes wrong in the thread is raised by `take`."""

    def __init__(self, transport: Transport, fence: Callable[[], int]) -> None:
        self._transport, self._fence = transport, fence
        self._received: queue.Queue[Shard | Missing | Exception] = queue.Queue()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, objection: Objection) -> None:
        self._thread = threading.Thread(target=self._receive, args=(objection,), name="inbox", daemon=True)
        self._thread.start()

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
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _receive(self, objection: Objection) -> None:
        while not self._closing.is_set():
            try:
                received = self._transport.receive(RECEIVE_S, self._fence(), objection)
            except Exception as error:
                self._received.put(error)
                return
            if received is not None:
                self._received.put(received)
