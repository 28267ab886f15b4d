"""Free adversarial training against a float64 transcription of Algorithm 2, and what its plan and records tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sparring.commands.train import train
from sparring.config import Config
from sparring.data import batch
from sparring.trainer import checkpoints
from sparring.trainer.experiment import build_experiment
from tests.support.runs import small

EPSILON, RATE, REPLAYS = 0.1, 0.01, 3


def free(root: Path, **groups: Any) -> Config:
    """150 digits: batches of 64, 64 and 22; 7 epochs of 3 replays are 3 passes."""
    tree: dict[str, Any] = {
        "engine": "sync",
        "data": {"limit": 150},
        "train": {"epochs": 7, "max_steps": None, "batch_size": 64, "replays": REPLAYS},
        "attack": {"name": "fgsm", "epsilon": EPSILON, "warmup_epochs": 0},
        "optimizer": {"name": "sgd", "lr": RATE, "momentum": 0.9, "weight_decay": 5e-4},
        "schedule": {"name": "constant"},
    }
    for group, values in groups.items():
        tree[group] = {**tree[group], **values}
    return small(root, **tree)


def transcribed(config: Config, passes: int) -> tuple[nn.Module, torch.Tensor]:
    """Weights and δ after so many passes."""
    experiment = build_experiment(config)
    model, delta = experiment.model.double().train(), torch.zeros(64, *experiment.training.shape, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    for epoch in range(passes):
        for number in range(3):
            indices = torch.tensor(experiment.plan.indices(epoch, number))
            x, y = batch(experiment.training, indices, augment="none", seed=0, epoch=epoch)
            x = x.double()
            d = torch.clamp(x + delta[: len(x)], 0, 1) - x
            for _ in range(REPLAYS):
                d = d.detach().requires_grad_(True)
                optimizer.zero_grad()
                F.cross_entropy(model(x + d), y).backward()  # type: ignore[no-untyped-call]
                assert d.grad is not None
                d = torch.clamp(d + EPSILON * d.grad.sign(), -EPSILON, EPSILON).detach()
                d = torch.clamp(x + d, 0, 1) - x
                optimizer.step()
            delta[: len(x)] = d
    return model, delta


def test_weights_and_delta_are_those_of_the_algorithm(tmp_path: Path) -> None:
    config = free(tmp_path, train={"epochs": 2 * REPLAYS})
    result = train(config)
    path = checkpoints.latest(result.run.checkpoints)
    assert path is not None
    ours = build_experiment(config).model
    before = nn.utils.parameters_to_vector(ours.parameters()).double()
    checkpoints.load_weights(path, ours)
    model, delta = transcribed(config, 2)
    theirs = nn.utils.parameters_to_vector(model.parameters())
    found = nn.utils.parameters_to_vector(ours.parameters()).double()
    assert (found - theirs).norm() < 1e-3 * (theirs - before).norm()
    kept = checkpoints.load_state(path).owners["free"]["delta"]
    assert ((kept - delta).abs() > 1e-5).double().mean() < 0.005, "but for signs that rounding turns"


def test_epochs_are_divided_and_every_replay_is_a_step_of_one_gradient(tmp_path: Path) -> None:
    result = train(free(tmp_path))
    summary, state = result.summary, result.run.read_json("state.json") or {}
    assert summary["steps"] == state["total_steps"] == 3 * 3 * REPLAYS, "ceil(7 / 3) passes of 3 batches"
    assert summary["examples"] == 3 * REPLAYS * 150 and summary["gradients_per_example"] == 1.0
    assert state["epochs"] == 3 and summary["staleness_max"] == 0
    tickets = [json.loads(line)["tickets"][0] for line in result.run.history.read_text().splitlines()]
    assert tickets == [number for _ in range(3) for number in range(3) for _ in range(REPLAYS)]


def test_a_rollback_goes_on_within_the_batch(tmp_path: Path) -> None:
    wild = {"model": {"name": "tests.support.fragile:make"}, "guard": {"rate_factor": 1e-6}}
    tree = free(tmp_path, optimizer={"lr": 100.0, "momentum": 0.0}).model_dump(mode="json", exclude_none=True)
    result = train(Config.model_validate({**tree, **wild}))
    assert result.phase == "finished" and result.summary["rollbacks"] >= 1
    assert result.summary["examples"] == 3 * REPLAYS * 150, "what was undone is not counted"
