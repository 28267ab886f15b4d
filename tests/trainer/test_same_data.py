"""Whoever goes on with a run refuses other training data, and says that a figure is of another test set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sparring.commands.train import train
from sparring.config import Config
from sparring.errors import UsageError
from sparring.runs import Run
from sparring.trainer.evaluating import evaluate_on_test
from sparring.trainer.experiment import build_experiment
from sparring.trainer.same_data import of_another_test_set
from sparring.trainer.session import Session
from tests.support.runs import small


def save(folder: Path, split: str, *, brighter: int = 0, labels_from: int = 0) -> None:
    images = np.arange(40 * 64, dtype=np.uint8).reshape(40, 8, 8) + np.uint8(brighter)
    np.savez(folder / f"{split}.npz", images=images, labels=(np.arange(40) + labels_from) % 10)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for split, brighter in (("train", 0), ("test", 7)):
        save(tmp_path, split, brighter=brighter)
    train = {"max_steps": 2, "batch_size": 20}
    return small(tmp_path, engine="sync", data={"name": f"npz:{tmp_path}"}, train=train)


@pytest.fixture
def run(config: Config) -> Run:
    return train(config, progress=False).run


def started_again(config: Config, run: Run) -> Session:
    """What a trainer's new process makes."""
    return Session(build_experiment(config), run, torch.device("cpu"))


@pytest.mark.parametrize("change", [{"brighter": 1}, {"labels_from": 1}])
def test_a_trainer_that_is_started_again_refuses_data_that_were_changed_meanwhile(
    config: Config, run: Run, tmp_path: Path, change: dict[str, int]
) -> None:
    assert started_again(config, run).restore() is not None
    save(tmp_path, "train", **change)
    with pytest.raises(UsageError, match=r"began with 40 training examples .*Put the data back"):
        started_again(config, run).restore()


def test_a_figure_of_another_test_set_says_so(config: Config, run: Run, tmp_path: Path) -> None:
    session = started_again(config, run)
    session.restore()
    assert not any("test set" in text for text in evaluate_on_test(session.learner, run, print)["warnings"])
    save(tmp_path, "test", brighter=9)
    (warning,) = of_another_test_set(run, session.experiment.test())
    assert warning.startswith("The test set is not the one that the run began with")
    assert warning in evaluate_on_test(session.learner, run, print)["warnings"]


def test_a_run_that_has_noted_no_data_is_not_accused(config: Config, run: Run, tmp_path: Path) -> None:
    run.data.unlink()
    save(tmp_path, "train", brighter=1)
    session = started_again(config, run)
    session.restore()
    assert of_another_test_set(run, session.experiment.test()) == []
