"""Cheap models and images for the tests of the evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.data import ArrayDataset

PIXELS = 64


class Brightness(nn.Module):
    """Class 1 where the weighted mean of an 8×8 image exceeds one half; `weights` is float32 [64].

    With positive weights a perturbation within ε under L∞ moves the score by at most ε: robustness is known exactly.
    """

    def __init__(self, weights: Tensor | None = None) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(PIXELS) if weights is None else weights)

    def score(self, x: Tensor) -> Tensor:
        """float32 [N] in [-0.5, 0.5]; x: float32 [N, 1, 8, 8]."""
        return x.flatten(1) @ self.weights / self.weights.sum() - 0.5

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 2]."""
        score = self.score(x)
        return torch.stack([-score, score], 1)


class Shattered(Brightness):
    """The same decisions in steps: no gradient leads anywhere."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 2]."""
        score = (1000 * self.score(x)).floor() + 0.5 + 0 * self.score(x)
        return torch.stack([-score, score], 1)


def greys(margins: Tensor, labels: Tensor | None = None) -> ArrayDataset:
    """Even images whose weighted mean is `margins` (float [N]) above one half; by default all labels are right."""
    values = (255 * (0.5 + margins)).round().to(torch.uint8)
    right = (margins > 0).long() if labels is None else labels
    return ArrayDataset(values.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous(), right, 2, "greys")


def distances(dataset: ArrayDataset) -> Tensor:
    """float64 [N]: the L∞ distance of each of `greys` to the boundary, after rounding to bytes."""
    return (dataset.images(torch.arange(len(dataset)))[:, 0, 0, 0].double() / 255 - 0.5).abs()
