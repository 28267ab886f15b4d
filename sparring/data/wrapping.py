"""The user's own data as a Dataset: torch Datasets and DataLoaders, pairs of arrays."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sized
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
    default_convert,
)

from sparring.data.datasets import HASHED_BYTES, HASHED_ITEM_BYTES, Dataset, Shape, refuse_floats
from sparring.data.depth import check_range
from sparring.data.framing import Framing, to_image
from sparring.data.reading import Arrays, Items, Reader, evenly_spaced, labels_of
from sparring.errors import UsageError

HASHED_AT_ONCE = 256  # images
INTERFACE = ("shape", "classes", "fingerprint", "labels", "images")


def wrap(data: object, setting: str, classes: int | None = None) -> Dataset:
    """Make a Dataset of `data`: images (uint8, or float32 in [0, 1]) and labels by index.

    Args:
        data: a torch Dataset whose items are (image, label); a DataLoader of one; a pair (images, labels) of arrays or
            tensors; or an object with the interface of sparring's Dataset, which is returned unchanged. Images are
            [H, W], [C, H, W] or [H, W, C] with 1 or 3 channels, uint8 or floats in [0, 1], or PIL images.
        setting: beginning of error messages, such as `data.name = 'mydata.py:make'`.
        classes: number of classes; by default what the data declare, else the largest label + 1.

    Raises:
        UsageError: `data` is of another kind, or its images or labels are not as described.
    """
    if all(hasattr(data, name) for name in INTERFACE):
        return _checked(cast(Dataset, data), setting)
    if isinstance(data, DataLoader):
        data = _of_loader(data, setting)
    pair = data.tensors if isinstance(data, TensorDataset) else data
    if isinstance(pair, (tuple, list)) and len(pair) == 2 and all(hasattr(part, "__array__") for part in pair):
        images, labels = pair
        return Wrapped(Arrays(images, setting), len(images), labels, classes, setting)
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__") or isinstance(data, tuple):
        raise UsageError(
            f"{setting}: a {type(data).__name__} cannot be used as data. Give a torch Dataset with a length and items "
            f"(image, label) by index, or a pair of arrays (images, labels)."
        )
    items = Items(data, setting)
    return Wrapped(items, len(data), labels_of(data, items), classes or declared_classes(data), setting)


def declared_classes(data: object) -> int | None:
    """The number of classes that the data declare in `classes`: a number, or a list of names as in torchvision."""
    if isinstance(data, (DataLoader, Subset)):
        return declared_classes(data.dataset)
    if isinstance(data, ConcatDataset):
        return max(filter(None, map(declared_classes, data.datasets)), default=None)
    found = getattr(data, "classes", None)
    if isinstance(found, int):
        return found
    return len(found) if isinstance(found, Sized) else None


class Wrapped:
    """Images that are read on demand and checked on every read. Some are read and checked at once."""

    def __init__(self, read: Reader, length: int, labels: Any, classes: int | None, setting: str) -> None:
        self._read, self._setting = read, setting
        self.in_memory = isinstance(read, Arrays)
        self.labels = _labels(labels, length, classes, setting)
        self.classes = int(self.labels.max()) + 1 if classes is None else classes
        samples = evenly_spaced(length)
        images = read(samples)
        self.shape: Shape = (images.shape[1], images.shape[2], images.shape[3])
        self._dtype = images.dtype
        self._check(images)
        if not torch.equal(images, read(samples)):
            raise UsageError(
                f"{setting}: the same image differs when it is read again, so processes would train on different "
                f"images. Remove the random transform from the data and use data.augment."
            )

    @cached_property
    def fingerprint(self) -> str:
        """Of all labels, and of as many evenly spaced images as may be read for it."""
        budget = HASHED_BYTES if self.in_memory else HASHED_ITEM_BYTES
        size = math.prod(self.shape) * self._dtype.itemsize
        digest = hashlib.blake2b(f"{len(self)} {self._dtype} {self.shape}".encode(), digest_size=8)
        digest.update(self.labels.numpy().tobytes())
        for indices in torch.split(torch.arange(0, len(self), max(1, -(-size * len(self) // budget))), HASHED_AT_ONCE):
            digest.update(self.images(indices).numpy().tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        """Images, uint8 or float32 [n, C, H, W]. Only uint8 images can be framed."""
        if len(indices) == 0:
            return torch.empty(0, *self.shape, dtype=self._dtype)
        images = self._read(indices.tolist())
        self._check(images)
        if framing is None:
            return images
        refuse_floats(images, f"{self._setting}: data.size")
        return torch.stack([framing.apply(to_image(image), position) for position, image in enumerate(images)])

    def _check(self, images: Tensor) -> None:
        if images.shape[1:] != self.shape or images.dtype != self._dtype:
            raise UsageError(
                f"{self._setting}: some images are {self._dtype} of {self.shape}, others {images.dtype} of "
                f"{tuple(images.shape[1:])} (C, H, W). Bring all images to one size and type."
            )
        if images.is_floating_point():
            check_range(images, self._setting)


def _labels(labels: Any, length: int, classes: int | None, setting: str) -> Tensor:
    """Labels as int64 [length], checked to be in 0..classes-1."""
    if length == 0:
        raise UsageError(f"{setting} has no examples. Give data with at least one.")
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.shape != (length,) or not np.issubdtype(array.dtype, np.integer):
        raise UsageError(
            f"{setting}: labels are {array.dtype} of shape {array.shape}; integers of shape ({length},) are needed, "
            f"one for each image."
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or (classes is not None and high >= classes):
        known = "" if classes is None else f", and there are {classes} classes"
        raise UsageError(f"{setting}: labels range from {low} to {high}{known}. Number the classes from 0.")
    return torch.from_numpy(array.astype(np.int64))


def _of_loader(loader: DataLoader[Any], setting: str) -> object:
    """The loader's dataset. Its batch size, order and processes are not used: the run makes its own batches."""
    plain = isinstance(loader.sampler, (SequentialSampler, RandomSampler))
    plain = plain and (loader.batch_sampler is None or type(loader.batch_sampler) is BatchSampler)
    if not plain or len(cast(Sized, loader.sampler)) != len(cast(Sized, loader.dataset)):
        raise UsageError(
            f"{setting}: the DataLoader's sampler selects examples, and a run does not use the sampler. Give the "
            f"Dataset, or a torch.utils.data.Subset of it."
        )
    if loader.collate_fn not in (default_collate, default_convert):
        raise UsageError(
            f"{setting}: the DataLoader has its own collate_fn, and a run does not use it. Give a Dataset whose items "
            f"are (image, label)."
        )
    return loader.dataset


def _checked(data: Dataset, setting: str) -> Dataset:
    """An object with the Dataset interface, after a check of its labels and its first image."""
    if not isinstance(data.labels, Tensor) or data.labels.dtype != torch.int64:
        raise UsageError(f"{setting}: labels must be a tensor, int64 [{len(data)}].")
    _labels(data.labels, len(data), data.classes, setting)
    images = data.images(torch.tensor([0]))
    known = isinstance(images, Tensor) and images.dtype in (torch.uint8, torch.float32)
    if not known or images.shape != (1, *data.shape):
        found = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(
            f"{setting}: images() returns {found} for one index; uint8 or float32 {(1, *data.shape)} is needed."
        )
    if images.is_floating_point():
        check_range(images, setting)
    return data
