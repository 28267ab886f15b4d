"""The BulletTrain allocator (Hua et al.): attack steps where they matter, few on robust examples, none on outliers.

    SVar = sign · Var[softmax(h(x))], sign +1 where the clean prediction is right, else −1
    SVar < 0                                       outlier:  N_O steps
    0 ≤ SVar < percentile(SVar, 1 − F_R)           boundary: N_B steps
    else                                           robust:   N_R steps
    F_R ← p·F_R + (1 − p)·γ·(robust accuracy of the last batch), from 0

The trainer owns F_R and sends it with every snapshot; a worker classifies a ticket by one clean forward pass. All
functions are pure.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparring.attacks import Attack
from sparring.config import AllocatorSettings

OUTLIER, BOUNDARY, ROBUST = 0, 1, 2
CLASSES = ("outlier", "boundary", "robust")
ROBUST_REACH = 1.7  # N_R steps together reach 1.7·ε (Hua et al.)


class Allocation(NamedTuple):
    """What each example of a ticket gets.

    step_counts: int64 [N]; step_sizes: float32 [N], pixel intensities; classes: how many are outlier, boundary, robust.
    """

    step_counts: Tensor
    step_sizes: Tensor
    classes: tuple[int, int, int]


def signed_variance(logits: Tensor, labels: Tensor) -> Tensor:
    """float32 [N]: variance of the predicted probabilities, negative where the prediction is wrong.

    logits: [N, K] of the clean images; labels: int64 [N].
    """
    variance = logits.float().softmax(1).var(1, unbiased=False)
    return torch.where(logits.argmax(1) == labels, variance, -variance)


def classify(variance: Tensor, robust_share: float) -> Tensor:
    """int64 [N] of OUTLIER, BOUNDARY, ROBUST by the percentile rule; with F_R = 0 no example is robust."""
    classes = torch.where(variance < 0, OUTLIER, BOUNDARY)
    if robust_share > 0:
        threshold = torch.quantile(variance, 1 - robust_share)
        classes[(variance >= 0) & (variance >= threshold)] = ROBUST
    return classes


def classify_by_attack(clean_right: Tensor, attacked_right: Tensor) -> Tensor:
    """int64 [N] by the definitions themselves (the oracle): right and attacked wrong is boundary, both right robust.

    Both bool [N].
    """
    return torch.where(~clean_right, OUTLIER, torch.where(attacked_right, ROBUST, BOUNDARY))


def allocate(classes: Tensor, settings: AllocatorSettings, attack: Attack) -> Allocation:
    """Steps and step sizes by class; `attack` is the recipe's at the present ε."""
    steps = torch.tensor([settings.outlier_steps, boundary_steps(settings, attack.steps), settings.robust_steps])
    reach = ROBUST_REACH * attack.epsilon
    few = [reach / max(settings.outlier_steps, 1), 0.0, reach / max(settings.robust_steps, 1)]
    few[BOUNDARY] = attack.step_size * attack.steps / int(steps[BOUNDARY])
    where = classes.cpu()
    counts = torch.bincount(where, minlength=3).tolist()
    return Allocation(
        steps[where].to(classes.device),
        torch.tensor(few, dtype=torch.float32)[where].to(classes.device),
        (counts[OUTLIER], counts[BOUNDARY], counts[ROBUST]),
    )


def boundary_steps(settings: AllocatorSettings, attack_steps: int) -> int:
    """N_B; the recipe's attack steps where it is not set."""
    return attack_steps if settings.boundary_steps is None else settings.boundary_steps


def updated_robust_share(robust_share: float, robust_accuracy: float, settings: AllocatorSettings) -> float:
    """F_R after a batch of which the share `robust_accuracy` was classified right under attack."""
    momentum = settings.momentum
    return momentum * robust_share + (1 - momentum) * settings.gamma * robust_accuracy


def theoretical_speedup(
    classes: tuple[float, float, float], settings: AllocatorSettings, attack_steps: int, restarts: int = 1
) -> float:
    """Equation 7: (N + 1) / (F_B·N_B + F_R·N_R + F_O·N_O + 1). It counts a training step as one attack step and
    forgets the classifying pass, so that perfect code stays below it.

    classes: how many are outlier, boundary, robust, or their shares. Several restarts multiply all steps.
    """
    return (restarts * attack_steps + 1) / (restarts * mean_steps(classes, settings, attack_steps) + 1)


def augmix_speedup(classes: tuple[float, float, float], settings: AllocatorSettings) -> float:
    """AugMix has no attack steps; it is spared passes of views: 3 / (1 + 2·share augmented), Hua et al.'s Table 1."""
    return 3 / (1 + 2 * mean_steps(classes, settings, attack_steps=1))


def speedup_ceiling(
    classes: tuple[float, float, float],
    settings: AllocatorSettings,
    attack_steps: int,
    *,
    forward_s: float,
    attack_step_s: float,
    step_s: float,
    needs_clean: bool,
) -> float:
    """What equation 7 becomes with measured times of one batch: the speed-up that code without overhead would reach.

    forward_s: the clean pass, which full attacks need too where `needs_clean` (TRADES); attack_step_s: one attack step
    on all; step_s: the training step.
    """
    full = attack_steps * attack_step_s + step_s + (forward_s if needs_clean else 0.0)
    return full / (forward_s + mean_steps(classes, settings, attack_steps) * attack_step_s + step_s)


def mean_steps(classes: tuple[float, float, float], settings: AllocatorSettings, attack_steps: int) -> float:
    """F_B·N_B + F_R·N_R + F_O·N_O, attack steps by example."""
    spent = (
        classes[OUTLIER] * settings.outlier_steps
        + classes[BOUNDARY] * boundary_steps(settings, attack_steps)
        + classes[ROBUST] * settings.robust_steps
    )
    return spent / (sum(classes) or 1)
