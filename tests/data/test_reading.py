"""Images of any usual layout become [C, H, W]; labels come from what the data hold, or from their items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from sparring.data.reading import Arrays, Items, as_images, evenly_spaced, labels_attribute, labels_of
from sparring.errors import UsageError

GREY = np.arange(24, dtype=np.uint8).reshape(4, 6)
COLOUR = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)


class Given(Dataset[Any]):
    """Items as they are given; labels too, where they are held in front of the items."""

    def __init__(self, *items: Any, **held: Any) -> None:
        self.items, self.read = items, 0
        self.__dict__.update(held)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        return self.items[index]


def image_of(raw: Any) -> Tensor:
    return Items(Given((raw, 0)), "train_data")([0])[0]


@pytest.mark.parametrize(
    "raw",
    [
        GREY,
        torch.from_numpy(GREY),
        torch.from_numpy(GREY)[None],
        GREY[..., None],
        Image.fromarray(GREY),
        np.asfortranarray(GREY),
    ],
)
def test_grey_images_of_every_layout_are_the_same(raw: Any) -> None:
    assert torch.equal(image_of(raw), torch.from_numpy(GREY)[None])


@pytest.mark.parametrize(
    "raw",
    [COLOUR, torch.from_numpy(COLOUR), torch.from_numpy(COLOUR).permute(2, 0, 1), Image.fromarray(COLOUR)],
)
def test_colour_images_of_every_layout_are_the_same(raw: Any) -> None:
    assert torch.equal(image_of(raw), torch.from_numpy(COLOUR).permute(2, 0, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floats_of_every_width_become_float32(dtype: torch.dtype) -> None:
    image = torch.tensor([[0.0, 0.25], [0.5, 1.0]], dtype=dtype)
    assert image_of(image).dtype == torch.float32 and torch.equal(image_of(image)[0], image.float())


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (GREY.astype(np.int64), "images are torch.int64; uint8 in 0..255 or floats in [0, 1] are needed"),
        (GREY > 3, "images are torch.bool"),
        ("cat.png", "images are <U7"),
        (np.zeros((4, 6, 2), np.uint8), "an image has shape (4, 6, 2)"),
        (np.zeros((3, 3, 4, 6), np.uint8), "an image has shape (3, 3, 4, 6)"),
        (np.zeros(24, np.uint8), "shape (24,); [H, W], [C, H, W] or [H, W, C] with 1 or 3 channels is needed"),
        (Image.new("RGBA", (6, 4)), "a PIL image of mode RGBA; use image.convert('RGB')"),
        (Image.new("I;16", (6, 4)), "a PIL image of mode I;16; give np.float32(image) / 65535"),
        (Image.new("F", (6, 4)), "a PIL image of mode F; give np.float32(image), scaled to [0, 1]"),
    ],
)
def test_what_is_no_image_is_refused_by_its_index(raw: Any, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        Items(Given((GREY, 0), (raw, 0)), "train_data")([1])
    assert str(raised.value).startswith("train_data: example 1: ")
    assert problem in str(raised.value)


@pytest.mark.parametrize("item", [GREY, {"image": GREY, "label": 0}, (GREY, 0, "cat"), None])
def test_an_item_that_is_no_pair_is_refused(item: Any) -> None:
    with pytest.raises(UsageError, match=r"example 0 is a \w+; a pair \(image, label\) is needed"):
        Items(Given(item), "train_data")([0])


def test_an_item_that_cannot_be_read_is_named_with_its_error() -> None:
    with pytest.raises(
        UsageError,
        match=r"example 7 of 1 cannot be read \(IndexError: tuple index out of range, test_reading\.py:\d+\)",
    ):
        Items(Given((GREY, 0)), "train_data")([7])


def test_images_of_two_kinds_are_refused_with_one_example_of_each() -> None:
    items = Items(Given((GREY, 0), (GREY[:3], 0), (GREY, 0)), "train_data")
    with pytest.raises(UsageError, match=r"example 2 is torch.uint8 of \(1, 4, 6\), example 1 is .* \(1, 3, 6\)"):
        items([0, 1, 2])


@pytest.mark.parametrize("images", [np.stack([GREY] * 3), torch.from_numpy(np.stack([GREY] * 3))])
def test_arrays_are_read_by_index(images: Any) -> None:
    assert torch.equal(Arrays(images, "train_data")([2, 0]), torch.from_numpy(np.stack([GREY] * 2))[:, None])


def test_arrays_with_their_channels_first_or_last_are_the_same() -> None:
    last = torch.from_numpy(np.stack([COLOUR] * 5))
    assert torch.equal(as_images(last), as_images(last.permute(0, 3, 1, 2)))


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_labels_attributes_are_taken_without_reading_every_item(name: str, kind: Any) -> None:
    labels = [number % 5 for number in range(1000)]
    data = Given(*((GREY, label) for label in labels), **{name: kind(labels)})
    assert list(labels_of(data, Items(data, "train_data"))) == labels
    assert data.read < 600


def test_labels_of_parts_and_of_several_are_taken_through_them() -> None:
    data = Given(*((GREY, number) for number in range(6)), targets=list(range(6)))
    both: ConcatDataset[Any] = ConcatDataset([Subset(data, [5, 1]), data])
    found = labels_attribute(both)
    assert found is not None and found.tolist() == [5, 1, 0, 1, 2, 3, 4, 5]
    assert labels_attribute(ConcatDataset([data, Given((GREY, 0))])) is None


@pytest.mark.parametrize(
    "held",
    [
        {},
        {"targets": ["cat", "dog", "cat"]},
        {"labels": [[1], [2, 3], [4]]},
        {"targets": [0, 1]},
        {"targets": [5, 6, 7]},
        {"targets": [0.0, 1.0, 0.0]},
        {"targets": [0, 1, 0], "target_transform": lambda label: label + 1},
    ],
)
def test_labels_are_those_of_the_items_where_none_are_held_that_agree(held: dict[str, Any]) -> None:
    data = Given((GREY, 1), (GREY, np.int32(2)), (GREY, torch.tensor(3)), **held)
    assert list(labels_of(data, Items(data, "train_data"))) == [1, 2, 3]


@pytest.mark.parametrize("label", [1.0, "cat", torch.tensor([0, 1]), None, True])
def test_a_label_that_is_no_whole_number_is_refused(label: Any) -> None:
    data = Given((GREY, 0), (GREY, label))
    with pytest.raises(UsageError, match=r"train_data: example 1 has the label .*; a whole number is needed"):
        labels_of(data, Items(data, "train_data"))


@pytest.mark.parametrize(("length", "count"), [(0, 0), (1, 1), (5, 5), (32, 32), (33, 32), (100_000, 32)])
def test_samples_are_spread_from_the_first_to_the_last(length: int, count: int) -> None:
    found = evenly_spaced(length)
    assert len(found) == count == len(set(found))
    assert found[:1] + found[-1:] == ([0, length - 1] if length else [])
