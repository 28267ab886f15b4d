"""What logits say: which are finite, which are right, and whether they are logits at all."""

from __future__ import annotations

from torch import Tensor

SUM_TOLERANCE = 1e-3  # of probabilities, in float32 over some thousand classes


def are_finite(logits: Tensor) -> Tensor:
    """bool [N]: all logits of the example are finite. logits: [N, K]."""
    finite: Tensor = logits.isfinite().all(1)
    return finite


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """bool [N]: the prediction is the label, and all logits are finite (argmax takes NaN for the highest).

    logits: [N, K]; labels: int64 [N].
    """
    return (logits.argmax(1) == labels) & are_finite(logits)


def are_probabilities(logits: Tensor) -> Tensor:
    """bool [N]: the row of two or more numbers in [0, 1] sums to one, as no logits do by chance."""
    inside = (logits >= 0).all(1) & ((logits.sum(1) - 1).abs() < SUM_TOLERANCE)
    return inside & (logits.shape[1] > 1)
