"""The ledger: which tickets are issued, ready, consumed or lost. A pure state machine without clock or client.

Invariants (docs/architecture.md): a step never takes a shard staler than the bound; every example of an epoch is
trained on exactly once; at most the permitted number of shards is outstanding; no step mixes epochs. Redis stores
leases and payloads. Only the ledger decides what is issued, consumed and lost.

The states of a ticket: pending -> issued -> ready -> consumed -> trained -> done. A lost or stale shard sets its ticket
back to pending, with the next attempt. A ticket may be issued twice at once (`copies`): the first shard counts.
A ticket whose attack fails again and again is set aside; a resume makes it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sparring.queue.messages import Key

Arrival = Literal["accepted", "superseded"]


@dataclass
class _Epoch:
    """Ticket numbers of one epoch by state; attempts, and workers and kinds of the failures, by number."""

    pending: list[int]
    issued: dict[int, set[int]] = field(default_factory=dict)  # number -> attempts in work
    ready: dict[int, int] = field(default_factory=dict)  # number -> version
    came: dict[int, int] = field(default_factory=dict)  # number -> attempt of the shard that is ready or consumed
    consumed: set[int] = field(default_factory=set)
    trained: set[int] = field(default_factory=set)  # of these: the step is made, its publication is not
    done: set[int] = field(default_factory=set)
    set_aside: set[int] = field(default_factory=set)
    attempt: Counter[int] = field(default_factory=Counter)  # the last one
    failures: dict[int, list[tuple[str, str]]] = field(default_factory=dict)

    @property
    def outstanding(self) -> int:
        return len(self.issued) + len(self.ready) + len(self.consumed)

    @property
    def unconsumed(self) -> int:
        return len(self.pending) + len(self.issued) + len(self.ready)


@dataclass(frozen=True)
class Taken:
    """The shards that one step consumes, lowest version first, and the shards that were too stale."""

    keys: tuple[Key, ...] = ()
    dropped: tuple[Key, ...] = ()


def reopened(
    epoch: int, done: Mapping[str, Sequence[int]], set_aside: Mapping[str, Sequence[int]], shards: Sequence[int]
) -> tuple[int, dict[int, set[int]]]:
    """Where a run continues from `Ledger.state()`: its first epoch with something to do, and the tickets that are
    trained on, by epoch from there on. shards: tickets of each epoch. Epochs that miss a ticket are open again."""
    missing = {int(index): set(numbers) for index, numbers in set_aside.items() if numbers}
    trained = {index: set(range(shards[index])) - missing.get(index, set()) for index in range(epoch)}
    trained |= {int(index): set(numbers) for index, numbers in done.items()}
    first = min([epoch, *missing])
    return first, {index: numbers for index, numbers in sorted(trained.items()) if index >= first}


class Ledger:
    """Issues permits before work begins, and checks the staleness bound when a shard is consumed.

    At most the shards of the next `depth + 1` steps are outstanding. With `in_flight` (in-flight exchange) it is those
    of the next `depth` steps (at least one) plus `in_flight`. A shard stays outstanding until `retire`. Tickets of
    epoch `barrier` and later ones are not issued before `lift`. `parts`: number of trainers that share each step;
    ticket n is of part n modulo `parts`.
    """

    def __init__(
        self,
        *,
        shards_by_epoch: Sequence[int],
        shards_per_step: int,
        depth: int,
        max_staleness: int,
        attempts: int = 3,
        in_order: bool = False,
        barrier: int | None = None,
        parts: int = 1,
    ) -> None:
        self.shards_by_epoch = shards_by_epoch
        self.epochs = len(shards_by_epoch)
        self.barrier = barrier
        self.shards_per_step = shards_per_step
        self.depth = depth
        self.max_staleness = max_staleness
        self.attempts = attempts
        self.in_order = in_order
        self.parts = parts
        self.epoch = 0
        self.dropped: Counter[str] = Counter()
        self.set_aside: list[Key] = []
        self._open: dict[int, _Epoch] = {}

    @property
    def finished(self) -> bool:
        """Whether all shards of all epochs are consumed and retired."""
        return self.epoch >= self.epochs

    @property
    def held(self) -> bool:
        """Whether all shards before the barrier are consumed and retired, and the barrier is not lifted yet."""
        return not self.finished and self.epoch >= self._limit

    def lift(self) -> None:
        """Allow tickets beyond the barrier to be issued."""
        self.barrier = None

    @property
    def outstanding(self) -> int:
        """Number of shards that are issued and not retired."""
        return sum(epoch.outstanding for epoch in self._open.values())

    @property
    def ready(self) -> int:
        """Number of shards that wait to be consumed."""
        return sum(len(epoch.ready) for epoch in self._open.values())

    @property
    def issued(self) -> list[Key]:
        """The attempts whose shards have not come."""
        return [
            Key(index, number, attempt)
            for index, epoch in self._open.items()
            for number in sorted(epoch.issued)
            for attempt in sorted(epoch.issued[number])
        ]

    @property
    def consuming(self) -> int:
        """Number of shards of a step that has not ended."""
        return sum(len(epoch.consumed) for epoch in self._open.values())

    def permits(self, in_flight: int | None = None) -> int:
        """The number of shards that may be outstanding now: those of the next steps, also across epochs."""
        steps = self.depth + 1 if in_flight is None else max(1, self.depth)
        total, epoch = 0, self.epoch
        left = self._unretired(epoch) if epoch < self._limit else 0
        for _ in range(steps):
            while left == 0:
                epoch += 1
                if epoch >= self._limit:
                    return total + (in_flight or 0)
                left = self._unretired(epoch)
            size = min(self.shards_per_step, left)
            total, left = total + size, left - size
        return total + (in_flight or 0)

    def issue(self, in_flight: int | None = None) -> list[Key]:
        """Issue as many tickets as permitted, earliest epoch and lowest number first.

        After `in_flight` has fallen, shards of later epochs may hold more permits than there are. The tickets of the
        next step are issued nevertheless, because otherwise it would wait for ever.
        """
        count = max(self.permits(in_flight) - self.outstanding, self._missing())
        keys: list[Key] = []
        for index in range(self.epoch, self._limit):
            epoch = self._epoch(index) if len(keys) < count else None
            if epoch is None:
                break
            while epoch.pending and len(keys) < count:
                number = heapq.heappop(epoch.pending)
                epoch.issued[number] = {epoch.attempt[number]}
                keys.append(Key(index, number, epoch.attempt[number]))
        return keys

    def copies(self) -> list[Key]:
        """Second attempts at those tickets of the next step that are issued once and have not come; they are issued
        with that. Empty while one of its tickets is pending."""
        epoch = self._open.get(self.epoch)
        if epoch is None or epoch.consumed:
            return []
        unconsumed = [*epoch.pending, *epoch.issued, *epoch.ready]
        step = heapq.nsmallest(self.shards_per_step, unconsumed)
        if any(number in epoch.pending for number in step):
            return []
        numbers = [number for number in step if len(epoch.issued.get(number, ())) == 1]
        for number in numbers:
            epoch.attempt[number] += 1
            epoch.issued[number].add(epoch.attempt[number])
        return [Key(self.epoch, number, epoch.attempt[number]) for number in numbers]

    def arrive(self, key: Key, version: int) -> Arrival:
        """Accept a committed shard. It is superseded if its attempt is not one that is issued."""
        epoch = self._issued(key)
        if epoch is None:
            self.dropped["superseded"] += 1
            return "superseded"
        del epoch.issued[key.number]
        epoch.ready[key.number], epoch.came[key.number] = version, key.attempt
        return "accepted"

    def take(self, step: int) -> Taken | None:
        """The shards of step `step` (number of updates so far), or None if too few are ready.

        Shards above the staleness bound, or of weights that do not exist yet, are set back to pending in any case, and
        reported in `dropped`.
        """
        epoch = self._open.get(self.epoch)
        if epoch is None:
            return None
        ages = {number: step - version for number, version in epoch.ready.items()}
        refused = [number for number, age in ages.items() if not 0 <= age <= self.max_staleness]
        dropped = tuple(Key(self.epoch, number, epoch.came[number]) for number in refused)
        for number in refused:
            del epoch.ready[number]
            self._reissue(epoch, number)
            self.dropped["stale" if ages[number] > 0 else "ahead"] += 1
        size = min(self.shards_per_step, epoch.unconsumed)
        numbers = self._next(epoch, size)
        if len(numbers) < size or size == 0:
            return Taken(dropped=dropped) if dropped else None
        for number in numbers:
            del epoch.ready[number]
            epoch.consumed.add(number)
        return Taken(tuple(Key(self.epoch, number, epoch.came[number]) for number in numbers), dropped)

    def trained(self, keys: tuple[Key, ...]) -> None:
        """Record that the weights hold the step which consumed `keys`: a checkpoint counts them as done."""
        for key in keys:
            self._open[key.epoch].trained.add(key.number)

    def retire(self, keys: tuple[Key, ...]) -> None:
        """Record that the step which consumed `keys`, and any publication due after it, have ended."""
        for key in keys:
            epoch = self._open[key.epoch]
            epoch.consumed.remove(key.number)
            epoch.trained.discard(key.number)
            epoch.done.add(key.number)
        self._close_finished()

    def lose(self, key: Key, reason: str = "lease_expired") -> bool:
        """Record an attempt that ended without a shard and was not its attack's fault. Its ticket is pending again,
        unless another attempt at it is in work.

        Returns False, without any change, if the attempt was not one that is issued.
        """
        epoch = self._issued(key)
        if epoch is None:
            return False
        if reason != "handed_back":
            self.dropped[reason] += 1
        epoch.issued[key.number].remove(key.attempt)
        if not epoch.issued[key.number]:
            del epoch.issued[key.number]
            self._reissue(epoch, key.number)
        return True

    def fail(self, key: Key, worker: str, kind: str) -> bool:
        """Record an attempt whose attack failed on `worker` with an error of a `kind`.

        The ticket is set aside after `attempts` failures, if they are of one kind and of several workers; after twice
        as many in any case, but not while another attempt is in work. Returns as `lose` does.
        """
        epoch = self._issued(key)
        if epoch is None:
            return False
        failures = epoch.failures.setdefault(key.number, [])
        failures.append((worker, kind))
        if len(epoch.issued[key.number]) > 1 or not self._is_poison(failures):
            return self.lose(key, "failed")
        self.dropped["failed"] += 1
        del epoch.issued[key.number]
        epoch.set_aside.add(key.number)
        self.set_aside.append(key)
        self._close_finished()
        return True

    def state(self) -> dict[str, object]:
        """The state for a checkpoint, in plain types: tickets of open epochs that are trained on or set aside."""
        return {
            "epoch": self.epoch,
            "done": {str(index): sorted(epoch.done | epoch.trained) for index, epoch in self._open.items()},
            "set_aside": {
                str(index): sorted(key.number for key in self.set_aside if key.epoch == index)
                for index in {key.epoch for key in self.set_aside}
            },
        }

    def restore(self, epoch: int, done: Mapping[str, list[int]], set_aside: Mapping[str, list[int]]) -> None:
        """Continue from `state()`: tickets that were not trained on are pending, also those that were set aside, and
        the epochs that miss them are open again."""
        self.epoch, trained = reopened(epoch, done, set_aside, self.shards_by_epoch)
        self._open, self.set_aside = {}, []
        for index, numbers in trained.items():
            entry = self._epoch(index)
            entry.done = numbers
            entry.pending = [number for number in entry.pending if number not in numbers]
        self._close_finished()

    def reissue_everything(self) -> None:
        """After a loss of the queue: all issued and ready tickets are pending again, with the next attempt."""
        for epoch in self._open.values():
            for number in [*epoch.issued, *epoch.ready]:
                self._reissue(epoch, number)
            self.dropped["queue_lost"] += len(epoch.issued) + len(epoch.ready)
            epoch.issued.clear()
            epoch.ready.clear()

    @property
    def _limit(self) -> int:
        """The first epoch whose tickets may not be issued."""
        return self.epochs if self.barrier is None else min(self.barrier, self.epochs)

    def _epoch(self, index: int) -> _Epoch:
        if index not in self._open:
            self._open[index] = _Epoch(pending=list(range(self.shards_by_epoch[index])))
        return self._open[index]

    def _issued(self, key: Key) -> _Epoch | None:
        """The epoch of an attempt that is issued; None: of another attempt, or of none."""
        epoch = self._open.get(key.epoch)
        return epoch if epoch is not None and key.attempt in epoch.issued.get(key.number, ()) else None

    def _is_poison(self, failures: list[tuple[str, str]]) -> bool:
        workers, kinds = {worker for worker, _ in failures}, {kind for _, kind in failures}
        alike = len(failures) >= self.attempts and len(workers) > 1 and len(kinds) == 1
        return alike or len(failures) >= 2 * self.attempts

    def _missing(self) -> int:
        """Number of tickets that the next step needs and that are not issued; 0 during a step."""
        epoch = self._open.get(self.epoch)
        if epoch is None or epoch.consumed:
            return 0
        return min(self.shards_per_step, epoch.unconsumed) - len(epoch.issued) - len(epoch.ready)

    def _unretired(self, index: int) -> int:
        epoch = self._open.get(index)
        return self.shards_by_epoch[index] if epoch is None else epoch.unconsumed + len(epoch.consumed)

    def _reissue(self, epoch: _Epoch, number: int) -> None:
        epoch.attempt[number] += 1
        heapq.heappush(epoch.pending, number)

    def _next(self, epoch: _Epoch, size: int) -> list[int]:
        if not self.in_order:
            return self._freshest(epoch, size)
        if len(epoch.ready) < size:  # spares a walk over all that is pending
            return []
        unconsumed = heapq.nsmallest(size, [*epoch.pending, *epoch.issued, *epoch.ready])
        return unconsumed if all(number in epoch.ready for number in unconsumed) else []

    def _freshest(self, epoch: _Epoch, size: int) -> list[int]:
        """The ready numbers of the lowest versions; of each part as many as an even division of what is outstanding
        gives it, or fewer where it is not ready yet."""
        ready = sorted(epoch.ready, key=lambda number: (epoch.ready[number], number))
        if self.parts == 1:
            return ready[:size]
        outstanding = Counter(number % self.parts for number in (*epoch.issued, *epoch.ready))
        left = divided(size, [outstanding[part] for part in range(self.parts)])
        taken = []
        for number in ready:
            if left[number % self.parts]:
                left[number % self.parts] -= 1
                taken.append(number)
        return taken

    def _close_finished(self) -> None:
        while (epoch := self._open.get(self.epoch)) is not None and epoch.unconsumed + len(epoch.consumed) == 0:
            del self._open[self.epoch]
            self.epoch += 1


def divided(size: int, outstanding: Sequence[int]) -> list[int]:
    """How many of a step's `size` shards come from each part, which has so many outstanding: as evenly as can be."""
    counts = [0] * len(outstanding)
    for _ in range(min(size, sum(outstanding))):
        parts = [part for part, all_of_it in enumerate(outstanding) if all_of_it > counts[part]]
        counts[min(parts, key=lambda part: (counts[part], counts[part] - outstanding[part]))] += 1
    return counts
