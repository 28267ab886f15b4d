"""What is trained on: any process rebuilds the same example from its index."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.config import Config, image_size
from sparring.data.augment import augment as augmented
from sparring.data.datasets import ArrayDataset, Concatenated, Dataset, FolderDataset, Framed, Subset, split_holdout
from sparring.data.extra import load_extra
from sparring.data.framing import Framing, random_framing
from sparring.data.sources import NAMES, load

__all__ = [
    "NAMES",
    "ArrayDataset",
    "Concatenated",
    "Dataset",
    "FolderDataset",
    "Framed",
    "Subset",
    "batch",
    "load",
    "load_extra",
    "split_holdout",
    "training_batch",
]


def training_batch(config: Config, dataset: Dataset, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
    """The examples at `indices` (int64 [n]) as `epoch` trains on them: augmented, and of its phase's size."""
    augment, seed, size = config.data.augment, config.train.seed, image_size(config, epoch)
    return batch(dataset, indices, augment=augment, seed=seed, epoch=epoch, size=size)


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
