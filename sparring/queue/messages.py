"""What travels (a ticket to a worker, a shard back to the trainer), and what the queue tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from torch import Tensor

from sparring.attacks import AttackRecord


class Key(NamedTuple):
    """Names one attempt at one ticket. Fences keep attempts of an earlier start or resume of the run apart."""

    epoch: int
    number: int
    attempt: int


class Controls(NamedTuple):
    """What rides along with the weights: ε of the attacks on them, F_R of the allocator, and the steps of the PGD that
    a guard has put in the place of the recipe's attack (0: none has)."""

    epsilon: float
    robust_share: float = 0.0
    pgd_steps: int = 0


@dataclass(frozen=True)
class Ticket:
    """Permission to produce one shard.

    `version` is the least version that the attack may begin with (under lockstep: exactly that one),
    `fingerprint` that of the training set, so that a worker with other data refuses. `starts` is where the attack on
    each example begins, int8 [C, H, W] of ε/127 as bytes, None where it begins as the attack does; empty for all.
    """

    key: Key
    fence: int
    version: int
    indices: tuple[int, ...]
    fingerprint: str
    starts: tuple[bytes | None, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Shard:
    """One worker's product: perturbations δ of the ticket's examples, or AugMix's views of them.

    attack: the one that made it, at its ε. delta: float32 [n, C, H, W] inside the ball of `radius`; labels: int64 [n];
    views: uint8 [2, n, C, H, W], with which delta is empty and the radius 0. `version` is the older of the versions of
    the last two attack steps, and the oldest such over the examples (of views, the one at the start), `start_version`
    that of the first. `attack_seconds` lie between the first moment of the attack and its last, `cost_seconds` of work
    is its own share of them (less where several tickets were attacked together), `full_seconds` would have gone into
    all steps on all examples (0: unknown, there was no step to go by). `gradients` counts gradient evaluations (one
    example, one step); `classes` how many examples the allocator put into each of its classes (empty without one).
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
    views: Tensor | None = field(default=None, repr=False)

    @property
    def radius(self) -> float:
        """Radius of the ball that bounds every perturbation, in pixel intensities."""
        return self.attack.radius


class Stop(Enum):
    """What a worker is given instead of a lease: the run stops, or this worker is to end what it has and leave."""

    STOP = "stop"
    DRAIN = "drain"


@dataclass(frozen=True)
class Lease:
    """A ticket in one worker's hands until the deadline that Redis keeps."""

    ticket: Ticket
    fence: int
    worker: str

    @property
    def owner(self) -> tuple[int, Key]:
        """What tells a worker's tickets apart, across resumes too."""
        return self.ticket.fence, self.ticket.key


class Weights(NamedTuple):
    """A snapshot on its way: what `sparring.engines.ray.snapshots` packs and unpacks."""

    fence: int
    version: int
    controls: Controls
    arrays: bytes


class Missing(NamedTuple):
    """A committed shard whose payload is gone or unreadable: it counts as lost."""

    key: Key
    reason: str
    detail: str = ""
    fence: int = 0


class Returned(NamedTuple):
    """An attempt that will not come: lease_expired, handed_back, or failed (`detail` is the worker's error)."""

    key: Key
    reason: str
    detail: str = ""


class WorkerTarget(NamedTuple):
    """How many workers the run is to have; `leaving`: the names of those that are to leave or have left."""

    workers: int
    leaving: frozenset[str]


class Sizes(NamedTuple):
    """How much of each the queue holds now."""

    tickets: int
    leased: int
    ready: int


class Usage(NamedTuple):
    """Memory of the queue's server and its limit (None: it has none); bytes in and out since its start, of all its
    clients."""

    memory_bytes: int
    limit_bytes: int | None
    received_bytes: int
    sent_bytes: int
