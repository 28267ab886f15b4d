"""The virtual clock, and the queue and snapshots as they are at each of its times. Deterministic for a given seed."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from typing import NamedTuple

from torch import Tensor

from sparring.config import VirtualSettings
from sparring.engines.virtual import times
from sparring.queue.messages import Controls, Key, Lease, RankOf, Returned, Room, Shard, Sizes, Ticket, Usage

Order = tuple[int, int]
Owner = tuple[int, Key]


class Sent(NamedTuple):
    """Weights and controls of a version, and when workers have them."""

    arrives: float
    weights: dict[str, Tensor]
    controls: Controls


class Cluster:
    """What happens when. `now` is in seconds; `arrived` holds shards that the trainer has not taken yet."""

    def __init__(self, settings: VirtualSettings, *, lease_s: float, seed: int) -> None:
        self.settings, self.lease_s = settings, lease_s
        self.now = 0.0
        self.arrived: list[Shard] = []
        self.wakers: list[Callable[[], None]] = []  # called when there may be something to do
        self.on_void: list[Callable[[], None]] = []  # called when what they are at is void
        self.tickets: deque[Ticket] = deque()
        self.leases: dict[Owner, Lease] = {}
        self._leased_at: dict[Owner, float] = {}
        self.returned: list[Returned] = []
        self._sent: dict[Order, Sent] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._random = random.Random(seed)  # nosec B311  # jitter that a seed repeats, no secret

    def clock(self) -> float:
        """The virtual time in seconds."""
        return self.now

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something `seconds` from now."""
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, action))

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self._happen()
        self.now = end

    def wait(self, seconds: float) -> None:
        """Let time pass until a shard has arrived."""
        end = self.now + seconds
        while not self.arrived:
            if not self._events or self._events[0][0] > end:
                self.now = end
                return
            self._happen()

    def _happen(self) -> None:
        self.now, _, action = heapq.heappop(self._events)
        action()

    def wake(self) -> None:
        """Whoever has nothing to do looks again."""
        for waker in self.wakers:
            waker()

    def varied(self, seconds: float) -> float:
        """The duration with its jitter."""
        return seconds * (1 + self.settings.jitter * (2 * self._random.random() - 1))

    def attack_step_s(self, examples: int) -> float:
        """An attack step on so many examples, at speed 1."""
        return times.attack_step_s(self.settings, examples)

    def forward_s(self, examples: int) -> float:
        """A clean forward pass, at speed 1."""
        return times.forward_s(self.settings, examples)

    def step_s(self, examples: int) -> float:
        """A training step, at speed 1."""
        return times.step_s(self.settings, examples)

    def parallel_step_s(self, sizes: list[int], ranks: int, waits: list[float]) -> float:
        """Time until the last of the ranks has made its part of a step on shards of these sizes.

        waits: how long it takes each rank, from the first on, to end what it does now.
        """
        parts = [sum(sizes[rank::ranks]) for rank in range(ranks)]
        trained = [self.varied(self.step_s(part)) if part else 0.0 for part in parts]
        return max(wait + step for wait, step in zip_longest(waits, trained, fillvalue=0.0))

    def publish(self, order: Order, weights: dict[str, Tensor], controls: Controls, keep: int) -> None:
        """Send weights to all workers."""
        self._sent[order] = Sent(self.now + self.settings.publish_s, weights, controls)
        for old in sorted(self._sent)[:-keep]:
            del self._sent[old]
        self.after(self.settings.publish_s, self.wake)

    def newest(self, fence: int) -> tuple[int, Sent] | None:
        """Version and content of the newest weights that have arrived."""
        here = [order for order, sent in self._sent.items() if order[0] == fence and sent.arrives <= self.now]
        return (max(here)[1], self._sent[max(here)]) if here else None

    def at(self, order: Order) -> Sent | None:
        """The weights of a version, where they have arrived."""
        sent = self._sent.get(order)
        return sent if sent is not None and sent.arrives <= self.now else None

    def void(self) -> None:
        """A trainer begins: what one before it has asked for, and what has come of that, is void."""
        for owned in (self.tickets, self.leases, self._leased_at, self.returned, self.arrived):
            owned.clear()
        for forget in self.on_void:
            forget()

    def lease(self, worker: str, room: Room = "any") -> Lease | None:
        """The next ticket, if there is room for it."""
        if room == "none" or not self.tickets or (room == "again" and not self.tickets[0].key.attempt):
            return None
        ticket = self.tickets.popleft()
        lease = Lease(ticket, ticket.fence, worker)
        self.leases[lease.owner], self._leased_at[lease.owner] = lease, self.now
        return lease

    def timed(self, shard: Shard) -> Shard:
        """A shard that is finished now, with the time since its lease."""
        seconds = self.now - self._leased_at.pop((shard.fence, shard.key))
        return replace(shard, attack_seconds=seconds, cost_seconds=seconds)

    def is_live(self, lease: Lease) -> bool:
        """Whether the lease has not been lost."""
        return self.leases.get(lease.owner) is lease

    def commit(self, lease: Lease, shard: Shard) -> None:
        """A worker sends a shard; it arrives a little later."""
        if self.leases.get(lease.owner) is lease:
            del self.leases[lease.owner]
            self.after(self.settings.push_s, lambda: self.arrived.append(shard))

    def deliver(self, shard: Shard, by: RankOf) -> None:
        """A trainer has finished a shard: it has it now, but another one that trains on it a little later."""
        self.after(0.0 if by.trains_on(shard.key) else self.settings.push_s, lambda: self.arrived.append(shard))

    def give_up(self, lease: Lease) -> None:
        """Nobody waits for the shard."""
        self.leases.pop(lease.owner, None)
        self._leased_at.pop(lease.owner, None)

    def abandon(self, lease: Lease) -> None:
        """Whoever held the lease has died: it expires."""

        def expire() -> None:
            if self.leases.get(lease.owner) is lease:
                del self.leases[lease.owner]
                self.returned.append(Returned(lease.ticket.key, "lease_expired"))

        self.after(self.lease_s, expire)


class VirtualTransport:
    """The queue as the trainer's loop sees it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.refused: Counter[str] = Counter()

    def current_fence(self) -> int:
        return 0

    def open(self, fence: int) -> None:
        self._cluster.void()

    def issue(self, tickets: list[Ticket]) -> None:
        again = [ticket for ticket in tickets if ticket.key.attempt]
        self._cluster.tickets.extendleft(reversed(again))
        self._cluster.tickets.extend(ticket for ticket in tickets if not ticket.key.attempt)
        self._cluster.after(self._cluster.settings.lease_s, self._cluster.wake)
        if again:
            self._cluster.after(self._cluster.settings.lease_s + self._cluster.lease_s, self._cluster.wake)

    def expired(self, fence: int) -> list[Returned]:
        returned, self._cluster.returned = self._cluster.returned, []
        return returned

    def lease_local(self, owner: str, room: Room = "any") -> Lease | None:
        return self._cluster.lease(owner, room)

    def hand_back(self, lease: Lease) -> bool:
        self._cluster.give_up(lease)
        return True

    def fail(self, lease: Lease, error: str) -> bool:
        held = self._cluster.leases.pop(lease.owner, None) is lease
        if held:
            self._cluster.returned.append(Returned(lease.ticket.key, "failed", error, lease.worker))
        return held

    def finish_local(self, lease: Lease) -> bool:
        return self._cluster.leases.pop(lease.owner, None) is lease

    def target_count(self) -> int | None:
        return None

    def stop_requested(self) -> bool:
        return False

    def usage(self) -> Usage:
        return Usage(0, None, 0, 0)

    def sizes(self) -> Sizes:
        return Sizes(len(self._cluster.tickets), len(self._cluster.leases), len(self._cluster.arrived))

    def heartbeats(self) -> dict[str, dict[str, float]]:
        return {}
