"""RSLAD (Zi et al. 2021, "Revisiting Adversarial Robustness Distillation"): the labels are a robust teacher's.

    loss = (1 − α)·KL(p_T(x) ‖ p(x')) + α·KL(p_T(x) ‖ p(x)), x' maximises KL(p_T(x) ‖ p(x'))

p_T are the predictions of a robust teacher, which is frozen. The attack compares with them too: `attack_loss` says so,
and the workers get them. First the teacher, then its student, which may be of another architecture:

    sparring train --engine sync --name teacher --objective.name trades --train.epochs 5
    sparring train --engine sync --objective.name examples/rslad.py:RSLAD --objective.options.teacher runs/teacher \
        --train.epochs 2

The authors' code averages the divergence over the classes too, so that its loss is K times smaller for K classes, and
adds 1e-5 to the teacher's probabilities inside the logarithm, which changes no gradient. α = 1/6 is theirs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sparring import UsageError
from sparring.attacks import AttackLoss
from sparring.config import ModelSettings
from sparring.models import build
from sparring.models.starting import load_checkpoint
from sparring.objectives import Batch, Helper, Objective, kl_divergence, weighted_mean


class RSLAD(Objective):
    """teacher: a run's folder or a file of weights; network: their model.name; alpha: α as above."""

    attack_loss = AttackLoss(kl_divergence, "helper")
    attack_start = "gaussian"

    def __init__(self, teacher: str, alpha: float = 1 / 6, network: str = "digits-cnn") -> None:
        self.teacher, self.alpha, self.network = Path(teacher), alpha, network

    def helper(self, shape: tuple[int, int, int], classes: int) -> Helper:
        network = build(ModelSettings(name=self.network), shape, classes, seed=0)
        if load_checkpoint(self.teacher, network, classes, setting="objective.options.teacher"):
            raise UsageError(
                f"objective.options.teacher = {str(self.teacher)!r} does not tell {classes} classes apart."
            )
        return Helper(network)

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            soft_labels = helper(batch.x).softmax(1)
        attacked, clean = model(batch.x_adv), model(batch.x)
        robust, natural = (kl_divergence(logits, soft_labels) for logits in (attacked, clean))
        return weighted_mean((1 - self.alpha) * robust + self.alpha * natural, batch.weights), attacked
