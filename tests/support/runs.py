"""Small real runs for the tests of the engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparring.commands.train import Result, resume, train
from sparring.config import Config, from_tree
from sparring.observe.state import RunState
from sparring.runs import Run
from sparring.trainer import checkpoints

Place = Callable[[Config], Config]  # where a run of the Ray engine takes place


def small(root: Path, **groups: Any) -> Config:
    """Digits, few steps, one worker, a cheap evaluation; `groups` change settings by group."""
    tree: dict[str, Any] = {
        "run": {"root": str(root)},
        "train": {"epochs": 1, "max_steps": 12, "batch_size": 64},
        "attack": {"steps": 3, "warmup_epochs": 0.5},
        "evaluation": {"steps": 2, "restarts": 1, "samples": 50},
        "metrics": {"every_steps": 1},
        "workers": {"count": 1, "threads": 1},  # a process more takes seconds: two where they matter
        "trainer": {"threads": 1},
    }
    for group, values in groups.items():
        tree[group] = {**tree.get(group, {}), **values} if isinstance(values, dict) else values
    return from_tree(tree)


def weights_of(result: Result) -> bytes:
    """The bytes of the last checkpoint's weights."""
    path = checkpoints.latest(result.run.checkpoints)
    assert path is not None
    return (path / "model.safetensors").read_bytes()


def stopped_at(step: int, root: Path, **groups: Any) -> Run:
    """A run that was asked to stop once it had made `step` steps."""
    runs: list[Run] = []
    made = 0

    def show(state: RunState, workers: dict[str, dict[str, Any]]) -> None:
        nonlocal made
        made = state.step
        if made >= step:
            runs[0].request_stop()

    result = train(small(root, **groups), show, runs.append)
    assert result.phase == "stopped" and made >= step
    return result.run


def assert_a_resume_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch, **groups: Any) -> None:
    """Stopped after half of its steps and resumed, a run ends with the same weights and the same staleness."""
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    whole = train(small(root / "whole", **groups))
    run = stopped_at(6, root / "stopped", **groups)
    path = checkpoints.latest(run.checkpoints)
    assert path is not None and 6 <= checkpoints.load_state(path).step < 12
    resumed = resume(run.path)
    assert weights_of(resumed) == weights_of(whole)
    histograms = [(result.run.read_json("state.json") or {})["staleness"] for result in (whole, resumed)]
    assert histograms[0] == histograms[1]
