"""What a point does is what the command does, with the same figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparring.commands.evaluate import evaluate_run
from sparring.errors import SparringError, UsageError
from sparring.lab.study import Point
from sparring.lab.work import WORK, Place, measure
from tests.support.studies import DIGITS, digits_points


def test_training_an_attack_and_a_transfer(tmp_path: Path) -> None:
    place, (one, other, attack) = Place(None, tmp_path), digits_points("quick", [0])
    series = Point("train", {}, dict(one.settings), {"series": ["loss", "train_robust_accuracy"]})
    found, _ = measure(series, place), measure(other, place)
    assert found["steps"] == 6 and found["samples"] == 60 and found["training_processor_seconds"] > 0
    assert found["series"]["step"][-1] == 6 and len(found["series"]["loss"]) == len(found["series"]["step"])
    attacked = measure(Point("evaluate", {}, attack.settings, needs=(series,)), place)
    again = evaluate_run(place.run_of(series), {"attack.epsilon": "0.05"})
    assert attacked["robust_accuracy"] == again["robust_accuracy"] and attacked["epsilon"] == 0.05
    crossed = measure(Point("transfer", {}, {"evaluation.restarts": 1}, needs=(series, other)), place)
    assert len(crossed["accuracy"]) == 2 and crossed["members"] == [{}, dict(other.at)]
    once_more = measure(series, place)  # an earlier attempt is in the way
    assert once_more["robust_accuracy"] == found["robust_accuracy"]


def test_a_proof(tmp_path: Path) -> None:
    place = Place(None, tmp_path)
    network = Point("train", {}, {**DIGITS, "model.name": "tests.support.relu:for_digits"})
    measure(network, place)
    proof = Point("verify", {}, options={"epsilon": 0.001, "samples": 5, "timeout_s": 20.0}, needs=(network,))
    found = measure(proof, place)
    assert found["samples"] == 5 and found["verified_accuracy"] <= found["upper_accuracy"] <= found["clean_accuracy"]
    assert "examples" not in found


def test_common_corruptions(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, count in (("noise-train", 40), ("noise-test", 12)):
        images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(count) % 2)
    place = Place(tmp_path, tmp_path)
    network = Point(
        "train", {}, {**DIGITS, "data.name": "noise", "model.name": "mnist-16-32-100", "train.max_steps": 1}
    )
    measure(network, place)
    found = measure(Point("corrupt", {}, {"evaluation.samples": 2}, needs=(network,)), place)
    assert found["samples"] == 2 and len(found["by_corruption"]) == 15
    assert found["corrupted_accuracy"] == pytest.approx(np.mean(list(found["by_corruption"].values())))


def test_what_cannot_be_done_is_an_error(tmp_path: Path) -> None:
    place = Place(None, tmp_path)
    with pytest.raises(UsageError, match="no such setting"):
        measure(Point("train", {}, {**DIGITS, "attack.speed": 3}), place)
    with pytest.raises(SparringError):
        measure(Point("evaluate", {}, needs=(Point("train", {}),)), place)
    assert set(WORK) >= {"train", "evaluate", "transfer", "verify"}


def test_data_are_found_as_arrays_or_by_their_root(tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path)
    assert place.with_data({"data.name": "mnist"}) == {"data.name": "mnist", "data.root": str(tmp_path)}
    (tmp_path / "mnist-train.npz").touch()
    assert place.with_data({"data.name": "mnist"}) == {"data.name": f"npz:{tmp_path / 'mnist'}"}
    assert place.with_data({"a": 1}) == {"a": 1} and Place(None, tmp_path).with_data({"data.name": "x"}) == {
        "data.name": "x"
    }


def test_a_folder_of_images_is_made_of_arrays_where_there_is_none(tmp_path: Path) -> None:
    data, place = tmp_path / "data", Place(tmp_path / "data", tmp_path / "runs")
    data.mkdir()
    for split in ("train", "test"):
        np.savez(data / f"noise-{split}.npz", images=np.zeros((8, 4, 4, 3), np.uint8), labels=np.arange(8) % 2)
    made = place.with_data({"data.name": "folder:noise", "data.limit": 4})
    folder = tmp_path / "runs" / "images-noise-4"
    assert made == {"data.name": f"folder:{folder}", "data.limit": 4}
    assert len(list(folder.glob("train/*/*.png"))) == 4 and len(list(folder.glob("test/*/*.png"))) == 8
    (data / "photographs" / "train").mkdir(parents=True)
    assert place.with_data({"data.name": "folder:photographs"}) == {"data.name": f"folder:{data / 'photographs'}"}
