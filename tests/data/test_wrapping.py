"""Data of any usual kind become a Dataset, or are refused with what to mend."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from sparring.config import DataSettings
from sparring.data import ArrayDataset, batch, load
from sparring.data.framing import Framing, to_image
from sparring.data.wrapping import declared_classes, wrap
from sparring.errors import UsageError
from sparring.machine.torchvision_import import torchvision
from tests.support.data import require_data

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 5, 4), dtype=np.uint8)
LABELS = np.arange(20) % 3
FLOATS = torch.from_numpy(IMAGES).float() / 255


class Pictures(Dataset[Any]):
    """(image, label) by index; each image goes through `change`."""

    def __init__(self, change: Any = Image.fromarray, images: Any = IMAGES, labels: Any = LABELS, **held: Any) -> None:
        self.change, self.pictures, self.numbers = change, images, labels
        self.__dict__.update(held)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        return self.change(self.pictures[index]), int(self.numbers[index])


@pytest.mark.parametrize(
    "data",
    [
        (IMAGES, LABELS),
        [torch.from_numpy(IMAGES), torch.from_numpy(LABELS)],
        (IMAGES[..., None], torch.from_numpy(LABELS)),
        TensorDataset(torch.from_numpy(IMAGES)[:, None], torch.from_numpy(LABELS)),
        Pictures(),
        Pictures(np.array),
        Pictures(torch.from_numpy, targets=LABELS),
        DataLoader(Pictures(), batch_size=7, shuffle=True),
        DataLoader(Pictures(), batch_size=None),
        [Pictures()[index] for index in range(20)],
        ConcatDataset([Subset(Pictures(), range(8)), Subset(Pictures(), range(8, 20))]),
    ],
)
def test_the_same_images_and_labels_of_any_kind_are_the_same_dataset(data: Any) -> None:
    dataset, expected = wrap(data, "train_data"), wrap((IMAGES, LABELS), "train_data")
    assert (len(dataset), dataset.shape, dataset.classes) == (20, (1, 5, 4), 3)
    assert dataset.fingerprint == expected.fingerprint
    assert dataset.labels.dtype == torch.int64 and dataset.labels.tolist() == LABELS.tolist()
    indices = torch.tensor([3, 19, 0])
    assert torch.equal(dataset.images(indices), torch.from_numpy(IMAGES)[indices, None])
    assert dataset.images(torch.arange(0)).shape == (0, 1, 5, 4)


def test_floats_reach_the_model_as_they_are() -> None:
    dataset = wrap((FLOATS.sqrt(), LABELS), "train_data")
    x, y = batch(dataset, torch.tensor([4, 2]), augment="none", seed=0, epoch=0)
    assert torch.equal(x, FLOATS.sqrt()[[4, 2], None]) and y.tolist() == [1, 2]


@pytest.mark.parametrize("augment", ["crop", "crop_flip"])
def test_floats_are_augmented_as_bytes_are(augment: str) -> None:
    indices = torch.arange(20)
    (floats, _), (bytes_, _) = (
        batch(wrap((images, LABELS), "train_data"), indices, augment=augment, seed=3, epoch=1)
        for images in (FLOATS, IMAGES)
    )
    assert torch.allclose(floats, bytes_, atol=1e-7) and not torch.allclose(floats[:, 0], FLOATS, atol=0.1)


def test_bytes_are_framed_and_floats_are_refused() -> None:
    framing, indices = Framing(3), torch.tensor([7])
    shown = wrap(Pictures(), "train_data").images(indices, framing)
    assert torch.equal(shown[0], framing.apply(to_image(torch.from_numpy(IMAGES)[7, None]), 0))
    with pytest.raises(UsageError, match=r"train_data: data\.size needs uint8 images, but the data have float images"):
        wrap((FLOATS, LABELS), "train_data").images(indices, framing)


def test_nothing_is_read_before_it_is_asked_for_but_a_few_examples() -> None:
    read: list[int] = []
    images = np.zeros((5000, 4, 4), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(5000) % 256, np.arange(5000) // 256

    def noting(image: Any) -> Any:
        read.append(int(image[0, 0]) + 256 * int(image[0, 1]))
        return image

    dataset = wrap(Pictures(noting, images, np.arange(5000) % 2, targets=np.arange(5000) % 2), "train_data")
    assert len(set(read)) < 600
    read.clear()
    dataset.images(torch.tensor([333]))
    assert read == [333]


def test_labels_that_items_do_not_have_are_not_believed() -> None:
    """A subclass inherits `targets` and changes one label in fifty on its way out."""
    images, labels = np.zeros((2000, 4, 4), np.uint8), np.arange(2000) % 2
    changed = labels.copy()
    changed[25::50] = 1 - changed[25::50]
    dataset = wrap(Pictures(torch.from_numpy, images, changed, targets=labels), "train_data")
    assert torch.equal(dataset.labels, torch.from_numpy(changed))


def test_the_datasets_of_torchvision_are_those_that_are_built_in(tmp_path: Path) -> None:
    root = require_data("mnist")
    theirs = wrap(torchvision().datasets.MNIST(str(root), train=False), "test_data")
    ours = load(DataSettings(name="mnist", root=root), "test")
    assert (theirs.shape, theirs.classes, len(theirs)) == (ours.shape, ours.classes, len(ours))
    assert torch.equal(theirs.labels, ours.labels)
    indices = torch.tensor([0, 9999, 77])
    assert torch.equal(theirs.images(indices), ours.images(indices))


def test_an_object_with_our_interface_is_returned_as_it_is() -> None:
    dataset = ArrayDataset(torch.from_numpy(IMAGES)[:, None], torch.from_numpy(LABELS), 3, "own")
    assert wrap(dataset, "train_data") is dataset


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"labels": LABELS}, "labels must be a tensor, int64 [20]"),
        ({"labels": torch.from_numpy(LABELS).int()}, "labels must be a tensor, int64 [20]"),
        ({"classes": 2}, "labels range from 0 to 2, and there are 2 classes"),
        (
            {"shape": (1, 4, 5)},
            "images() returns torch.uint8 (1, 1, 5, 4) for one index; uint8 or float32 (1, 1, 4, 5)",
        ),
        ({"images": lambda indices, framing=None: 2 * FLOATS[indices, None]}, "floats must be in [0, 1]"),
        ({"images": lambda indices, framing=None: IMAGES[indices]}, "images() returns ndarray"),
    ],
)
def test_an_object_with_our_interface_is_looked_at(changes: dict[str, Any], problem: str) -> None:
    dataset = ArrayDataset(torch.from_numpy(IMAGES)[:, None], torch.from_numpy(LABELS), 3, "own")
    dataset.__dict__.update(changes)
    with pytest.raises(UsageError) as raised:
        wrap(dataset, "train_data")
    assert str(raised.value).startswith("train_data: ") and problem in str(raised.value)


def test_a_fingerprint_names_images_labels_length_and_type() -> None:
    other = IMAGES.copy()
    other[19, 4, 3] ^= 1
    datasets = [
        (IMAGES, LABELS),
        (other, LABELS),
        (IMAGES, LABELS[::-1].copy()),
        (IMAGES[:19], LABELS[:19]),
        (FLOATS, LABELS),
    ]
    assert len({wrap(data, "train_data").fingerprint for data in datasets}) == len(datasets)


class Endless(IterableDataset[Any]):
    """A stream."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def flipped_at_times(image: Any) -> Any:
    return image[:, ::-1] if random.random() < 0.5 else image


def cut(image: Any) -> Any:
    return image[: 3 + int(image[0, 0]) % 3]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (Pictures(flipped_at_times), "the same image differs when it is read again.*use data.augment"),
        (Pictures(cut), r"example \d+ is torch.uint8 of \(1, \d, 4\), example .* Bring all images to one size"),
        ((FLOATS - 0.5, LABELS), r"range from -0\.5 to 0\.5; .*look normalised: .*sparring\.Normalize"),
        (
            (FLOATS * 1.0001, LABELS),
            r"range from 0 to 1\.0001; floats must .* They lie slightly outside: clip",
        ),
        ((FLOATS * 255, LABELS), r"range from 0 to 255; floats must be in \[0, 1\]\. They look like bytes"),
        ((FLOATS.log(), LABELS), "range from -inf to 0"),
        ((FLOATS.masked_fill(FLOATS > 0.9, float("nan")), LABELS), "images contain NaN"),
        ((IMAGES.astype(np.int32), LABELS), r"images are torch\.int32; uint8"),
        ((IMAGES, LABELS[:19]), r"labels are int64 of shape \(19,\); integers of shape \(20,\) are needed"),
        ((IMAGES, LABELS / 2), r"labels are float64 of shape \(20,\)"),
        ((IMAGES, LABELS - 1), "labels range from -1 to 1. Number the classes from 0"),
        (Pictures(labels=LABELS - 1), "labels range from -1 to 1"),
        (Pictures(classes=["cat", "dog"]), "labels range from 0 to 2, and there are 2 classes"),
        ((IMAGES[:0], LABELS[:0]), "has no examples"),
        (Pictures(images=IMAGES[:0]), "has no examples"),
        (3, "a int cannot be used as data. Give a torch Dataset"),
        ((IMAGES, LABELS, LABELS), "a tuple cannot be used as data"),
        (None, "a NoneType cannot be used as data"),
        (Endless(), "a Endless cannot be used as data"),
        (TensorDataset(FLOATS, FLOATS, torch.from_numpy(LABELS)), "example 0 is a tuple; a pair"),
        (DataLoader(Pictures(), sampler=SubsetRandomSampler([1, 2])), "sampler selects examples"),
        (DataLoader(Pictures(), sampler=WeightedRandomSampler([1.0] * 20, 20)), "sampler selects examples"),
        (DataLoader(Pictures(), sampler=RandomSampler(Pictures(), num_samples=3)), "sampler selects"),
        (DataLoader(Pictures(), batch_sampler=[[0, 1], [2]]), "sampler selects examples"),
        (DataLoader(Pictures(), collate_fn=list), "has its own collate_fn"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_the_reason(data: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as raised:
        wrap(data, "train_data")
    assert str(raised.value).startswith("train_data")


def test_an_image_that_is_wrong_is_refused_when_it_is_read() -> None:
    images, sizes = torch.zeros(100, 1, 4, 4), [np.zeros((4, 4), np.uint8)] * 100
    dataset, others = wrap((images, np.zeros(100, int)), "a"), wrap(Pictures(np.array, sizes, [0] * 100), "b")
    images[50], sizes[50] = 2.0, np.zeros((4, 5), np.uint8)
    dataset.images(torch.tensor([49]))
    with pytest.raises(UsageError, match=r"a: images range from 2 to 2; floats must be in \[0, 1\]"):
        dataset.images(torch.tensor([49, 50, 50][1:]))
    with pytest.raises(UsageError, match=r"b: some images are torch.uint8 of \(1, 4, 4\), others .* \(1, 4, 5\)"):
        others.images(torch.tensor([50]))


def test_classes_are_those_that_are_given_or_declared_or_labelled() -> None:
    assert wrap((IMAGES, LABELS), "train_data", classes=7).classes == 7
    assert wrap(Pictures(classes=["cat", "dog", "owl", "fox"]), "train_data").classes == 4
    assert wrap(Pictures(classes=5), "train_data").classes == 5
    parts = random_split(Pictures(classes=5), [0.5, 0.5])
    assert [wrap(part, "train_data").classes for part in parts] == [5, 5]
    assert declared_classes(DataLoader(ConcatDataset(parts))) == 5 and declared_classes((IMAGES, LABELS)) is None
