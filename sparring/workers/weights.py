"""A worker's view of the weights: a thread waits for newer snapshots beside the attack."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from torch import nn

from sparring.errors import SparringError
from sparring.trainer.snapshots import Arrays, Notice, load_arrays

log = logging.getLogger(__name__)
POLL_S = 2.0
LOOK_S = 0.5
FETCH_TIMEOUT_S = 60.0
FETCH_SHARE = 0.1  # of a worker's time at most goes into fetching snapshots that no ticket asks for
CALL_S = 0.004  # what asking for one costs beside the fetch: two calls of an actor


class Weights:
    """Loads snapshots into `model`; `version` is what the model holds.

    `begin` waits for a snapshot that a ticket allows, `swap` takes a newer one between two attack steps if it has
    arrived. Neither ever goes back within a fence.
    """

    def __init__(self, store: Any, model: nn.Module, *, lockstep: bool, timeout_s: float) -> None:
        self.store, self.model, self.lockstep, self.timeout_s = store, model, lockstep, timeout_s
        self.loaded = (0, -1)
        self.epsilon = 0.0
        self.swaps = 0
        self._newest: tuple[Notice, Arrays] | None = None
        self._arrived = threading.Condition()
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        if not lockstep:
            threading.Thread(target=self._follow, name="weights", daemon=True).start()

    @property
    def _newest_fence(self) -> int:
        return 0 if self._newest is None else self._newest[0].fence

    @property
    def version(self) -> int:
        return self.loaded[1]

    def begin(self, fence: int, version: int, abandoned: Callable[[], bool]) -> bool:
        """Load the newest snapshot of `fence` that is at least `version` (under lockstep exactly that one).

        False: the wait has lost its sense, since `abandoned` or because a later fence has taken over.

        Raises:
            SparringError: none came in time.
        """
        limit = time.monotonic() + self.timeout_s
        look = self._exactly if self.lockstep else self._at_least
        while (found := look(fence, version)) is None:
            if abandoned() or self._newest_fence > fence:
                return False
            if time.monotonic() > limit:
                raise SparringError(
                    f"no snapshot of version {version} came within {self.timeout_s:.0f} s; the trainer may be gone."
                )
        self._load(*found)
        return True

    def swap(self) -> None:
        """Load a newer snapshot of the same fence if one has arrived."""
        newest = self._newest
        if newest is not None and newest[0].fence == self.loaded[0] and newest[0].order > self.loaded:
            self._load(*newest)
            self.swaps += 1

    def stop(self) -> None:
        self._stopped.set()

    def _load(self, notice: Notice, arrays: Arrays) -> None:
        if notice.order != self.loaded:
            load_arrays(self.model, arrays)
            self.loaded, self.epsilon = notice.order, notice.epsilon

    def _at_least(self, fence: int, version: int) -> tuple[Notice, Arrays] | None:
        def usable() -> bool:
            return self._newest is not None and self._newest[0].fence == fence and self._newest[0].version >= version

        with self._arrived:
            if not usable():
                self._wanted.set()
                self._arrived.wait(LOOK_S)
            return self._newest if usable() else None

    def _exactly(self, fence: int, version: int) -> tuple[Notice, Arrays] | None:
        try:
            notice = ray.get(self.store.exactly.remote((fence, version), LOOK_S), timeout=LOOK_S + 10)
            return None if notice is None else (notice, ray.get(notice.ref[0], timeout=FETCH_TIMEOUT_S))
        except ray.exceptions.RayError as error:
            log.info("snapshot not fetched: %s", type(error).__name__)
            time.sleep(0.2)
            return None

    def _follow(self) -> None:
        """Wait in the store for the next snapshot, fetch it, and again; a store that is restarting is asked again.

        Where steps are short, not every version is worth its fetch: unless a ticket wants a newer one, fetching takes
        no more than FETCH_SHARE of the time.
        """
        order = (0, -1)
        while not self._stopped.is_set():
            try:
                notice = ray.get(self.store.newer.remote(order, POLL_S), timeout=POLL_S + 10)
                if notice is None:
                    continue
                began = time.monotonic()
                arrays = ray.get(notice.ref[0], timeout=FETCH_TIMEOUT_S)
            except ray.exceptions.RayError as error:
                log.info("snapshot not fetched: %s", type(error).__name__)
                time.sleep(0.2)
                continue
            order = notice.order
            with self._arrived:
                self._newest = (notice, arrays)
                self._wanted.clear()
                self._arrived.notify_all()
            self._wanted.wait((CALL_S + time.monotonic() - began) / FETCH_SHARE)
