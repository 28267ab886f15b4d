"""A learning rate of one's own: a linear warm-up, then a cosine down to a share of the peak (Loshchilov & Hutter 2017).

    sparring train --engine sync --schedule.name examples/schedule.py:warmup_cosine \
        --schedule.options.warmup 0.1 --train.epochs 2

It is called once with the options, and with schedule.peak_at, milestones and factor if it names them. What it returns
is called at every step with the peak (optimizer.lr) and the share of training done, and gives the rate.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi


def warmup_cosine(warmup: float = 0.05, last: float = 0.01) -> Callable[[float, float], float]:
    """Linear up to the peak over `warmup` of training, then along a cosine to `last` of the peak at its end."""
    if not 0 < warmup < 1:
        raise ValueError(f"warmup = {warmup} must lie between 0 and 1")

    def rate(peak: float, progress: float) -> float:
        if progress < warmup:
            return peak * progress / warmup
        share = (progress - warmup) / (1 - warmup)
        return peak * (last + (1 - last) * (1 + cos(pi * share)) / 2)

    return rate
