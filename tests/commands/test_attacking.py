"""Images of a run's test set or of the user's own are attacked, and what is no image of its shape is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparring.commands.attacking import attack_run, open_for_attack, read_image
from sparring.commands.train import train
from sparring.errors import UsageError
from sparring.runs import Run
from tests.support.runs import small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("runs")
    return train(small(root, engine="sync", train={"max_steps": 3})).run


def saved(path: Path, *shape: int) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8)).save(path)
    return path


def test_test_images_are_attacked_as_in_an_evaluation(run: Run, tmp_path: Path) -> None:
    found = attack_run(run, {}, count=6, sheet=tmp_path / "sheet.png")
    assert found["attack"] == "PGD-2, 1 restart, step 0.25, linf 0.2" and found["samples"] == 6
    assert found["robust"] + found["broken"] + found["wrong"] == 6 == len(found["images"])
    assert all(each["largest_change"] <= 0.2 + 1e-6 for each in found["images"])
    assert Image.open(tmp_path / "sheet.png").width > 300


def test_images_of_the_users_own(run: Run, tmp_path: Path) -> None:
    found = attack_run(run, {"evaluation.steps": "3"}, [saved(tmp_path / "own.png", 8, 8)])
    (image,) = found["images"]
    assert image["image"].endswith("own.png") and image["label"] is None and image["result"] in ("robust", "broken")
    assert "PGD-3" in found["attack"] and 0 <= image["before"]["confidence"] <= 1


@pytest.mark.parametrize(("shape", "said"), [((9, 8), "1 x 9 x 8"), ((8, 8, 3), "3 x 8 x 8")])
def test_an_image_of_another_shape_is_refused_with_both_shapes(
    run: Run, tmp_path: Path, shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(UsageError, match=rf"the image is {said} \(channels x height x width\).*takes 1 x 8 x 8"):
        read_image(saved(tmp_path / "own.png", *shape), (1, 8, 8), run)


def test_a_grey_image_is_taken_by_a_network_for_colours(run: Run, tmp_path: Path) -> None:
    assert read_image(saved(tmp_path / "own.png", 8, 8), (3, 8, 8), run).shape == (3, 8, 8)


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_a_file_that_is_no_picture_is_refused(run: Run, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "own.png").write_bytes(content)
    with pytest.raises(UsageError, match=r"--image .*own\.png: .*Give a picture file"):
        read_image(tmp_path / "own.png", (1, 8, 8), run)


@pytest.mark.parametrize("name", ["sheet.jpg", "nowhere/sheet.png", "there.png"])
def test_a_grid_that_cannot_be_written_is_refused_first(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "there.png").touch()
    with pytest.raises(UsageError, match="--grid"):
        attack_run(run, {}, sheet=tmp_path / name)


def test_settings_that_are_not_about_the_attack_are_refused(run: Run) -> None:
    with pytest.raises(UsageError, match=r"train\.seed cannot change"):
        open_for_attack(run, {"train.seed": "3"})
