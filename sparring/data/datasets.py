"""One small interface: length, images and labels by index."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sparring.data.framing import Framing, to_image, to_tensor
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

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        """[n, C, H, W] of the examples at `indices` (int64 [n]): of `shape`, or as `framing` shows them.

        uint8, or float32 in [0, 1], which cannot be framed.
        """
        ...


class ArrayDataset:
    """Images in memory, or in a file mapped to it. images: uint8 [N, C, H, W]; labels: int64 [N] in [0, classes)."""

    def __init__(
        self, images: Tensor, labels: Tensor, classes: int, name: str, *, setting: str = "data.name", copy: bool = True
    ) -> None:
        check_arrays(images, labels, classes, name, setting)
        self._images, self.labels, self.classes = images.contiguous() if copy else images, labels, classes
        self.shape: Shape = (images.shape[1], images.shape[2], images.shape[3])
        self.fingerprint = _fingerprint(self._images.numpy(), labels.numpy())

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        images = self._images[indices].contiguous()
        if framing is None:
            return images
        return torch.stack([framing.shown(to_image(image), position) for position, image in enumerate(images)])


class FolderDataset:
    """torchvision's ImageFolder, decoded by index; without a framing images are brought to the first one's size."""

    def __init__(self, path: Path) -> None:
        from sparring.machine.torchvision_import import torchvision

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

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        return torch.stack([self._image(index, position, framing) for position, index in enumerate(indices.tolist())])

    def _image(self, index: int, position: int, framing: Framing | None) -> Tensor:
        _, height, width = self.shape
        image = self._decoded(index)
        if framing is not None:
            return framing.shown(image, position)
        if image.size != (width, height):
            image = image.resize((width, height))
        return to_tensor(image)

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

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        return self._dataset.images(self._indices[indices], framing)


class Framed:
    """A dataset whose images are of one size: the centred square of each, but where another framing is asked for."""

    def __init__(self, dataset: Dataset, size: int, share: float) -> None:
        self._dataset, self._centred = dataset, Framing(size, share)
        self.shape: Shape = (dataset.shape[0], size, size)
        self.classes, self.labels, self.fingerprint = dataset.classes, dataset.labels, dataset.fingerprint

    def __len__(self) -> int:
        return len(self._dataset)

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        shown = self._centred if framing is None else replace(framing, share=self._centred.share)
        return self._dataset.images(indices, shown)


class Concatenated:
    """The examples of `first`, then those of `second`, which are of the same shape and classes."""

    def __init__(self, first: Dataset, second: Dataset) -> None:
        self._first, self._second = first, second
        self.shape, self.classes = first.shape, first.classes
        self.labels = torch.cat([first.labels, second.labels])
        both = f"{first.fingerprint} {second.fingerprint}"
        self.fingerprint = hashlib.blake2b(both.encode(), digest_size=8).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        before = len(self._first)
        in_first = indices < before
        images = torch.empty(len(indices), *self._size(framing), dtype=torch.uint8)
        for chosen, dataset, start in ((in_first, self._first, 0), (~in_first, self._second, before)):
            if bool(chosen.any()):
                part = None if framing is None else framing.at(chosen.nonzero().flatten())
                images[chosen] = dataset.images(indices[chosen] - start, part)
        return images

    def _size(self, framing: Framing | None) -> Shape:
        return self.shape if framing is None else (self.shape[0], framing.size, framing.size)


def require_bytes(dataset: Dataset, setting: str) -> None:
    """Refuse float images for what works on uint8; `setting` names it and begins the error.

    Raises:
        UsageError: the images are floats.
    """
    refuse_floats(dataset.images(torch.tensor([0])), setting)


def refuse_floats(images: Tensor, setting: str) -> None:
    """The same of images at hand."""
    if images.is_floating_point():
        raise UsageError(
            f"{setting} works on uint8 images, and the data hold floats. Give them as uint8 in 0..255, or do without."
        )


def check_arrays(images: Tensor, labels: Tensor, classes: int, name: str, setting: str = "data.name") -> None:
    """Refuse what is no image data.

    Raises:
        SparringError: wrong type, rank or count, no examples, or labels outside the classes.
    """
    if images.dtype != torch.uint8:
        raise SparringError(
            f"{setting} = {name!r}: images are {images.dtype}, uint8 in 0..255 is needed. Multiply floats in [0, 1] by "
            f"255, round, and store them as uint8."
        )
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise SparringError(
            f"{setting} = {name!r}: images of shape {tuple(images.shape)} after reordering to N x C x H x W; 1 or 3 "
            f"channels are needed. Store them as N x H x W or N x H x W x C."
        )
    if len(images) == 0:
        raise SparringError(f"{setting} = {name!r} holds no examples.")
    if len(images) != len(labels):
        raise SparringError(
            f"{setting} = {name!r}: {len(images)} images and {len(labels)} labels; one label for each image is needed."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise SparringError(
            f"{setting} = {name!r}: labels from {low} to {high} lie outside the {classes} classes 0..{classes - 1}. "
            f"Number the classes from 0 and give training data for each."
        )


def split_holdout(dataset: Dataset, holdout: int) -> tuple[Dataset, Dataset]:
    """Training part and held-out part, the same in every run: runs of other seeds are judged by the same images.

    Raises:
        UsageError: nothing would be left to train on.
    """
    if holdout >= len(dataset):
        raise UsageError(
            f"data.holdout = {holdout} leaves nothing of {len(dataset)} training examples. Set aside fewer."
        )
    if holdout == 0:
        return dataset, Subset(dataset, torch.arange(0))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    return Subset(dataset, order[holdout:].sort().values), Subset(dataset, order[:holdout].sort().values)


def _fingerprint(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> str:
    """Of all bytes of a small set, of evenly spaced examples of a large one."""
    stride = max(1, -(-images.nbytes // HASHED_BYTES))
    digest = hashlib.blake2b(f"{images.shape} {stride}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(images[::stride]).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()
