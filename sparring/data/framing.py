"""Crop an image and resize it: the centred square, or a seeded random part (Szegedy et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log, sqrt
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring.data.augment import FRAMING_DRAWS, draws

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # as in torchvision's RandomResizedCrop, which Wong et al.'s code uses
ATTEMPTS = 10
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
Uniforms = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Framing:
    """Which part of each of n images is cropped and resized to `size` × `size` pixels.

    uniforms: [n, 2 · ATTEMPTS + 2] in [0, 1), the random numbers of a random part; None: the centred square whose side
    is `share` of the shorter side.
    """

    size: int
    share: float = 1.0
    uniforms: Uniforms | None = None

    def at(self, positions: Tensor) -> Framing:
        """The framing of some of the n images, given their positions (int64 [m])."""
        return self if self.uniforms is None else replace(self, uniforms=self.uniforms[positions.numpy()])

    def box(self, position: int, width: int, height: int) -> Box:
        """The part of image `position` whose size is `width` × `height`."""
        if self.uniforms is None:
            return centred(width, height, self.share)
        return random_part(width, height, self.uniforms[position])

    def apply(self, image: Image.Image, position: int) -> Tensor:
        """Crop and resize image `position` to uint8 [C, size, size], bilinear with antialiasing as in torchvision."""
        part = image.crop(self.box(position, *image.size))
        return to_tensor(part.resize((self.size, self.size), Image.Resampling.BILINEAR))


def random_framing(size: int, seed: int, epoch: int, indices: Tensor) -> Framing:
    """A random part for every example at `indices` (int64 [n]); it is the same in any process."""
    numbers = range(FRAMING_DRAWS, FRAMING_DRAWS + 2 * ATTEMPTS + 2)
    uniforms = np.stack([draws(seed, epoch, indices, number) for number in numbers], 1) / 2.0**64
    return Framing(size, uniforms=np.minimum(uniforms, 1 - 2**-53))


def centred(width: int, height: int, share: float) -> Box:
    """The centred square, on whole pixels."""
    side = max(1, round(share * min(width, height)))
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def random_part(width: int, height: int, uniforms: Uniforms) -> Box:
    """A part with a random area, aspect ratio and position; the centre if no attempt fits into the image."""
    for attempt in range(ATTEMPTS):
        area = (AREA[0] + uniforms[2 * attempt] * (AREA[1] - AREA[0])) * width * height
        ratio = exp(log(RATIO[0]) + uniforms[2 * attempt + 1] * (log(RATIO[1]) - log(RATIO[0])))
        part_width, part_height = round(sqrt(area * ratio)), round(sqrt(area / ratio))
        if 0 < part_width <= width and 0 < part_height <= height:
            left = int(uniforms[-2] * (width - part_width + 1))
            top = int(uniforms[-1] * (height - part_height + 1))
            return left, top, left + part_width, top + part_height
    part_width, part_height = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - part_width) // 2, (height - part_height) // 2
    return left, top, left + part_width, top + part_height


def to_image(image: Tensor) -> Image.Image:
    """A Pillow image of a tensor, uint8 [C, H, W] with 1 or 3 channels."""
    return Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.permute(1, 2, 0)))


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 [C, H, W] of a Pillow image."""
    array = torch.from_numpy(np.array(image))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)
