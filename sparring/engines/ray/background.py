"""Snapshots go out beside the trainer's steps, one after the other; only the copying of the weights holds a step up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from concurrent.futures import wait as wait_for
from typing import NamedTuple, NoReturn

from sparring.errors import SparringError
from sparring.queue.messages import Controls

# fence, version, controls, and what is to be called once the weights may change -> bytes that were sent
Publish = Callable[[int, int, Controls, Callable[[], None]], int]


class Sent(NamedTuple):
    """A publication that has ended: how large it was, and how long it took."""

    size_bytes: int
    seconds: float


class Publisher:
    """Broadcasts the weights in a thread. They must not change between `start` and the end of `until_copied`.

    Tickets may name a version as soon as it is started: who needs it waits for it. What goes wrong is raised by
    `settle`.
    """

    def __init__(self, publish: Publish, timeout_s: float) -> None:
        self._publish, self._timeout_s = publish, timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._under_way: Future[Sent] | None = None
        self._copied = threading.Event()
        self._copied.set()

    def start(self, fence: int, version: int, controls: Controls) -> None:
        """Broadcast the present weights, once the publication before has been settled."""
        assert self._under_way is None, "the one before is not settled"
        self._copied = copied = threading.Event()
        self._under_way = self._thread.submit(self._send, fence, version, controls, copied)

    def until_copied(self) -> float:
        """Wait until the weights may change; returns the seconds that it took.

        Raises:
            SparringError: it takes too long.
        """
        began = time.monotonic()
        if not self._copied.wait(self._timeout_s):
            self._late("its weights were not copied")
        return time.monotonic() - began

    def settle(self, wait: bool = True) -> Sent | None:
        """What the publication under way came to; None: there is none, or it goes on and is not waited for.

        Raises:
            SparringError: it failed, or takes too long.
        """
        task = self._under_way
        if task is None or not (wait or task.done()):
            return None
        try:
            sent = task.result(self._timeout_s)
        except TooLate:
            self._late("it did not end")
        finally:
            self._under_way = None
        return sent

    def close(self) -> None:
        """Let the one under way end, since nothing should touch the weights before; one that does not is left alone."""
        if self._under_way is not None:
            wait_for([self._under_way], self._timeout_s)
        self._thread.shutdown(wait=False)

    def _send(self, fence: int, version: int, controls: Controls, copied: threading.Event) -> Sent:
        began = time.monotonic()
        try:
            size_bytes = self._publish(fence, version, controls, copied.set)
        finally:
            copied.set()
        return Sent(size_bytes, time.monotonic() - began)

    def _late(self, what: str) -> NoReturn:
        self._under_way = None  # it has been waited for long enough
        raise SparringError(
            f"a snapshot was under way for trainer.wait_timeout_s = {self._timeout_s:g} s and {what}: Redis or Ray's "
            f"object store takes nothing. See the logs in the run's folder; raise ray.object_store_mb where it is full."
        )
