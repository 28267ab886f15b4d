"""Under which weights a worker attacks its tickets: the newest that have arrived, or with a fresh finish fixed ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from sparring.engines.ray.versions import FetchedVersions
from sparring.engines.ray.weights import Weights
from sparring.errors import SparringError
from sparring.queue.messages import Key, Room, Shard, Ticket
from sparring.workers.attackers import Attacker
from sparring.workers.finish import Finisher
from sparring.workers.gate import Gate
from sparring.workers.task import Task

GATE_S = 0.05


class Attacks(Protocol):
    """The attacks of one worker."""

    @property
    def version(self) -> int:
        """Version of the weights that are loaded."""

    @property
    def swaps(self) -> int:
        """How often newer weights were loaded in the middle of an attack."""

    def room(self, held: int) -> Room:
        """Which tickets should be leased; held: tickets in work."""

    def begin(self, ticket: Ticket, task_of: Callable[[float], Task], abandoned: Callable[[], bool]) -> bool:
        """Accept a ticket; `task_of` makes its task at an ε. False: it is `abandoned`, or a later fence is in force."""

    def advance(self) -> list[Shard]:
        """Make one attack step; returns the shards that are finished by it."""

    def passed(self) -> list[tuple[int, Key]]:
        """Drop the tickets that nobody waits for any more; their fences and keys."""

    def drop(self, owner: tuple[int, Key]) -> None:
        """Drop a ticket, given its fence and key."""

    def clear(self) -> None:
        """Drop all tickets."""

    def stop(self) -> None:
        """End threads."""


class NewestWeights:
    """Attacks begin with the newest weights (under lockstep with those that the ticket names); with `exchange` newer
    ones are loaded between two steps. Seconds of waiting are added to `waits`."""

    def __init__(
        self, attacker: Attacker, weights: Weights, waits: dict[str, float], *, exchange: bool, most_tickets: int
    ) -> None:
        self.attacker, self.weights, self.waits = attacker, weights, waits
        self.exchange, self.most_tickets = exchange, most_tickets

    @property
    def version(self) -> int:
        return self.weights.version

    @property
    def swaps(self) -> int:
        return self.weights.swaps

    def room(self, held: int) -> Room:
        return "any" if self.attacker.has_room and held < self.most_tickets else "none"

    def begin(self, ticket: Ticket, task_of: Callable[[float], Task], abandoned: Callable[[], bool]) -> bool:
        began = time.monotonic()
        try:
            ready = self.weights.begin(ticket.fence, ticket.version, abandoned)
        finally:
            self.waits["weights"] += time.monotonic() - began
        if ready:
            controls = self.weights.controls
            self.attacker.begin(task_of(controls.epsilon), controls, self.weights.version)
        return ready

    def advance(self) -> list[Shard]:
        if self.exchange:
            self.weights.swap()
        return self.attacker.advance(self.weights.version)

    def passed(self) -> list[tuple[int, Key]]:
        return []

    def drop(self, owner: tuple[int, Key]) -> None:
        self.attacker.drop(owner)

    def clear(self) -> None:
        self.attacker.clear()

    def stop(self) -> None:
        self.weights.stop()


class FixedWeights:
    """Every attack step has the weights that the ticket names (workers/finish.py). While all tickets wait for the
    weights of their last steps, another one may begin.

    meanwhile: something short to do instead of waiting; False: there was nothing."""

    swaps = 0

    def __init__(
        self,
        finisher: Finisher,
        gate: Gate,
        versions: FetchedVersions,
        waits: dict[str, float],
        *,
        timeout_s: float,
        meanwhile: Callable[[], bool] | None = None,
    ) -> None:
        self.finisher, self.gate, self.versions, self.waits = finisher, gate, versions, waits
        self.timeout_s, self.meanwhile = timeout_s, meanwhile
        self._waiting_since: float | None = None

    @property
    def version(self) -> int:
        return self.versions.loaded[1]

    def room(self, held: int) -> Room:
        return self.gate.room

    def begin(self, ticket: Ticket, task_of: Callable[[float], Task], abandoned: Callable[[], bool]) -> bool:
        if ticket.finish is None:
            raise SparringError(
                f"ticket {ticket.key} has no finish, staleness.finish is on here. Give all hosts the same recipe."
            )
        self.finisher.begin(task_of(ticket.finish.epsilon), ticket.version, ticket.finish)
        self.versions.want(self.finisher.orders)
        return True

    def advance(self) -> list[Shard]:
        """Waits a little where no ticket can go on.

        Raises:
            SparringError: the weights did not come in time.
        """
        if self.finisher.waits:
            self._wait()
        shard = self.finisher.advance()
        if shard is not None:
            self.versions.want(self.finisher.orders)
        return [] if shard is None else [shard]

    def passed(self) -> list[tuple[int, Key]]:
        late = self.finisher.passed()
        if late:
            self.versions.want(self.finisher.orders)
        return late

    def drop(self, owner: tuple[int, Key]) -> None:
        self.finisher.drop(owner)
        self.versions.want(self.finisher.orders)

    def clear(self) -> None:
        self.finisher.clear()
        self.versions.want(set())

    def stop(self) -> None:
        self.versions.stop()

    def _wait(self) -> None:
        began = time.monotonic()
        self._waiting_since = self._waiting_since or began
        judged = self.meanwhile is not None and self.meanwhile()
        if not judged:
            self.versions.wait(GATE_S)
        now = time.monotonic()
        self.waits["gate"] = self.waits.get("gate", 0.0) + (0.0 if judged else now - began)
        if not self.finisher.waits:
            self._waiting_since = None
        elif now - self._waiting_since > self.timeout_s:
            self._waiting_since = None
            raise SparringError(
                f"no snapshot of version {self.finisher.needs[0][1]} arrived within trainer.wait_timeout_s = "
                f"{self.timeout_s:.0f} s; the trainer may be gone."
            )
