"""A loss that is no number: rolled back with a lower rate, counted, or ended with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sparring.errors import SparringError
from sparring.trainer import checkpoints
from sparring.training import Result, train
from tests.engines.runs import small

# A rate that ruins this network in a step or two; times 1e-6 it is harmless.
WILD: dict[str, Any] = {
    "model": {"name": "tests.engines.fragile:make"},
    "optimizer": {"name": "sgd", "lr": 100.0, "momentum": 0.0},
    "schedule": {"name": "constant"},
}


def finite(result: Result) -> bool:
    path = checkpoints.latest(result.run.checkpoints)
    assert path is not None
    weights = load_file(path / "model.safetensors")
    return all(bool(tensor.isfinite().all()) for tensor in weights.values() if tensor.is_floating_point())


@pytest.mark.parametrize("engine", ["sync", "simulated", pytest.param("ray", marks=pytest.mark.ray)])
def test_training_goes_on_from_the_last_checkpoint_with_a_lower_rate(tmp_path: Path, engine: str) -> None:
    result = train(small(tmp_path, engine=engine, guard={"rate_factor": 1e-6}, **WILD))
    assert result.phase == "finished" and result.summary["rollbacks"] >= 1 and finite(result)
    steps = {line["step"] for line in map(json.loads, result.run.history.read_text().splitlines())}
    assert steps == set(range(1, 13))
    assert result.summary["examples"] == 12 * 64, "what was undone is not counted"


def test_the_run_ends_with_the_reason_after_too_many(tmp_path: Path) -> None:
    with pytest.raises(SparringError, match=r"after 2 rollbacks \(guard.max_rollbacks\)"):
        train(small(tmp_path, engine="sync", guard={"rate_factor": 1.0, "max_rollbacks": 2}, **WILD))


@pytest.mark.parametrize("engine", ["sync", pytest.param("ray", marks=pytest.mark.ray)])
def test_the_run_ends_at_once_where_that_is_asked_for(tmp_path: Path, engine: str) -> None:
    with pytest.raises(SparringError, match=r"Lower optimizer.lr = 100 or set train.gradient_clip"):
        train(small(tmp_path, engine=engine, guard={"non_finite": "stop"}, **WILD))
