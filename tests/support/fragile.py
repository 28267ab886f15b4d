"""A network of the tests' own that loses its mind where its weights are large."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Fragile(nn.Module):
    """Linear; all its logits are NaN once a weight is above 10."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, C, H, W]."""
        logits: Tensor = self.linear(x.flatten(1))
        return torch.where(self.linear.weight.abs().max() > 10, torch.nan, logits)


def make(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """As `model.name = "tests.support.fragile:make"` calls it."""
    return Fragile(shape[0] * shape[1] * shape[2], classes)
