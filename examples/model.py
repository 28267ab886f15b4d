"""A network of one's own, with the normalisation inside, so that ε is a pixel intensity.

    sparring train --engine sync --model.name examples/model.py:Perceptron --model.options.width 256 --train.epochs 2

It is called with the shape (C, H, W) of the images and the number of classes; what else it takes are options. It gets
float32 images in [0, 1] and returns logits.
"""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

import sparring


class Perceptron(nn.Module):
    """Two hidden layers."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int = 128) -> None:
        super().__init__()
        self.normalize = sparring.Normalize(0.3, 0.38)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(prod(shape), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, C, H, W] in [0, 1]; returns [N, classes]."""
        logits: Tensor = self.layers(self.normalize(x))
        return logits
