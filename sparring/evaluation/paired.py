"""Networks compared example by example: McNemar's test on those that only one of two withstands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from torch import Tensor

from sparring.evaluation.significance import sign_test


@dataclass(frozen=True)
class Pair:
    """Two networks on the same `samples` examples.

    only_first, only_second: examples that are robust under one of them alone. difference: robust accuracy of the first
    less that of the second, as a share; interval: of 95 %. p_value: two-sided, exact; Holm's correction for the number
    of pairs is in it.
    """

    first: str
    second: str
    samples: int
    only_first: int
    only_second: int
    difference: float
    interval: tuple[float, float]
    p_value: float


def compared(names: Sequence[str], robust: Sequence[Tensor]) -> list[Pair]:
    """All pairs.

    Args:
        robust: bool [N] of each network, on the same examples.
    """
    pairs = list(combinations(range(len(names)), 2))
    counts = [(int((robust[a] & ~robust[b]).sum()), int((robust[b] & ~robust[a]).sum())) for a, b in pairs]
    p_values = holm([mcnemar(*each) for each in counts])
    samples = len(robust[0])
    return [
        Pair(names[a], names[b], samples, *each, (each[0] - each[1]) / samples, difference(*each, samples), p_value)
        for (a, b), each, p_value in zip(pairs, counts, p_values, strict=True)
    ]


def mcnemar(one: int, other: int) -> float:
    """Two-sided p-value of `one` against `other` discordant pairs, by the binomial distribution (McNemar 1947)."""
    return min(1.0, 2 * sign_test(max(one, other), min(one, other)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for their number (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda which: p_values[which])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, which in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[which]))
        corrected[which] = highest
    return corrected


def difference(one: int, other: int, samples: int) -> tuple[float, float]:
    """95 % interval of (one − other) / samples, of paired shares; half a pair more in each cell (Agresti & Min)."""
    total, centre = samples + 2, (one - other) / (samples + 2)
    spread = 1.959964 * math.sqrt((one + other + 1) - (one - other) ** 2 / total) / total
    return max(-1.0, centre - spread), min(1.0, centre + spread)
