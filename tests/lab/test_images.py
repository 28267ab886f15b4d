"""Arrays written as a folder of images are read back as the same images and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sparring.config import DataSettings
from sparring.data.loading import load
from sparring.data.sources import Split
from sparring.errors import SparringError
from sparring.lab.images import written_once


@pytest.fixture
def arrays(tmp_path: Path) -> DataSettings:
    random = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 9)):
        images = random.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
        np.savez(tmp_path / f"noise-{split}.npz", images=images, labels=np.arange(count) % 3)
    return DataSettings(name=f"npz:{tmp_path / 'noise'}", limit=12)


def test_what_is_written_is_what_is_read(tmp_path: Path, arrays: DataSettings) -> None:
    folder = tmp_path / "made" / "images"
    written_once(folder, arrays)
    counts: dict[Split, int] = {"train": 12, "test": 9}
    for split, count in counts.items():
        before, after = load(arrays, split), load(DataSettings(name=f"folder:{folder}"), split)
        order = torch.argsort(before.labels, stable=True)  # a folder is sorted by class
        assert len(after) == count and torch.equal(after.labels, before.labels[order])
        assert torch.equal(after.images(torch.arange(count)), before.images(order))
    assert [each.name for each in folder.parent.iterdir()] == ["images"]  # nothing half-written is left


def test_what_is_there_is_left_alone(tmp_path: Path, arrays: DataSettings) -> None:
    (tmp_path / "made").mkdir()
    written_once(tmp_path / "made", arrays)
    assert not list((tmp_path / "made").iterdir())


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, arrays: DataSettings) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SparringError, match="file"):
        written_once(tmp_path / "file" / "images", arrays)
