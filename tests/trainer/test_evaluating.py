"""The best checkpoint is chosen on held-out training data, never on the test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.attacks import PGD
from sparring.commands.evaluate import open_trained
from sparring.config import DataSettings, new_run
from sparring.data import Dataset, load, split_holdout
from sparring.engines import sync
from sparring.evaluation import evaluate
from sparring.models import build
from sparring.trainer import checkpoints
from sparring.trainer.experiment import build_experiment
from sparring.trainer.session import Session
from tests.support.runs import small


def test_the_best_checkpoint_is_the_one_most_robust_on_heldout_training_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen again from all checkpoints; the last step's weights are spoiled, so that the last is not the best."""

    def training_alone(settings: DataSettings, split: str) -> Dataset:
        assert split == "train", "the test set has no say in this"
        return load(settings, "train")

    monkeypatch.setattr("sparring.trainer.experiment.load", training_alone)
    config = small(
        tmp_path,
        engine="sync",
        data={"holdout": 200},
        train={"epochs": 2, "max_steps": None, "batch_size": 128, "evaluate_every_epochs": 0.25},
        attack={"steps": 2, "epsilon": 0.1, "warmup_epochs": 0.0},
        optimizer={"lr": 0.005},
        schedule={"name": "constant"},
        checkpoint={"every_steps": 1, "keep": 1000},
    )
    experiment, run = build_experiment(config), new_run(config)
    made = Session(experiment, run, torch.device("cpu"))
    record = made.record

    def spoil_the_last(*step: Any) -> None:
        record(*step)
        if made.learner.step == experiment.plan.total_steps:
            with torch.no_grad():
                next(made.learner.model.parameters()).zero_()

    monkeypatch.setattr(made, "record", spoil_the_last)
    sync.run(made, experiment, None)

    heldout = split_holdout(load(config.data, "train"), 200)[1]
    a_quarter = experiment.plan.steps_of(0) / 4
    due = [step for step in range(1, experiment.plan.total_steps + 1) if step // a_quarter > (step - 1) // a_quarter]
    accuracies = {}
    for step in due:
        model = build(config.model, heldout.shape, heldout.classes, seed=1)
        checkpoints.load_weights(run.checkpoints / f"step-{step:09d}", model)
        found = evaluate(model, heldout, PGD(0.1, steps=10, step_size=0.025), seed=config.train.seed)
        accuracies[step] = found.robust_accuracy
    expected = max(accuracies, key=lambda step: (accuracies[step], -step))
    assert len(accuracies) == 8 and expected != due[-1]
    best = checkpoints.best(run.checkpoints)
    assert best is not None and best.name == f"step-{expected:09d}", accuracies
    assert open_trained(run, {}, best=True).checkpoint == best
