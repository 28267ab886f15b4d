"""A targeted attack (Kurakin et al. 2017, "Adversarial Machine Learning at Scale"): a loss of your own to maximise.

It minimises the cross-entropy with a class that the image does not show: the one after the label, or `target` for all.

    sparring train --engine sync --attack.name examples/targeted.py:Targeted --attack.options.target 3 \
        --train.epochs 2

The paper takes the class that the clean image is least likely of. An image of class `target` itself has the class
after it as its target. A run is evaluated by the untargeted PGD of the same ball all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.attacks import PGD, AttackLoss, cross_entropy


@dataclass(frozen=True, kw_only=True)
class Targeted(PGD):
    """PGD towards a class; `target` is its number, None: the class after the label. See `Attack` for the others."""

    target: int | None = None
    loss: AttackLoss | str | None = field(default=None, init=False)  # so that no setting or objective gives another

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target is not None and not (isinstance(self.target, int) and self.target >= 0):
            raise ValueError(f"target = {self.target!r}: the number of a class, or None, is needed.")

    @property
    def maximised(self) -> AttackLoss:
        return AttackLoss(self.closeness)

    def closeness(self, logits: Tensor, labels: Tensor) -> Tensor:
        """float [N]: minus the cross-entropy with the target. logits: [N, K]; labels: int64 [N]."""
        following = (labels + 1) % logits.shape[1]
        if self.target is None:
            return -cross_entropy(logits, following)
        return -cross_entropy(logits, torch.where(labels == self.target, following, self.target))
