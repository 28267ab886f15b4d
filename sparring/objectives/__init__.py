"""What training minimises: pure functions of logits, apart from the attack that made the examples."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pgd_at(logits: Tensor, labels: Tensor) -> Tensor:
    """PGD-AT (Mądry et al.; paper 001): mean cross-entropy on adversarial examples only.

    logits: [N, K] of the attacked images; labels: int64 [N]; returns a scalar.
    """
    return F.cross_entropy(logits.float(), labels)
