"""The datasets that are built in: scikit-learn's digits, torchvision's, IDX files, folders and NPZ files."""

from __future__ import annotations

import gzip
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sparring.data.datasets import ArrayDataset, Dataset, FolderDataset
from sparring.errors import SparringError, UsageError

Split = Literal["train", "test"]
TORCHVISION = {
    "mnist": ("MNIST", 10),
    "fashion_mnist": ("FashionMNIST", 10),
    "cifar10": ("CIFAR10", 10),
    "cifar100": ("CIFAR100", 100),
    "svhn": ("SVHN", 10),
}
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
DIGITS_TEST = 360
DAMAGED = (RuntimeError, OSError, ValueError, EOFError, AssertionError, LookupError, HTTPException)


def digits(split: Split) -> Dataset:
    """scikit-learn's handwritten digits: real scans, 8×8 in 17 shades; 1,437 for training and 360 for testing.

    The file alone is read: the import of scikit-learn would take each process of a run two seconds.
    """
    package = find_spec("sklearn")
    if package is None or package.submodule_search_locations is None:
        raise SparringError("data.name = 'digits': scikit-learn, which holds them, is missing: install it.")
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # 64 shades from 0 to 16, then the label
    images = torch.from_numpy(np.round(rows[:, :-1] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(rows[:, -1]).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = order[:-DIGITS_TEST] if split == "train" else order[-DIGITS_TEST:]
    return ArrayDataset(images[chosen], labels[chosen], 10, "digits")


def mnist(split: Split, root: Path | None, download: bool) -> Dataset:
    """60,000 and 10,000 handwritten digits, 28×28."""
    return _torchvision("mnist", split, root, download)


def fashion_mnist(split: Split, root: Path | None, download: bool) -> Dataset:
    """60,000 and 10,000 pieces of clothing, 28×28; Debian's package of them needs no root."""
    packaged = DEBIAN_FASHION_MNIST.is_dir()
    if root is None and packaged:
        return _idx(DEBIAN_FASHION_MNIST, split, "fashion_mnist")
    try:
        return _torchvision("fashion_mnist", split, root, download and not packaged)
    except SparringError:
        if not packaged:
            raise
        return _idx(DEBIAN_FASHION_MNIST, split, "fashion_mnist")


def cifar10(split: Split, root: Path | None, download: bool) -> Dataset:
    """50,000 and 10,000 photographs of ten classes, 3×32×32."""
    return _torchvision("cifar10", split, root, download)


def cifar100(split: Split, root: Path | None, download: bool) -> Dataset:
    """The same of a hundred classes."""
    return _torchvision("cifar100", split, root, download)


def svhn(split: Split, root: Path | None, download: bool) -> Dataset:
    """73,257 and 26,032 house numbers, 3×32×32."""
    return _torchvision("svhn", split, root, download)


def _torchvision(name: str, split: Split, root: Path | None, download: bool) -> Dataset:
    if root is None:
        raise UsageError(
            f"data.root is unset and data.name = {name!r} needs it: give the folder that holds torchvision's files, or "
            f"that they shall be downloaded to (--data.root DIR)."
        )
    class_name, classes = TORCHVISION[name]
    from sparring.machine.torchvision_import import torchvision

    kind = getattr(torchvision().datasets, class_name)
    which: dict[str, Any] = {"split": split} if name == "svhn" else {"train": split == "train"}
    try:
        made = _open(kind, root, which, download)
    except DAMAGED as error:
        tried = "and it could not be downloaded" if download else "and data.download is off"
        said = next(iter(str(error).splitlines()), type(error).__name__).strip(" :.")
        raise SparringError(
            f"data.root = {str(root)!r} does not hold {name} {tried} ({said}). Put torchvision's files there, or set "
            f"data.root to the folder that they were downloaded to."
        ) from error
    labels = torch.as_tensor(np.asarray(made.labels if name == "svhn" else made.targets)).long()
    return ArrayDataset(channels_first(np.asarray(made.data), name == "svhn"), labels, classes, name)


def _open(kind: Any, root: Path, which: dict[str, Any], download: bool) -> Any:
    """What is there is never downloaded again; a download that fails must not hide what was missing."""
    try:
        return kind(str(root), download=False, **which)
    except RuntimeError:
        if not download:
            raise
        with _no_empty_folders(root, kind.__name__), redirect_stdout(sys.stderr):
            return kind(str(root), download=True, **which)


@contextmanager
def _no_empty_folders(root: Path, class_name: str) -> Iterator[None]:
    """A download that fails takes away the empty folders that it made."""
    folders = (root / class_name / "raw", root / class_name, root, *root.parents)
    missing = [folder for folder in folders if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # it was never made, or something has come into it
                folder.rmdir()
        raise


def folder(split: Split, path: Path) -> Dataset:
    """A folder of class folders for each split (torchvision's ImageFolder); `val` stands in for a missing `test`."""
    names = ("train",) if split == "train" else ("test", "val")
    for name in names:
        if (path / name).is_dir():
            return _with_classes_of_training(FolderDataset(path / name), path / "train")
    raise SparringError(f"data.name = 'folder:{path}': there is no {path / names[0]}. Put {' or '.join(names)} there.")


def _with_classes_of_training(dataset: FolderDataset, train: Path) -> FolderDataset:
    """Labels number the class folders: other folders beside those of training would give them another meaning."""
    training = {each.name for each in train.glob("*") if each.is_dir()}
    odd = sorted(training ^ set(dataset.class_names))
    if odd:
        raise SparringError(
            f"data.name = 'folder:{train.parent}': {dataset.path.name} and train hold different class folders "
            f"({', '.join(odd[:3])}). Give both a folder for each class."
        )
    return dataset


def npz(split: Split, path: Path) -> Dataset:
    """NPZ files with images and labels, one a split."""
    name = f"npz:{path}"
    told = f"data.name = {name!r}"
    arrays = read_npz(_npz_file(path, split, name), told)
    train_labels = arrays[1] if split == "train" else read_npz(_npz_file(path, "train", name), told)[1]
    classes = int(train_labels.max()) + 1 if len(train_labels) else 0
    return ArrayDataset(arrays[0], arrays[1], classes, name)


def _npz_file(path: Path, split: Split, name: str) -> Path:
    candidates = [Path(str(path).replace("{split}", split))] if "{split}" in str(path) else []
    candidates += [path / f"{split}.npz", path.parent / f"{path.name}-{split}.npz"]
    found = next((each for each in candidates if each.is_file()), None)
    if found is None:
        tried = ", ".join(str(each) for each in candidates)
        raise SparringError(f"data.name = {name!r}: no file for the {split} split; looked for {tried}.")
    return found


def read_npz(path: Path, told: str) -> tuple[Tensor, Tensor]:
    """Images, uint8 [N, C, H, W], and labels, int64 [N], of an NPZ file; `told` begins what errors say."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            # The published sets of generated images say image and label.
            named, labels = (arrays[one if one in arrays else f"{one}s"] for one in ("image", "label"))
            images = channels_first(named, False)
    except KeyError as error:
        raise SparringError(
            f"{told}: {path} lacks an array ({error.args[0]}); images and labels are needed."
        ) from error
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise SparringError(f"{told}: {path} is no NPZ file of plain arrays ({error}).") from error
    return images, whole_numbers(labels, told)


def whole_numbers(labels: np.ndarray[Any, Any], told: str) -> Tensor:
    """int64 [N]; refuses labels that are none."""
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise SparringError(f"{told}: labels are {labels.dtype} of shape {labels.shape}; whole numbers, one per image.")
    return torch.from_numpy(labels.astype(np.int64))


def _idx(folder: Path, split: Split, name: str) -> Dataset:
    stem = "train" if split == "train" else "t10k"
    images, labels = (_read_idx(folder / f"{stem}-{kind}-ubyte.gz", name) for kind in ("images-idx3", "labels-idx1"))
    return ArrayDataset(channels_first(images, False), torch.from_numpy(labels.astype(np.int64)), 10, name)


def _read_idx(path: Path, name: str) -> np.ndarray[Any, Any]:
    """An IDX file: 0, 0, type 8 (uint8), rank, big-endian sizes, bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
        rank = content[3]
        sizes = np.frombuffer(content, ">i4", rank, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(sizes).copy()
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise SparringError(f"data.name = {name!r}: {path} cannot be read ({error}).") from error


def channels_first(images: np.ndarray[Any, Any], already: bool) -> Tensor:
    """[N, H, W] or [N, H, W, C] as [N, C, H, W]; other ranks are left for the check to refuse."""
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if tensor.ndim == 3:
        return tensor[:, None]
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 and not already else tensor
