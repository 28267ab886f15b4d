"""A loss that is no number: rolled back with a lower rate, counted, or ended with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sparring.commands.train import Result, resume, train
from sparring.errors import SparringError
from sparring.trainer import checkpoints
from tests.support.runs import Place, small, stopped_at, weights_of

# A rate that ruins this network in a step or two; times 1e-6 it is harmless.
WILD: dict[str, Any] = {
    "model": {"name": "tests.support.fragile:make"},
    "optimizer": {"name": "sgd", "lr": 100.0, "momentum": 0.0},
    "schedule": {"name": "constant"},
}


def finite(result: Result) -> bool:
    path = checkpoints.latest(result.run.checkpoints)
    assert path is not None
    weights = load_file(path / "model.safetensors")
    return all(bool(tensor.isfinite().all()) for tensor in weights.values() if tensor.is_floating_point())


@pytest.mark.parametrize("engine", ["sync", "simulated", pytest.param("ray", marks=pytest.mark.ray)])
def test_training_goes_on_from_the_last_checkpoint_with_a_lower_rate(
    tmp_path: Path, engine: str, shared_ray: Place
) -> None:
    result = train(shared_ray(small(tmp_path, engine=engine, guard={"rate_factor": 1e-6}, **WILD)))
    assert result.phase == "finished" and result.summary["rollbacks"] >= 1 and finite(result)
    steps = {line["step"] for line in map(json.loads, result.run.history.read_text().splitlines())}
    assert steps == set(range(1, 13))
    assert result.summary["examples"] == 12 * 64, "what was undone is not counted"


def test_the_run_ends_with_the_reason_after_too_many(tmp_path: Path) -> None:
    with pytest.raises(SparringError, match=r"There were 2 rollbacks \(guard.max_rollbacks\)"):
        train(small(tmp_path, engine="sync", guard={"rate_factor": 1.0, "max_rollbacks": 2}, **WILD))


@pytest.mark.parametrize("engine", ["sync", pytest.param("ray", marks=pytest.mark.ray)])
def test_the_run_ends_at_once_where_that_is_asked_for(tmp_path: Path, engine: str, shared_ray: Place) -> None:
    with pytest.raises(SparringError, match=r"Lower optimizer.lr = 100 or set train.gradient_clip"):
        train(shared_ray(small(tmp_path, engine=engine, guard={"non_finite": "stop"}, **WILD)))


# At such a rate accuracy falls by some hundredths within three steps, which this guard takes for overfitting.
RESTLESS: dict[str, Any] = {
    "optimizer": {"lr": 0.2},
    "attack": {"name": "fgsm-rs", "clamp_start": True, "warmup_epochs": 0},
    "guard": {"overfitting": "rollback", "overfitting_every": 3, "overfitting_fall": 0.02, "overfitting_for": 2},
}


@pytest.mark.parametrize("engine", ["sync", "simulated", pytest.param("ray", marks=pytest.mark.ray)])
def test_after_a_fall_training_goes_on_from_the_good_weights_with_a_stronger_attack(
    tmp_path: Path, engine: str, shared_ray: Place
) -> None:
    as_sync = {"staleness": {"max_staleness": 0}, "queue": {"wire": "exact"}}  # so that it falls where that one does
    result = train(shared_ray(small(tmp_path, engine=engine, **RESTLESS, **as_sync)))
    assert result.phase == "finished" and result.summary["overfittings"] >= 1
    assert result.summary["steps"] == 12 and result.summary["examples"] == 12 * 64
    lines = [json.loads(line) for line in result.run.metrics.read_text().splitlines()]
    assert any(line["pgd_until"] > line["step"] for line in lines)
    last = {line["step"]: line["tickets"] for line in map(json.loads, result.run.history.read_text().splitlines())}
    assert len({ticket for tickets in last.values() for ticket in tickets}) == 12, "each ticket once, in what survives"


def test_a_fall_that_comes_again_and_again_ends_the_training_with_the_good_weights(tmp_path: Path) -> None:
    guard = {**RESTLESS["guard"], "overfitting_every": 2, "overfitting_fall": 0.01}
    schedule = {"name": "constant"}
    result = train(small(tmp_path, engine="sync", **{**RESTLESS, "schedule": schedule, "guard": guard}))
    assert result.phase == "finished" and result.summary["overfittings"] == 4 and result.summary["steps"] < 12


def test_stop_ends_the_training_with_the_good_weights_and_evaluates_them(tmp_path: Path) -> None:
    guard = {**RESTLESS["guard"], "overfitting": "stop"}
    result = train(small(tmp_path, engine="sync", **{**RESTLESS, "guard": guard}))
    assert result.phase == "finished" and result.summary["overfittings"] == 1
    assert result.summary["steps"] < 12 and result.summary["robust_accuracy"] is not None


@pytest.mark.parametrize(
    ("stops", "groups"),
    [
        ((1,), {**WILD, "guard": {"rate_factor": 1e-6}, "checkpoint": {"every_steps": 100}}),
        ((1, 4, 8), {**RESTLESS, "checkpoint": {"every_steps": 6, "keep": 1}}),
    ],
)
def test_a_stop_changes_nothing_of_what_a_rollback_returns_to(
    tmp_path: Path, stops: tuple[int, ...], groups: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the guard checks, nor its good weights, nor how often it may still return to them."""
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    counts = ("rollbacks", "overfittings", "steps")
    whole = train(small(tmp_path / "whole", engine="sync", **groups), progress=False)
    assert whole.summary["rollbacks"] + whole.summary["overfittings"] >= 1
    for step in stops:
        resumed = resume(stopped_at(step, tmp_path / f"{step}", engine="sync", **groups).path, progress=False)
        assert [resumed.summary[name] for name in counts] == [whole.summary[name] for name in counts]
        assert weights_of(resumed) == weights_of(whole), step
