"""Every process shows the same part of an image, of the size that the epoch asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.config import Config, DataSettings, from_tree, image_size
from sparring.data import ArrayDataset, Framed, Sample, Subset, batch, load, training_set
from sparring.data.datasets import class_names_of
from sparring.data.framing import AREA, RATIO, Framing, centred, random_framing
from sparring.errors import UsageError

SIZES = [(60, 40), (37, 53), (32, 32), (41, 30)]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, images of four sizes, the first one neither square nor of the others' ratio."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for seed, (width, height) in enumerate(SIZES):
                picture(width, height, seed).save(tmp_path / split / name / f"{seed}.png")
    return tmp_path


def test_a_folder_names_its_classes_however_it_is_framed_or_sampled(folder: Path) -> None:
    framed = load(given(folder, size=8).data, "test")
    assert class_names_of(framed) == class_names_of(Sample(framed, 2)) == ("cat", "dog")
    assert class_names_of(load(DataSettings(), "test")) == ()


def given(folder: Path, **data: object) -> Config:
    return from_tree({"data": {"name": f"folder:{folder}", **data}})


def test_a_test_image_is_the_centred_square_of_the_shorter_side(folder: Path) -> None:
    dataset = load(given(folder, size=16, centre_share=0.75).data, "test")
    assert dataset.shape == (3, 16, 16)
    # By crop and resize: 0.75 of 40, 37, 32 and 30 pixels.
    boxes = [(15, 5, 45, 35), (4, 12, 32, 40), (4, 4, 28, 28), (9, 4, 31, 26)]
    for index, ((width, height), box) in enumerate(zip(SIZES, boxes, strict=True)):
        assert centred(width, height, 0.75) == box
        expected = picture(width, height, index).crop(box).resize((16, 16), Image.Resampling.BILINEAR)
        shown = dataset.images(torch.tensor([index]))[0]
        assert torch.equal(shown, torch.from_numpy(np.array(expected)).permute(2, 0, 1))


def test_images_of_the_size_asked_for_are_left_as_they_are() -> None:
    digits = load(DataSettings(), "train")
    same = load(DataSettings(size=8), "train")
    assert torch.equal(same.images(torch.arange(50)), digits.images(torch.arange(50)))
    assert same.fingerprint == digits.fingerprint


def test_an_array_and_a_folder_of_the_same_images_show_the_same(folder: Path) -> None:
    in_folder = Subset(load(given(folder, size=20).data, "train"), torch.tensor([2, 6]))
    stored = torch.stack([torch.from_numpy(np.array(picture(32, 32, 2))).permute(2, 0, 1)] * 2)
    array = Framed(ArrayDataset(stored, torch.tensor([0, 1]), 2, "toy"), 20, 1.0)
    for augment in ("none", "resized_crop_flip", "crop"):
        one, two = (
            batch(dataset, torch.tensor([1, 0]), augment=augment, seed=3, epoch=1, size=12)
            for dataset in (in_folder, array)
        )
        assert one[0].shape == (2, 3, 12, 12) and torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def test_an_example_is_the_same_in_any_batch_and_another_in_another_epoch(folder: Path) -> None:
    config = given(folder, size=16, augment="resized_crop_flip")
    dataset = training_set(config, load(config.data, "train"))
    together, _ = dataset.batch(torch.arange(8), 2)
    for index in (5, 0, 7):
        alone, _ = training_set(config, load(config.data, "train")).batch(torch.tensor([index]), 2)
        assert torch.equal(alone[0], together[index])
    # Other parts too, not only mirrored otherwise.
    turned = dataset.batch(torch.arange(8), 3)[0].flip(-1)
    assert not any(torch.equal(one, other) for one, other in zip(turned, together, strict=True))
    again = dataset.batch(torch.arange(8), 3)[0]
    assert not any(torch.equal(one, other) for one, other in zip(again, together, strict=True))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_random_parts_lie_inside_with_area_and_ratio_in_their_bounds(width: int, height: int) -> None:
    framing = random_framing(10, seed=1, epoch=0, indices=torch.arange(2000))
    boxes = np.array([framing.box(position, width, height) for position in range(2000)])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (right <= width).all() and (bottom <= height).all()
    wide, high = right - left, bottom - top
    # Sides are rounded to whole pixels.
    assert ((wide + 1) * (high + 1) >= AREA[0] * width * height).all() and (wide * high <= width * height).all()
    assert ((wide - 1) / (high + 1) <= RATIO[1]).all() and ((wide + 1) / (high - 1) >= RATIO[0]).all()
    assert len(np.unique(boxes, axis=0)) > 1000
    share = wide * high / (width * height)
    assert 0.3 < share.mean() < 0.6 and share.min() < 0.12 and share.max() > 0.85


def test_where_no_part_fits_the_middle_is_shown() -> None:
    framing = random_framing(10, seed=1, epoch=0, indices=torch.arange(100))
    assert {framing.box(position, 8, 200) for position in range(100)} == {(0, 94, 8, 105)}
    assert {framing.box(position, 200, 8) for position in range(100)} == {(94, 0, 105, 8)}


def test_half_of_the_images_are_mirrored() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).repeat(500, 1, 64, 1)
    dataset = Framed(ArrayDataset(ramp, torch.zeros(500, dtype=torch.int64), 1, "toy"), 16, 1.0)
    x, _ = batch(dataset, torch.arange(500), augment="resized_crop_flip", seed=0, epoch=0)
    falling = x[:, 0, 0, 0] > x[:, 0, 0, -1]
    assert 200 < int(falling.sum()) < 300


def test_a_phase_lasts_for_its_share_of_the_epochs() -> None:
    phases = [{"until": 0.4, "size": 128}, {"until": 0.8, "size": 224}]
    config = from_tree({"data": {"size": 288, "phases": phases}, "train": {"epochs": 15}})
    assert [image_size(config.data, epoch, 15) for epoch in range(15)] == [128] * 6 + [224] * 6 + [288] * 3
    assert image_size(from_tree({}).data, 0, 15) is None


def test_images_are_of_the_phases_size_and_test_images_of_the_last(folder: Path) -> None:
    config = given(folder, size=24, phases=[{"until": 0.5, "size": 12}], augment="crop_flip")
    dataset = training_set(config, load(config.data, "train"))
    sizes = [dataset.batch(torch.arange(3), epoch)[0].shape[2:] for epoch in (0, 14, 15, 29)]
    assert sizes == [(12, 12), (12, 12), (24, 24), (24, 24)]
    assert load(config.data, "test").shape == (3, 24, 24)


def test_centre_share_holds_in_phases_too(folder: Path) -> None:
    dataset = load(given(folder, size=24, centre_share=0.5).data, "train")
    shown = dataset.images(torch.tensor([2]), Framing(8))
    assert torch.equal(shown[0], Framing(8, 0.5).apply(picture(32, 32, 2), 0))


@pytest.mark.parametrize("data", [{"augment": "resized_crop_flip"}, {"phases": [{"until": 0.5, "size": 6}]}])
def test_sizes_are_needed_where_images_are_brought_to_one(data: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"needs data\.size"):
        load(from_tree({"data": data}).data, "train")


def test_phases_that_do_not_rise_are_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.phases = .*must rise in until"):
        from_tree({"data": {"phases": [{"until": 0.5, "size": 6}, {"until": 0.5, "size": 8}]}})


def test_other_framings_are_other_data() -> None:
    """So that runs that judge other parts of the images are not compared."""
    whole = ArrayDataset(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), 2, "toy")
    found = {Framed(whole, size, share).fingerprint for size, share in ((4, 1.0), (4, 0.5), (6, 1.0), (4, 1.0))}
    assert len(found) == 3 and whole.fingerprint not in found
