"""The snapshots that a worker's tickets name, fetched by a thread while the worker attacks."""

from __future__ import annotations

import logging
import threading

from torch import nn

from sparring.engines.asynchronous.snapshot import Route, Snapshot
from sparring.models.arrays import helper_of, load_arrays
from sparring.queue.messages import Controls

log = logging.getLogger(__name__)
POLL_S = 0.5
RETRY_S = 0.5
Order = tuple[int, int]


class FetchedVersions:
    """Snapshots by (fence, version), loaded into `model`, and into a `helper` that changes.

    Those that are wanted and the newest `keep` are held.
    """

    def __init__(self, route: Route, model: nn.Module, *, keep: int, helper: nn.Module | None = None) -> None:
        self.route, self.model, self.helper, self.keep = route, model, helper, keep
        self.loaded: Order = (0, -1)
        self._here: dict[Order, Snapshot] = {}
        self._wanted: set[Order] = set()
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        threading.Thread(target=self._follow, name="versions", daemon=True).start()

    def want(self, orders: set[Order]) -> None:
        """Fetch these from now on, and no others."""
        with self._changed:
            self._wanted = set(orders)
            self._changed.notify_all()

    def has(self, order: Order) -> bool:
        """Whether the snapshot is here."""
        return order in self._here

    def newest(self, fence: int) -> int:
        """The latest version that is here; -1: none."""
        return max((version for of, version in list(self._here) if of == fence), default=-1)

    def load(self, order: Order) -> Controls:
        """Load the snapshot, which is here; returns its controls."""
        snapshot = self._here[order]
        load_arrays(self.model, snapshot.arrays)
        if self.helper is not None:
            load_arrays(self.helper, helper_of(snapshot.arrays))
        self.loaded = order
        return snapshot.controls

    def wait(self, timeout_s: float) -> None:
        """Wait until a snapshot comes."""
        with self._changed:
            before = set(self._here)
            self._changed.wait_for(lambda: not before.issuperset(self._here), timeout_s)

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            order = self._next()
            if order is None:
                continue
            try:
                snapshot = self._fetched(order)
            except Exception as error:  # if this thread died, the worker would wait for ever
                log.warning("snapshot not fetched: %s: %s", type(error).__name__, error)
                self._stopped.wait(RETRY_S)
                continue
            if snapshot is not None:
                self._keep(snapshot)

    def _next(self) -> Order | None:
        """The earliest wanted snapshot that is not here; waits for one, but not for ever."""

        def missing() -> list[Order]:
            return sorted(self._wanted - self._here.keys())

        with self._changed:
            self._changed.wait_for(missing, POLL_S)
            return next(iter(missing()), None)

    def _fetched(self, order: Order) -> Snapshot | None:
        """As soon as it is there; a newer one that is there already is kept, too."""
        newer = self.route.newer((order[0], order[1] - 1), POLL_S)
        if newer is None or newer.order == order:
            return newer
        self._keep(newer)
        return self.route.exactly(order, 0.0)

    def _keep(self, snapshot: Snapshot) -> None:
        with self._changed:
            held = {**self._here, snapshot.order: snapshot}
            kept = {*sorted(held)[-self.keep :], *self._wanted}
            self._here = {order: each for order, each in held.items() if order in kept}
            self._changed.notify_all()
