"""What is in the data of a run, in a line, and what in them makes its figures doubtful."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from sparring.data.datasets import (
    HASHED_BYTES,
    HASHED_ITEM_BYTES,
    Dataset,
    is_in_memory,
    notes_of,
    sources_of,
)
from sparring.data.reading import SAMPLES, evenly_spaced
from sparring.data.training import scaled
from sparring.errors import UsageError

MAX_LISTED = 12  # classes whose counts are listed
READ_AT_ONCE = 1024  # images
MORE = 512  # images that are looked at for their colours: each set's mean is then known to 0.005
BY_CHANCE = 0.005  # share of test images that may be training images: empty ones, or as photographed twice
BRIGHTER, BEYOND_NOISE = 0.25, 6.0  # share of a mean pixel; standard errors: splits of one data set are far below
OFTEN = 10  # times that an epoch may take an extra image
NARROW = 32 / 255  # pixel intensity: a smaller range is nearly black or one colour, as of 12 bits stored as 16


@dataclass(frozen=True)
class DataSummary:
    """The line that a run begins with, and warnings that stand beside its figures."""

    line: str
    warnings: tuple[str, ...]


def summarise(
    setting: str, training: Dataset, test: Dataset, *, heldout: int = 0, extra: int = 0, extra_share: float = 0.0
) -> DataSummary:
    """Images, shape, bit depth and classes of a run's data.

    Args:
        setting: begins error messages, such as `data.name = 'digits'`.
        training: with its last `extra` examples, but without the `heldout` ones. extra_share: of a batch.

    Raises:
        UsageError: the test set has other images or classes than the training set, or there is only one class.
    """
    _require_alike(setting, training, test)
    counts, test_counts = (torch.bincount(each.labels, minlength=each.classes) for each in (training, test))
    _require_classes(setting, counts)
    images = _some_images(training)
    low, high = (float(value) for value in scaled(images).aminmax())
    parts = {"held out": heldout, "extra": extra}
    apart = "".join(f", {count:,} {what}" for what, count in parts.items() if count)
    notes = "".join(f", {note}" for note in notes_of(training))
    depth = "floats" if images.is_floating_point() else "8 bits"
    line = (
        f"{len(training) - extra:,} training images{apart}, {len(test):,} test images; {_size(training)}, {depth}"
        f"{notes}, pixels {low:.3g} to {high:.3g}; {_classes(counts)}"
    )
    dull = _of_range(low, high)
    doubts = [*_of_classes(counts, test_counts), *dull, *_of_both(training, test)]
    doubts += _of_extra(training, extra, extra_share) if extra else []
    if not dull:  # nearly black images are all alike
        doubts += [
            *_of_copies(training, test),
            *_of_brightness(images, _some_images(test)),
            *_of_colours(_some_images(training, MORE), _some_images(test, MORE)),
        ]
    return DataSummary(line, tuple(doubts))


def _require_alike(setting: str, training: Dataset, test: Dataset) -> None:
    if test.shape != training.shape:
        raise UsageError(
            f"{setting}: test images are {test.shape} and training images {training.shape} (C, H, W). Bring them to "
            f"one size, as data.size does, and to the same channels."
        )
    if test.classes != training.classes:
        raise UsageError(
            f"{setting}: the test set has {test.classes} classes and the training set {training.classes}. Give both "
            f"the same classes, numbered alike."
        )


def _require_classes(setting: str, counts: Tensor) -> None:
    present = counts.nonzero().flatten().tolist()
    if len(present) < 2:
        raise UsageError(
            f"{setting}: all training labels are {present[0]}. A classifier needs two classes or more: every model "
            f"would be right, and so robust. Give data of several classes, or raise data.limit."
        )


def _size(data: Dataset) -> str:
    channels, height, width = data.shape
    return f"{channels} x {height} x {width}"


def _classes(counts: Tensor) -> str:
    if len(counts) <= MAX_LISTED:
        listed = ", ".join(f"{label}: {count}" for label, count in enumerate(counts.tolist()))
        return f"{len(counts)} classes ({listed})"
    return f"{len(counts)} classes of {int(counts.min())} to {int(counts.max())} training images"


def _of_classes(counts: Tensor, test_counts: Tensor) -> list[str]:
    """Classes that nothing can be learnt or said about."""
    found = {
        "have no example, in training or in the test set. Number the classes from 0 without gaps": (
            (counts == 0) & (test_counts == 0)
        ),
        "have no training example: no model can learn them": (counts == 0) & (test_counts > 0),
        "have a single training example": counts == 1,
        "have no test example: the figures say nothing of them": (counts > 0) & (test_counts == 0),
    }
    chosen = {text: where.nonzero().flatten().tolist() for text, where in found.items()}
    some = {text: labels for text, labels in chosen.items() if labels}
    return [f"{len(labels)} of {len(counts)} classes {text} ({_some(labels)})." for text, labels in some.items()]


def _some(labels: list[int]) -> str:
    more = f" and {len(labels) - MAX_LISTED} more" if len(labels) > MAX_LISTED else ""
    return f"label{'s' if len(labels) > 1 else ''} {', '.join(map(str, labels[:MAX_LISTED]))}{more}"


def _of_extra(training: Dataset, extra: int, share: float) -> list[str]:
    """What is odd about the last `extra` examples, which fill that share of each batch."""
    real = len(training) - extra
    found, times = [], real * share / (1 - share) / extra
    if times > OFTEN:
        found.append(
            f"{extra:,} extra images fill {100 * share:.0f} % of each batch: an epoch takes each about {times:,.0f} "
            f"times, a real one once. Give more of them, or lower data.extra_fraction."
        )
    classes, all_classes = (len(set(each.tolist())) for each in (training.labels[real:], training.labels[:real]))
    if classes < all_classes:
        found.append(f"The extra images hold {classes} of the {all_classes} classes.")
    images = scaled(training.images(real + torch.tensor(evenly_spaced(extra, SAMPLES))))
    low, high = (float(value) for value in images.aminmax())
    if high - low < NARROW:
        found.append(
            f"The pixels of the sampled extra images only range from {low:.3g} to {high:.3g} of 1: are their bit depth "
            f"and scale right?"
        )
    return found


def _of_range(low: float, high: float) -> list[str]:
    if high - low >= NARROW:
        return []
    return [
        f"The pixels of the sampled training images only range from {low:.3g} to {high:.3g} of 1: are their bit depth "
        f"and scale right?"
    ]


def _some_images(data: Dataset, in_memory: int = SAMPLES) -> Tensor:
    """Evenly spaced images; `in_memory` of those that need not be read."""
    return data.images(torch.tensor(evenly_spaced(len(data), in_memory if is_in_memory(data) else SAMPLES)))


def _of_brightness(training: Tensor, test: Tensor) -> list[str]:
    """A warning if test images are much darker or brighter, as if they were scaled otherwise."""
    one, two = (scaled(images).double().flatten(1).mean(1) for images in (training, test))
    noise = sum(float(each.var()) / len(each) for each in (one, two)) ** 0.5 if min(len(one), len(two)) > 1 else inf
    means = float(one.mean()), float(two.mean())
    if abs(means[0] - means[1]) <= max(BRIGHTER * max(means), BEYOND_NOISE * noise):
        return []
    return [
        f"The mean pixel of the sampled training images is {means[0]:.3g}, of the test images {means[1]:.3g}: are they "
        f"stored and scaled alike?"
    ]


def _of_colours(training: Tensor, test: Tensor) -> list[str]:
    """A warning if red and blue have changed places in one of the two sets."""
    if training.shape[1] != 3 or min(len(training), len(test)) < 2:
        return []
    channels = (scaled(images).double().mean((2, 3)) for images in (training, test))
    one, two = (means - means.mean(1, keepdim=True) for means in channels)  # [N, 3], of each image's own mean
    noise = float(sum(casts.var(0).sum() / len(casts) for casts in (one, two)) ** 0.5)
    apart = float((one.mean(0) - two.mean(0)).norm())
    if apart <= BEYOND_NOISE * noise or apart <= 2 * float((one.mean(0) - two.mean(0).flip(0)).norm()):
        return []
    return ["The colours of test and training images agree if red and blue change places: are both stored as RGB?"]


def _of_both(training: Dataset, test: Dataset) -> list[str]:
    """Differences that should not be, and a test set that is the training set, or drawn from the same images."""
    found = []
    if set(notes_of(training)) != set(notes_of(test)):
        one, two = (" and ".join(notes_of(each)) or "8 bits" for each in (training, test))
        found.append(f"Training images are {one}, test images {two}: are they stored alike?")
    if training.fingerprint == test.fingerprint:
        found.append("The test set is the training set: the figures say nothing of images that the model has not seen.")
    elif _are_one(training, test):
        found.append(
            "Test set and training set are drawn from the same data: of images that both hold the figures say nothing. "
            "Give test data that are not trained on."
        )
    return found


def _of_copies(training: Dataset, test: Dataset) -> list[str]:
    """A warning if more test images than by chance are training images, or images have a twin of another label."""
    known, tried = _hashes(training), _hashes(test)
    labels: dict[int, set[int]] = {}
    for image, label in (*known, *tried):
        labels.setdefault(image, set()).add(label)
    trained, found = {image for image, _ in known}, []
    common = 0 if _are_one(training, test) else sum(image in trained for image, _ in tried)
    torn = sum(len(labels[image]) > 1 for image, _ in (*known, *tried))
    if common > BY_CHANCE * len(tried):
        found.append(
            f"{common:,} of {len(tried):,} test images are training images too, pixel by pixel (but for the lowest of "
            f"8 bits): the figures say nothing of images that the model has not seen. Give test data that are not "
            f"trained on."
        )
    if torn > BY_CHANCE * (len(known) + len(tried)):
        found.append(
            f"{torn:,} of {len(known) + len(tried):,} images are there twice with different labels: are images and "
            f"labels in the same order?"
        )
    return found


def _are_one(training: Dataset, test: Dataset) -> bool:
    """Whether it is told already that they share images."""
    return training.fingerprint == test.fingerprint or bool(sources_of(training) & sources_of(test))


def _hashes(data: Dataset) -> list[tuple[int, int]]:
    """A hash of each image but for its lowest bit, or of as many evenly spaced ones as can be read in a second, and the
    label."""
    budget = HASHED_BYTES if is_in_memory(data) else HASHED_ITEM_BYTES
    size = data.images(torch.tensor([0])).numpy().nbytes
    places = torch.tensor(evenly_spaced(len(data), max(2, min(len(data), budget // size))))
    parts = (data.images(some) for some in torch.split(places, READ_AT_ONCE))
    hashes = [hash(image.tobytes()) for part in parts for image in _without_lowest_bit(part).numpy()]
    return list(zip(hashes, data.labels[places].tolist(), strict=True))


def _without_lowest_bit(images: Tensor) -> Tensor:
    """uint8; floats in [0, 1] are rounded to 8 bits first."""
    return ((images * 255).round().to(torch.uint8) if images.is_floating_point() else images) >> 1
