"""PGD-AT, TRADES and MART: losses, and their forward passes.

In train mode every forward pass updates the running statistics of batch norm, so the number and order of the passes are
part of a method. `passes = "reference"` makes the passes of the authors' code; "single_pass" leaves out those that the
loss does not need:

    | objective | reference                       | single_pass                   |
    |-----------|---------------------------------|-------------------------------|
    | pgd-at    | x_adv                           | x_adv                         |
    | trades    | x, x_adv, x again (KL's target) | x, then x_adv of the attacked |
    | mart      | x, x_adv                        | x, then x_adv of the attacked |

An example is attacked if its x_adv differs from x. For the other examples `single_pass` uses the clean logits as the
adversarial ones. Its second pass computes batch norm statistics only over the attacked examples.
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
    """Clean cross-entropy plus β times KL(clean || attacked) (Zhang et al. 2019); its attack maximises that KL."""

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
    """Boosted cross-entropy plus KL weighted by misclassification (Wang et al. 2020)."""

    attack_start = "gaussian"

    def __init__(self, beta: float = 6.0, passes: Passes = "reference") -> None:
        self.beta, self.passes = beta, passes

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        clean = model(batch.x)
        adv = model(batch.x_adv) if self.passes == "reference" else logits_of_attacked(model, clean, batch)
        return mart(clean, adv, batch.labels, self.beta, weights=batch.weights), adv
