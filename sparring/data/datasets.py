"""One small interface: length, uint8 images and labels by index."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sparring.errors import SparringError, UsageError

Shape = tuple[int, int, int]
HASHED_BYTES = 64 << 20


class Dataset(Protocol):
    """Images by index. `fingerprint` names the content, so that hosts can tell whether they hold the same."""

    shape: Shape
    classes: int
    fingerprint: str
    labels: Tensor

    def __len__(self) -> int: ...

    def images(self, indices: Tensor) -> Tensor:
        """uint8 [n, C, H, W] of the examples at `indices` (int64 [n])."""
        ...


class ArrayDataset:
    """Everything in memory. images: uint8 [N, C, H, W]; labels: int64 [N] in [0, classes)."""

    def __init__(self, images: Tensor, labels: Tensor, classes: int, name: str) -> None:
        check_arrays(images, labels, classes, name)
        self._images, self.labels, self.classes = images.contiguous(), labels, classes
        self.shape: Shape = (images.shape[1], images.shape[2], images.shape[3])
        self.fingerprint = _fingerprint(self._images.numpy(), labels.numpy())

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor) -> Tensor:
        return self._images[indices]


class FolderDataset:
    """torchvision's ImageFolder, decoded by index; all images are brought to the size of the first one."""

    def __init__(self, path: Path) -> None:
        from sparring.data.torchvision_import import torchvision

        self.path = path
        try:
            self._folder: Any = torchvision().datasets.ImageFolder(str(path))
        except (FileNotFoundError, RuntimeError) as error:
            raise SparringError(
                f"data.name = 'folder:{path.parent}': {path} holds no class folders with images ({error}). One folder "
                f"per class is needed."
            ) from error
        self.labels = torch.tensor(self._folder.targets)
        self.class_names: list[str] = self._folder.classes
        self.classes = len(self.class_names)
        width, height = self._decoded(0).size
        self.shape: Shape = (3, height, width)
        listing = "\n".join(f"{Path(p).relative_to(path)} {Path(p).stat().st_size}" for p, _ in self._folder.samples)
        self.fingerprint = hashlib.blake2b(listing.encode(), digest_size=8).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor) -> Tensor:
        return torch.stack([self._image(index) for index in indices.tolist()])

    def _image(self, index: int) -> Tensor:
        _, height, width = self.shape
        image = self._decoded(index)
        if image.size != (width, height):
            image = image.resize((width, height))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def _decoded(self, index: int) -> Any:
        try:
            return self._folder[index][0]
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for damaged files
            raise SparringError(
                f"data.name = 'folder:{self.path.parent}': {self._folder.samples[index][0]} is no image ({error}). "
                f"Mend or remove it."
            ) from error


class Subset:
    """Some examples of a dataset, numbered anew."""

    def __init__(self, dataset: Dataset, indices: Tensor) -> None:
        self._dataset, self._indices = dataset, indices
        self.shape, self.classes = dataset.shape, dataset.classes
        self.labels = dataset.labels[indices]
        digest = hashlib.blake2b(dataset.fingerprint.encode(), digest_size=8)
        digest.update(indices.numpy().tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._indices)

    def images(self, indices: Tensor) -> Tensor:
        return self._dataset.images(self._indices[indices])


def check_arrays(images: Tensor, labels: Tensor, classes: int, name: str) -> None:
    """Refuse what is no image data.

    Raises:
        SparringError: wrong type, rank or count, no examples, or labels outside the classes.
    """
    if images.dtype != torch.uint8:
        raise SparringError(
            f"data.name = {name!r}: images are {images.dtype}, uint8 in 0..255 is needed. Multiply floats in [0, 1] by "
            f"255, round, and store them as uint8."
        )
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise SparringError(
            f"data.name = {name!r}: images of shape {tuple(images.shape)} after reordering to N x C x H x W; 1 or 3 "
            f"channels are needed. Store them as N x H x W or N x H x W x C."
        )
    if len(images) == 0:
        raise SparringError(f"data.name = {name!r} holds no examples.")
    if len(images) != len(labels):
        raise SparringError(
            f"data.name = {name!r}: {len(images)} images and {len(labels)} labels; one label for each image is needed."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise SparringError(
            f"data.name = {name!r}: labels from {low} to {high} lie outside the {classes} classes 0..{classes - 1}. "
            f"Number the classes from 0 and give training data for each."
        )


def split_holdout(dataset: Dataset, holdout: int, seed: int) -> tuple[Dataset, Dataset]:
    """Training part and held-out part, the same for the same seed.

    Raises:
        UsageError: nothing would be left to train on.
    """
    if holdout >= len(dataset):
        raise UsageError(
            f"data.holdout = {holdout} leaves nothing of {len(dataset)} training examples. Set aside fewer."
        )
    if holdout == 0:
        return dataset, Subset(dataset, torch.arange(0))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return Subset(dataset, order[holdout:].sort().values), Subset(dataset, order[:holdout].sort().values)


def _fingerprint(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> str:
    """Of all bytes of a small set, of evenly spaced examples of a large one."""
    stride = max(1, -(-images.nbytes // HASHED_BYTES))
    digest = hashlib.blake2b(f"{images.shape} {stride}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(images[::stride]).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()
