"""The queue's messages: tickets to workers, shards back to the trainer, and the queue's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NamedTuple

from torch import Tensor

from sparring.attacks import AttackRecord

Room = Literal["none", "again", "any"]  # for which tickets: those that were issued again alone, or any
TRAINER = "trainer"  # what the names of trainers begin with, where they attack


class Key(NamedTuple):
    """Names one attempt at one ticket. The fence distinguishes attempts of an earlier start or resume of the run."""

    epoch: int
    number: int
    attempt: int


def part_of(key: Key, parts: int) -> int:
    """The part, of `parts`, that a ticket belongs to: the trainer of this rank trains on its shard."""
    return key.number % parts


class RankOf(NamedTuple):
    """One of `trainers`."""

    rank: int = 0
    trainers: int = 1

    def trains_on(self, key: Key) -> bool:
        """Whether the ticket's shard is of its part."""
        return part_of(key, self.trainers) == self.rank


class Controls(NamedTuple):
    """Values that are sent with the weights: current ε, F_R of the allocator, and the number of steps of the PGD by
    which a guard has replaced the recipe's attack (0: not replaced)."""

    epsilon: float
    robust_share: float = 0.0
    pgd_steps: int = 0


class Finish(NamedTuple):
    """Of a ticket with a fresh finish: the version of its last attack steps, which is the step that trains on it, and
    that step's ε."""

    version: int
    epsilon: float


@dataclass(frozen=True)
class Ticket:
    """Permission to produce one shard.

    version: lowest version with which the attack may begin (under lockstep and with a `finish`: the exact version).
    finish: None without a fresh finish. fingerprint: that of
    the training set, so that a worker with other data refuses the ticket. starts: starting point for each example, int8
    [C, H, W] in units of ε/127 as bytes, or None for the attack's own start; empty if no example has one.
    """

    key: Key
    fence: int
    version: int
    indices: tuple[int, ...]
    fingerprint: str
    starts: tuple[bytes | None, ...] = field(default=(), repr=False)
    finish: Finish | None = None


@dataclass(frozen=True)
class Shard:
    """The result of one ticket: perturbations δ of its examples, or AugMix's views of them.

    attack: the attack that made it, with its ε. delta: float32 [n, C, H, W] inside the ball of `radius`. labels: int64
    [n]. views: uint8 [2, n, C, H, W]; with views delta is empty and the radius 0.

    version: the older version of an example's last two attack steps, and the oldest of these over all examples (for
    views: the version at the start). start_version: version of the weights that prepared it. attacked_by: versions of
    the attack steps in their order, each with its number of steps; empty: several tickets were attacked together, or
    there are no steps.

    attack_seconds: time from the beginning of the attack to its end. cost_seconds: this shard's part of the work in
    that time (less if several tickets were attacked together). full_seconds: estimated time of all steps on all
    examples (0: unknown). gradients: gradient evaluations (one per example and step). classes: number of examples in
    each class of the allocator (empty without one). zero_gradients, non_finite_gradients: number of examples whose
    attack met a gradient of zero, or entries that are not finite.
    """

    key: Key
    fence: int
    version: int
    start_version: int
    attack: AttackRecord
    delta: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    worker: str = ""
    attack_seconds: float = 0.0
    cost_seconds: float = 0.0
    full_seconds: float = 0.0
    gradients: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)
    zero_gradients: int = 0
    non_finite_gradients: int = 0
    attacked_by: tuple[tuple[int, int], ...] = ()
    views: Tensor | None = field(default=None, repr=False)

    @property
    def radius(self) -> float:
        """Radius of the ball that bounds every perturbation, in pixel intensities."""
        return self.attack.radius


class Stop(Enum):
    """Answer to a worker instead of a lease: the run stops, or this worker must finish its tickets and leave."""

    STOP = "stop"
    DRAIN = "drain"


@dataclass(frozen=True)
class Lease:
    """A ticket that one worker holds until a deadline, which Redis stores."""

    ticket: Ticket
    fence: int
    worker: str

    @property
    def owner(self) -> tuple[int, Key]:
        """Unique name of the ticket, also across resumes."""
        return self.ticket.fence, self.ticket.key


class Weights(NamedTuple):
    """An encoded snapshot; `sparring.engines.ray.snapshots` packs and unpacks it."""

    fence: int
    version: int
    controls: Controls
    arrays: bytes


class Piece(NamedTuple):
    """Held-out examples that are to be judged under the weights of (fence, version): those of the piece `number`.

    fingerprint: of all held-out examples that are judged, so that a worker with others refuses it.
    """

    fence: int
    version: int
    number: int
    fingerprint: str


class PieceVerdict(NamedTuple):
    """Of a piece's examples, in order: correct on the clean image; correct after every attack too."""

    fence: int
    version: int
    number: int
    clean: tuple[bool, ...]
    robust: tuple[bool, ...]
    worker: str


class Missing(NamedTuple):
    """A committed shard whose payload is missing or unreadable. It counts as lost."""

    key: Key
    reason: str
    detail: str = ""
    fence: int = 0


class Returned(NamedTuple):
    """An attempt that ended without a shard: lease_expired, handed_back, queue_full, or failed (`detail`: the error of
    its attack on `worker`)."""

    key: Key
    reason: str
    detail: str = ""
    worker: str = ""


class WorkerTarget(NamedTuple):
    """The number of workers that the run should have; `leaving`: names of workers that must leave or have left."""

    workers: int
    leaving: frozenset[str]


class Sizes(NamedTuple):
    """Numbers of tickets, leases and ready shards in the queue."""

    tickets: int
    leased: int
    ready: int


class Usage(NamedTuple):
    """Memory use of the queue's servers and their limit (None: no limit); bytes in and out since their start, for all
    clients; how many of the payload servers did not answer when they were asked last."""

    memory_bytes: int
    limit_bytes: int | None
    received_bytes: int
    sent_bytes: int
    payload_servers_down: int = 0
