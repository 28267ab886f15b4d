"""PGD-AT, TRADES and MART: losses, and their forward passes.

In train mode every forward pass updates the running statistics of batch norm, so the number and order of the passes are
part of a method. `passes = "reference"` makes the passes of the authors' code; "single_pass" leaves out those that the
loss does not need:

    | objective    | reference                       | single_pass                   |
    |--------------|---------------------------------|-------------------------------|
    | pgd-at       | x_adv                           | x_adv                         |
    | trades       | x, x_adv, x again (KL's target) | x, then x_adv of the attacked |
    | trades + AWP | x_adv, x (KL's target), x again | x, then x_adv of the attacked |
    | mart         | x, x_adv                        | x, then x_adv of the attacked |

With AWP the order is that of its authors' code in every epoch, also before the perturbation begins.

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

    on_attacked_alone = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        logits = model(batch.x_adv)
        return pgd_at(logits, batch.labels, label_smoothing=self.label_smoothing, weights=batch.weights), logits


class TRADES(Objective):
    """Clean cross-entropy plus β times KL(clean || attacked) (Zhang et al. 2019); its attack maximises that KL.

    attacked_first: the reference passes begin with x_adv, as in the code of AWP (Wu et al. 2020).
    """

    attack_loss = DIVERGENCE
    attack_start = "gaussian"

    def __init__(
        self,
        beta: float = 6.0,
        passes: Passes = "reference",
        label_smoothing: float = 0.0,
        *,
        attacked_first: bool = False,
    ) -> None:
        self.beta, self.passes, self.label_smoothing = beta, passes, label_smoothing
        self.attacked_first = attacked_first

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        clean, adv, target = self._logits(model, batch)
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

    def _logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """[N, K] each: of the clean images for the cross-entropy, of the attacked ones, of the clean ones for the KL.

        Each forward pass is made where it stands.
        """
        if self.passes == "single_pass":
            clean = model(batch.x)
            return clean, logits_of_attacked(model, clean, batch), clean
        if self.attacked_first:
            adv, target, clean = model(batch.x_adv), model(batch.x), model(batch.x)
            return clean, adv, target
        return model(batch.x), model(batch.x_adv), model(batch.x)


class MART(Objective):
    """Boosted cross-entropy plus KL weighted by misclassification (Wang et al. 2020)."""

    attack_start = "gaussian"

    def __init__(self, beta: float = 6.0, passes: Passes = "reference") -> None:
        self.beta, self.passes = beta, passes

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        clean = model(batch.x)
        adv = model(batch.x_adv) if self.passes == "reference" else logits_of_attacked(model, clean, batch)
        return mart(clean, adv, batch.labels, self.beta, weights=batch.weights), adv
