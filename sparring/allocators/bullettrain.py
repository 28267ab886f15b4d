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

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.allocators.allocator import Allocator, Budget, Candidates
from sparring.attacks.augmix import Threat
from sparring.objectives.predictions import are_finite, correct

OUTLIER, BOUNDARY, ROBUST = 0, 1, 2
ROUNDING = 1e-9  # of a rank
ROBUST_RADIUS = 1.7  # N_R steps have a total length of 1.7·ε (Hua et al.)


class BulletTrain(Allocator):
    """Steps by signed variance.

    Args:
        boundary_steps: N_B, of size α·κ/N_B; None: the attack's own number κ. robust_steps: N_R, of size 1.7·ε/N_R.
            outlier_steps: N_O, of size 1.7·ε/N_O.
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
        order = signed_certainty(candidates.clean_logits, candidates.labels)
        # A generator of its own: equal variances must not change the random numbers of the attack.
        random = torch.Generator().manual_seed(candidates.generator.initial_seed())
        return classify(order, candidates.robust_share, random)

    def budgets(self, attack: Threat) -> Sequence[Budget]:
        """The total length of the steps is that of the attack for boundary examples, 1.7·ε for others (Hua et al.)."""
        boundary_steps = attack.steps if self.boundary_steps is None else self.boundary_steps
        length = ROBUST_RADIUS * attack.epsilon
        return (
            Budget(self.outlier_steps, length / max(self.outlier_steps, 1)),
            Budget(boundary_steps, attack.alpha * attack.steps / max(boundary_steps, 1)),
            Budget(self.robust_steps, length / max(self.robust_steps, 1)),
        )

    def updated(self, robust_share: float, robust_accuracy: float) -> float:
        return self.momentum * robust_share + (1 - self.momentum) * self.gamma * robust_accuracy

    def with_full_steps(self) -> Allocator:
        return BulletTrain(None, self.robust_steps, self.outlier_steps, self.gamma, self.momentum)


def signed_variance(logits: Tensor, labels: Tensor) -> Tensor:
    """float64 [N]: variance of the predicted probabilities, negated if the prediction is wrong.

    logits: [N, K] of the clean images, where one is not finite the result is -1; labels: int64 [N].
    """
    variance = logits.double().softmax(1).var(1, unbiased=False)
    signed = torch.where(correct(logits, labels), variance, -variance)
    return torch.where(are_finite(logits), signed, -1.0)


def signed_certainty(logits: Tensor, labels: Tensor) -> Tensor:
    """float64 [N]: values in the order of the signed variances, also where those are equal in float64.

    A softmax whose largest logit is ahead by more than 37 is exactly 1 there. K·Var = Σ p² − 1/K rises as
    Σ p·(1 − p) falls, which is computed by its logarithm: sign · (−log Σ p·(1 − p)). Arguments as for
    `signed_variance`.
    """
    found = logits.double().log_softmax(1)
    largest = found.argmax(1, keepdim=True)
    others = found.scatter(1, largest, -torch.inf).logsumexp(1, keepdim=True)  # log(1 - p) of the largest p
    of_the_rest = torch.log1p(-found.exp()).scatter(1, largest, others)
    certainty = -(found + of_the_rest).logsumexp(1)
    even = logits.amax(1) == logits.amin(1)
    signed = torch.where(correct(logits, labels), certainty, -certainty).masked_fill(even, 0.0)
    return torch.where(are_finite(logits), signed, -1.0)


def classify(variance: Tensor, robust_share: float, random: torch.Generator) -> Tensor:
    """int64 [N]: OUTLIER, BOUNDARY or ROBUST by the percentile rule. With F_R = 0 no example is robust.

    variance: float [N], signed variances or values in their order; below 0 where the prediction is wrong.
    The rule in ranks: at or above the (linearly interpolated) percentile 1 - F_R are those from rank
    ceil((1 - F_R)·(N - 1)) on. Equal variances are ordered by `random`, so that not all of them become robust.
    """
    classes = torch.where(variance < 0, OUTLIER, BOUNDARY)
    if robust_share > 0:
        shuffled = torch.randperm(len(variance), generator=random).to(variance.device)
        order = shuffled[variance[shuffled].argsort(stable=True)]
        first = math.ceil((1 - robust_share) * (len(variance) - 1) - ROUNDING)
        highest = order[first:]
        classes[highest[variance[highest] >= 0]] = ROBUST
    return classes
