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

import torch
from torch import Tensor, nn

import sparring
from sparring.attacks import AttackLoss
from sparring.objectives import Batch, Helper, Objective, kl_divergence, weighted_mean


class RSLAD(Objective):
    """teacher: the folder of the run that has trained it; alpha: α as above."""

    attack_loss = AttackLoss(kl_divergence, "helper")
    attack_start = "gaussian"

    def __init__(self, teacher: str, alpha: float = 1 / 6) -> None:
        self.teacher, self.alpha = teacher, alpha

    def helper(self, shape: tuple[int, int, int], classes: int) -> Helper:
        return Helper(sparring.load_model(self.teacher))

    def loss(self, model: nn.Module, batch: Batch, helper: nn.Module) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            soft_labels = helper(batch.x).softmax(1)
        attacked, clean = model(batch.x_adv), model(batch.x)
        robust, natural = (kl_divergence(logits, soft_labels) for logits in (attacked, clean))
        return weighted_mean((1 - self.alpha) * robust + self.alpha * natural, batch.weights), attacked
