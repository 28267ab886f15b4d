"""PGD-AT, TRADES and MART: losses, and the forward passes that they make.

In train mode every pass moves the running statistics of batch norm, so number and order of the passes are part of a
method. `passes = "reference"` makes those of the authors' code, "single_pass" spares those that the loss itself does
not need:

    | objective | reference                       | single_pass                   |
    |-----------|---------------------------------|-------------------------------|
    | pgd-at    | x_adv                           | x_adv                         |
    | trades    | x, x_adv, x again (KL's target) | x, then x_adv of the attacked |
    | mart      | x, x_adv                        | x, then x_adv of the attacked |

The attacked are those whose x_adv is not x. `single_pass` takes the clean logits of the others for their adversarial
ones. That pass has batch norm statistics of its own, of as few examples as were attacked.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sparring.attacks.losses import DIVERGENCE
from sparring.objectives.losses import mart, pgd_at, trades
from sparring.objectives.objective import Batch, Objective, logits_of_attacked

Passes = Literal["reference", "single_pass"]


class PGDAT(Objective):
    """Cross-entropy on attacked examples (Mądry et al. 2018; Bhat et al. 2018)."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        logits = model(batch.x_adv)
        return pgd_at(logits, batch.labels, label_smoothing=self.label_smoothing, weights=batch.weights), logits


class TRADES(Objective):
    """Clean cross-entropy and β times KL(clean || attacked) (Zhang et al. 2019); its attack maximises that KL."""

    attack_loss = DIVERGENCE
    attack_start = "gaussian"

    def __init__(self, beta: float = 6.0, passes: Passes = "reference", label_smoothing: float = 0.0) -> None:
        self.beta, self.passes, self.label_smoothing = beta, passes, label_smoothing

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        clean = model(batch.x)
        reference = self.passes == "reference"
        adv = model(batch.x_adv) if reference else logits_of_attacked(model, clean, batch)
        target = model(batch.x) if reference else clean
        loss = trades(
            clean,
            adv,
            batch.labels,
            self.beta,
            target_logits=target,
            label_smoothing=self.label_smoothing,
            weights=batch.weights,
        )
        return loss, adv


class MART(Objective):
    """Boosted cross-entropy and KL weighted by misclassification (Wang et al. 2020)."""

    attack_start = "gaussian"

    def __init__(self, beta: float = 6.0, passes: Passes = "reference") -> None:
        self.beta, self.passes = beta, passes

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        clean = model(batch.x)
        adv = model(batch.x_adv) if self.passes == "reference" else logits_of_attacked(model, clean, batch)
        return mart(clean, adv, batch.labels, self.beta, weights=batch.weights), adv
