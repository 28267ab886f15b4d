"""An allocator with four classes: attack steps by the margin of the clean prediction, as BulletTrain's by its variance.

    margin = p(label) − the largest other probability
    wrong: margin < 0        near: < `near`        sure: < `certain`        certain: the others

The wrong get one step, the near all of the attack's, the sure half and the certain a quarter of them. Few steps are
longer ones: all but the wrong go as far together as the attack itself.

    sparring train --engine sync --allocator.name examples/allocator.py:ByMargin --allocator.options.near 0.5 \
        --train.epochs 2

Counts are reported by these names. After Hua et al. 2021 (BulletTrain), who take three classes and other rules.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.allocators import Allocator, Budget, Candidates, Threat


class ByMargin(Allocator):
    """near, certain: margins in [0, 1] at which the classes begin and end."""

    classes = ("wrong", "near", "sure", "certain")

    def __init__(self, near: float = 0.5, certain: float = 0.95) -> None:
        if not 0 < near < certain <= 1:
            raise ValueError(f"near = {near} and certain = {certain}: 0 < near < certain <= 1 is needed")
        self.near, self.certain = near, certain

    def classify(self, candidates: Candidates) -> Tensor:
        probabilities, labels = candidates.clean_logits.float().softmax(1), candidates.labels[:, None]
        others = probabilities.scatter(1, labels, 0).amax(1)
        margins = probabilities.gather(1, labels)[:, 0] - others
        return torch.bucketize(margins, margins.new_tensor([0.0, self.near, self.certain]), right=True)

    def budgets(self, attack: Threat) -> Sequence[Budget]:
        reach = attack.alpha * attack.steps
        half, quarter = max(1, attack.steps // 2), max(1, attack.steps // 4)
        return (
            Budget(1, attack.alpha),
            *(Budget(steps, reach / steps) for steps in (attack.steps, half, quarter)),
        )
