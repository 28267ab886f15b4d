"""Seeded augmentation per example: the same (seed, epoch, index) gives the same image in any process and batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 4
FRAMING_DRAWS = 3  # number of the first random number that the framing uses; `augment` uses those before it
Draws = np.ndarray[Any, np.dtype[np.uint64]]


def draws(seed: int, epoch: int, indices: Tensor, number: int) -> Draws:
    """uint64 [N]: random number `number` of every example, by splitmix64 of (seed, epoch, index, number)."""
    with np.errstate(over="ignore"):
        value: Draws = _mix(np.full(len(indices), seed, np.uint64))
        for part in (np.uint64(epoch), indices.numpy().astype(np.uint64), np.uint64(number)):
            value = _mix(value ^ part)
    return value


def augment(images: Tensor, name: str, *, seed: int, epoch: int, indices: Tensor) -> Tensor:
    """Augment images, uint8 [N, C, H, W], to the same shape: `crop` pads by 4 and crops; `crop_flip` mirrors too.

    For `resized_crop_flip` this function only mirrors; the framing does the crop, on the image in its original size.
    """
    if name == "none":
        return images
    height, width = images.shape[-2:]
    padding = 0 if name == "resized_crop_flip" else PADDING
    padded = F.pad(images, (padding,) * 4)
    top = _below(draws(seed, epoch, indices, 0), 2 * padding + 1)
    left = _below(draws(seed, epoch, indices, 1), 2 * padding + 1)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    if name.endswith("flip"):
        mirrored = _below(draws(seed, epoch, indices, 2), 2).bool()[:, None, None, None]
        columns = torch.where(mirrored, columns.flip(-1), columns)
    every = torch.arange(len(images))[:, None, None, None]
    channels = torch.arange(images.shape[1])[None, :, None, None]
    return padded[every, channels, rows, columns]


def _below(values: Draws, bound: int) -> Tensor:
    return torch.from_numpy((values % np.uint64(bound)).astype(np.int64))


def _mix(value: Draws) -> Draws:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
