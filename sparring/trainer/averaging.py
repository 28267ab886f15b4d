"""The exponential moving average (EMA) of the weights, which is evaluated separately and never attacked by workers.

    mean ← d·mean + (1 − d)·weights      after every step
    d = 0 in the first 2.5 % of the steps, then min(decay, (1 + n)/(10 + n)), n steps later

Decay, warm-up and buffers are those of the code of Wang et al. 2023, which is that of Rade's implementation of Gowal et
al. 2020 and Rebuffi et al. 2021: batch norm's statistics are copied from the model, not averaged. There that is done at
the end of an epoch, before it is evaluated; here at every step, which comes to the same.
"""

from __future__ import annotations

import torch
from torch import nn

WARMUP_SHARE = 0.025  # of all steps


def decay_at(decay: float, step: int, total_steps: int) -> float:
    """d after `step` of `total_steps` steps (the first is 1)."""
    later = step - WARMUP_SHARE * total_steps
    return 0.0 if later < 0 else min(decay, (1 + later) / (10 + later))


def update(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the parameters of `average` to those of `model` by 1 − decay; buffers become equal."""
    with torch.no_grad():
        for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)
        for own, buffer in zip(average.buffers(), model.buffers(), strict=True):
            own.copy_(buffer)
