"""What is trained on: any process rebuilds the same example from its index."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.data.augment import augment as augmented
from sparring.data.datasets import ArrayDataset, Concatenated, Dataset, FolderDataset, Framed, Subset, split_holdout
from sparring.data.extra import load_extra
from sparring.data.framing import Framing, random_framing
from sparring.data.sources import NAMES, load
from sparring.data.training import TrainingSet

__all__ = [
    "NAMES",
    "ArrayDataset",
    "Concatenated",
    "Dataset",
    "FolderDataset",
    "Framed",
    "Subset",
    "TrainingSet",
    "batch",
    "load",
    "load_extra",
    "split_holdout",
]


def batch(
    dataset: Dataset, indices: Tensor, *, augment: str, seed: int, epoch: int, size: int | None = None
) -> tuple[Tensor, Tensor]:
    """The examples at `indices` (int64 [n]): float32 [n, C, H, W] in [0, 1] and int64 [n].

    Args:
        size: H and W; by default those of the dataset.
    """
    framing = None if size is None else Framing(size)
    if augment == "resized_crop_flip":
        framing = random_framing(size or dataset.shape[-1], seed, epoch, indices)
    images = augmented(dataset.images(indices, framing), augment, seed=seed, epoch=epoch, indices=indices)
    return images.to(torch.float32).div_(255), dataset.labels[indices]
