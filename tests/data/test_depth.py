"""Whatever the bit depth of a file, its content is kept, or refused by name."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sparring.data.depth import note_of, read_rgb

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
RGB = np.stack([GREY, 255 - GREY, GREY // 2], axis=2)


def saved(folder: Path, image: Image.Image, kind: str = "png") -> Path:
    path = folder / f"image.{kind}"
    image.save(path)
    return path


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(read_rgb(path))


def with_alpha(alpha: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(np.dstack([RGB, alpha]).astype(np.uint8))


@pytest.mark.parametrize(
    ("image", "kind", "note"),
    [
        (Image.fromarray(GREY), "png", None),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "png", "16 bits, scaled to 8 bits"),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "tif", "16 bits, scaled to 8 bits"),
        (Image.fromarray(GREY.astype(np.int32) * 257), "pgm", "16 bits, scaled to 8 bits"),
        (Image.fromarray((GREY / 255).astype(np.float32)), "tif", "floats in [0, 1], scaled to 8 bits"),
    ],
)
def test_grey_images_of_any_depth_are_the_same(tmp_path: Path, image: Image.Image, kind: str, note: str | None) -> None:
    path = saved(tmp_path, image, kind)
    assert np.array_equal(pixels(path), np.dstack([GREY] * 3)) and note_of(path) == note


def twelve_bits(values: np.ndarray[Any, Any]) -> bytes:
    """A TIFF of 12 bits a pixel, which Pillow cannot write: two pixels in three bytes."""
    height, width = values.shape
    pairs = values.astype(int).reshape(-1, 2)
    data = b"".join(bytes([one >> 4, (one & 15) << 4 | two >> 8, two & 255]) for one, two in pairs.tolist())
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(data))])
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", 9) + entries + bytes(4)


def test_an_image_of_12_bits_is_scaled_by_its_own_white(tmp_path: Path) -> None:
    """Not by that of 16 bits, which would leave 0 to 16 of 255."""
    values = np.linspace(0, 4095, 48).round().reshape(6, 8)
    (tmp_path / "image.tif").write_bytes(twelve_bits(values))
    assert np.array_equal(pixels(tmp_path / "image.tif")[..., 0], np.rint(values * 255 / 4095))
    assert note_of(tmp_path / "image.tif") == "12 bits, scaled to 8 bits"


def test_images_with_8_bits_are_what_pillow_makes_of_them(tmp_path: Path) -> None:
    for image in (Image.fromarray(RGB), Image.fromarray(RGB).quantize(8), Image.fromarray(GREY > 99)):
        path = saved(tmp_path, image)
        assert np.array_equal(pixels(path), np.asarray(image.convert("RGB"))) and note_of(path) is None


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path, with_alpha(np.full((6, 8), 255)))
    assert np.array_equal(pixels(path), RGB) and note_of(path) is None


@pytest.mark.parametrize("shade", [0, 255])
@pytest.mark.parametrize("channels", [2, 4])
def test_content_of_an_alpha_channel_is_kept_whatever_the_colour(tmp_path: Path, shade: int, channels: int) -> None:
    alpha = np.where(GREY < 100, 255, 0)
    path = saved(tmp_path, Image.fromarray(np.dstack([np.full((6, 8), shade)] * (channels - 1) + [alpha]).astype("u1")))
    expected = np.dstack([np.where(GREY < 100, shade, 128)] * 3)
    assert np.array_equal(pixels(path), expected) and note_of(path) == "transparent pixels, laid over grey"


def test_a_transparent_colour_of_a_palette_is_laid_over_grey(tmp_path: Path) -> None:
    image = Image.fromarray((GREY > 99).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "image.png", transparency=0)
    expected = np.where((GREY > 99)[..., None], (255, 0, 0), (128, 128, 128))
    assert np.array_equal(pixels(tmp_path / "image.png"), expected)


def test_sixteen_bits_from_white_to_black_are_refused(tmp_path: Path) -> None:
    image = Image.fromarray(GREY.astype(np.uint16) * 257)
    image.save(tmp_path / "image.tif", tiffinfo={262: 0})
    assert note_of(tmp_path / "image.tif") == "16 bits from white to black (MinIsWhite)"
    with pytest.raises(ValueError, match="MinIsWhite"):
        read_rgb(tmp_path / "image.tif")


def test_sixteen_bits_with_a_transparent_level_are_refused(tmp_path: Path) -> None:
    """A tRNS chunk makes one grey level transparent."""
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "image.png", transparency=0)
    assert note_of(tmp_path / "image.png") == "16 bits and a transparent grey level"
    with pytest.raises(ValueError, match="transparent grey level"):
        read_rgb(tmp_path / "image.png")


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_an_image_is_turned_as_its_exif_data_say(tmp_path: Path, orientation: int, turns: int) -> None:
    """Orientation 6: what is on top belongs to the right; a quarter turn clockwise, as three against the clock."""
    image, exif = Image.fromarray(RGB), Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "image.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "image.png"), np.rot90(RGB, turns))


@pytest.mark.parametrize(
    ("image", "reported"),
    [
        (Image.fromarray(np.full((4, 4), 70_000, np.int32)), "32-bit integers"),
        (Image.fromarray(np.full((4, 4), 200.0, np.float32)), r"floats from 200 to 200; \[0, 1\] is needed"),
        (Image.fromarray(np.full((4, 4), -0.5, np.float32)), r"floats from -0\.5 to -0\.5"),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "floats from nan to nan"),
    ],
)
def test_other_pixels_are_refused_with_the_reason(tmp_path: Path, image: Image.Image, reported: str) -> None:
    path = saved(tmp_path, image, "tif")
    assert note_of(path) is not None
    with pytest.raises(ValueError, match=reported):
        read_rgb(path)


def test_signed_bytes_are_refused(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[-1, 1]], dtype=np.int8).view(np.uint8))
    image.save(tmp_path / "image.tif", tiffinfo={339: 2})
    assert note_of(tmp_path / "image.tif") == "signed integers"
    with pytest.raises(ValueError, match="signed"):
        read_rgb(tmp_path / "image.tif")
