"""Measure how long a function takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

BUDGET_S = 0.5  # per measurement
REPEATS = 15  # at most


def median_seconds(work: Callable[[], object], budget_s: float = BUDGET_S) -> float:
    """Median time of `work` after a warm-up, within `budget_s`."""
    work()
    times: list[float] = []
    deadline = time.perf_counter() + budget_s
    while len(times) < REPEATS and (not times or time.perf_counter() < deadline):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)
