"""MI-FGSM (Dong et al. 2018, "Boosting Adversarial Attacks with Momentum"): a step rule with a state of its own.

    g ← decay·g + ∇/‖∇‖₁        δ ← δ + α·sign(g), projected        from δ = 0, with α = ε/κ

    sparring train --engine sync --attack.name examples/mi_fgsm.py:MIFGSM --attack.options.decay 1.0 \
        --train.epochs 2

The authors' code divides by the mean of |∇| instead of its sum. That scales g by the number of pixels; the sign of g,
and so the attack, is the same. Under L2 a step goes along g/‖g‖₂.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks import Attack, Start, State


@dataclass(frozen=True, kw_only=True)
class MIFGSM(Attack):
    """Momentum iterative FGSM; `decay` is μ of the paper, see `Attack` for the other arguments."""

    decay: float = 1.0
    start: Start | None = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < math.inf:
            raise ValueError(f"decay = {self.decay!r}: a number from 0 on is needed.")

    @property
    def relative_step(self) -> float:
        return 1 / self.steps

    def state(self, x: Tensor) -> State:
        return {"momentum": torch.zeros_like(x)}

    def step(self, delta: Tensor, gradient: Tensor, step_size: Tensor, state: State) -> Tensor:
        lengths = gradient.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
        momentum = state["momentum"].mul_(self.decay).add_(gradient / lengths)  # in place: it is the example's own
        return super().step(delta, momentum, step_size, state)
