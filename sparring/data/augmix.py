"""AugMix (Hendrycks et al. 2020): views of an image that mix chains of simple operations, seeded by example.

    view = (1 − m)·x + m·Σᵢ wᵢ·chainᵢ(x),   m ~ Beta(1, 1),  w ~ Dirichlet(1, …, 1)

A chain applies 1 to 3 operations, drawn anew from the nine that do not overlap the corruption benchmarks (no colour,
contrast, brightness, sharpness). Magnitudes are those of the authors' code: a level ~ U(0.1, severity) is a tenth of
an operation's range, the sign of a movement is random. The same (seed, epoch, index, view) gives the same view in any
process and batch. One thing differs: a view travels as uint8, so the mixture is rounded (by ½ / 255 at most).
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
LONGEST = 3  # operations of a chain whose depth is drawn
Picture = Image.Image
Operation = Callable[[Picture, float], Picture]  # image, signed level; what has no direction takes its magnitude
Array = np.ndarray[Any, np.dtype[np.float64]]


def views(images: Tensor, settings: AugmixSettings, *, seed: int, epoch: int, indices: Tensor) -> Tensor:
    """uint8 [2, N, C, H, W]: two views of each image.

    images: uint8 [N, C, H, W], 1 or 3 channels; indices: int64 [N], what the examples are called in the training set.
    """
    made = torch.empty(VIEWS, *images.shape, dtype=torch.uint8)
    for view in range(VIEWS):
        random = _uniform(settings, seed, epoch, indices, view)
        for position, image in enumerate(images):
            made[view, position] = _view(image, settings, iter(random[position].tolist()))
    return made


def mixture(image: Array, chains: list[Array], weights: Array, share: float) -> Array:
    """(1 − share)·image + share·Σ weightsᵢ·chainsᵢ, in float64; all of the image's shape."""
    mixed: Array = sum(weight * chain for weight, chain in zip(weights, chains, strict=True))
    return (1 - share) * image + share * mixed


def autocontrast(image: Picture, _: float) -> Picture:
    """Each channel's darkest value becomes 0, its lightest 255."""
    return ImageOps.autocontrast(image)


def equalize(image: Picture, _: float) -> Picture:
    """Each channel's histogram made as even as it gets."""
    return ImageOps.equalize(image)


def posterize(image: Picture, level: float) -> Picture:
    """4 bits a channel are kept, fewer from level 2.5 on."""
    return ImageOps.posterize(image, 4 - int(abs(level) * 4 / 10))


def solarize(image: Picture, level: float) -> Picture:
    """Values from a threshold on are inverted; it is 25.6 lower with each level."""
    return ImageOps.solarize(image, 256 - int(abs(level) * 256 / 10))


def rotate(image: Picture, level: float) -> Picture:
    """By whole degrees, 3 a level, about the middle."""
    return image.rotate(int(level * 30 / 10), resample=Image.Resampling.BILINEAR)


def shear_x(image: Picture, level: float) -> Picture:
    """A row moves by 0.03 a level of its distance from the top."""
    return _moved(image, (1, level * 0.3 / 10, 0, 0, 1, 0))


def shear_y(image: Picture, level: float) -> Picture:
    """A column moves by 0.03 a level of its distance from the left."""
    return _moved(image, (1, 0, 0, level * 0.3 / 10, 1, 0))


def translate_x(image: Picture, level: float) -> Picture:
    """By whole pixels, a thirtieth of the width a level."""
    return _moved(image, (1, 0, int(level * (image.width / 3) / 10), 0, 1, 0))


def translate_y(image: Picture, level: float) -> Picture:
    """By whole pixels, a thirtieth of the height a level."""
    return _moved(image, (1, 0, 0, 0, 1, int(level * (image.height / 3) / 10)))


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
    """uint8 [C, H, W]: one view of such an image, by numbers uniform in [0, 1)."""
    grey = image.shape[0] == 1
    clean = Image.fromarray((image[0] if grey else image.permute(1, 2, 0)).numpy())
    share = next(random)
    exponential = np.array([-np.log1p(-next(random)) for _ in range(settings.width)])
    weights = exponential / exponential.sum()  # Dirichlet(1, …, 1)
    chains = [_floats(_chain(clean, settings, random)) for _ in range(settings.width)]
    mixed = torch.from_numpy(np.rint(mixture(_floats(clean), chains, weights, share)).astype(np.uint8))
    return mixed[None] if grey else mixed.permute(2, 0, 1)


def _chain(image: Picture, settings: AugmixSettings, random: Iterator[float]) -> Picture:
    """A few operations one after another, each of its own level and sign."""
    drawn = 1 + int(next(random) * LONGEST)
    for _ in range(drawn if settings.depth is None else settings.depth):
        operation = OPERATIONS[int(next(random) * len(OPERATIONS))]
        level = 0.1 + (settings.severity - 0.1) * next(random)
        image = operation(image, -level if next(random) > 0.5 else level)
    return image


def _moved(image: Picture, matrix: tuple[float, ...]) -> Picture:
    """The image looked up at matrix·(x, y, 1), bilinear, black outside."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


def _floats(image: Picture) -> Array:
    return np.asarray(image, dtype=np.float64)


def _uniform(settings: AugmixSettings, seed: int, epoch: int, indices: Tensor, view: int) -> Array:
    """[N, numbers that a view may need] in [0, 1); apart from those that crops are drawn with."""
    numbers = 1 + settings.width * (2 + 3 * (settings.depth or LONGEST))
    first = (view + 1) << 32
    drawn = np.stack([draws(seed, epoch, indices, first + number) for number in range(numbers)], axis=1)
    return np.asarray((drawn >> np.uint64(11)) * 2.0**-53, dtype=np.float64)
