"""Synthetic or pseudo-labelled training images in addition to the real ones, as in Wang et al. 2023
(arXiv:2302.04638)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sparring.config import DataSettings
from sparring.data.datasets import ArrayDataset, Dataset, require_bytes
from sparring.data.loading import framed
from sparring.data.sources import Stored, channels_first, integer_labels, read_npz
from sparring.errors import UsageError


def load_extra(settings: DataSettings, real: Dataset) -> Dataset:
    """Load the images of `data.extra`; they are resized to data.size where that is set.

    Raises:
        UsageError: data.extra is not npz:PATH, the real images are floats, or the files cannot be read, or have other
            shapes or classes than `real`.
    """
    name = settings.extra or ""
    kind, _, rest = name.partition(":")
    path, setting = Path(rest).expanduser(), f"data.extra = {name!r}"
    if kind != "npz" or not rest:
        raise UsageError(f"{setting}: give it as npz:FILE, or npz:FOLDER with images.npy and labels.npy in it.")
    require_bytes(real, setting)
    stored = _memory_mapped(path, setting) if path.is_dir() else read_npz(path, setting)
    made = ArrayDataset(
        *stored[:2], real.classes, name, setting="data.extra", copy=not path.is_dir(), notes=stored.notes
    )
    extra = framed(made, settings)
    if extra.shape != real.shape:
        raise UsageError(
            f"{setting} has images of {extra.shape}, data.name = {settings.name!r} of {real.shape} (channels, height, "
            f"width). Store both with the same channels and size, or set data.size to resize both."
        )
    return extra


def _memory_mapped(folder: Path, setting: str) -> Stored:
    """Arrays that stay on disk; all processes of a host share the page cache."""
    try:
        # Copy on write: torch warns about read-only arrays, and nothing is written.
        images = np.load(folder / "images.npy", mmap_mode="c", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        ordered, notes = channels_first(images)
        return Stored(ordered, integer_labels(labels, setting), notes)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise UsageError(
            f"{setting}: {folder} does not have readable arrays images.npy and labels.npy ({error})."
        ) from error
