"""Pictures lie in the page as data, and many large ones are reduced."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image

from sparring.evaluation.showing import Prediction, Shown
from sparring.report.gallery import BYTES, count_for, pictures


def shown(*shape: int) -> Shown:
    random = torch.Generator().manual_seed(0)
    clean = torch.rand(shape, generator=random)
    return Shown(3, 1, Prediction(1, 0.9), Prediction(0, 0.6), clean, (clean + 0.1).clamp(0, 1))


def size(data: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(base64.b64decode(data.removeprefix("data:image/png;base64,")))).size


def test_a_small_image_keeps_its_pixels() -> None:
    (made,) = pictures([shown(1, 8, 8)], 0.1, str, 1)
    assert size(made.clean) == size(made.perturbation) == size(made.attacked) == (8, 8)
    assert (made.title, made.kind, made.before, made.after) == (
        "test image 3, class 1",
        "broken",
        "1 (90 %)",
        "0 (60 %)",
    )
    assert made.magnified == "× 5"


@pytest.mark.parametrize("runs", [1, 3])
def test_large_images_are_reduced_to_what_fits(runs: int) -> None:
    made = pictures([shown(3, 224, 224)] * count_for(runs), 0.1, str, runs)
    total = runs * sum(len(each.clean) + len(each.perturbation) + len(each.attacked) for each in made)
    assert total < 1.2 * BYTES and size(made[0].clean)[0] >= 40


def test_no_images_are_no_pictures() -> None:
    assert pictures([], None, str, 1) == ()
