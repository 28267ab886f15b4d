"""A network of the tests' own with batch norm over images and over rows."""

from __future__ import annotations

from torch import nn


def make(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """As `model.name = "tests.support.normed:make"` calls it."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.BatchNorm1d(8),
        nn.Tanh(),
        nn.Linear(8, classes),
    )
