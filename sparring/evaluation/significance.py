"""The sign test, and from where on it says something."""

from __future__ import annotations

import math

LEVEL = 0.01  # significance level of each family of tests, divided by its number of pairs (Bonferroni)


def sign_test(more: int, less: int) -> float:
    """Probability of at least `more` heads in `more + less` throws of a fair coin (exact McNemar test)."""
    throws = more + less
    at_least: int = sum(math.comb(throws, heads) for heads in range(more, throws + 1))
    return float(at_least / 2**throws)
