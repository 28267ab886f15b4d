"""Pictures show the pixels as they are; in that of the perturbation grey is no change."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.evaluation.pictures import SIDE, grid, picture, png, said, triple
from sparring.evaluation.showing import Prediction, Shown


def shown(*shape: int) -> Shown:
    clean = torch.full(shape, 0.4)
    attacked = clean.clone()
    attacked[:, 0, 0], attacked[:, 0, 1] = 0.5, 0.3
    return Shown(0, 1, Prediction(1, 0.987), Prediction(0, 0.6), clean, attacked)


@pytest.mark.parametrize("radius", [0.1, None])
def test_the_perturbation_is_magnified_around_grey(radius: float | None) -> None:
    made = triple(shown(1, 4, 4), radius)
    assert made.magnified == pytest.approx(5)
    assert np.asarray(made.perturbation)[0, :3].tolist() == [255, 0, 128]
    assert np.asarray(made.clean)[0, 0] == 102


def test_without_a_change_nothing_is_magnified() -> None:
    still = shown(1, 4, 4)
    still.attacked.copy_(still.clean)
    assert triple(still, None).magnified == 1 and triple(still, 0.0).magnified == 1


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (2, "L"), (5, "L")])
def test_any_number_of_channels_has_a_picture(channels: int, mode: str) -> None:
    assert picture(torch.zeros(channels, 4, 6)).mode == mode


def test_large_pictures_are_reduced_by_whole_numbers() -> None:
    made = Image.open(io.BytesIO(png(Image.new("L", (100, 60)), 40)))
    assert made.size == (34, 20)
    assert Image.open(io.BytesIO(png(Image.new("L", (100, 60)), 100))).size == (100, 60)


def test_the_grid_has_three_pictures_in_each_row_and_words() -> None:
    sheet = grid([shown(1, 8, 8), shown(1, 8, 8)], 0.1, lambda label: "a very long name of a class " * 3)
    assert sheet.width >= 3 * SIDE and sheet.height > 2 * SIDE
    assert said(Prediction(3, 0.987), str) == "3 (99 %)"
    assert said(Prediction(None, None), str) == "none (logits not finite)"
