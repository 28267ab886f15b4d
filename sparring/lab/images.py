"""A data set of arrays, written as a folder of image files: for studies of what is read from such folders."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import get_args

import torch

from sparring.config import DataSettings
from sparring.data.datasets import Dataset
from sparring.data.framing import to_image
from sparring.data.loading import load
from sparring.data.sources import Split
from sparring.runs import writing


def written_once(folder: Path, settings: DataSettings) -> None:
    """Write both splits of the data as FOLDER/SPLIT/CLASS/NUMBER.png, unless they are there. The folder appears whole,
    also where several processes ask for it at once.

    Raises:
        SparringError: the data are missing, or the folder cannot be written.
    """
    if folder.is_dir():
        return
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for split in get_args(Split):
                _write(load(settings, split), partial / split)
            _appear(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write(dataset: Dataset, folder: Path) -> None:
    for label in range(dataset.classes):
        (folder / f"{label:03}").mkdir(parents=True)
    for number, label in enumerate(dataset.labels.tolist()):
        [image] = dataset.images(torch.tensor([number]))
        to_image(image).save(folder / f"{label:03}" / f"{number:05}.png")


def _appear(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process was first
            raise
