"""The best checkpoint is chosen on held-out training data, never on the test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.attacks import PGD
from sparring.commands.evaluate import evaluate_run, open_trained
from sparring.commands.train import train
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


@pytest.mark.parametrize(
    ("attack", "training", "ended"),
    [
        ({"warmup_epochs": 10}, {"epochs": 1, "max_steps": None}, 0.2 / 10),
        ({"warmup_epochs": 2}, {"epochs": 4, "max_steps": 3}, 0.2 * 3 / (2 * 4)),
        ({"warmup_epochs": None, "warmup": 0.5}, {"epochs": 2, "max_steps": 2}, 0.2 * 2 / (0.5 * 2 * 4)),
    ],
)
def test_a_run_that_ends_before_its_epsilon_is_reached_says_so_with_both(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, attack: dict[str, Any], training: dict[str, Any], ended: float
) -> None:
    """Four steps an epoch."""
    size = {"batch_size": 16, "ema": 0.5}
    config = small(tmp_path, engine="sync", data={"limit": 64}, attack=attack, train={**training, **size})
    result = train(config, progress=False)
    reported = [
        result.summary["warnings"][0],
        result.summary["ema_warnings"][0],
        evaluate_run(result.run, {})["warnings"][0],
        *(record.getMessage() for record in caplog.records if "warm-up" in record.getMessage()),
    ]
    assert len(reported) >= 5, "at its start as well as at its end"
    assert all(f"an ε of {ended:.4g}" in each and "attack.epsilon = 0.2" in each for each in reported)


@pytest.mark.parametrize("training", [{"epochs": 1}, {"epochs": 2}, {"epochs": 3, "shards_per_step": 3}])
def test_by_default_every_length_of_training_reaches_its_epsilon(tmp_path: Path, training: dict[str, Any]) -> None:
    size = {"batch_size": 16, "max_steps": None}
    attack = {"warmup_epochs": None}
    config = small(tmp_path, engine="sync", data={"limit": 64}, attack=attack, train={**size, **training})
    result = train(config, progress=False)
    state = result.run.read_json("state.json") or {}
    assert state["epsilon"] == 0.2 and not any("warm-up" in each for each in result.summary["warnings"])
