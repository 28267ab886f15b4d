"""The oracle: classes by the outcome of ten PGD steps. It costs more than it saves and is for analysis only."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sparring.allocators.allocator import Allocator, Candidates
from sparring.allocators.bullettrain import BOUNDARY, OUTLIER, ROBUST, BulletTrain
from sparring.attacks import CROSS_ENTROPY, Attack, perturb, perturbed
from sparring.errors import SparringError
from sparring.objectives.predictions import correct

STEPS = 10


class Oracle(BulletTrain):
    """BulletTrain with the true classes: boundary examples are correct only if not attacked."""

    def classify(self, candidates: Candidates) -> Tensor:
        x, labels = candidates.x, candidates.labels
        if not isinstance(candidates.attack, Attack):
            raise SparringError(
                "allocator.name = 'oracle' classifies by the outcome of PGD, so it cannot be used with AugMix. Choose "
                "another allocator."
            )
        attack = replace(candidates.attack.stronger(STEPS), restarts=1, loss=CROSS_ENTROPY)
        delta = perturb(candidates.model, x, labels, attack, candidates.generator)
        with torch.no_grad():
            attacked = correct(candidates.model(perturbed(x, delta)), labels)
        return classify_by_attack(correct(candidates.clean_logits, labels), attacked)

    def gradients(self, examples: int) -> int:
        return STEPS * examples

    def with_full_steps(self) -> Allocator:
        return Oracle(None, self.robust_steps, self.outlier_steps, self.gamma, self.momentum)


def classify_by_attack(clean_correct: Tensor, attacked_correct: Tensor) -> Tensor:
    """int64 [N]: the true classes, from two bool [N]."""
    return torch.where(~clean_correct, OUTLIER, torch.where(attacked_correct, ROBUST, BOUNDARY))
