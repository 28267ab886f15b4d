"""Broadcasts of the weights in the background, one after the other; a step waits only until they are copied."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from sparring.engines.asynchronous.background import Background
from sparring.engines.asynchronous.snapshot import Route, Snapshot
from sparring.errors import SparringError
from sparring.models.arrays import to_arrays, with_helper
from sparring.queue.messages import Controls
from sparring.queue.transport import QueueLost
from sparring.trainer.history import Past
from sparring.trainer.session import Session

log = logging.getLogger(__name__)


class Sent(NamedTuple):
    """A broadcast that has ended: how large its snapshot was, and how long it took."""

    size_bytes: int
    seconds: float


class Broadcaster:
    """Sends snapshots of the learner's weights along `route`, and counts them in the run's state.

    `published` is the newest version that tickets may name: a worker waits for it. The weights must not change
    between `start` and the end of `until_copied`, which the learner calls before it changes them.
    """

    def __init__(self, session: Session, route: Route) -> None:
        self.published = -1
        self._session, self._learner, self._route = session, session.learner, route
        self._half = session.config.model.precision == "bf16"
        self._timeout_s = session.config.trainer.wait_timeout_s
        self._sending: Background[Sent] = Background("broadcast")
        self._copied = threading.Event()
        self._copied.set()
        self._learner.before_change = self.until_copied

    def start(self, fence: int, older: Sequence[Past] = ()) -> None:
        """Begin to broadcast the `older` and then the present weights, once the broadcast before has ended.

        Raises:
            SparringError: the one before failed, or did not end in time.
        """
        self.settle()
        state, version = self._session.state, self._learner.step
        self._copied = threading.Event()
        self._sending.start(partial(self._send, fence, version, self._learner.controls(), self._copied, older))
        self.published = version
        state.version, state.fence = version, fence
        state.publications += 1

    def until_copied(self) -> None:
        """Wait until the weights may change. Called within a step, whose duration must not count this wait.

        Raises:
            SparringError: it takes too long.
        """
        began = time.monotonic()
        if not self._copied.wait(self._timeout_s):
            with suppress(TimeoutError):
                self._sending.settle(timeout_s=0)  # it has been waited for long enough
            raise self._late("its weights were not copied")
        waited = self._count_wait(began)
        self._session.state.step_seconds -= waited

    def settle(self, wait: bool = True) -> None:
        """Count the broadcast that has ended; raises as `start` does."""
        began = time.monotonic()
        try:
            ended = self._sending.settle(wait=wait, timeout_s=self._timeout_s)
        except TimeoutError:
            raise self._late("it did not end") from None
        finally:
            self._count_wait(began)
        if ended is None:
            return
        try:
            sent = ended.result()
        except QueueLost:
            log.warning("the queue was lost during a broadcast; the loop's next request starts over")
            return
        self._session.state.publish_bytes += sent.size_bytes
        self._session.state.publish_seconds += sent.seconds

    def close(self) -> None:
        """Wait for the broadcast under way, since nothing should change the weights before it has ended."""
        self._sending.close(self._timeout_s)

    def _send(
        self, fence: int, version: int, controls: Controls, copied: threading.Event, older: Sequence[Past]
    ) -> Sent:
        """In the thread. On the CPU the arrays are the weights themselves until the route has taken them."""
        began = time.monotonic()
        try:
            for past in older:
                self._route.publish(Snapshot(fence, past.version, past.controls, past.arrays()))
            own = to_arrays(self._learner.model, half=self._half)
            arrays = with_helper(own, self._learner.experiment.changing_helper)
            if self._learner.device.type != "cpu":
                copied.set()
            self._route.publish(Snapshot(fence, version, controls, arrays), copied.set)
        finally:
            copied.set()
        return Sent(sum(array.nbytes for array in arrays.values()), time.monotonic() - began)

    def _count_wait(self, began: float) -> float:
        waited, waits = time.monotonic() - began, self._session.state.wait_seconds
        waits["snapshot"] = waits.get("snapshot", 0.0) + waited
        return waited

    def _late(self, what: str) -> SparringError:
        return SparringError(
            f"a broadcast of the weights took longer than trainer.wait_timeout_s = {self._timeout_s:g} s ({what}): "
            f"Redis or Ray's object store accepts no data. See the logs in the run's folder; raise "
            f"ray.object_store_mb where it is full."
        )
