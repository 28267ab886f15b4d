"""How many tickets an attacker takes ahead with a fresh finish, while it waits for the weights of their last steps."""

from __future__ import annotations

import time
from collections.abc import Callable

from sparring.queue.messages import Room
from sparring.workers.finish import Finisher


class Gate:
    """Another ticket is begun while all that are held wait, up to the attacker's fair `share` of a step.

    Whoever is first at the gate would otherwise take the heads that others could make, and then has their last steps to
    make alone while these have nothing to do. After `patience_s` seconds at the gate it takes more all the same: then
    the step waits for a ticket that was lost, and nobody else may have room for it. A ticket that was issued again is
    taken at once, since a step waits for it.
    """

    def __init__(
        self, finisher: Finisher, share: int, patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._finisher, self._share, self._patience_s, self._clock = finisher, share, patience_s, clock
        self._since, self._steps = clock(), finisher.steps

    @property
    def room(self) -> Room:
        """Which tickets may be begun now."""
        if self._finisher.steps != self._steps:
            self._since, self._steps = self._clock(), self._finisher.steps
        if not self._finisher.at_gate:
            return "none"
        free = len(self._finisher.needs) < self._share or self._clock() - self._since >= self._patience_s
        return "any" if free else "again"
