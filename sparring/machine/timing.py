"""Measure how long a function takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

BUDGET_S = 0.5  # per measurement
REPEATS = 15  # at most


def median_seconds(work: Callable[[], object], clock: Callable[[], float] | None = None) -> float:
    """Median time of `work` after a warm-up, within `BUDGET_S`.

    clock: seconds; by default time.perf_counter. time.process_time gives the CPU time of all threads of this process.
    """
    clock = clock or time.perf_counter
    work()
    times: list[float] = []
    deadline = time.perf_counter() + BUDGET_S
    while len(times) < REPEATS and (not times or time.perf_counter() < deadline):
        began = clock()
        work()
        times.append(clock() - began)
    return median(times)
