"""Our own: what heals staleness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparring.lab.results import Results
from sparring.lab.studies.settings import (
    CLEAN,
    GAP,
    MADRY,
    MADRY_SENTENCE,
    MNIST_QUICK,
    PGD_40,
    QUICK_SENTENCE,
    WATCHED,
    by_size,
    with_seed,
)
from sparring.lab.study import Claim, Column, Point, Size, Study, Table, baseline

REMEDIES: dict[str, dict[str, Any]] = {
    "none": {},
    "exchange": {"simulated.exchange": True},
    "refresh 1": {"staleness.refresh": 1},
    "refresh 2": {"staleness.refresh": 2},
    "guard": {"guard.staleness": True},
}
ROWS = ((0, "none"), (16, "none"), (16, "exchange"), (16, "refresh 1"), (64, "none"), (64, "exchange"), (64, "guard"))


def points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """Exact staleness with each remedy."""
    base = {**by_size(size, MNIST_QUICK, MADRY), **WATCHED}
    return [
        Point(
            "train",
            {"s": s, "remedy": remedy, "seed": seed},
            with_seed({**base, **REMEDIES[remedy]}, seed, simulated__staleness=s),
            GAP,
        )
        for seed in seeds
        for s, remedy in ROWS
    ]


def _robust(s: int, remedy: str) -> Callable[[Results], float]:
    return lambda results: 100 * float(results.mean("robust_accuracy", s=s, remedy=remedy))


def _heals(s: int, remedy: str) -> Callable[[Results], tuple[str, bool | None]]:
    """Whether it comes within three points of the run without staleness."""

    def measure(results: Results) -> tuple[str, bool | None]:
        fresh, stale, healed = _robust(0, "none")(results), _robust(s, "none")(results), _robust(s, remedy)(results)
        return f"{healed:.1f}; without it {stale:.1f}, at s = 0 {fresh:.1f}", None if baseline(
            fresh
        ) - stale <= 3 else healed >= fresh - 3

    return measure


EXCHANGE = Study(
    "exchange",
    "ours",
    "in-flight exchange, refresh, staleness guard",
    "What removes the cost of staleness?",
    {
        "quick": f"{QUICK_SENTENCE}, with exact staleness s.",
        "full": f"{MADRY_SENTENCE}, with exact staleness s.",
    },
    points,
    tables=(
        Table(
            ("s", "remedy"),
            (
                CLEAN,
                PGD_40,
                Column("gradients_per_example", "gradients", share=False),
            ),
        ),
    ),
    claims=(
        Claim("in-flight exchange removes the cost of s = 16", "ours", _heals(16, "exchange")),
        Claim("one fresh step of the trainer removes the cost of s = 16", "ours", _heals(16, "refresh 1")),
        Claim("in-flight exchange removes the cost of s = 64", "ours", _heals(64, "exchange")),
        Claim("the guard removes the cost of s = 64", "ours", _heals(64, "guard")),
    ),
)
