"""Normalisation inside the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class Normalize(nn.Module):
    """(x − mean) / std inside the model, so that ε is always in pixel intensities.

    Args:
        mean, std: one number for all channels, or one a channel; in units of images in [0, 1].

    Raises:
        ValueError: std is not above 0, or images have other channels than mean and std.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Sequence[float] | Tensor, std: float | Sequence[float] | Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", _by_channel(mean))
        self.register_buffer("std", _by_channel(std))
        if not bool((torch.as_tensor(std, device="cpu") > 0).all()):
            raise ValueError(f"std = {std!r} must be above 0")

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, C, H, W] in [0, 1]; returns the same shape."""
        made = (x - self.mean) / self.std
        if made.shape != x.shape:
            channels = max(self.mean.numel(), self.std.numel())
            raise ValueError(f"images of shape {tuple(x.shape)} for mean and std of {channels} channels")
        return made


def normalize_cifar(channels: int) -> Normalize:
    """CIFAR-10's mean and standard deviation for colour images, 0.5 and 0.5 for others."""
    return Normalize(CIFAR10_MEAN, CIFAR10_STD) if channels == 3 else Normalize(0.5, 0.5)


def _by_channel(value: float | Sequence[float] | Tensor) -> Tensor:
    """One number unchanged, one number per channel as [C, 1, 1]."""
    tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
    return tensor.view(-1, 1, 1) if tensor.ndim else tensor
