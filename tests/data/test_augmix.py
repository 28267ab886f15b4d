"""Views depend on the seed, the epoch, the index and which view it is, and are what AugMix's formulas say."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from sparring.config import AugmixSettings, DataSettings
from sparring.data import augmix, batch, load
from sparring.data.augment import draws

Bytes = npt.NDArray[np.uint8]
NAMES = "autocontrast equalize posterize rotate solarize shear_x shear_y translate_x translate_y"
LEVELS = [-2.95, -1.7, -0.2, 0.1, 1.3, 2.4, 2.6]  # of severity 3; negative where the sign is drawn so
HEIGHT, WIDTH = 24, 30


def pictures(count: int = 4, channels: int = 3, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """Random images in 40..200, so that there is contrast to gain."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(40, 201, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def applied(name: str, channel: Bytes, level: float) -> Bytes:
    operation = getattr(augmix, name)
    return np.asarray(operation(Image.fromarray(channel), level))


def looked_up(channel: Bytes, matrix: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """What lies at matrix·(x, y, 1) of pixel middles: bilinear, the border repeated, black where it falls outside."""
    height, width = channel.shape
    a, b, c, d, e, f = matrix
    out = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            x = a * (column + 0.5) + b * (row + 0.5) + c
            y = d * (column + 0.5) + e * (row + 0.5) + f
            if not (0 <= x < width and 0 <= y < height):
                continue
            left, top = math.floor(x - 0.5), math.floor(y - 0.5)
            for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - abs(y - 0.5 - top - dy)) * (1 - abs(x - 0.5 - left - dx))
                inside = channel[min(max(top + dy, 0), height - 1), min(max(left + dx, 0), width - 1)]
                out[row, column] += weight * float(inside)
    return out


def turned(channel: Bytes, degrees: int) -> npt.NDArray[np.float64]:
    """Counter-clockwise about the middle of the image."""
    angle, x, y = math.radians(degrees), WIDTH / 2, HEIGHT / 2
    cos, sin = math.cos(angle), math.sin(angle)
    return looked_up(channel, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


def shifted(channel: Bytes, right: int, down: int) -> Bytes:
    """Pixel (row, column) is what was at (row + down, column + right)."""
    rows, columns = np.arange(HEIGHT)[:, None] + down, np.arange(WIDTH)[None] + right
    inside = (rows >= 0) & (rows < HEIGHT) & (columns >= 0) & (columns < WIDTH)
    return np.where(inside, channel[rows.clip(0, HEIGHT - 1), columns.clip(0, WIDTH - 1)], 0).astype(np.uint8)


def evened(channel: Bytes) -> Bytes:
    """Histogram equalisation: a value becomes the number of darker pixels in units of 1/255 of the rest."""
    counts = np.bincount(channel.ravel(), minlength=256)
    unit = (counts.sum() - counts[counts > 0][-1]) // 255
    darker = np.concatenate([[0], counts.cumsum()[:-1]])
    table = ((darker + unit // 2) // unit).clip(0, 255)
    return np.asarray(table[channel], dtype=np.uint8)


def expected(name: str, channel: Bytes, level: float) -> npt.NDArray[Any]:
    """The operation as the paper's appendix and the authors' magnitudes state it: 10 levels are its whole range."""
    share, sign = abs(level) / 10, math.copysign(1, level)
    wide, low, high = channel.astype(np.float64), int(channel.min()), int(channel.max())
    shear, degrees = sign * 0.3 * share, int(sign * math.floor(30 * share))
    right, down = (int(sign * math.floor(size / 3 * share)) for size in (WIDTH, HEIGHT))
    match name:
        case "autocontrast":
            return (wide - low) * 255 / (high - low)
        case "equalize":
            return evened(channel)
        case "posterize":
            lost = 4 + math.floor(4 * share)  # of 8 bits
            return channel >> lost << lost
        case "solarize":
            return np.where(channel < 256 - math.floor(256 * share), channel, 255 - channel)
        case "rotate":
            return turned(channel, degrees)
        case "shear_x":
            return looked_up(channel, (1, shear, 0, 0, 1, 0))
        case "shear_y":
            return looked_up(channel, (1, 0, 0, shear, 1, 0))
        case "translate_x":
            return shifted(channel, right, 0)
    return shifted(channel, 0, down)


def test_the_nine_operations_are_those_that_do_not_overlap_the_corruption_benchmark() -> None:
    assert [operation.__name__ for operation in augmix.OPERATIONS] == NAMES.split()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", NAMES.split())
def test_an_operation_does_what_is_said_of_it(name: str, level: float) -> None:
    channel = pictures(1, 1)[0, 0].numpy()
    if name == "equalize":  # more pixels than 255, so that its unit is not 0
        channel = np.tile(channel, (2, 2))
    made = applied(name, channel, level)
    exact = name in ("equalize", "posterize", "solarize", "translate_x", "translate_y")
    assert made.shape == channel.shape and made.dtype == np.uint8
    error = np.abs(made.astype(np.float64) - expected(name, channel, level))
    assert error.max() <= (0 if exact else 1.01)  # PIL cuts fractions off


@pytest.mark.parametrize("name", NAMES.split())
def test_channels_are_treated_alike(name: str) -> None:
    image = pictures(1)[0].permute(1, 2, 0).numpy()
    made = np.asarray(getattr(augmix, name)(Image.fromarray(image), 1.9))
    for channel in range(3):
        assert np.array_equal(made[:, :, channel], applied(name, image[:, :, channel], 1.9))


def test_the_mixture_is_the_formula() -> None:
    random = np.random.default_rng(0)
    x, *chains = (random.uniform(0, 255, (4, 5, 3)) for _ in range(4))
    weights, share = random.dirichlet([1, 1, 1]), 0.3
    mixed = augmix.mixture(x, chains, weights, share)
    for at in np.ndindex(x.shape):
        one = 0.7 * x[at] + 0.3 * sum(weights[i] * chains[i][at] for i in range(3))
        assert mixed[at] == pytest.approx(one, abs=1e-10)


def numbers(seed: int, epoch: int, index: int, view: int) -> Any:
    """Uniform numbers of one view, one after another."""
    number = (view + 1) << 32
    while True:
        yield int(draws(seed, epoch, torch.tensor([index]), number)[0]) / 2**64
        number += 1


def transcribed(image: torch.Tensor, depth: int | None, width: int, random: Any) -> npt.NDArray[np.float64]:
    """A view before it is rounded, [H, W, C] in 0..255, from the paper's Algorithm 1."""
    pixels = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels if len(image) == 3 else pixels[:, :, 0])
    share = next(random)
    gammas = [-math.log(1 - next(random)) for _ in range(width)]  # Γ(1) over their sum is Dirichlet(1)
    total = np.zeros(pixels.shape)
    for gamma in gammas:
        chain, drawn = picture, 1 + math.floor(3 * next(random))
        for _ in range(depth or drawn):
            name = NAMES.split()[math.floor(9 * next(random))]
            level, negative = 0.1 + 2.9 * next(random), next(random) > 0.5
            chain = getattr(augmix, name)(chain, -level if negative else level)
        total += gamma / sum(gammas) * np.asarray(chain, dtype=np.float64).reshape(pixels.shape)
    return np.asarray((1 - share) * pixels + share * total)


@pytest.mark.parametrize(("depth", "width"), [(None, 3), (2, 1), (1, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_the_algorithm_in_float64_rounded(channels: int, depth: int | None, width: int) -> None:
    images, indices = pictures(6, channels), torch.tensor([0, 1, 7, 100, 1436, 2])
    settings = AugmixSettings(depth=depth, width=width)
    made = augmix.views(images, settings, seed=3, epoch=2, indices=indices)
    assert made.dtype == torch.uint8 and made.shape == (2, *images.shape)
    for view in range(2):
        for position, index in enumerate(indices.tolist()):
            exact = transcribed(images[position], depth, width, numbers(3, 2, index, view))
            error = np.abs(made[view, position].permute(1, 2, 0).numpy() - exact)
            assert error.max() <= 0.5 + 1e-6


def test_a_view_does_not_depend_on_the_batch_that_it_is_in() -> None:
    images, indices = pictures(5), torch.tensor([3, 0, 9, 4, 12])
    together = augmix.views(images, AugmixSettings(), seed=1, epoch=0, indices=indices)
    for at in range(5):
        alone = augmix.views(images[at : at + 1], AugmixSettings(), seed=1, epoch=0, indices=indices[at : at + 1])
        assert torch.equal(alone[:, 0], together[:, at])


@pytest.mark.parametrize("other", [{"seed": 2, "epoch": 0}, {"seed": 1, "epoch": 1}])
def test_another_seed_another_epoch_and_the_other_view_are_different(other: dict[str, int]) -> None:
    images, indices = pictures(20), torch.arange(20)
    made = augmix.views(images, AugmixSettings(), seed=1, epoch=0, indices=indices)
    elsewhere = augmix.views(images, AugmixSettings(), indices=indices, **other)
    assert bool((made != elsewhere).flatten(2).any(2).all())
    assert bool((made[0] != made[1]).flatten(1).any(1).all())


def test_another_process_makes_the_same_views() -> None:
    program = (
        "import hashlib, torch\n"
        "from sparring.config import AugmixSettings, DataSettings\n"
        "from sparring.data import augmix, batch, load\n"
        "torch.rand(5)\n"
        "indices = torch.arange(20)\n"
        "x, _ = batch(load(DataSettings(), 'train'), indices, augment='crop_flip', seed=9, epoch=4)\n"
        "images = (x * 255).round().to(torch.uint8)\n"
        "made = augmix.views(images, AugmixSettings(), seed=9, epoch=4, indices=indices)\n"
        "print(hashlib.sha256(made.numpy().tobytes()).hexdigest())\n"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    indices = torch.arange(20)
    x, _ = batch(load(DataSettings(), "train"), indices, augment="crop_flip", seed=9, epoch=4)
    made = augmix.views((x * 255).round().to(torch.uint8), AugmixSettings(), seed=9, epoch=4, indices=indices)
    assert there.stdout.strip() == hashlib.sha256(made.numpy().tobytes()).hexdigest()


def test_operations_depths_and_shares_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    levels: list[float] = []

    def noting(name: str) -> augmix.Operation:
        def operation(image: Image.Image, level: float) -> Image.Image:
            names.append(name)
            levels.append(level)
            return image

        return operation

    monkeypatch.setattr(augmix, "OPERATIONS", tuple(noting(name) for name in NAMES.split()))
    count = 600
    augmix.views(
        torch.zeros(count, 1, 4, 4, dtype=torch.uint8), AugmixSettings(), seed=0, epoch=0, indices=torch.arange(count)
    )
    expected_count = 2 * count * 3 * 2  # views, examples, chains, 2 operations in the mean
    assert abs(len(names) - expected_count) < 0.03 * expected_count
    assert all(abs(names.count(name) - len(names) / 9) < 0.15 * len(names) / 9 for name in NAMES.split())
    sizes = np.abs(levels)
    assert 0.1 <= sizes.min() < 0.11 and 2.99 < sizes.max() <= 3
    assert abs(sizes.mean() - 1.55) < 0.03 and abs(np.sign(levels).mean()) < 0.04
