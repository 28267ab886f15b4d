"""Which part of an image is shown, at which size: a square in the middle, or a seeded part (Szegedy et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log, sqrt
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring.data.augment import FRAMING_DRAWS, draws

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of torchvision's RandomResizedCrop, which Wong et al.'s code uses
ATTEMPTS = 10
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
Chances = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Framing:
    """The part of each of n images that is brought to `size` × `size` pixels.

    chances: [n, 2 · ATTEMPTS + 2] in [0, 1), what a random part is made from; None: the centred square whose side is
    `share` of the shorter side.
    """

    size: int
    share: float = 1.0
    chances: Chances | None = None

    def at(self, positions: Tensor) -> Framing:
        """The framing of some of the n images, by position (int64 [m])."""
        return self if self.chances is None else replace(self, chances=self.chances[positions.numpy()])

    def box(self, position: int, width: int, height: int) -> Box:
        """The part of image `position`, which has these sizes."""
        if self.chances is None:
            return centred(width, height, self.share)
        return random_part(width, height, self.chances[position])

    def shown(self, image: Image.Image, position: int) -> Tensor:
        """uint8 [C, size, size] of image `position`, resampled bilinearly with antialiasing, as torchvision does."""
        part = image.crop(self.box(position, *image.size))
        return to_tensor(part.resize((self.size, self.size), Image.Resampling.BILINEAR))


def random_framing(size: int, seed: int, epoch: int, indices: Tensor) -> Framing:
    """A part of its own for every example at `indices` (int64 [n]), the same in any process."""
    numbers = range(FRAMING_DRAWS, FRAMING_DRAWS + 2 * ATTEMPTS + 2)
    chances = np.stack([draws(seed, epoch, indices, number) for number in numbers], 1) / 2.0**64
    return Framing(size, chances=np.minimum(chances, 1 - 2**-53))


def centred(width: int, height: int, share: float) -> Box:
    """The square in the middle, on whole pixels."""
    side = max(1, round(share * min(width, height)))
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def random_part(width: int, height: int, chances: Chances) -> Box:
    """A part of random area and ratio in the bounds above, at a random place; the middle where none of them fits."""
    for attempt in range(ATTEMPTS):
        area = (AREA[0] + chances[2 * attempt] * (AREA[1] - AREA[0])) * width * height
        ratio = exp(log(RATIO[0]) + chances[2 * attempt + 1] * (log(RATIO[1]) - log(RATIO[0])))
        wide, high = round(sqrt(area * ratio)), round(sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left = int(chances[-2] * (width - wide + 1))
            top = int(chances[-1] * (height - high + 1))
            return left, top, left + wide, top + high
    wide, high = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def to_image(image: Tensor) -> Image.Image:
    """uint8 [C, H, W] with C of 1 or 3, for Pillow."""
    return Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.permute(1, 2, 0)))


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 [C, H, W]."""
    array = torch.from_numpy(np.array(image))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)
