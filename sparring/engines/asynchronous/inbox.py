"""What workers have committed, fetched and decoded in a thread beside the trainer's loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from sparring.queue.messages import Missing, Shard
from sparring.queue.transport import Transport

RECEIVE_S = 0.5


class Inbox:
    """Receives under the fence that `fence` gives at the time; what goes wrong in the thread is raised by `take`."""

    def __init__(self, transport: Transport, fence: Callable[[], int]) -> None:
        self._transport, self._fence = transport, fence
        self._received: queue.Queue[Shard | Missing | Exception] = queue.Queue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._receive, name="inbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self, timeout_s: float) -> list[Shard | Missing]:
        """All that has arrived; waits up to `timeout_s` for the first."""
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
        self._thread.join(timeout=5)

    def _receive(self) -> None:
        while not self._closing.is_set():
            try:
                received = self._transport.receive(RECEIVE_S, self._fence())
            except Exception as error:
                self._received.put(error)
                return
            if received is not None:
                self._received.put(received)
