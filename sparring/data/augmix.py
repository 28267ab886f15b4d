"""AugMix (Hendrycks et al. 2020): views of an image that mix chains of simple operations, seeded per example.

    view = (1 − m)·x + m·Σᵢ wᵢ·chainᵢ(x),   m ~ Beta(1, 1),  w ~ Dirichlet(1, …, 1)

A chain applies 1 to 3 operations. Each is drawn from the nine operations that do not overlap with the corruption
benchmarks (no colour, contrast, brightness, sharpness). Magnitudes are those of the authors' code: the level
~ U(0.1, severity), in tenths of an operation's range; the direction of a geometric operation is random. The same (seed,
epoch, index, view) gives the same view in any process and batch. One difference from the authors' code: views are
stored as uint8, so the mixture is rounded (by ½ / 255 at most).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sparring.config import AugmixSettings
from sparring.data.augment import draws

VIEWS = 2
MAX_DEPTH = 3  # operations per chain, where the depth is drawn
Picture = Image.Image
Operation = Callable[[Picture, float], Picture]  # image, signed level; operations without direction use its magnitude
Array = np.ndarray[Any, np.dtype[np.float64]]


def views(images: Tensor, settings: AugmixSettings, *, seed: int, epoch: int, indices: Tensor) -> Tensor:
    """uint8 [2, N, C, H, W]: two views of each image.

    images: uint8 [N, C, H, W], 1 or 3 channels; indices: int64 [N], of the examples in the training set.
    """
    result = torch.empty(VIEWS, *images.shape, dtype=torch.uint8)
    for view in range(VIEWS):
        random = _uniform(settings, seed, epoch, indices, view)
        for position, image in enumerate(images):
            result[view, position] = _view(image, settings, iter(random[position].tolist()))
    return result


def mixture(image: Array, chains: list[Array], weights: Array, share: float) -> Array:
    """(1 − share)·image + share·Σ weightsᵢ·chainsᵢ, in float64; all arrays have the same shape."""
    mixed: Array = sum(weight * chain for weight, chain in zip(weights, chains, strict=True))
    return (1 - share) * image + share * mixed


def autocontrast(image: Picture, _: float) -> Picture:
    """Each channel's darkest value becomes 0, its lightest 255."""
    return ImageOps.autocontrast(image)


def equalize(image: Picture, _: float) -> Picture:
    """Histogram equalisation of each channel."""
    return ImageOps.equalize(image)


def posterize(image: Picture, level: float) -> Picture:
    """Keep 4 bits per channel, fewer from level 2.5 on."""
    return ImageOps.posterize(image, 4 - int(abs(level) * 4 / 10))


def solarize(image: Picture, level: float) -> Picture:
    """Invert values from a threshold on; the threshold is 256 − 25.6 · level."""
    return ImageOps.solarize(image, 256 - int(abs(level) * 256 / 10))


def rotate(image: Picture, level: float) -> Picture:
    """Rotate about the centre by whole degrees, 3 per level."""
    return image.rotate(int(level * 30 / 10), resample=Image.Resampling.BILINEAR)


def shear_x(image: Picture, level: float) -> Picture:
    """Shift each row by 0.03 · level · its distance from the top."""
    return _transformed(image, (1, level * 0.3 / 10, 0, 0, 1, 0))


def shear_y(image: Picture, level: float) -> Picture:
    """Shift each column by 0.03 · level · its distance from the left."""
    return _transformed(image, (1, 0, 0, level * 0.3 / 10, 1, 0))


def translate_x(image: Picture, level: float) -> Picture:
    """Translate by whole pixels, 1/30 of the width per level."""
    return _transformed(image, (1, 0, int(level * (image.width / 3) / 10), 0, 1, 0))


def translate_y(image: Picture, level: float) -> Picture:
    """Translate by whole pixels, 1/30 of the height per level."""
    return _transformed(image, (1, 0, 0, 0, 1, int(level * (image.height / 3) / 10)))


OPERATIONS: tuple[Operation, ...] = (
    autocontrast,
    equalize,
    posterize,
    rotate,
    solarize,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)


def _view(image: Tensor, settings: AugmixSettings, random: Iterator[float]) -> Tensor:
    """uint8 [C, H, W]: one view of an image of that shape; `random` yields numbers uniform in [0, 1)."""
    grey = image.shape[0] == 1
    clean = Image.fromarray((image[0] if grey else image.permute(1, 2, 0)).numpy())
    share = next(random)
    exponential = np.array([-np.log1p(-next(random)) for _ in range(settings.width)])
    weights = exponential / exponential.sum()  # Dirichlet(1, …, 1)
    chains = [_floats(_chain(clean, settings, random)) for _ in range(settings.width)]
    mixed = torch.from_numpy(np.rint(mixture(_floats(clean), chains, weights, share)).astype(np.uint8))
    return mixed[None] if grey else mixed.permute(2, 0, 1)


def _chain(image: Picture, settings: AugmixSettings, random: Iterator[float]) -> Picture:
    """Apply operations one after another, each with its own level and sign."""
    random_depth = 1 + int(next(random) * MAX_DEPTH)
    for _ in range(random_depth if settings.depth is None else settings.depth):
        operation = OPERATIONS[int(next(random) * len(OPERATIONS))]
        level = 0.1 + (settings.severity - 0.1) * next(random)
        image = operation(image, -level if next(random) > 0.5 else level)
    return image


def _transformed(image: Picture, matrix: tuple[float, ...]) -> Picture:
    """The image sampled at matrix·(x, y, 1), bilinear, black outside."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


def _floats(image: Picture) -> Array:
    return np.asarray(image, dtype=np.float64)


def _uniform(settings: AugmixSettings, seed: int, epoch: int, indices: Tensor, view: int) -> Array:
    """[N, numbers per view] in [0, 1); independent of the random numbers of the crops."""
    numbers = 1 + settings.width * (2 + 3 * (settings.depth or MAX_DEPTH))
    first = (view + 1) << 32
    drawn = np.stack([draws(seed, epoch, indices, first + number) for number in range(numbers)], axis=1)
    return np.asarray((drawn >> np.uint64(11)) * 2.0**-53, dtype=np.float64)
