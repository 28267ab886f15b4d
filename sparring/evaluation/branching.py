"""A margin bounded in cases, in each of which some ReLUs of the last hidden layer are on, and some off.

This is branch and bound (Bunel et al. 2020). In each case CROWN has fewer unstable ReLUs, and conditions to price. The
case with the lowest bound is split next, by the ReLU whose lines are furthest apart in the margin.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np

from sparring.evaluation.relaxation import Bounds, lower_bounds
from sparring.evaluation.relu_network import Array, ReluNetwork

STEPS = 10  # of the lower lines' slopes, in each case


def above_in_all_cases(
    network: ReluNetwork, box: Bounds, bounds: Sequence[Bounds], row: Any, least: float, deadline: float
) -> bool:
    """Whether cases show that `row` @ logits is above `least` in the whole box. False says nothing.

    Args:
        bounds: of all preactivations. row: sparse float64 [1, K].
        deadline: when to give up, in this process' processor seconds (`time.process_time`).
    """
    if len(network.weights) < 2:
        return False
    weights: Array = (row @ network.weights[-1]).toarray()[0]
    number = count()
    cases = [(-np.inf, next(number), bounds[-2], np.zeros(len(weights)))]
    while cases:
        bound, _, case, held = heapq.heappop(cases)
        which = case.unstable
        if not len(which) or time.process_time() > deadline:
            return False
        lower, upper = case.lower[which], case.upper[which]
        split = which[np.argmax(abs(weights[which]) * -lower * upper / (upper - lower))]
        for part, sides in _on_and_off(case, held, split):
            some = [*bounds[:-2], part, bounds[-1]]
            found = lower_bounds(network, box, some, row, steps=STEPS, held=sides)[0]
            if found <= least:
                heapq.heappush(cases, (max(float(found), bound), next(number), part, sides))
    return True


def _on_and_off(bounds: Bounds, held: Array, which: int) -> tuple[tuple[Bounds, Array], tuple[Bounds, Array]]:
    """The two cases of a ReLU: its preactivation is at least 0, or at most 0. With the bounds: the side of each."""
    lower, upper, on, off = bounds.lower.copy(), bounds.upper.copy(), held.copy(), held.copy()
    lower[which] = upper[which] = 0.0
    on[which], off[which] = 1.0, -1.0
    return (Bounds(lower, bounds.upper), on), (Bounds(bounds.lower, upper), off)
