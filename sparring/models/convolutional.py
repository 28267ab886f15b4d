"""Small convolutional networks: the demo's, and those of Bhat et al. and of Wong et al. for MNIST."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(x − mean) / std, inside the model, so that ε is always a pixel intensity.

    Args:
        mean, std: one number for all channels, or one a channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", _by_channel(mean))
        self.register_buffer("std", _by_channel(std))

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, C, H, W] in [0, 1]."""
        return (x - self.mean) / self.std


def _by_channel(value: float | Sequence[float]) -> Tensor:
    """A number as it is, numbers of channels as [C, 1, 1]."""
    tensor = torch.tensor(value)
    return tensor.view(-1, 1, 1) if tensor.ndim else tensor


def digits_cnn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """For small images such as the 8×8 digits: two 3×3 convolutions, 128 hidden units."""
    channels, height, width = shape
    return nn.Sequential(
        Normalize(0.3, 0.38),
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 2) * (width // 2), 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


def mnist_32_64_1024(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Bhat et al.: two 5×5 convolutions with 2×2 max-pooling, 1024 hidden units."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 1024),
        nn.ReLU(),
        nn.Linear(1024, classes),
    )


def mnist_16_32_100(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Wong et al.: two 4×4 convolutions of stride 2, 100 hidden units."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )
