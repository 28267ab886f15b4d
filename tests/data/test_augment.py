"""An augmented example depends on the seed, the epoch and its index, and on nothing else."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import torch

from sparring.config import DataSettings
from sparring.data import batch, load
from sparring.data.augment import PADDING, augment, draws

WORD = 2**64
INDICES = [0, 1, 2, 7, 100, 1436]
KEYS = [(0, 0), (0, 1), (5, 3), (2**31 - 1, 99_999)]


def splitmix64(value: int) -> int:
    """Steele, Lea and Flood's generator, after its reference in C."""
    value = (value + 0x9E3779B97F4A7C15) % WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % WORD
    return value ^ (value >> 31)


def drawn(seed: int, epoch: int, index: int, number: int) -> int:
    value = splitmix64(seed)
    for part in (epoch, index, number):
        value = splitmix64(value ^ part)
    return value


def cropped(image: list[list[int]], name: str, seed: int, epoch: int, index: int) -> list[list[int]]:
    """One channel, pixel by pixel."""
    height, width = len(image), len(image[0])
    top = drawn(seed, epoch, index, 0) % (2 * PADDING + 1) - PADDING
    left = drawn(seed, epoch, index, 1) % (2 * PADDING + 1) - PADDING
    mirrored = name == "crop_flip" and drawn(seed, epoch, index, 2) % 2 == 1

    def pixel(row: int, column: int) -> int:
        inside = 0 <= row < height and 0 <= column < width
        return image[row][column] if inside else 0

    rows = [[pixel(top + row, left + column) for column in range(width)] for row in range(height)]
    return [row[::-1] for row in rows] if mirrored else rows


def pictures(count: int = len(INDICES), channels: int = 3, height: int = 7, width: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def test_the_mixer_gives_the_published_values_of_splitmix64() -> None:
    # The first outputs for the seed 1234567, as in the reference implementations.
    state, given = 1234567, []
    for _ in range(3):
        given.append(splitmix64(state))
        state = (state + 0x9E3779B97F4A7C15) % WORD
    assert given == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(("seed", "epoch"), KEYS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_draws_are_splitmix64_of_the_key(seed: int, epoch: int, number: int) -> None:
    expected = [drawn(seed, epoch, index, number) for index in INDICES]
    assert draws(seed, epoch, torch.tensor(INDICES), number).tolist() == expected


@pytest.mark.parametrize(("seed", "epoch"), KEYS)
@pytest.mark.parametrize("name", ["crop", "crop_flip"])
def test_images_are_cut_as_written_down_pixel_by_pixel(name: str, seed: int, epoch: int) -> None:
    images = pictures()
    made = augment(images, name, seed=seed, epoch=epoch, indices=torch.tensor(INDICES))
    expected = [
        [cropped(channel, name, seed, epoch, index) for channel in image]
        for image, index in zip(images.tolist(), INDICES, strict=True)
    ]
    assert made.tolist() == expected and made.dtype == torch.uint8


def test_none_leaves_the_images_alone() -> None:
    images = pictures()
    assert torch.equal(augment(images, "none", seed=1, epoch=2, indices=torch.tensor(INDICES)), images)


def test_crops_shift_by_every_amount_and_about_half_are_mirrored() -> None:
    count = 4000
    images = torch.zeros(count, 1, 9, 9, dtype=torch.uint8)
    images[:, 0, 4, 4] = 255
    made = augment(images, "crop", seed=0, epoch=0, indices=torch.arange(count))
    where = made[:, 0].flatten(1).argmax(1)
    counts = torch.bincount(where, minlength=81)
    assert int(counts.min()) > 20 and int(counts.max()) < 90  # 49.4 each, uniform over 81 places

    images[:] = torch.arange(9, dtype=torch.uint8) + 1
    flipped = augment(images, "crop_flip", seed=0, epoch=0, indices=torch.arange(count))
    plain = augment(images, "crop", seed=0, epoch=0, indices=torch.arange(count))
    mirrored = (flipped != plain).flatten(1).any(1).float().mean()
    assert 0.45 < float(mirrored) < 0.55


@pytest.mark.parametrize("name", ["crop", "crop_flip"])
def test_an_example_does_not_depend_on_the_batch_that_it_is_in(name: str) -> None:
    dataset = load(DataSettings(), "train")
    together, _ = batch(dataset, torch.tensor(INDICES), augment=name, seed=4, epoch=2)
    for position, index in enumerate(INDICES):
        alone, _ = batch(dataset, torch.tensor([index]), augment=name, seed=4, epoch=2)
        assert torch.equal(alone[0], together[position])


@pytest.mark.parametrize("other", [{"seed": 4, "epoch": 3}, {"seed": 5, "epoch": 2}])
def test_another_epoch_and_another_seed_augment_differently(other: dict[str, int]) -> None:
    dataset, indices = load(DataSettings(), "train"), torch.arange(64)
    one, _ = batch(dataset, indices, augment="crop", seed=4, epoch=2)
    two, _ = batch(dataset, indices, augment="crop", **other)
    assert float((one != two).flatten(1).any(1).float().mean()) > 0.9


def test_another_process_makes_the_same_examples() -> None:
    program = (
        "import hashlib, torch\n"
        "from sparring.config import DataSettings\n"
        "from sparring.data import batch, load\n"
        "torch.rand(5)\n"
        "x, y = batch(load(DataSettings(), 'train'), torch.arange(100), augment='crop_flip', seed=9, epoch=4)\n"
        "print(hashlib.sha256(x.numpy().tobytes() + y.numpy().tobytes()).hexdigest())\n"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    x, y = batch(load(DataSettings(), "train"), torch.arange(100), augment="crop_flip", seed=9, epoch=4)
    assert there.stdout.strip() == hashlib.sha256(x.numpy().tobytes() + y.numpy().tobytes()).hexdigest()
