"""An attack whose step rule has a state of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks import Attack, State
from sparring.attacks.norms import per_example


@dataclass(frozen=True, kw_only=True)
class Momentum(Attack):
    """MI-FGSM (Dong et al. 2018) under L∞: the sign of a velocity that gradients of mean size 1 are added to."""

    decay: float = 0.9

    def state(self, x: Tensor) -> State:
        return {"velocity": torch.zeros_like(x)}

    def step(self, delta: Tensor, gradient: Tensor, step_size: Tensor, state: State) -> Tensor:
        mean = per_example(gradient.abs().flatten(1).mean(1)).clamp_min(1e-12)
        velocity = state["velocity"].mul_(self.decay).add_(gradient / mean)
        return delta + per_example(step_size) * velocity.sign()
