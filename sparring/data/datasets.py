"""The Dataset interface (length, images and labels by index) and its implementations."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sparring.data.depth import note_of, read_rgb
from sparring.data.framing import Framing, to_image, to_tensor
from sparring.data.reading import evenly_spaced
from sparring.errors import UsageError

Shape = tuple[int, int, int]
HASHED_BYTES = 256 << 20  # of images: all of a smaller dataset, evenly spaced ones of a larger one
HASHED_ITEM_BYTES = 16 << 20  # of images that have to be read one by one


class Dataset(Protocol):
    """Images and labels by index."""

    shape: Shape
    classes: int
    labels: Tensor

    @property
    def fingerprint(self) -> str:
        """A hash of images, labels and their order. Hosts compare it, and a resume with that of the run's start."""
        ...

    def __len__(self) -> int: ...

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        """The images at `indices` (int64 [n]): [n, C, H, W], of `shape` or cropped and resized by `framing`.

        uint8, or float32 in [0, 1]. Float images cannot be framed.
        """
        ...


class ArrayDataset:
    """Images in memory or memory-mapped. images: uint8 [N, C, H, W]; labels: int64 [N] in [0, classes).

    notes: what was done to the images when they were read.
    """

    in_memory = True

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classes: int,
        name: str,
        *,
        setting: str = "data.name",
        copy: bool = True,
        notes: tuple[str, ...] = (),
    ) -> None:
        check_arrays(images, labels, classes, name, setting)
        self._images, self.labels, self.classes = images.contiguous() if copy else images, labels, classes
        self.notes = notes
        self.shape: Shape = (images.shape[1], images.shape[2], images.shape[3])
        self.fingerprint = _fingerprint(self._images.numpy(), labels.numpy())

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        images = self._images[indices].contiguous()
        if framing is None:
            return images
        return torch.stack([framing.apply(to_image(image), position) for position, image in enumerate(images)])


class FolderDataset:
    """torchvision's ImageFolder, decoded by index. Without a framing, images are resized to the size of the first."""

    def __init__(self, path: Path) -> None:
        from sparring.machine.torchvision_import import torchvision

        self.path = path
        try:
            self._folder: Any = torchvision().datasets.ImageFolder(str(path), loader=read_rgb)
        except (FileNotFoundError, RuntimeError) as error:
            raise UsageError(
                f"data.name = 'folder:{path.parent}': {path} has not one folder with images for each class "
                f"({str(error).rstrip('.')}). Make one folder per class, and remove those without images."
            ) from error
        self.labels = torch.tensor(self._folder.targets)
        self.class_names: list[str] = self._folder.classes
        self.classes = len(self.class_names)
        width, height = self._decoded(0).size
        self.notes = self._notes()
        self.shape: Shape = (3, height, width)

    @cached_property
    def fingerprint(self) -> str:
        """Of the names and sizes of all files, and of the content of as many as `HASHED_BYTES` allow."""
        files = [Path(name) for name, _ in self._folder.samples]
        sizes = [file.stat().st_size for file in files]
        listing = "\n".join(f"{file.relative_to(self.path)} {size}" for file, size in zip(files, sizes, strict=True))
        digest = hashlib.blake2b(listing.encode(), digest_size=8)
        for file in files[:: max(1, -(-sum(sizes) // HASHED_BYTES))]:
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        return torch.stack([self._image(index, position, framing) for position, index in enumerate(indices.tolist())])

    def _image(self, index: int, position: int, framing: Framing | None) -> Tensor:
        _, height, width = self.shape
        image = self._decoded(index)
        if framing is not None:
            return framing.apply(image, position)
        if image.size != (width, height):
            image = image.resize((width, height))
        return to_tensor(image)

    def _notes(self) -> tuple[str, ...]:
        """Notes about evenly spaced images; those that are noted are read, and refused where that is impossible."""
        notes = set()
        for index in evenly_spaced(len(self)):
            with suppress(OSError, SyntaxError):  # a damaged file is reported when it is read
                if (note := note_of(self._folder.samples[index][0])) is not None:
                    self._decoded(index)
                    notes.add(note)
        return tuple(sorted(notes))

    def _decoded(self, index: int) -> Any:
        try:
            return self._folder[index][0]
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for damaged files
            raise UsageError(
                f"data.name = 'folder:{self.path.parent}': {self._folder.samples[index][0]} is not a readable image "
                f"({error}). Repair or remove it."
            ) from error


class Subset:
    """Some examples of a dataset, renumbered from 0."""

    def __init__(self, dataset: Dataset, indices: Tensor) -> None:
        self.dataset, self.indices = dataset, indices
        self.shape, self.classes = dataset.shape, dataset.classes
        self.labels, self.notes = dataset.labels[indices], notes_of(dataset)
        self.in_memory = is_in_memory(dataset)

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.blake2b(self.dataset.fingerprint.encode(), digest_size=8)
        digest.update(self.indices.numpy().tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        return self.dataset.images(self.indices[indices], framing)


class Framed:
    """A dataset whose images all have one size: the centred square of each, unless the caller gives a framing."""

    def __init__(self, dataset: Dataset, size: int, share: float) -> None:
        self._dataset, self._centred = dataset, Framing(size, share)
        self.shape: Shape = (dataset.shape[0], size, size)
        self.classes, self.labels, self.notes = dataset.classes, dataset.labels, notes_of(dataset)

    @property
    def fingerprint(self) -> str:
        whole = self._centred.share == 1.0 and self.shape == self._dataset.shape and is_in_memory(self._dataset)
        if whole:  # the images are as they were
            return self._dataset.fingerprint
        framed = f"{self._dataset.fingerprint} {self._centred}"
        return hashlib.blake2b(framed.encode(), digest_size=8).hexdigest()

    def __len__(self) -> int:
        return len(self._dataset)

    def images(self, indices: Tensor, framing: Framing | None = None) -> Tensor:
        framing = self._centred if framing is None else replace(framing, share=self._centred.share)
        return self._dataset.images(indices, framing)


class Concatenated:
    """The examples of `first`, then those of `second`. Both have the same shape and classes."""

    def __init__(self, first: Dataset, second: Dataset) -> None:
        self._first, self._second = first, second
        self.shape, self.classes = first.shape, first.classes
        self.labels = torch.cat([first.labels, second.labels])
        self.notes = (*notes_of(first), *notes_of(second))

    @cached_property
    def fingerprint(self) -> str:
        both = f"{self._first.fingerprint} {self._second.fingerprint}"
        return hashlib.blake2b(both.encode(), digest_size=8).hexdigest()

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


def sources_of(dataset: object) -> set[str]:
    """Fingerprints of the dataset and of those that it takes its examples from."""
    if isinstance(dataset, Concatenated):
        return {dataset.fingerprint, *sources_of(dataset._first), *sources_of(dataset._second)}
    inner = dataset._dataset if isinstance(dataset, Framed) else getattr(dataset, "dataset", None)
    own = getattr(dataset, "fingerprint", None)
    return (set() if own is None else {own}) | (set() if inner is None else sources_of(inner))


def class_names_of(dataset: object) -> tuple[str, ...]:
    """What the classes are called, where the data say so; empty where they do not."""
    names = getattr(dataset, "class_names", None)
    inner = dataset._dataset if isinstance(dataset, Framed) else getattr(dataset, "dataset", None)
    return tuple(map(str, names)) if names is not None else () if inner is None else class_names_of(inner)


def notes_of(dataset: object) -> tuple[str, ...]:
    """What was done to the images when they were read; of a dataset that keeps no notes nothing."""
    return tuple(getattr(dataset, "notes", ()))


def is_in_memory(dataset: object) -> bool:
    """Whether its images are read quickly: from one array, as they are."""
    return bool(getattr(dataset, "in_memory", False))


def require_bytes(dataset: Dataset, setting: str) -> None:
    """Refuse a dataset of float images. `setting`: what needs uint8 images; it begins the error message.

    Raises:
        UsageError: the images are floats.
    """
    refuse_floats(dataset.images(torch.tensor([0])), setting)


def refuse_floats(images: Tensor, setting: str) -> None:
    """Refuse float images; otherwise as `require_bytes`."""
    if images.is_floating_point():
        raise UsageError(
            f"{setting} needs uint8 images, but the data have float images. Give uint8 in 0..255, or unset it."
        )


def check_arrays(images: Tensor, labels: Tensor, classes: int, name: str, setting: str = "data.name") -> None:
    """Check arrays of images and labels.

    Raises:
        UsageError: wrong type, rank or count, no examples, or labels outside the classes.
    """
    if images.dtype != torch.uint8:
        raise UsageError(
            f"{setting} = {name!r}: images are {images.dtype}, uint8 in 0..255 is needed. Multiply floats in [0, 1] by "
            f"255, round, and store them as uint8."
        )
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UsageError(
            f"{setting} = {name!r}: images of shape {tuple(images.shape)} after reordering to N x C x H x W; 1 or 3 "
            f"channels are needed. Store them as N x H x W or N x H x W x C."
        )
    if len(images) == 0:
        raise UsageError(f"{setting} = {name!r} has no examples. Give data with at least one.")
    if len(images) != len(labels):
        raise UsageError(
            f"{setting} = {name!r}: {len(images)} images and {len(labels)} labels; one label for each image is needed."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UsageError(
            f"{setting} = {name!r}: labels from {low} to {high} lie outside the {classes} classes 0..{classes - 1}. "
            f"Number the classes from 0 and give training data for each."
        )


def split_holdout(dataset: Dataset, holdout: int) -> tuple[Dataset, Dataset]:
    """Split into a training part and a held-out part. The split is the same for every seed, so that runs compare.

    Raises:
        UsageError: no training example would be left.
    """
    if holdout >= len(dataset):
        raise UsageError(
            f"data.holdout = {holdout} leaves none of {len(dataset)} training examples. Hold out fewer examples."
        )
    if holdout == 0:
        return dataset, Subset(dataset, torch.arange(0))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    return Subset(dataset, order[holdout:].sort().values), Subset(dataset, order[:holdout].sort().values)


def _fingerprint(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> str:
    """Hash of all bytes of a small dataset, or of evenly spaced examples of a large one."""
    stride = max(1, -(-images.nbytes // HASHED_BYTES))
    digest = hashlib.blake2b(f"{images.shape} {stride}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(images[::stride]).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()
