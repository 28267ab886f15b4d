"""Saved images are grey levels inside the ball, and are evaluated as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sparring.attacks.norms import perturbed, project
from sparring.config import DataSettings
from sparring.data import load
from sparring.errors import SparringError, UsageError
from sparring.evaluation.saving import Saved, in_eight_bits, require_new_file
from tests.support.batches import seeded
from tests.support.disk import files_of_at_most
from tests.support.models import Brightness, greys

CASES = [("linf", 8 / 255), ("linf", 0.3), ("linf", 0.5 / 255), ("l2", 0.5), ("l2", 0.01), ("l2", 3.0), ("l1", 4.0)]


@pytest.mark.parametrize(("norm", "radius"), CASES)
def test_no_image_leaves_the_ball_by_rounding(norm: str, radius: float) -> None:
    grey = torch.randint(0, 256, (64, 3, 8, 8), generator=seeded(), dtype=torch.uint8)
    x, noise = grey.float() / 255, torch.randn(64, 3, 8, 8, generator=seeded(1))
    if norm == "l1":
        delta = perturbed(x, radius * noise / noise.abs().sum((1, 2, 3), keepdim=True)) - x
    else:
        delta = project(noise, x, norm, radius)
    saved = in_eight_bits(x, perturbed(x, delta), norm, radius)
    steps = (saved.double() - grey.double()) / 255
    sizes = torch.linalg.vector_norm(steps.flatten(1), ord={"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)
    assert sizes.max() <= radius + 1e-6
    if norm == "linf":
        assert (steps.abs() * 255).max() == int(radius * 255 + 1e-6), "the largest grey level inside"


def test_a_grey_level_of_the_surface_is_kept() -> None:
    x = torch.full((1, 1, 2, 2), 100 / 255)
    attacked = x + torch.tensor([8, -8, 3.4, 3.6]).view(1, 1, 2, 2) / 255
    assert in_eight_bits(x, attacked, "linf", 8 / 255).flatten().tolist() == [108, 92, 103, 104]


def test_what_is_written_is_what_is_evaluated_and_can_be_read_as_data(tmp_path: Path) -> None:
    dataset, saved = greys(torch.tensor([0.02, -0.2, 0.1])), Saved("linf", 0.1)
    x = dataset.images(torch.arange(3)).float() / 255
    for rows in (slice(0, 2), slice(2, 3)):
        saved(x[rows], dataset.labels[rows], (x[rows] - 0.1 * (2 * dataset.labels[rows] - 1).view(-1, 1, 1, 1)))
    correct = saved.correct(Brightness(), batch_size=2)
    assert correct.tolist() == [False, True, True], "rounded towards the clean image, the last is right again"
    path = tmp_path / "test.npz"
    saved.write(path, correct)
    (tmp_path / "train.npz").write_bytes(path.read_bytes())
    read = load(DataSettings(name=f"npz:{tmp_path}"), "test")
    assert torch.equal(read.labels, dataset.labels) and np.load(path)["correct"].tolist() == correct.tolist()
    assert (read.images(torch.arange(3)).int() - dataset.images(torch.arange(3)).int()).abs().max() <= 25


def test_on_a_full_disk_no_part_of_a_file_is_left(tmp_path: Path) -> None:
    saved, path = Saved("linf", 0.1), tmp_path / "test.npz"
    noise = torch.rand(3, 1, 40, 40, generator=seeded())
    saved(noise, torch.arange(3), noise)
    with files_of_at_most(1000), pytest.raises(SparringError, match=f"{path}: File too large. Free space there"):
        saved.write(path, torch.ones(3, dtype=torch.bool))
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "reported"),
    [("a.pt", "ends in .npz"), ("none/a.npz", "there is no folder"), ("there.npz", "the file exists")],
)
def test_a_file_that_cannot_be_written_is_refused_beforehand(tmp_path: Path, name: str, reported: str) -> None:
    (tmp_path / "there.npz").touch()
    with pytest.raises(UsageError, match=f"--save .*{reported}"):
        require_new_file(tmp_path / name)
