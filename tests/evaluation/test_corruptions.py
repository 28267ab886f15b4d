"""Common corruptions: the right slices of the files, repeatable images, means that count each image once."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparring.config import DataSettings
from sparring.data import ArrayDataset, load
from sparring.data.datasets import Framed
from sparring.data.framing import Framing
from sparring.errors import SparringError, UsageError
from sparring.evaluation import corruptions as module
from sparring.evaluation.corruptions import CORRUPTIONS, Generated, Read, corruptions, mean_of_images
from sparring.evaluation.memory import Results
from sparring.evaluation.robustness import interval


def digits_at(indices: list[int]) -> tuple[Tensor, Tensor]:
    """uint8 images and labels of the test set."""
    digits, at = load(DataSettings(), "test"), torch.tensor(indices)
    return digits.images(at), digits.labels[at]


class FirstPixel(nn.Module):
    """Says the class that the first pixel's value is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [N, 3, H, W]; logits [N, 10]."""
        value = (255 * x[:, 0, 0, 0]).round().long()
        return nn.functional.one_hot(value, 10).float() * self.scale


@pytest.fixture
def cifar_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published layout with 10 images a severity; what an image shows is (label + severity − 1) modulo 10."""
    monkeypatch.setattr(module, "FILE_EXAMPLES", 10)
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    labels = np.tile(np.arange(10), 5).astype(np.int64)
    np.save(folder / "labels.npy", labels)
    shown = (labels + np.repeat(np.arange(5), 10)) % 10
    images = np.broadcast_to(shown.astype(np.uint8)[:, None, None, None], (50, 32, 32, 3))
    for name in CORRUPTIONS:
        np.save(folder / f"{name}.npy", images if name != "fog" else np.zeros_like(images))
    return tmp_path


def clean() -> ArrayDataset:
    labels = torch.arange(10)
    return ArrayDataset(
        labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32).contiguous(), labels, 10, "cifar10"
    )


def test_severity_s_is_the_slice_of_ten_thousand_times_s(cifar_c: Path) -> None:
    found = corruptions(FirstPixel(), clean(), "cifar10", cifar_c, samples=None, batch_size=4, seed=0)
    table = {each.corruption: each for each in found.corruptions}
    assert list(table) == list(CORRUPTIONS) and len(table) == 15
    assert table["snow"].accuracy == [1.0, 0.0, 0.0, 0.0, 0.0] and table["snow"].mean_accuracy == 0.2
    assert table["fog"].accuracy == pytest.approx([0.1] * 5)
    assert found.corrupted_accuracy == pytest.approx((14 * 0.2 + 0.1) / 15)
    assert (found.clean_accuracy, found.samples, found.source) == (1.0, 10, "CIFAR-10-C")


def test_the_files_of_cifar_100_lie_in_a_folder_of_their_own(cifar_c: Path) -> None:
    (cifar_c / "CIFAR-10-C").rename(cifar_c / "CIFAR-100-C")
    found = corruptions(FirstPixel(), clean(), "cifar100", cifar_c, samples=None, batch_size=4, seed=0)
    assert found.source == "CIFAR-100-C" and found.corrupted_accuracy == pytest.approx((14 * 0.2 + 0.1) / 15)


def test_the_same_images_of_each_severity_are_taken(cifar_c: Path) -> None:
    some = torch.tensor([2, 3, 7])
    images, labels = Read(cifar_c / "CIFAR-10-C")("snow", 3, some, clean().images(some), some)
    assert labels.tolist() == [2, 3, 7] and images.shape == (3, 3, 32, 32) and images[:, 0, 0, 0].tolist() == [4, 5, 9]


def test_images_of_the_files_are_framed_as_the_test_images(cifar_c: Path) -> None:
    folder = cifar_c / "CIFAR-10-C"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    np.save(folder / "fog.npy", pixels)
    stored = ArrayDataset(torch.from_numpy(pixels[10:20]).permute(0, 3, 1, 2), torch.arange(10), 10, "fog")
    framed, some = Framed(stored, 24, 0.75), torch.tensor([1, 8])
    images, _ = Read(folder, Framing(24, 0.75))("fog", 2, some, framed.images(some), some)
    assert torch.equal(images, framed.images(some)) and images.shape == (2, 3, 24, 24)


def test_a_sample_of_the_files_is_that_of_the_test_images(cifar_c: Path) -> None:
    found = corruptions(FirstPixel(), clean(), "cifar10", cifar_c, samples=4, batch_size=3, seed=0)
    table = {each.corruption: each for each in found.corruptions}
    assert (found.clean_accuracy, found.samples, found.drawn) == (
        1.0,
        4,
        "drawn from 10 with seed 0, each class in its share",
    )
    assert table["snow"].accuracy == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert found.warnings == ["The 4 examples hold 4 of 10 classes: the figure says nothing of the others."]


def test_the_interval_of_a_mean_counts_every_image_once() -> None:
    """Seventy-five versions of one image that all agree are one observation."""
    same = torch.tensor([True, True, False, True]).expand(75, 4)
    mean, found = mean_of_images(same)
    reach = 1.959964 * math.sqrt(0.75 * 0.25 * 4 / 3) / 2
    assert mean == 0.75 and found == pytest.approx((0.75 - reach, 1.0))


def test_images_that_are_all_alike_are_no_proof_of_certainty() -> None:
    mean, found = mean_of_images(torch.ones(75, 6, dtype=torch.bool))
    assert (mean, found) == (1.0, interval(6, 6)) and found[0] < 0.7


@pytest.mark.parametrize(
    ("spoil", "reported"),
    [
        (lambda folder: (folder / "snow.npy").unlink(), "snow.npy cannot be read"),
        (lambda folder: np.save(folder / "fog.npy", np.zeros((50, 32, 32, 3))), "fog.npy is float64 of shape"),
        (lambda folder: np.save(folder / "labels.npy", np.zeros(40, np.int64)), "has 40 entries; 50 are needed"),
        (
            lambda folder: np.save(folder / "labels.npy", np.tile(np.arange(10)[::-1], 5)),
            r"labels\.npy has other labels than the test set, of \d of 4 examples at severity 1: it is of other data",
        ),
    ],
)
def test_files_that_are_missing_or_wrong_are_told(cifar_c: Path, spoil: object, reported: str) -> None:
    assert callable(spoil)
    spoil(cifar_c / "CIFAR-10-C")
    with pytest.raises(SparringError, match=reported):
        corruptions(FirstPixel(), clean(), "cifar10", cifar_c, samples=None, batch_size=4, seed=0)


def test_files_are_refused_for_data_that_have_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.name = 'digits': files exist for cifar10 and cifar100"):
        corruptions(FirstPixel(), clean(), "digits", tmp_path, samples=None, batch_size=4, seed=0)


def test_a_package_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(SparringError, match=r"pip install 'sparring\[corruptions\]'"):
        corruptions(FirstPixel(), clean(), "digits", None, samples=None, batch_size=4, seed=0)


def test_an_image_made_here_depends_on_its_index_and_the_seed_alone() -> None:
    """Whatever batch it is in and whatever numbers were drawn before."""
    pytest.importorskip("imagecorruptions")
    for name in ("impulse_noise", "glass_blur", "snow", "frost", "elastic_transform"):
        together, labels = Generated(0)(name, 3, torch.arange(3), *digits_at([0, 1, 2]))
        np.random.seed(len(name))
        alone, _ = Generated(0)(name, 3, torch.tensor([2]), *digits_at([2]))
        assert together.shape == (3, 1, 8, 8) and together.dtype == torch.uint8
        assert torch.equal(together[2:], alone), name
        assert torch.equal(labels, digits_at([0, 1, 2])[1])
    other, same = (
        Generated(1)("gaussian_noise", 3, torch.arange(3), *digits_at([0, 1, 2]))[0],
        Generated(0)("gaussian_noise", 3, torch.arange(3), *digits_at([0, 1, 2]))[0],
    )
    assert not torch.equal(other, same)
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    Generated(0)("snow", 1, torch.tensor([0]), *digits_at([0]))
    assert np.random.random() == expected, "numpy's global state is left as it was"


def test_what_is_known_is_not_looked_at_again_unless_the_files_have_changed(cifar_c: Path, tmp_path: Path) -> None:
    class Counting(FirstPixel):
        made = 0

        def forward(self, x: Tensor) -> Tensor:
            Counting.made += 1
            return super().forward(x)

    results, model = Results(tmp_path / "known", "corruptions", {}), Counting()
    with results.owned():
        results.begin()
    how: dict[str, Any] = {"samples": None, "batch_size": 5, "seed": 0, "results": results}
    first = corruptions(model, clean(), "cifar10", cifar_c, **how)
    made = 2 * 76 + 12  # the first batch again, to see whether its logits vary
    assert Counting.made == made
    assert corruptions(model, clean(), "cifar10", cifar_c, **how) == first and Counting.made == made
    fog = cifar_c / "CIFAR-10-C" / "fog.npy"
    np.save(fog, np.load(fog))
    assert corruptions(model, clean(), "cifar10", cifar_c, **how) == first and Counting.made > made
