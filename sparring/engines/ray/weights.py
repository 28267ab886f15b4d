"""A worker's weights: a thread waits for newer snapshots while the worker attacks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from torch import nn

from sparring.engines.asynchronous.snapshot import Route, Snapshot
from sparring.errors import SparringError
from sparring.models.arrays import helper_of, load_arrays
from sparring.queue.messages import Controls

log = logging.getLogger(__name__)
POLL_S = 2.0
LOOK_S = 0.5
FETCH_SHARE = 0.05  # largest share of a worker's time for fetching snapshots that no ticket needs


class Weights:
    """Loads snapshots into `model`, and into a `helper` that changes; `version` is what they hold.

    `begin` waits for a snapshot that a ticket allows, `swap` takes a newer one between two attack steps if it has
    arrived. Neither ever goes back within a fence.
    """

    def __init__(
        self, route: Route, model: nn.Module, *, lockstep: bool, timeout_s: float, helper: nn.Module | None = None
    ) -> None:
        self.route, self.model, self.helper, self.lockstep, self.timeout_s = route, model, helper, lockstep, timeout_s
        self.loaded = (0, -1)
        self.controls = Controls(0.0)
        self.swaps = 0
        self._newest: Snapshot | None = None
        self._arrived = threading.Condition()
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        if not lockstep:
            threading.Thread(target=self._follow, name="weights", daemon=True).start()

    @property
    def _newest_fence(self) -> int:
        return 0 if self._newest is None else self._newest.fence

    @property
    def version(self) -> int:
        return self.loaded[1]

    def begin(self, fence: int, version: int, abandoned: Callable[[], bool]) -> bool:
        """Load the newest snapshot of `fence` that is at least `version` (under lockstep exactly that one).

        False: the wait is pointless, since the ticket is `abandoned` or a later fence is in force.

        Raises:
            SparringError: none came in time.
        """
        limit = time.monotonic() + self.timeout_s
        find = self._exactly if self.lockstep else self._at_least
        while (found := find(fence, version)) is None:
            if abandoned() or self._newest_fence > fence:
                return False
            if time.monotonic() > limit:
                raise SparringError(
                    f"no snapshot of version {version} arrived within {self.timeout_s:.0f} s; the trainer may be gone."
                )
        self._load(found)
        return True

    def swap(self) -> None:
        """Load a newer snapshot of the same fence if one has arrived."""
        newest = self._newest
        if newest is not None and newest.fence == self.loaded[0] and newest.order > self.loaded:
            self._load(newest)
            self.swaps += 1

    def stop(self) -> None:
        self._stopped.set()

    def _load(self, snapshot: Snapshot) -> None:
        if snapshot.order != self.loaded:
            load_arrays(self.model, snapshot.arrays)
            if self.helper is not None:
                load_arrays(self.helper, helper_of(snapshot.arrays))
            self.loaded, self.controls = snapshot.order, snapshot.controls

    def _at_least(self, fence: int, version: int) -> Snapshot | None:
        def usable() -> bool:
            return self._newest is not None and self._newest.fence == fence and self._newest.version >= version

        with self._arrived:
            if not usable():
                self._wanted.set()
                self._arrived.wait(LOOK_S)
            return self._newest if usable() else None

    def _exactly(self, fence: int, version: int) -> Snapshot | None:
        return self.route.exactly((fence, version), LOOK_S)

    def _follow(self) -> None:
        """Wait for the next snapshot, fetch it, and again.

        With short steps not every version is worth fetching: unless a ticket needs a newer one, fetching takes at most
        FETCH_SHARE of the time.
        """
        order = (0, -1)
        while not self._stopped.is_set():
            began = time.thread_time()
            try:
                snapshot = self.route.newer(order, POLL_S)
            except Exception as error:  # if this thread died, the worker would keep its old weights
                log.warning("snapshot not fetched: %s: %s", type(error).__name__, error)
                self._stopped.wait(LOOK_S)
                continue
            if snapshot is None:
                continue
            order = snapshot.order
            with self._arrived:
                self._newest = snapshot
                self._wanted.clear()
                self._arrived.notify_all()
            self._wanted.wait((time.thread_time() - began) / FETCH_SHARE)
