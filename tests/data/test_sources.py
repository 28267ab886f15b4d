"""Every source gives uint8 images and labels in range, or one sentence that says what to mend."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.config import DataSettings
from sparring.data import Dataset, load
from sparring.data.datasets import notes_of
from sparring.data.sources import DEBIAN_FASHION_MNIST, Split
from sparring.errors import SparringError, UsageError
from tests.support.data import require_data

Arrays = dict[str, Any]


def given(name: str, split: Split = "train", **settings: object) -> Dataset:
    return load(DataSettings.model_validate({"name": name, **settings}), split)


def everything(dataset: Dataset) -> torch.Tensor:
    return dataset.images(torch.arange(len(dataset)))


def arrays(count: int = 6, **changes: Any) -> Arrays:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 8, 8), dtype=np.uint8)
    return {"images": images, "labels": np.arange(count) % 3, **changes}


def save_npz(folder: Path, **content: Any) -> str:
    """A folder with both splits; returns its data.name."""
    folder.mkdir(exist_ok=True)
    np.savez(folder / "train.npz", **content)
    np.savez(folder / "test.npz", **arrays(3))
    return f"npz:{folder}"


def save_png(path: Path, size: tuple[int, int] = (6, 5), shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 10, 20)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 2), ("test", 1)):
        for shade, name in ((50, "cat"), (200, "dog")):
            for number in range(count):
                save_png(tmp_path / split / name / f"{number}.png", shade=shade)
    return tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is downloaded goes through a proxy where nobody listens."""
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:1")
        monkeypatch.delenv(f"{scheme.upper()}_PROXY", raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_the_digits_are_1437_and_360_disjoint_scans_with_their_own_labels() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    known = {
        (image * 255 / 16).round().astype(np.uint8).tobytes(): int(label)
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    train, test = given("digits"), given("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    seen: list[bytes] = []
    for dataset in (train, test):
        assert dataset.shape == (1, 8, 8) and dataset.classes == 10
        assert set(dataset.labels.tolist()) == set(range(10))
        images = everything(dataset)
        assert images.dtype == torch.uint8 and int(images.max()) == 255
        keys = [image.numpy().tobytes() for image in images]
        assert [known[key] for key in keys] == dataset.labels.tolist()
        seen += keys
    assert len(set(seen)) == len(set(known)) == 1797


def test_mnist_is_the_real_one() -> None:
    root = require_data("mnist")
    train, test = given("mnist", root=root), given("mnist", "test", root=root)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.shape == (1, 28, 28) and train.classes == 10
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9] and test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert float(everything(train).float().mean()) / 255 == pytest.approx(0.1307, abs=1e-4)
    assert train.fingerprint != test.fingerprint == given("mnist", "test", root=root).fingerprint


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="the Debian package dataset-fashion-mnist is not there")
def test_fashion_mnist_comes_from_the_debian_package_without_a_root() -> None:
    train, test = given("fashion_mnist"), given("fashion_mnist", "test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.shape == (1, 28, 28)
    assert torch.bincount(train.labels).tolist() == [6000] * 10 and torch.bincount(test.labels).tolist() == [1000] * 10
    assert train.labels[:5].tolist() == [9, 0, 0, 3, 0]


def test_a_folder_of_class_folders_is_numbered_in_order_and_brought_to_one_size(folder: Path) -> None:
    save_png(folder / "train" / "dog" / "z.png", size=(12, 10), shade=200)
    dataset = given(f"folder:{folder}")
    assert dataset.shape == (3, 5, 6) and dataset.classes == 2
    assert dataset.labels.tolist() == [0, 0, 1, 1, 1]
    assert everything(dataset)[:, 0].float().mean((1, 2)).tolist() == [50, 50, 200, 200, 200]
    assert given(f"folder:{folder}", "test").labels.tolist() == [0, 1]


def test_val_stands_in_for_a_missing_test_folder(folder: Path) -> None:
    (folder / "test").rename(folder / "val")
    assert len(given(f"folder:{folder}", "test")) == 2


def test_a_test_folder_with_other_classes_is_refused(folder: Path) -> None:
    save_png(folder / "test" / "ant" / "0.png")
    with pytest.raises(SparringError, match=r"different class folders \(ant\)"):
        given(f"folder:{folder}", "test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_folder_is_told(tmp_path: Path, split: Split) -> None:
    with pytest.raises(SparringError, match=f"there is no .*{split}"):
        given(f"folder:{tmp_path}", split)


def test_a_folder_without_classes_is_told(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(SparringError, match="Make one folder per class"):
        given(f"folder:{tmp_path}")


def test_a_damaged_image_is_named(folder: Path) -> None:
    damaged = folder / "train" / "dog" / "1.png"
    damaged.write_bytes(b"no image")
    dataset = given(f"folder:{folder}")
    with pytest.raises(SparringError, match=f"{damaged} is not a readable image"):
        everything(dataset)


def test_images_of_other_bit_depths_are_noted_and_keep_their_content(folder: Path) -> None:
    Image.fromarray(np.full((5, 6), 257 * 99, np.uint16)).save(folder / "train" / "dog" / "0.png")
    dataset = given(f"folder:{folder}", limit=4)
    assert set(everything(dataset)[2].flatten().tolist()) == {99}
    assert notes_of(dataset) == ("16 bits, scaled to 8 bits",)
    assert notes_of(given(f"folder:{folder}", "test")) == ()


def test_an_image_of_a_bit_depth_that_is_not_known_is_named(folder: Path) -> None:
    Image.fromarray(np.full((5, 6), 7.5, np.float32)).save(folder / "train" / "dog" / "2.tif")
    with pytest.raises(
        UsageError, match=r"dog/2\.tif is not a readable image \(its pixels are floats from 7\.5 to 7\.5"
    ):
        given(f"folder:{folder}")


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("{root}/toy", "toy/train.npz", "toy/test.npz"),
        ("{root}/toy", "toy-train.npz", "toy-test.npz"),
        ("{root}/my-{{split}}-set.npz", "my-train-set.npz", "my-test-set.npz"),
    ],
)
def test_npz_files_are_found_in_each_layout(tmp_path: Path, name: str, train: str, test: str) -> None:
    content = {train: arrays(6), test: arrays(3)}
    for path, each in content.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / path, **each)
    for split, path in (("train", train), ("test", test)):
        dataset = given("npz:" + name.format(root=tmp_path), split)  # type: ignore[arg-type]
        assert torch.equal(everything(dataset)[:, 0], torch.from_numpy(content[path]["images"]))
        assert dataset.labels.tolist() == content[path]["labels"].tolist() and dataset.classes == 3


def test_npz_of_the_present_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_npz(tmp_path, **arrays())
    monkeypatch.chdir(tmp_path)
    assert len(given("npz:.")) == 6


@pytest.mark.parametrize(
    ("stored", "note"),
    [
        (lambda images: (images / 255).astype(np.float32), "float32 in [0, 1], scaled to 8 bits"),
        (lambda images: images / 255, "float64 in [0, 1], scaled to 8 bits"),
        (lambda images: images.astype(np.uint16) * 257, "uint16 in 0..65535, scaled to 8 bits"),
        (lambda images: (images.astype(np.uint16) * 257).astype(">u2"), ">u2 in 0..65535, scaled to 8 bits"),
        (lambda images: images.astype(np.int64), "int64 in 0..255, taken as 8 bits"),
        (lambda images: images.astype(np.uint16), "uint16 in 0..255, taken as 8 bits"),
    ],
)
def test_npz_images_of_other_types_are_scaled_with_a_note(tmp_path: Path, stored: Any, note: str) -> None:
    images = arrays()["images"]
    images[0, 0, :2] = 0, 255
    dataset = given(save_npz(tmp_path, **arrays(images=stored(images))))
    assert torch.equal(everything(dataset)[:, 0], torch.from_numpy(images)) and notes_of(dataset) == (note,)


@pytest.mark.parametrize("channels", [1, 3])
def test_npz_images_with_channels_first_are_taken_with_a_note(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, channels, 4, 5), dtype=np.uint8)
    dataset = given(save_npz(tmp_path, **arrays(images=images)))
    assert torch.equal(everything(dataset), torch.from_numpy(images)) and notes_of(dataset) == ("channels first",)


def test_npz_images_with_channels_last_are_reordered(tmp_path: Path) -> None:
    images = np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3)
    dataset = given(save_npz(tmp_path, **arrays(images=images)))
    assert dataset.shape == (3, 4, 5)
    assert torch.equal(everything(dataset), torch.from_numpy(images).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        ({"images": arrays()["images"]}, r"lacks an array .*labels.*images and labels are needed"),
        (arrays(images=np.full((6, 8, 8), 255.0)), r"range from 255 to 255; floats must be in \[0, 1\]\. .*like bytes"),
        (arrays(images=np.full((6, 8, 8), -1.0)), "range from -1 to -1; .* look normalised"),
        (arrays(images=np.full((6, 8, 8), np.nan)), "images contain NaN"),
        (arrays(images=np.full((6, 8, 8), 256, np.int32)), "images are int32 from 256 to 256; uint8 in"),
        (arrays(images=np.full((6, 8, 8), -1, np.int8)), "images are int8 from -1 to -1; uint8 in"),
        (arrays(images=np.zeros((6, 8, 8), "U1")), "images are <U1; uint8 in"),
        (arrays(images=np.zeros((6, 8, 8, 4), np.uint8)), "1 or 3 channels are needed"),
        (arrays(images=np.zeros((6, 64), np.uint8)), r"shape \(6, 64\).*N x H x W"),
        (arrays(images=np.zeros((6, 8, 8, 2), np.uint8)), "1 or 3 channels are needed"),
        (arrays(labels=np.arange(5)), "6 images and 5 labels"),
        (arrays(labels=np.zeros((6, 1), np.int64)), "one integer per image"),
        (arrays(labels=np.zeros(6)), "labels are float64"),
        (arrays(labels=np.arange(6) - 1), "labels from -1 to 4 lie outside the 5 classes"),
        (arrays(images=np.zeros((0, 8, 8), np.uint8), labels=np.zeros(0, int)), "has no examples"),
        (arrays(labels=np.array([{}] * 6, dtype=object)), "is not an NPZ file of plain arrays"),
        (arrays(images=np.array([{}] * 6, dtype=object)), "is not an NPZ file of plain arrays"),
    ],
)
def test_npz_files_that_cannot_be_used_are_refused_with_the_reason(
    tmp_path: Path, content: Arrays, reported: str
) -> None:
    with pytest.raises(SparringError, match=reported):
        given(save_npz(tmp_path, **content))


def test_npz_test_labels_outside_the_classes_of_training_are_refused(tmp_path: Path) -> None:
    name = save_npz(tmp_path, **arrays())
    np.savez(tmp_path / "test.npz", **arrays(labels=np.arange(6)))
    with pytest.raises(SparringError, match=r"labels from 0 to 5 lie outside the 3 classes 0\.\.2"):
        given(name, "test")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x93NUMPY"])
def test_what_is_no_npz_file_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.npz").write_bytes(content)
    with pytest.raises(SparringError, match="is not an NPZ file of plain arrays"):
        given(f"npz:{tmp_path}")


def test_an_array_file_under_the_name_of_an_npz_file_is_told(tmp_path: Path) -> None:
    with (tmp_path / "train.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(SparringError, match="is not an NPZ file of plain arrays"):
        given(f"npz:{tmp_path}")


def test_missing_npz_files_are_told_with_the_places_looked_at(tmp_path: Path) -> None:
    with pytest.raises(
        SparringError, match=r"no file for the test split. Store it as one of .*toy/test\.npz, .*toy-test\.npz"
    ):
        given(f"npz:{tmp_path}/toy", "test")


@pytest.mark.parametrize(
    ("name", "nearest"), [("mnits", "mnist"), ("cifar-10", "cifar10"), ("digit", "digits"), ("SVHN", "svhn")]
)
def test_an_unknown_dataset_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"data.name = '{name}': no such name; the nearest is {nearest}\\."):
        given(name)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_an_unset_root_is_told(name: str) -> None:
    with pytest.raises(UsageError, match=f"data.root is unset and data.name = '{name}' needs it"):
        given(name)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "svhn"])
def test_missing_data_are_told_in_one_sentence_and_leave_no_empty_folders(
    tmp_path: Path, name: str, download: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new" / "data"
    with pytest.raises(SparringError) as raised:
        given(name, root=root, download=download)
    reported = str(raised.value)
    assert reported.startswith(f"data.root = '{root}' does not have {name} and ") and "\n" not in reported
    assert ("could not be downloaded" if download else "data.download is off") in reported
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("no_network")
def test_a_failed_download_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SparringError, match="could not be downloaded"):
        given("mnist", root=tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["MNIST", "notes.txt"]


@pytest.mark.parametrize("size", [0, 3, 10, 5000])
def test_files_that_are_cut_short_are_told(tmp_path: Path, size: int) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    header = bytes([0, 0, 8, 3]) + b"".join(number.to_bytes(4, "big") for number in (60_000, 28, 28))
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{stem}-ubyte").write_bytes((header + bytes(6000))[:size])
    with pytest.raises(SparringError, match=r"does not have mnist and data\.download is off"):
        given("mnist", root=tmp_path, download=False)


def test_a_folders_fingerprint_changes_with_its_files(folder: Path) -> None:
    before = given(f"folder:{folder}").fingerprint
    assert given(f"folder:{folder}").fingerprint == before
    save_png(folder / "train" / "cat" / "new.png")
    assert given(f"folder:{folder}").fingerprint != before
