"""Read images and labels from a user's data: items of a torch Dataset, or arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from sparring.errors import UsageError
from sparring.plugins import described

CHANNELS = (1, 3)
SAMPLES = 32  # examples that are checked before a run
REMEDIES = {  # for PIL's modes of more than 8 bits, which `convert` cuts off at 255
    "I": "give np.float32(image) / 65535, or whatever its largest value is",
    "F": "give np.float32(image), scaled to [0, 1]",
}
LABEL_SAMPLES = 512  # whose labels are compared with an attribute: one changed label in a hundred is found
Reader = Callable[[Sequence[int]], Tensor]  # indices (at least one) -> images, uint8 or float32 [n, C, H, W]


class Items:
    """Reads a torch Dataset whose items are pairs (image, label)."""

    def __init__(self, data: Any, setting: str) -> None:
        self._data, self._setting = data, setting

    def __call__(self, indices: Sequence[int]) -> Tensor:
        images = [self._image(index) for index in indices]
        kinds = {(image.dtype, tuple(image.shape)): index for image, index in zip(images, indices, strict=True)}
        if len(kinds) > 1:
            found = ", ".join(f"example {index} is {kind[0]} of {kind[1]}" for kind, index in [*kinds.items()][:2])
            raise UsageError(f"{self._setting}: {found} (C, H, W). Bring all images to one size and type.")
        return torch.stack(images)

    def label(self, index: int) -> int:
        """The label of one item."""
        label = self._item(index)[1]
        if isinstance(label, (Tensor, np.ndarray)) and label.ndim == 0:
            label = label.item()
        if not isinstance(label, (int, np.integer)) or isinstance(label, bool):
            raise UsageError(f"{self._setting}: example {index} has the label {label!r}; a whole number is needed.")
        return int(label)

    def _image(self, index: int) -> Tensor:
        try:
            return as_images(_tensor(self._item(index)[0])[None])[0]
        except ValueError as error:
            raise UsageError(f"{self._setting}: example {index}: {error}.") from error

    def _item(self, index: int) -> tuple[Any, Any]:
        try:
            item = self._data[index]
        except Exception as error:  # the user's own code may raise anything
            raise UsageError(
                f"{self._setting}: example {index} of {len(self._data)} cannot be read ({described(error)})."
            ) from error
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise UsageError(
                f"{self._setting}: example {index} is a {type(item).__name__}; a pair (image, label) is needed."
            )
        return item[0], item[1]


class Arrays:
    """Reads images from one array or tensor."""

    def __init__(self, images: Any, setting: str) -> None:
        self._images, self._setting = images, setting

    def __call__(self, indices: Sequence[int]) -> Tensor:
        try:
            return as_images(_tensor(self._images[list(indices)]))
        except ValueError as error:
            raise UsageError(f"{self._setting}: {error}.") from error


def as_images(images: Tensor) -> Tensor:
    """uint8 or float32 [n, C, H, W] of images [n, H, W], [n, C, H, W] or [n, H, W, C].

    Raises:
        ValueError: another shape, or a type that is neither uint8 nor float.
    """
    if images.dtype != torch.uint8:
        if not images.is_floating_point():
            raise ValueError(f"images are {images.dtype}; uint8 in 0..255 or floats in [0, 1] are needed")
        images = images.float()
    if images.ndim == 3:
        return images[:, None].contiguous()
    if images.ndim == 4 and images.shape[1] in CHANNELS:
        return images.contiguous()
    if images.ndim == 4 and images.shape[3] in CHANNELS:
        return images.permute(0, 3, 1, 2).contiguous()
    shape = tuple(images.shape[1:])
    raise ValueError(f"an image has shape {shape}; [H, W], [C, H, W] or [H, W, C] with 1 or 3 channels is needed")


def labels_of(data: object, items: Items) -> Sequence[int] | np.ndarray[Any, Any]:
    """The labels of all items, from the attribute `targets` or `labels` of the data if that agrees with some items.

    Otherwise every item is read once.
    """
    found, length = labels_attribute(data), len(cast(Any, data))
    complete = found is not None and len(found) == length
    if (
        found is not None
        and complete
        and all(found[index] == items.label(index) for index in evenly_spaced(length, LABEL_SAMPLES))
    ):
        return found
    return [items.label(index) for index in range(length)]


def labels_attribute(data: object) -> np.ndarray[Any, Any] | None:
    """The integer labels [N] in the attribute `targets` or `labels`; None without one or with a target_transform."""
    if isinstance(data, Subset):
        inner = labels_attribute(data.dataset)
        return None if inner is None else inner[np.asarray(data.indices, dtype=np.int64)]
    if isinstance(data, ConcatDataset):
        parts = [part for part in map(labels_attribute, data.datasets) if part is not None]
        return np.concatenate(parts) if len(parts) == len(data.datasets) else None
    if getattr(data, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):
        try:
            labels = np.asarray(getattr(data, name, None))
        except (TypeError, ValueError):  # a ragged list, a tensor on a GPU
            continue
        if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
            return labels
    return None


def evenly_spaced(length: int, samples: int = SAMPLES) -> list[int]:
    """At most so many indices, including the first and the last."""
    return sorted({round(position * (length - 1) / (samples - 1)) for position in range(samples)}) if length else []


def _tensor(raw: Any) -> Tensor:
    if isinstance(raw, Tensor):
        return raw.detach().cpu()
    if isinstance(raw, Image.Image) and raw.mode not in ("L", "RGB"):
        remedy = REMEDIES.get(raw.mode.partition(";")[0], "use image.convert('RGB') or image.convert('L')")
        raise ValueError(f"a PIL image of mode {raw.mode}; {remedy}")
    array = np.array(raw)
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise ValueError(f"images are {array.dtype}; uint8 in 0..255 or floats in [0, 1] are needed") from error
