"""An objective with a helper network that is trained beside the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.attacks import AttackLoss
from sparring.objectives import Batch, Helper, Objective, kl_divergence
from sparring.objectives.losses import pgd_at


class Helped(Objective):
    """Cross-entropy on attacked images for the model, on clean ones for the helper."""

    def helper(self, shape: tuple[int, int, int], classes: int) -> Helper:
        return Helper(nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes)), trained=True)

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        logits = model(batch.x_adv)
        beside = torch.zeros(()) if helper is None else pgd_at(helper(batch.x), batch.labels)
        return pgd_at(logits, batch.labels) + beside, logits


class Compared(Helped):
    """The same; its attack moves predictions away from the helper's."""

    attack_loss = AttackLoss(kl_divergence, "helper")


class Frozen(Helped):
    """Its helper is not trained, and every process that makes it anew makes another."""

    attack_loss = AttackLoss(kl_divergence, "helper")

    def helper(self, shape: tuple[int, int, int], classes: int) -> Helper:
        made = super().helper(shape, classes)
        torch.seed()
        for parameter in made.network.parameters():
            nn.init.normal_(parameter)
        return Helper(made.network, trained=False)
