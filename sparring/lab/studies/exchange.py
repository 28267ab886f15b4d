"""Our own: what heals staleness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparring.lab import figures
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
    with_seed,
)
from sparring.lab.study import OURS, Claim, Column, Point, Size, Study, Table, baseline

REMEDIES: dict[str, dict[str, Any]] = {
    "none": {},
    "exchange": {"simulated.exchange": True},
    "refresh 1": {"staleness.refresh": 1},
    "refresh 2": {"staleness.refresh": 2},
    "guard": {"guard.staleness": True},
}
ROWS = ((0, "none"), (16, "none"), (16, "exchange"), (16, "refresh 1"), (64, "none"), (64, "exchange"), (64, "guard"))


DIGITS: dict[str, Any] = {
    **{name: value for name, value in MNIST_QUICK.items() if name != "data.limit"},
    "data.name": "digits",
    "model.name": "digits-cnn",
    "attack.epsilon": 0.2,
    "train.epochs": 55,
    "evaluation.samples": 360,
}
NETWORKS: dict[Size, dict[str, tuple[dict[str, Any], tuple[float, ...]]]] = {  # settings and peak rates
    "quick": {"MNIST": (MNIST_QUICK, (0.002, 0.001)), "digits": (DIGITS, (0.002, 0.001))},
    "full": {"MNIST": (MADRY, (1e-4, 1e-3))},
}


def points(size: Size, seeds: Sequence[int]) -> list[Point]:
    """Exact staleness with each remedy, on each data set and at each peak rate."""
    return [
        Point(
            "train",
            {"data": data, "rate": rate, "s": s, "remedy": remedy, "seed": seed},
            with_seed({**base, **WATCHED, **REMEDIES[remedy]}, seed, optimizer__lr=rate, simulated__staleness=s),
            GAP,
        )
        for seed in seeds
        for data, (base, rates) in NETWORKS[size].items()
        for rate in rates
        for s, remedy in ROWS
    ]


def _robust(s: int, remedy: str, **at: Any) -> Callable[[Results], float]:
    return lambda results: 100 * float(results.mean("robust_accuracy", s=s, remedy=remedy, **at))


def _heals(s: int, remedy: str) -> Callable[[Results], tuple[str, bool | None]]:
    """Whether it comes within three points of the run without staleness, on every data set and at every rate that
    staleness costs something."""

    def measure(results: Results) -> tuple[str, bool | None]:
        texts, healed_each = [], []
        for data in results.coordinates("data"):
            for rate in results.of(data=data).coordinates("rate"):
                at = {"data": data, "rate": rate}
                try:
                    fresh, stale = (_robust(*each, **at)(results) for each in ((0, "none"), (s, "none")))
                    healed = _robust(s, remedy, **at)(results)
                except LookupError:
                    continue  # not run there
                texts.append(f"{data} at {rate:g}: {healed:.1f} (without it {stale:.1f}, at s = 0 {fresh:.1f})")
                if baseline(fresh) - stale > 3:
                    healed_each.append(healed >= fresh - 3)
        if not texts:
            raise LookupError(f"s = {s} was not run with {remedy}")
        return "; ".join(texts), all(healed_each) if healed_each else None

    return measure


def _chart(results: Results) -> dict[str, Any]:
    rows = [
        {
            "row": f"s = {record['at']['s']}, {record['at']['remedy']}",
            "accuracy": 100 * record["figures"]["robust_accuracy"],
            "of": f"{record['at']['data']}, peak rate {record['at']['rate']:g}",
        }
        for record in results
    ]
    title = "PGD-40 accuracy by staleness and remedy"
    return figures.bars(rows, "row", "accuracy", "of", title=title, x_title="accuracy, %")


EXCHANGE = Study(
    "exchange",
    "ours",
    "in-flight exchange, refresh, staleness guard",
    "What removes the cost of staleness?",
    {
        "quick": f"{QUICK_SENTENCE}; digits: a small convolutional network, 605 steps, ε = 0.2, all 360 test images; "
        "peak rates 0.002 and 0.001; exact staleness s.",
        "full": f"{MADRY_SENTENCE}, and at 0.001; exact staleness s.",
    },
    points,
    tables=(
        Table(
            ("data", "rate", "s", "remedy"),
            (
                CLEAN,
                PGD_40,
                Column("gradients_per_example", "gradients", share=False),
            ),
        ),
    ),
    claims=(
        Claim("in-flight exchange removes the cost of s = 16", OURS, _heals(16, "exchange")),
        Claim("one fresh step of the trainer removes the cost of s = 16", OURS, _heals(16, "refresh 1")),
        Claim("in-flight exchange removes the cost of s = 64", OURS, _heals(64, "exchange")),
        Claim("the guard removes the cost of s = 64", OURS, _heals(64, "guard")),
    ),
    charts={"accuracy": _chart},
)
