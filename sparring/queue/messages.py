"""What travels: a ticket to a worker, a shard back to the trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


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

    delta: float32 [n, C, H, W] inside the ball of radius `epsilon`; labels: int64 [n]; views: uint8 [2, n, C, H, W],
    with which delta is empty and epsilon 0. `version` is the older of the versions of the last two attack steps, and
    the oldest such over the examples (of views, the one at the start), `start_version` that of the first.
    `attack_seconds` lie between the first moment of the attack and its last, `cost_seconds` of work is its own share of
    them (less where several tickets were attacked together), `full_seconds` would have gone into all steps on all
    examples (0: unknown, there was no step to go by). `gradients` counts gradient evaluations (one example, one step);
    `classes` how many examples the allocator took for outliers, boundary and robust ones (all 0 without one).
    """

    key: Key
    fence: int
    version: int
    start_version: int
    epsilon: float
    delta: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    worker: str = ""
    attack_seconds: float = 0.0
    cost_seconds: float = 0.0
    full_seconds: float = 0.0
    gradients: int = 0
    classes: tuple[int, int, int] = (0, 0, 0)
    views: Tensor | None = field(default=None, repr=False)
