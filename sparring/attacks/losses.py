"""Losses that attacks maximise, per example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from sparring.objectives.losses import kl_divergence

Targets = Literal["labels", "clean", "helper"]


@dataclass(frozen=True)
class AttackLoss:
    """value(logits [N, K], targets [N, ...]) -> [N], to be maximised.

    `targets`: the logits are compared with the labels (int64 [N]), with the model's own predictions on the clean images
    ("clean"), or with those of the objective's helper network ("helper"). Predictions are probabilities [N, K].
    """

    value: Callable[[Tensor, Tensor], Tensor]
    targets: Targets = "labels"

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.value(logits, targets)

    def targets_of(self, labels: Tensor, clean_logits: Tensor | None, helper_logits: Tensor | None = None) -> Tensor:
        """The targets for the logits of the attacked images.

        Raises:
            ValueError: the logits that the loss needs are missing.
        """
        if self.targets == "labels":
            return labels
        logits = clean_logits if self.targets == "clean" else helper_logits
        if logits is None:
            raise ValueError(f"this loss needs the {self.targets} predictions, but there are none")
        return logits.float().softmax(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """[N]: cross-entropy of each example."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


CROSS_ENTROPY = AttackLoss(cross_entropy)
DIVERGENCE = AttackLoss(kl_divergence, "clean")
LOSSES = {"ce": CROSS_ENTROPY, "kl": DIVERGENCE}
