"""Bring images of another bit depth, and those with an alpha channel, to 8 bits per channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sparring.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
SIXTEEN_BITS_AS_I = ("PNG", "PPM")  # formats whose deepest grey images have 16 bits; Pillow may call their mode I
WITH_ALPHA = ("RGBA", "LA", "PA")
SLIGHTLY = 0.05  # beyond [0, 1], as resizing with bicubic interpolation leaves it
PHOTOMETRIC, MIN_IS_WHITE = 262, 0  # tag of TIFF, and its value for 0 = white
SAMPLE_FORMAT, SIGNED = 339, 2  # tag of TIFF, and its value for integers below zero
INVERTED = "16 bits from white to black (MinIsWhite)"
TRANSPARENT = "16 bits and a transparent grey level"
BITS_PER_SAMPLE = 258  # tag of TIFF
GREY = (128, 128, 128, 255)


def as_bytes(images: Array, setting: str) -> tuple[Array, tuple[str, ...]]:
    """The images as uint8, and notes about what was done: floats in [0, 1] and uint16 are scaled and rounded.

    Integers of another type are taken as they are where all are in 0..255.

    Raises:
        UsageError: another type, or values outside; `setting` begins the message.
    """
    kind = images.dtype
    if kind == np.uint8:
        return images, ()
    if kind.kind == "f":
        check_range(torch.from_numpy(images.astype(np.float32)), setting)
        return _rounded(images * 255), (f"{kind} in [0, 1], scaled to 8 bits",)
    low, high = (int(images.min()), int(images.max())) if kind.kind in "iu" and images.size else (0, 0)
    if kind.kind in "iu" and low >= 0 and high <= 255:
        return images.astype(np.uint8), (f"{kind} in 0..255, taken as 8 bits",)
    if kind.kind == "u" and kind.itemsize == 2:
        return _rounded(images / 257), (f"{kind} in 0..65535, scaled to 8 bits",)
    found = f" from {low} to {high}" if kind.kind in "iu" else ""
    raise UsageError(
        f"{setting}: images are {kind}{found}; uint8 in 0..255, uint16 or floats in [0, 1] are needed. Store them as "
        f"one of these."
    )


def read_rgb(path: str | Path) -> Image.Image:
    """The image of a file as 8-bit RGB: 16 bits and floats in [0, 1] are scaled, what is transparent is laid over grey.

    It is turned as the file's EXIF data say.

    Raises:
        ValueError: its pixels have another bit depth, or are outside. OSError: Pillow cannot read it.
    """
    with Image.open(path) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if _is_16_bit(image):
            if _is_inverted(image):
                raise ValueError(f"its pixels are {INVERTED}; store it with MinIsBlack")
            if _has_alpha(image):
                raise ValueError(f"it has {TRANSPARENT}; store it without, or with 8 bits")
            white = 2 ** _bits(image) - 1
            return Image.fromarray(_rounded(np.asarray(image, dtype=np.float64) * 255 / white)).convert("RGB")
        if image.mode == "F":
            return Image.fromarray(_rounded(_floats(image) * 255)).convert("RGB")
        if image.mode.startswith("I"):
            raise ValueError(f"its pixels are 32-bit integers (mode {image.mode}); 8 or 16 bits are needed")
        if _is_signed(image):
            raise ValueError("its pixels are signed integers; store them as unsigned ones")
        return _opaque(image) if _has_alpha(image) else image.convert("RGB")


def note_of(path: str | Path) -> str | None:
    """How `read_rgb` changes, or refuses, the image of a file; None for what is opaque and has 8 bits."""
    with Image.open(path) as image:
        if _is_16_bit(image):
            return INVERTED if _is_inverted(image) else TRANSPARENT if _has_alpha(image) else _scaled(image)
        if image.mode == "F":
            return "floats in [0, 1], scaled to 8 bits"
        if image.mode.startswith("I"):
            return "32-bit integers"
        if _is_signed(image):
            return "signed integers"
        if _has_alpha(image) and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            return "transparent pixels, laid over grey"
        return None


def check_range(images: Tensor, setting: str) -> None:
    """Check that float images are in [0, 1].

    Raises:
        UsageError: there is a NaN or a value outside; the message says what the images look like.
    """
    if images.numel() == 0:
        return
    low, high = (float(value) for value in images.aminmax())
    if low >= 0 and high <= 1:
        return
    if low != low:
        raise UsageError(f"{setting}: images contain NaN. Remove or repair them.")
    if low >= -SLIGHTLY and high <= 1 + SLIGHTLY:
        remedy = "They lie slightly outside: clip them to [0, 1]"
    elif low >= 0 and high <= 255:
        remedy = "They look like bytes: give them as uint8, or divide by 255"
    else:
        remedy = (
            "They look normalised: leave them in [0, 1] and let the model normalise them (sparring.Normalize inside "
            "the model, or data.mean and data.std)"
        )
    raise UsageError(f"{setting}: images range from {low:.7g} to {high:.7g}; floats must be in [0, 1]. {remedy}.")


def _rounded(values: Array) -> Array:
    return np.rint(values).astype(np.uint8)


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in SIXTEEN_BITS_AS_I)


def _bits(image: Image.Image) -> int:
    """Of a 16-bit image: as many as are used. Pillow gives the values of TIFFs with 12 bits as they are, up to 4095."""
    found = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, 16)
    return int(found[0] if isinstance(found, tuple) else found)


def _scaled(image: Image.Image) -> str:
    return f"{_bits(image)} bits, scaled to 8 bits"


def _is_inverted(image: Image.Image) -> bool:
    """Of 16-bit TIFFs, which Pillow leaves as they are stored; those of 8 bits it turns round itself."""
    return bool(getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == MIN_IS_WHITE)


def _is_signed(image: Image.Image) -> bool:
    """Of TIFFs, whose signed bytes Pillow reads as unsigned ones."""
    found = getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT)
    return SIGNED in (found if isinstance(found, tuple) else (found,))


def _floats(image: Image.Image) -> Array:
    values = np.asarray(image)
    if not (values.min() >= 0 and values.max() <= 1):  # written so that NaN is refused
        raise ValueError(f"its pixels are floats from {values.min():.4g} to {values.max():.4g}; [0, 1] is needed")
    return values


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in WITH_ALPHA or "transparency" in image.info


def _opaque(image: Image.Image) -> Image.Image:
    """What is transparent is laid over grey: over black or white, what is drawn in that colour would be lost."""
    own = image.convert("RGBA")
    if own.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", own.size, GREY), own).convert("RGB")
