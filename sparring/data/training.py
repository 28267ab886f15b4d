"""Training batches: augmented images of one size, float32 in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sparring.config import Config, image_size
from sparring.data.augment import augment as augmented
from sparring.data.datasets import Dataset, Shape, notes_of
from sparring.data.framing import Framing, random_framing


class TrainingSet:
    """A dataset with its augmentation: any process makes the same batch from (indices, epoch).

    Args:
        augment: a value of data.augment.
        seed: seed of the augmentation.
        sizes: side of the images by epoch; None: images keep their size.
    """

    def __init__(
        self,
        dataset: Dataset,
        augment: str = "none",
        seed: int = 0,
        sizes: Callable[[int], int | None] = lambda epoch: None,
    ) -> None:
        self.dataset, self.augment, self.seed, self.sizes = dataset, augment, seed, sizes
        self.shape: Shape = dataset.shape
        self.classes, self.labels, self.notes = dataset.classes, dataset.labels, notes_of(dataset)

    @property
    def fingerprint(self) -> str:
        return self.dataset.fingerprint

    def __len__(self) -> int:
        return len(self.dataset)

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        """The images of the dataset, before augmentation."""
        return self.dataset.images(indices, framing)

    def shape_in(self, epoch: int) -> Shape:
        """Shape (C, H, W) of the images of a batch in `epoch`."""
        size = self.sizes(epoch)
        if self.augment == "resized_crop_flip":
            size = size or self.shape[-1]
        return self.shape if size is None else (self.shape[0], size, size)

    def batch(self, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Images and labels of the examples at `indices` (int64 [n]), augmented for `epoch`.

        float32 [n, C, H, W] in [0, 1] and int64 [n].
        """
        size = self.sizes(epoch)
        return batch(self.dataset, indices, augment=self.augment, seed=self.seed, epoch=epoch, size=size)


def training_set(config: Config, dataset: Dataset) -> TrainingSet:
    """The dataset with the augmentation of `config`."""
    return TrainingSet(
        dataset, config.data.augment, config.train.seed, partial(image_size, config.data, epochs=config.train.epochs)
    )


def batch(
    dataset: Dataset, indices: Tensor, *, augment: str, seed: int, epoch: int, size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Images, float32 [n, C, H, W] in [0, 1], and labels, int64 [n], of the examples at `indices` (int64 [n]).

    Args:
        size: H and W; by default those of the dataset.
    """
    framing = None if size is None else Framing(size)
    if augment == "resized_crop_flip":
        framing = random_framing(size or dataset.shape[-1], seed, epoch, indices)
    images = augmented(dataset.images(indices, framing), augment, seed=seed, epoch=epoch, indices=indices)
    return scaled(images), dataset.labels[indices]


def scaled(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]: uint8 is divided by 255, floats are not changed."""
    return images.to(torch.float32) if images.is_floating_point() else images.to(torch.float32).div_(255)
