"""The BulletTrain allocator (Hua et al.): all attack steps on boundary examples, few on robust ones, none on outliers.

    SVar = sign · Var[softmax(h(x))], sign +1 if the clean prediction is correct, else −1
    SVar < 0                                       outlier:  N_O steps
    0 ≤ SVar < percentile(SVar, 1 − F_R)           boundary: N_B steps
    else                                           robust:   N_R steps
    F_R ← p·F_R + (1 − p)·γ·(robust accuracy of the last batch), from 0

The trainer owns F_R and sends it with every snapshot; a worker classifies a ticket by one clean forward pass. All
functions are pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.allocators.allocator import Allocator, Budget, Candidates
from sparring.attacks.augmix import Threat

OUTLIER, BOUNDARY, ROBUST = 0, 1, 2
ROBUST_RADIUS = 1.7  # N_R steps have a total length of 1.7·ε (Hua et al.)


class BulletTrain(Allocator):
    """Steps by signed variance.

    Args:
        boundary_steps: N_B; None: the attack's own number. robust_steps: N_R. outlier_steps: N_O.
        gamma: F_R follows γ times the robust accuracy of the training batches. momentum: p of F_R.
    """

    classes = ("outlier", "boundary", "robust")

    def __init__(
        self,
        boundary_steps: int | None = None,
        robust_steps: int = 2,
        outlier_steps: int = 0,
        gamma: float = 0.8,
        momentum: float = 0.9,
    ) -> None:
        self.boundary_steps, self.robust_steps, self.outlier_steps = boundary_steps, robust_steps, outlier_steps
        self.gamma, self.momentum = gamma, momentum

    def classify(self, candidates: Candidates) -> Tensor:
        return classify(signed_variance(candidates.clean_logits, candidates.labels), candidates.robust_share)

    def budgets(self, attack: Threat) -> Sequence[Budget]:
        """The total length of the steps is that of the attack for boundary examples, 1.7·ε for others (Hua et al.)."""
        boundary_steps = attack.steps if self.boundary_steps is None else self.boundary_steps
        length = ROBUST_RADIUS * attack.epsilon
        return (
            Budget(self.outlier_steps, length / max(self.outlier_steps, 1)),
            Budget(boundary_steps, attack.alpha * attack.steps / boundary_steps),
            Budget(self.robust_steps, length / max(self.robust_steps, 1)),
        )

    def updated(self, robust_share: float, robust_accuracy: float) -> float:
        return self.momentum * robust_share + (1 - self.momentum) * self.gamma * robust_accuracy

    def with_full_steps(self) -> Allocator:
        return BulletTrain(None, self.robust_steps, self.outlier_steps, self.gamma, self.momentum)


def signed_variance(logits: Tensor, labels: Tensor) -> Tensor:
    """float32 [N]: variance of the predicted probabilities, negated if the prediction is wrong.

    logits: [N, K] of the clean images; labels: int64 [N].
    """
    variance = logits.float().softmax(1).var(1, unbiased=False)
    return torch.where(logits.argmax(1) == labels, variance, -variance)


def classify(variance: Tensor, robust_share: float) -> Tensor:
    """int64 [N]: OUTLIER, BOUNDARY or ROBUST by the percentile rule. With F_R = 0 no example is robust."""
    classes = torch.where(variance < 0, OUTLIER, BOUNDARY)
    if robust_share > 0:
        threshold = torch.quantile(variance, 1 - robust_share)
        classes[(variance >= 0) & (variance >= threshold)] = ROBUST
    return classes
