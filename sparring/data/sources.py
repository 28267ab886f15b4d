"""The built-in datasets: scikit-learn's digits, those of torchvision, IDX files, folders and NPZ files."""

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
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparring.data.datasets import ArrayDataset, Dataset, FolderDataset
from sparring.data.depth import as_bytes
from sparring.data.reading import CHANNELS
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

    Only the data file is read: importing scikit-learn would cost each process of a run two seconds.
    """
    package = find_spec("sklearn")
    if package is None or package.submodule_search_locations is None:
        raise SparringError("data.name = 'digits': these data are part of scikit-learn, which is missing. Install it.")
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # 64 shades from 0 to 16, then the label
    images = torch.from_numpy(np.round(rows[:, :-1] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(rows[:, -1]).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = order[:-DIGITS_TEST] if split == "train" else order[-DIGITS_TEST:]
    return ArrayDataset(images[chosen], labels[chosen], 10, "digits")


def mnist(split: Split, root: Path | None, download: bool) -> Dataset:
    """Handwritten digits, 28×28; 60,000 for training and 10,000 for testing."""
    return _torchvision("mnist", split, root, download)


def fashion_mnist(split: Split, root: Path | None, download: bool) -> Dataset:
    """Pieces of clothing, 28×28; 60,000 for training and 10,000 for testing. Debian's package of them needs no root."""
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
    """Photographs of ten classes, 3×32×32; 50,000 for training and 10,000 for testing."""
    return _torchvision("cifar10", split, root, download)


def cifar100(split: Split, root: Path | None, download: bool) -> Dataset:
    """Photographs of a hundred classes, 3×32×32; 50,000 for training and 10,000 for testing."""
    return _torchvision("cifar100", split, root, download)


def svhn(split: Split, root: Path | None, download: bool) -> Dataset:
    """House numbers, 3×32×32; 73,257 for training and 26,032 for testing."""
    return _torchvision("svhn", split, root, download)


def _torchvision(name: str, split: Split, root: Path | None, download: bool) -> Dataset:
    if root is None:
        raise UsageError(
            f"data.root is unset and data.name = {name!r} needs it. Set it to the folder that has torchvision's files, "
            f"or into which they are downloaded (--data.root DIR)."
        )
    class_name, classes = TORCHVISION[name]
    from sparring.machine.torchvision_import import torchvision

    kind = getattr(torchvision().datasets, class_name)
    which: dict[str, Any] = {"split": split} if name == "svhn" else {"train": split == "train"}
    try:
        dataset = _open(kind, root, which, download)
    except DAMAGED as error:
        tried = "and it could not be downloaded" if download else "and data.download is off"
        reason = next(iter(str(error).splitlines()), type(error).__name__).strip(" :.")
        raise SparringError(
            f"data.root = {str(root)!r} does not have {name} {tried} ({reason}). Put torchvision's files there, or set "
            f"data.root to the folder into which they were downloaded."
        ) from error
    labels = torch.as_tensor(np.asarray(dataset.labels if name == "svhn" else dataset.targets)).long()
    images = np.asarray(dataset.data)
    return ArrayDataset(
        torch.from_numpy(images) if name == "svhn" else channels_first(images)[0], labels, classes, name
    )


def _open(kind: Any, root: Path, which: dict[str, Any], download: bool) -> Any:
    """Open the files; download them only if they are missing."""
    try:
        return kind(str(root), download=False, **which)
    except RuntimeError:
        if not download:
            raise
        with _no_empty_folders(root, kind.__name__), redirect_stdout(sys.stderr):
            return kind(str(root), download=True, **which)


@contextmanager
def _no_empty_folders(root: Path, class_name: str) -> Iterator[None]:
    """Remove the empty folders that a failed download leaves."""
    folders = (root / class_name / "raw", root / class_name, root, *root.parents)
    missing = [folder for folder in folders if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # it was not created, or is not empty
                folder.rmdir()
        raise


def folder(split: Split, path: Path) -> Dataset:
    """One folder of class folders per split (torchvision's ImageFolder). `val` is used if there is no `test`."""
    names = ("train",) if split == "train" else ("test", "val")
    for name in names:
        if (path / name).is_dir():
            return _require_training_classes(FolderDataset(path / name), path / "train")
    raise UsageError(
        f"data.name = 'folder:{path}': there is no {path / names[0]}. Put a folder {' or '.join(names)} there."
    )


def _require_training_classes(dataset: FolderDataset, train: Path) -> FolderDataset:
    """Labels are the numbers of the class folders: they agree only if all splits have the same class folders."""
    training = {each.name for each in train.glob("*") if each.is_dir()}
    different = sorted(training ^ set(dataset.class_names))
    if different:
        raise UsageError(
            f"data.name = 'folder:{train.parent}': {dataset.path.name} and train have different class folders "
            f"({', '.join(different[:3])}). Give both one folder for each class."
        )
    return dataset


def npz(split: Split, path: Path) -> Dataset:
    """NPZ files with images and labels, one per split."""
    name = f"npz:{path}"
    setting = f"data.name = {name!r}"
    stored = read_npz(_npz_file(path, split, name), setting)
    training = stored if split == "train" else read_npz(_npz_file(path, "train", name), setting)
    classes = int(training.labels.max()) + 1 if len(training.labels) else 0
    return ArrayDataset(stored.images, stored.labels, classes, name, notes=stored.notes)


def _npz_file(path: Path, split: Split, name: str) -> Path:
    candidates = [Path(str(path).replace("{split}", split))] if "{split}" in str(path) else []
    candidates += [path / f"{split}.npz", path.parent / f"{path.name}-{split}.npz"]
    found = next((each for each in candidates if each.is_file()), None)
    if found is None:
        tried = ", ".join(str(each) for each in candidates)
        raise UsageError(f"data.name = {name!r}: no file for the {split} split. Store it as one of {tried}.")
    return found


class Stored(NamedTuple):
    """Images, uint8 [N, C, H, W], labels, int64 [N], and what was done to the images when they were read."""

    images: Tensor
    labels: Tensor
    notes: tuple[str, ...]


def read_npz(path: Path, setting: str) -> Stored:
    """The content of an NPZ file; `setting` begins error messages.

    Raises:
        UsageError: the file lacks an array, or holds what cannot be used as images and labels.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            # The published sets of generated images name their arrays `image` and `label`.
            array, labels = (arrays[one if one in arrays else f"{one}s"] for one in ("image", "label"))
    except KeyError as error:
        raise UsageError(
            f"{setting}: {path} lacks an array ({error.args[0]}); images and labels are needed."
        ) from error
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{setting}: {path} is not an NPZ file of plain arrays ({error}).") from error
    array, scaled = as_bytes(array, setting)
    images, reordered = channels_first(array)
    return Stored(images, integer_labels(labels, setting), (*scaled, *reordered))


def integer_labels(labels: np.ndarray[Any, Any], setting: str) -> Tensor:
    """Labels as int64 [N].

    Raises:
        UsageError: they are not integers, or not one-dimensional.
    """
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise UsageError(
            f"{setting}: labels are {labels.dtype} of shape {labels.shape}; one integer per image is needed."
        )
    return torch.from_numpy(labels.astype(np.int64))


def _idx(folder: Path, split: Split, name: str) -> Dataset:
    stem = "train" if split == "train" else "t10k"
    images, labels = (_read_idx(folder / f"{stem}-{kind}-ubyte.gz", name) for kind in ("images-idx3", "labels-idx1"))
    return ArrayDataset(channels_first(images)[0], torch.from_numpy(labels.astype(np.int64)), 10, name)


def _read_idx(path: Path, name: str) -> np.ndarray[Any, Any]:
    """An IDX file: 0, 0, type 8 (uint8), rank, big-endian sizes, bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
        rank = content[3]
        sizes = np.frombuffer(content, ">i4", rank, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(sizes).copy()
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise SparringError(f"data.name = {name!r}: {path} cannot be read ({error}).") from error


def channels_first(images: np.ndarray[Any, Any]) -> tuple[Tensor, tuple[str, ...]]:
    """[N, H, W] or [N, H, W, C] as [N, C, H, W]; if they have that order already, a note says so.

    Other ranks are unchanged: `check_arrays` refuses them.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if tensor.ndim == 3:
        return tensor[:, None], ()
    if tensor.ndim != 4:
        return tensor, ()
    if tensor.shape[1] in CHANNELS and tensor.shape[3] not in CHANNELS:
        return tensor, ("channels first",)
    return tensor.permute(0, 3, 1, 2), ()
