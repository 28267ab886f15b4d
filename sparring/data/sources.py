"""Where datasets come from, by name: scikit-learn, torchvision, IDX files, folders and NPZ files."""

from __future__ import annotations

import difflib
import gzip
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sparring.config import DataSettings
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
NAMES = ("digits", *TORCHVISION)
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
DIGITS_TEST = 360


def load(settings: DataSettings, split: Split) -> Dataset:
    """The dataset of the settings.

    Raises:
        UsageError: no such dataset, or data.root is needed.
        SparringError: the files are missing or wrong.
    """
    name = settings.name
    kind, colon, path = name.partition(":")
    if colon and kind == "folder":
        return _folder(Path(path).expanduser(), split)
    if colon and kind == "npz":
        return _npz(Path(path).expanduser(), split, name)
    if name == "digits":
        return _digits(split)
    if name in TORCHVISION:
        return _torchvision(settings, split)
    nearest = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.0)[0]
    raise UsageError(
        f"data.name = {name!r}: no such dataset; the nearest is {nearest}. Known are {', '.join(NAMES)}, folder:PATH "
        f"and npz:PATH."
    )


def _digits(split: Split) -> Dataset:
    """scikit-learn's handwritten digits: real scans, 8×8 in 17 shades; 1,437 for training and 360 for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = order[:-DIGITS_TEST] if split == "train" else order[-DIGITS_TEST:]
    return ArrayDataset(images[chosen], labels[chosen], 10, "digits")


def _torchvision(settings: DataSettings, split: Split) -> Dataset:
    name = settings.name
    debian = name == "fashion_mnist" and DEBIAN_FASHION_MNIST.is_dir()
    if settings.root is None:
        if debian:
            return _idx(DEBIAN_FASHION_MNIST, split, name)
        raise UsageError(
            f"data.root is unset and data.name = {name!r} needs it: give the folder that holds torchvision's files, or "
            f"that they shall be downloaded to (--data.root DIR)."
        )
    class_name, classes = TORCHVISION[name]
    from sparring.data.torchvision_import import torchvision

    kind = getattr(torchvision().datasets, class_name)
    which: dict[str, Any] = {"split": split} if name == "svhn" else {"train": split == "train"}
    root = settings.root.expanduser()
    try:
        made = _open(kind, root, which, settings.download)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        if debian:
            return _idx(DEBIAN_FASHION_MNIST, split, name)
        tried = "and could not be downloaded" if settings.download else "and data.download is off"
        raise SparringError(
            f"data.root = {str(root)!r} does not hold {name} {tried} ({str(error).splitlines()[0]}). Put torchvision's "
            f"files there, or set data.root to the folder above {class_name}."
        ) from error
    labels = torch.as_tensor(np.asarray(made.labels if name == "svhn" else made.targets)).long()
    return ArrayDataset(_channels_first(np.asarray(made.data), name == "svhn"), labels, classes, name)


def _open(kind: Any, root: Path, which: dict[str, Any], download: bool) -> Any:
    """What is there is never downloaded again; a download that fails must not hide what was missing."""
    try:
        return kind(str(root), download=False, **which)
    except RuntimeError:
        if not download:
            raise
        return kind(str(root), download=True, **which)


def _folder(path: Path, split: Split) -> Dataset:
    names = ("train",) if split == "train" else ("test", "val")
    for name in names:
        if (path / name).is_dir():
            return FolderDataset(path / name)
    raise SparringError(f"data.name = 'folder:{path}': there is no {path / names[0]}. Put {' or '.join(names)} there.")


def _npz(path: Path, split: Split, name: str) -> Dataset:
    arrays = _read_npz(_npz_file(path, split, name), name)
    train_labels = arrays[1] if split == "train" else _read_npz(_npz_file(path, "train", name), name)[1]
    classes = int(train_labels.max()) + 1 if len(train_labels) else 0
    return ArrayDataset(arrays[0], arrays[1], classes, name)


def _npz_file(path: Path, split: Split, name: str) -> Path:
    candidates = [Path(str(path).replace("{split}", split))] if "{split}" in str(path) else []
    candidates += [path / f"{split}.npz", path.with_name(f"{path.name}-{split}.npz")]
    found = next((each for each in candidates if each.is_file()), None)
    if found is None:
        tried = ", ".join(str(each) for each in candidates)
        raise SparringError(f"data.name = {name!r}: no file for the {split} split; looked for {tried}.")
    return found


def _read_npz(path: Path, name: str) -> tuple[Tensor, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except KeyError as error:
        raise SparringError(f"data.name = {name!r}: {path} lacks the array {error}; images and labels are needed.") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SparringError(f"data.name = {name!r}: {path} is no NPZ file of plain arrays ({error}).") from error
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise SparringError(
            f"data.name = {name!r}: labels are {labels.dtype} of shape {labels.shape}; whole numbers, one per image."
        )
    return _channels_first(images, False), torch.from_numpy(labels.astype(np.int64))


def _idx(folder: Path, split: Split, name: str) -> Dataset:
    stem = "train" if split == "train" else "t10k"
    images, labels = (
        _read_idx(folder / f"{stem}-{kind}-ubyte.gz", name) for kind in ("images-idx3", "labels-idx1")
    )
    return ArrayDataset(_channels_first(images, False), torch.from_numpy(labels.astype(np.int64)), 10, name)


def _read_idx(path: Path, name: str) -> np.ndarray[Any, Any]:
    """An IDX file: 0, 0, type 8 (uint8), rank, big-endian sizes, bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except OSError as error:
        raise SparringError(f"data.name = {name!r}: {path} cannot be read ({error}).") from error
    rank = content[3]
    sizes = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(sizes)


def _channels_first(images: np.ndarray[Any, Any], already: bool) -> Tensor:
    """[N, H, W] or [N, H, W, C] as [N, C, H, W]; other ranks are left for the check to refuse."""
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if tensor.ndim == 3:
        return tensor[:, None]
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 and not already else tensor
