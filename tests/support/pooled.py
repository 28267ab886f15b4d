"""A network of the tests' own that takes images of any size."""

from __future__ import annotations

from torch import nn


def make(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """As `model.name = "tests.support.pooled:make"` calls it."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, classes),
    )
