"""Load the dataset that the settings name: a built-in one or the user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from sparring import plugins
from sparring.config import DataSettings
from sparring.data.datasets import Dataset, Framed, require_bytes
from sparring.data.sampling import Sample
from sparring.data.sources import Split
from sparring.data.wrapping import declared_classes, wrap
from sparring.errors import UsageError

SOURCES = {
    "digits": "sparring.data.sources:digits",
    "mnist": "sparring.data.sources:mnist",
    "fashion_mnist": "sparring.data.sources:fashion_mnist",
    "cifar10": "sparring.data.sources:cifar10",
    "cifar100": "sparring.data.sources:cifar100",
    "svhn": "sparring.data.sources:svhn",
    "folder:PATH": "sparring.data.sources:folder",
    "npz:PATH": "sparring.data.sources:npz",
}


def load(settings: DataSettings, split: Split) -> Dataset:
    """Load a split of the dataset; of the training set `data.limit` examples.

    Raises:
        UsageError: no such dataset, data.root or data.size is needed, or the user's own data cannot be wrapped.
        SparringError: the files are missing or wrong.
    """
    return prepared(_named(settings, split), settings, split)


def prepared(dataset: Dataset, settings: DataSettings, split: Split) -> Dataset:
    """The dataset with images of `data.size`; of training data `data.limit` examples, drawn by class."""
    _require_size(settings)
    dataset = framed(dataset, settings)
    if split == "test" or settings.limit is None or settings.limit >= len(dataset):
        return dataset
    return Sample(dataset, settings.limit)


def _require_size(settings: DataSettings) -> None:
    crops = settings.augment == "resized_crop_flip"
    for setting, is_set in ((f"data.augment = {settings.augment!r}", crops), ("data.phases", bool(settings.phases))):
        if is_set and settings.size is None:
            raise UsageError(f"{setting} needs data.size. Set it to the test images' size.")


def framed(dataset: Dataset, settings: DataSettings) -> Dataset:
    """The dataset with images of `data.size`, if that is set."""
    if settings.size is None:
        return dataset
    require_bytes(dataset, f"data.size = {settings.size}")
    return Framed(dataset, settings.size, settings.centre_share)


def _named(settings: DataSettings, split: Split) -> Dataset:
    kind, _, path = settings.name.partition(":")
    by_path = f"{kind}:PATH"
    name = by_path if by_path in SOURCES and ":" in settings.name else settings.name
    factory = cast(Callable[..., object], plugins.resolve("data.name", name, SOURCES))
    if plugins.is_external(name, SOURCES):
        return _own(settings, factory, split)
    root = None if settings.root is None else settings.root.expanduser()
    given = {"split": split, "root": root, "download": settings.download, "path": Path(path).expanduser()}
    return cast(Dataset, plugins.call("data.name", factory, given, settings.options))


def _own(settings: DataSettings, factory: Callable[..., object], split: Split) -> Dataset:
    """The user's own data. The number of classes is that of the training data."""
    setting = f"data.name = {settings.name!r}"

    def make(which: Split) -> object:
        root = {} if settings.root is None else {"root": settings.root.expanduser()}
        given = {"split": which, **root}
        if "split" not in plugins.arguments("data.name", factory, given, settings.options):
            raise UsageError(
                f"{setting} has no parameter `split`. It is called with split='train' and with split='test'; let it "
                f"return the data of each."
            )
        return plugins.call("data.name", factory, given, settings.options)

    data = make(split)
    classes = declared_classes(data)
    if classes is None and split == "test":
        classes = wrap(make("train"), setting).classes
    return wrap(data, setting, classes)
