"""What the files of a run must hold so that a report can show them: figures, curves."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

Interval = tuple[float, float]


class OfClass(BaseModel):
    """The accuracies of one class."""

    label: int
    samples: int
    clean_accuracy: float
    robust_accuracy: float
    robust_interval: Interval


class Figures(BaseModel):
    """Clean and robust accuracy as summary.json and evaluation.json have them. None: not measured, or unknown."""

    clean_accuracy: float | None = None
    robust_accuracy: float | None = None
    clean_interval: Interval | None = None
    robust_interval: Interval | None = None
    samples: int = 0
    attack: str | None = None
    drawn: str | None = None
    checkpoint: str | None = None
    weights: str = "plain"
    epsilon: float | None = None
    warnings: list[str] | None = None
    by_class: list[OfClass] = []


class Point(BaseModel):
    """Robust accuracy under one attack."""

    epsilon: float
    steps: int
    attack: str
    robust_accuracy: float
    robust_interval: Interval


class Verdict(BaseModel):
    """What curves.json says on masked gradients."""

    verdict: str
    note: str = ""


class Curves(BaseModel):
    """Robust accuracy by ε and by steps, as curves.json has it."""

    norm: str
    trained_epsilon: float
    samples: int
    drawn: str
    by_epsilon: list[Point]
    by_steps: list[Point]
    black_box: Point | None = None
    warnings: list[str] = []
    masking: Verdict | None = None


def of_average(summary: dict[str, Any]) -> dict[str, Any]:
    """The figures of the averaged weights in a summary; empty where there are none."""
    if summary.get("ema_robust_accuracy") is None:
        return {}
    beside = {name: summary.get(name) for name in ("samples", "attack", "drawn")}
    return {**beside, **{name.removeprefix("ema_"): each for name, each in summary.items() if name[:4] == "ema_"}}
