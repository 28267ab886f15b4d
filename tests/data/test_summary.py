"""What is odd in data is said before anything is trained, or refused."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from sparring.config import DataSettings
from sparring.data import ArrayDataset, Dataset, load
from sparring.data.datasets import Concatenated, Framed
from sparring.data.sampling import Sample
from sparring.data.summary import summarise
from sparring.data.training import TrainingSet
from sparring.data.wrapping import wrap
from sparring.errors import UsageError


def data(
    labels: list[int], classes: int, *, side: int = 4, channels: int = 1, high: int = 256, seed: int = 0
) -> Dataset:
    random, shape = torch.Generator().manual_seed(seed), (len(labels), channels, side, side)
    images = torch.randint(0, high, shape, generator=random, dtype=torch.uint8)
    return ArrayDataset(images, torch.tensor(labels), classes, "toy")


TEST = data([0, 1, 2, 2], 3, seed=1)


def test_the_line_has_images_shape_depth_and_classes() -> None:
    training = load(DataSettings(), "train")
    found = summarise("data.name = 'digits'", training, load(DataSettings(), "test"))
    counts = Counter(training.labels.tolist())
    assert found.line == (
        "1,437 training images, 360 test images; 1 x 8 x 8, 8 bits, pixels 0 to 1; 10 classes "
        f"({', '.join(f'{label}: {counts[label]}' for label in range(10))})"
    )
    assert found.warnings == ()


def test_held_out_and_extra_examples_are_counted_apart() -> None:
    found = summarise("data", data([0, 1, 2] * 4, 3), TEST, heldout=5, extra=2)
    assert found.line.startswith("10 training images, 5 held out, 2 extra, 4 test images")


@pytest.mark.parametrize(
    ("extra", "share", "told"),
    [
        (
            data([0], 3, seed=2),
            0.7,
            ["1 extra images fill 70 % of each batch: an epoch takes each about 28 times", "1 of the 3"],
        ),
        (data([1] * 12, 3, seed=2, high=2), 0.7, ["hold 1 of the 3 classes", "only range from 0 to 0.00392 of 1"]),
        (data([0, 1, 2], 3, seed=2), 0.7, []),
        (data([0, 1, 2], 3, seed=2), 0.75, ["an epoch takes each about 12 times"]),
    ],
)
def test_extra_images_that_are_few_or_dull_are_told(extra: Dataset, share: float, told: list[str]) -> None:
    """Of twelve real ones at 70 % of a batch: 12 · 0.7 / 0.3 = 28 extra images an epoch."""
    training = Concatenated(data([0, 1, 2] * 4, 3), extra)
    found = summarise("data", training, TEST, extra=len(extra), extra_share=share).warnings
    assert len(found) == len(told) and all(part in text for part, text in zip(told, found, strict=True))


def test_many_classes_are_told_by_their_extremes() -> None:
    labels = [*range(20), 7, 7]
    line = summarise("data", data(labels, 20), data(labels, 20, seed=1)).line
    assert line.endswith("20 classes of 1 to 3 training images")


@pytest.mark.parametrize(
    ("training", "test", "reported"),
    [
        ([0, 0, 2, 2], TEST, "1 of 3 classes have no training example: no model can learn them (label 1)."),
        ([0, 0, 1, 1, 2], TEST, "1 of 3 classes have a single training example (label 2)."),
        ([0, 1, 2] * 2, data([0, 0], 3), "2 of 3 classes have no test example: the figures say nothing of them"),
    ],
)
def test_classes_that_lack_examples_are_told(training: list[int], test: Dataset, reported: str) -> None:
    assert [text for text in summarise("data", data(training, 3), test).warnings if text.startswith(reported)]


def test_gaps_in_the_labels_are_told() -> None:
    labels = [0, 5, 10] * 3
    (reported,) = summarise("data", data(labels, 11), data(labels, 11, seed=1)).warnings
    assert reported.startswith(
        "8 of 11 classes have no example, in training or in the test set. Number the classes from 0"
    )
    assert reported.endswith("(labels 1, 2, 3, 4, 6, 7, 8, 9).")


@pytest.mark.parametrize(
    ("test", "reported"),
    [
        (data([0, 1, 2], 3, side=5), r"data: test images are \(1, 5, 5\) and training images \(1, 4, 4\) .*data\.size"),
        (data([0, 1, 2], 3, channels=3), r"test images are \(3, 4, 4\) and training images \(1, 4, 4\)"),
        (data([0, 1, 2], 4), "the test set has 4 classes and the training set 3"),
    ],
)
def test_a_test_set_of_other_images_or_classes_is_refused(test: Dataset, reported: str) -> None:
    with pytest.raises(UsageError, match=reported):
        summarise("data", data([0, 1, 2], 3), test)


@pytest.mark.parametrize("classes", [1, 3])
def test_a_single_class_is_refused(classes: int) -> None:
    with pytest.raises(UsageError, match=r"data: all training labels are 0\. A classifier needs two classes"):
        summarise("data", data([0] * 5, classes), data([0] * 5, classes))


def test_images_that_are_nearly_black_are_told() -> None:
    (reported,) = summarise("data", data([0, 1, 2] * 2, 3, high=2), TEST).warnings
    assert reported.startswith("The pixels of the sampled training images only range from 0 to 0.00392 of 1")


def test_a_test_set_that_is_the_training_set_is_told() -> None:
    (reported,) = summarise("data", data([0, 1, 2] * 2, 3), data([0, 1, 2] * 2, 3)).warnings
    assert reported.startswith("The test set is the training set")


@pytest.mark.parametrize("how", ["a part", "framed", "extra"])
def test_a_test_set_that_training_data_are_drawn_from_is_told(how: str) -> None:
    test, other = data([0, 1, 2] * 4, 3), data([0, 1, 2] * 4, 3, seed=1)
    training: Dataset = Sample(test, 6)
    if how == "framed":
        training = TrainingSet(Framed(training, 4, 1.0))
    elif how == "extra":
        training = Concatenated(other, test)
    (reported,) = summarise("data", training, test).warnings
    assert reported.startswith("Test set and training set are drawn from the same data")
    assert summarise("data", training, data([0, 1, 2] * 2, 3, seed=2)).warnings == ()


@pytest.mark.parametrize(("shared", "told"), [(0, False), (1, False), (3, True)])
def test_test_images_that_are_trained_on_are_counted(shared: int, told: bool) -> None:
    """Of 300 test images; the two sets are otherwise strangers to each other."""
    training, other = data([0, 1, 2] * 200, 3), data([0, 1, 2] * 100, 3, seed=1)
    images = torch.cat([training.images(torch.arange(shared)), other.images(torch.arange(shared, 300))])
    test = ArrayDataset(images, other.labels, 3, "toy")
    expected = f"{shared} of 300 test images are training images too, pixel by pixel"
    assert [text[: len(expected)] for text in summarise("data", training, test).warnings] == [expected] * told


@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_copies_are_found_whose_lowest_bit_differs(kind: str) -> None:
    training = data([0, 1, 2] * 200, 3)
    images, labels = training.images(torch.arange(100)) ^ 1, training.labels[:100]
    test: Dataset = ArrayDataset(images, labels, 3, "toy")
    if kind == "floats":
        training = wrap((training.images(torch.arange(600)) / 255, training.labels), "data", 3)
        test = wrap((images / 255, labels), "data", 3)
    (reported,) = summarise("data", training, test).warnings
    assert reported.startswith("100 of 100 test images are training images too, pixel by pixel (but for the lowest")


@pytest.mark.parametrize(("twins", "told"), [(0, False), (1, False), (40, True)])
def test_images_with_two_labels_are_counted(twins: int, told: bool) -> None:
    """Among 600 training images and 4 test images."""
    some = data([0, 1, 2] * 200, 3)
    images = some.images(torch.arange(600))
    images[300 : 300 + twins] = images[1 : 1 + twins]
    warnings = summarise("data", ArrayDataset(images, some.labels, 3, "toy"), TEST).warnings
    assert [text.split(":")[0] for text in warnings] == [
        f"{2 * twins} of 604 images are there twice with different labels"
    ] * told


@pytest.mark.parametrize(("factor", "told"), [(1.0, False), (0.8, False), (0.5, True)])
def test_test_images_of_another_brightness_are_told(factor: float, told: bool) -> None:
    training, other = data([0, 1, 2] * 20, 3), data([0, 1, 2] * 20, 3, seed=1)
    test = ArrayDataset((factor * other.images(torch.arange(60))).byte(), other.labels, 3, "toy")
    warnings = summarise("data", training, test).warnings
    assert len(warnings) == told and all(text.startswith("The mean pixel of the sampled training") for text in warnings)


@pytest.mark.parametrize("channels", [[0, 1, 2], [2, 1, 0]])
def test_red_and_blue_that_have_changed_places_are_told(channels: list[int]) -> None:
    """Sky and skin: photographs are not as red as they are blue."""
    casts = torch.tensor([30, 0, -30]).view(1, 3, 1, 1)
    training, test = (torch.randint(40, 200, (120, 3, 4, 4)) + casts for _ in range(2))
    sets = [ArrayDataset(images.byte(), torch.arange(120) % 3, 3, "toy") for images in (training, test[:, channels])]
    warnings = summarise("data", *sets).warnings
    assert [text for text in warnings if "red and blue" in text] == list(warnings)
    assert bool(warnings) is (channels[0] == 2)


def test_images_that_are_not_stored_alike_are_told() -> None:
    images, labels = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8), torch.tensor([0, 1, 2] * 2)
    scaled = ArrayDataset(images, labels, 3, "toy", notes=("uint16 in 0..65535, scaled to 8 bits",))
    (reported,) = summarise("data", scaled, TEST).warnings
    assert reported == (
        "Training images are uint16 in 0..65535, scaled to 8 bits, test images 8 bits: are they stored alike?"
    )
