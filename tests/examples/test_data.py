"""The example of data of one's own trains, on the images that it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparring.config import DataSettings
from sparring.data import load
from tests.support.examples import ROOT, run_command_of

EXAMPLE = ROOT / "examples" / "data.py"


def test_it_trains_by_the_command_that_it_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = run_command_of(EXAMPLE, tmp_path)
    assert result.summary["steps"] == 2 and result.summary["examples"] == 32


def test_its_images_are_the_digits() -> None:
    settings = DataSettings(name=f"{EXAMPLE}:Digits", options={"test_share": 0.3})
    train, test = load(settings, "train"), load(settings, "test")
    assert (len(train), len(test)) == (1258, 539) and train.shape == (1, 8, 8) and train.classes == 10
    images = train.images(torch.arange(100))
    assert images.dtype == torch.float32 and torch.equal(images * 16, (images * 16).round())
