"""What an attack maximises, example by example."""

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

    `targets` says what the logits are compared with: the labels (int64 [N]), the model's own predictions on the clean
    images ("clean"), or those of the objective's helper network ("helper"); predictions are probabilities [N, K].
    """

    value: Callable[[Tensor, Tensor], Tensor]
    targets: Targets = "labels"

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.value(logits, targets)

    def targets_of(self, labels: Tensor, clean_logits: Tensor | None, helper_logits: Tensor | None = None) -> Tensor:
        """What the logits of the attacked images are compared with.

        Raises:
            ValueError: the logits that it needs were not passed.
        """
        if self.targets == "labels":
            return labels
        logits = clean_logits if self.targets == "clean" else helper_logits
        if logits is None:
            raise ValueError(f"this loss compares with the {self.targets} predictions, and there are none")
        return logits.float().softmax(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """[N]: cross-entropy of each example."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


CROSS_ENTROPY = AttackLoss(cross_entropy)
DIVERGENCE = AttackLoss(kl_divergence, "clean")
LOSSES = {"ce": CROSS_ENTROPY, "kl": DIVERGENCE}
