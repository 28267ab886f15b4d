"""What is trained on: any process rebuilds the same example from its index."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.data.augment import augment as augmented
from sparring.data.datasets import ArrayDataset, Dataset, FolderDataset, Subset, split_holdout
from sparring.data.sources import NAMES, load

__all__ = ["NAMES", "ArrayDataset", "Dataset", "FolderDataset", "Subset", "batch", "load", "split_holdout"]


def batch(dataset: Dataset, indices: Tensor, *, augment: str, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """The examples at `indices` (int64 [n]): float32 [n, C, H, W] in [0, 1] and int64 [n]."""
    images = augmented(dataset.images(indices), augment, seed=seed, epoch=epoch, indices=indices)
    return images.to(torch.float32).div_(255), dataset.labels[indices]
