"""Synthetic or pseudo-labelled images beside the real ones, as in Wang et al. 2023 (arXiv:2302.04638)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from sparring.config import DataSettings
from sparring.data.datasets import ArrayDataset, Dataset, require_bytes
from sparring.data.loading import framed
from sparring.data.sources import channels_first, read_npz, whole_numbers
from sparring.errors import SparringError, UsageError


def load_extra(settings: DataSettings, real: Dataset) -> Dataset:
    """The images of `data.extra`, at the size of `real` where data.size is set.

    Raises:
        UsageError: it is no npz:PATH, or the real images are floats.
        SparringError: the files cannot be read, or hold other shapes or classes than `real`.
    """
    name = settings.extra or ""
    kind, _, rest = name.partition(":")
    path, told = Path(rest).expanduser(), f"data.extra = {name!r}"
    if kind != "npz" or not rest:
        raise UsageError(f"{told}: it is given as npz:FILE, or npz:FOLDER with images.npy and labels.npy in it.")
    require_bytes(real, told)
    images, labels = _mapped(path, told) if path.is_dir() else read_npz(path, told)
    stored = ArrayDataset(images, labels, real.classes, name, setting="data.extra", copy=not path.is_dir())
    extra = framed(stored, settings)
    if extra.shape != real.shape:
        raise SparringError(
            f"{told} has images of {extra.shape}, data.name = {settings.name!r} of {real.shape} (channels, height, "
            f"width). Store them alike; other sizes are brought to one by data.size."
        )
    return extra


def _mapped(folder: Path, told: str) -> tuple[Tensor, Tensor]:
    """Arrays that stay on disk; what is read of them is in the page cache, once for all processes of a host."""
    try:
        # Copy on write: torch warns of arrays that cannot be written to, and nobody writes.
        images = np.load(folder / "images.npy", mmap_mode="c", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        return channels_first(images, False), whole_numbers(labels, told)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise SparringError(
            f"{told}: {folder} does not hold images.npy and labels.npy of plain arrays ({error})."
        ) from error
