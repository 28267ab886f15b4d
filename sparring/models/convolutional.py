"""Small convolutional networks: the demo's, those of Bhat et al. and of Wong et al. for MNIST, and one for CIFAR-10."""

from __future__ import annotations

from torch import nn

from sparring.models.normalize import Normalize, normalize_cifar


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


def cifar10_32_64_128(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Ours, for a processor: three 3×3 convolutions with batch norm, the last two of stride 2, and global average
    pooling, so that images may have any size. 95,000 weights."""
    return nn.Sequential(
        normalize_cifar(shape[0]),
        *_block(shape[0], 32, 1),
        *_block(32, 64, 2),
        *_block(64, 128, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, classes),
    )


def _block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()
