"""Attacks of one step: FGSM, FGSM-RS (Wong et al. 2020) and N-FGSM (de Jorge et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.attack import Attack, Start
from sparring.attacks.norms import random_start


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """FGSM: one step of ε from the image itself. From any other start one step of 1.25·ε, projected to the ball."""

    steps: int = field(default=1, init=False)
    start: Start | None = "zero"

    name: ClassVar[str] = "fgsm"

    @property
    def relative_step(self) -> float:
        """1 from zero, else 1.25 (Wong et al.)."""
        return 1.0 if self.start == "zero" else 1.25


@dataclass(frozen=True, kw_only=True)
class FGSMRS(FGSM):
    """FGSM-RS (Wong et al. 2020, Algorithm 3): one step of 1.25·ε from a start uniform in the ball.

    The start is not clamped to the image, as in the paper and in the authors' MNIST code; their CIFAR code has
    `clamp_start=True`. On MNIST a clamped start leads to catastrophic overfitting: half of the pixels are 0, and those
    whose noise is negative would all begin there.
    """

    start: Start | None = "uniform"
    clamp_start: bool | None = False

    name: ClassVar[str] = "fgsm-rs"


@dataclass(frozen=True, kw_only=True)
class NFGSM(Attack):
    """N-FGSM (de Jorge et al. 2022): one step of ε from uniform noise of radius `noise`·ε, without projection to the
    ball of ε.

    Args:
        noise: k; perturbations have a radius of up to (1 + k)·ε.
    """

    noise: float = 2.0
    steps: int = field(default=1, init=False)
    start: Start | None = field(default="uniform", init=False)

    name: ClassVar[str] = "n-fgsm"

    @property
    def radius(self) -> float:
        """(1 + k)·ε."""
        return (1 + self.noise) * self.epsilon

    @property
    def relative_step(self) -> float:
        return 1.0

    def initial(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform within k·ε, with `clamp_start` x + δ clamped to [0, 1]."""
        return self.placed(random_start(x, self.norm, self.noise * self.epsilon, generator), x)

    def _check(self) -> None:
        super()._check()
        if not self.noise > 0:
            raise ValueError(f"noise = {self.noise!r}: a number above 0 is needed.")
