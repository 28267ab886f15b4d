"""Losses that attacks maximise, per example."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sparring.attacks.norms import precise
from sparring.objectives.losses import kl_divergence

Targets = Literal["labels", "clean", "helper", "rivals"]
SATURATED = 1e-6  # a cross-entropy below which float32 rounds most of 1 - p(label) away


@dataclass(frozen=True)
class AttackLoss:
    """value(logits [N, K], targets [N, ...]) -> [N], to be maximised.

    `targets`: the logits are compared with the labels (int64 [N]), with the model's own predictions on the clean images
    ("clean"), or with those of the objective's helper network ("helper"). Predictions are probabilities [N, K].
    "rivals": int64 [N, 2], the label and another class, that of `rank` (1: the likeliest) on the clean image.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    targets: Targets = "labels"
    rank: int = 0

    @property
    def needs_clean(self) -> bool:
        """Whether the targets depend on the logits of the clean images."""
        return self.targets in ("clean", "rivals")

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.value(logits, targets)

    def targets_of(self, labels: Tensor, clean_logits: Tensor | None, helper_logits: Tensor | None = None) -> Tensor:
        """The targets for the logits of the attacked images.

        Raises:
            ValueError: the logits that the loss needs are missing.
        """
        if self.targets == "labels":
            return labels
        logits = clean_logits if self.needs_clean else helper_logits
        if logits is None:
            raise ValueError(f"this loss needs the {self.targets} predictions, but there are none")
        return rivals(labels, logits, self.rank) if self.targets == "rivals" else precise(logits).softmax(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """[N]: cross-entropy of each example."""
    return F.cross_entropy(precise(logits), labels, reduction="none")


def unsaturated(logits: Tensor, labels: Tensor) -> Tensor:
    """[N]: the cross-entropy; below `SATURATED` its tangent, whose gradient has the same direction and never vanishes.

    CE = log(1 + exp(m)) with m = log Σ exp(z_j), j ≠ label, minus z_label. For a confident prediction float32 rounds
    dCE/dm = 1 - p(label) to 0, but not the gradient of m. Attacks by the sign or the normalised gradient need only the
    direction, so multiplying the logits by a constant does not hide an example from them.
    """
    loss = cross_entropy(logits, labels)
    if logits.shape[1] < 2:
        return loss
    exact, own = precise(logits), labels[:, None]
    others = exact.scatter(1, own, -math.inf)
    margin = others.logsumexp(1) - exact.gather(1, own)[:, 0]
    tangent = SATURATED * (1 + margin - math.log(SATURATED))
    return torch.where(margin < math.log(SATURATED), tangent, loss)


def rivals(labels: Tensor, logits: Tensor, rank: int) -> Tensor:
    """int64 [N, 2]: the label, and of the other classes the one of the rank-th highest logit."""
    others = logits.detach().scatter(1, labels[:, None], -math.inf).argsort(dim=1, descending=True, stable=True)
    return torch.stack([labels, others[:, rank - 1]], 1)


def lead(logits: Tensor, pairs: Tensor) -> Tensor:
    """[N]: logit of the rival minus that of the label; above 0 the label has lost."""
    own, other = precise(logits).gather(1, pairs).unbind(1)
    return other - own


def towards(rank: int) -> AttackLoss:
    """Of a targeted attack: the lead of the class of this rank (1: the likeliest other one). Gowal et al. 2019
    (arXiv:1910.09338), whose attack tries several targets."""
    return AttackLoss(lead, "rivals", rank)


CROSS_ENTROPY = AttackLoss(unsaturated)
DIVERGENCE = AttackLoss(kl_divergence, "clean")
LOSSES = {"ce": CROSS_ENTROPY, "kl": DIVERGENCE}
