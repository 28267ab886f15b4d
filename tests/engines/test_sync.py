"""Synchronous training: a stop in the middle and a resume change nothing, and a run says what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.commands import train as training
from sparring.commands.train import train
from sparring.config import config_of
from sparring.errors import SparringError
from sparring.runs import Run
from sparring.trainer import checkpoints
from tests.support.runs import assert_a_resume_changes_nothing, small, stopped_at

FEW: dict[str, Any] = {"data": {"limit": 256}, "train": {"epochs": 3}}  # 4 steps an epoch
RUNS: list[dict[str, Any]] = [
    {},
    {"allocator": {"name": "bullettrain"}, "objective": {"name": "trades"}},
    {"attack": {"name": "fgsm-rs", "start": "previous"}, "train": {"shards_per_step": 2}},
    {"attack": {"start": "last"}, **FEW, "allocator": {"name": "bullettrain"}},
    {"attack": {"name": "fgsm"}, "train": {"replays": 4, "epochs": 4}},
    {"objective": {"awp_gamma": 0.01}, "attack": {"name": "n-fgsm"}},
    {"attack": {"steps": 4}, "yopo": {"passes": 2, "inner_steps": 2}},
    {"attack": {"steps": 4}, "yopo": {"passes": 2, "inner_steps": 2}, "objective": {"name": "mart"}},
    {"attack": {"name": "fgsm"}, "objective": {"name": "grad-align"}, "train": {"shards_per_step": 2}},
]


@pytest.mark.parametrize("groups", RUNS)
def test_a_resume_goes_on_to_the_same_weights(
    tmp_path: Path, groups: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_a_resume_changes_nothing(tmp_path, monkeypatch, engine="sync", **groups)


def test_a_damaged_checkpoint_is_found_before_the_run_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    run = stopped_at(3, tmp_path, engine="sync")
    path = checkpoints.latest(run.checkpoints)
    assert path is not None
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    before = run.config_file.read_text()
    with pytest.raises(SparringError, match="is damaged"):
        training.resume(run.path, {"workers.count": 7})
    assert run.config_file.read_text() == before
    assert run.stop_requested()


def test_two_runs_of_one_name_are_apart_in_redis_and_paths_to_data_are_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = {"engine": "sync", "train": {"max_steps": 1}, "data": {"root": "here"}}
    one, other = (train(small(tmp_path / root, **common, run={"name": "mine"})).run for root in ("a", "b"))
    assert one.path.name == other.path.name and one.id != other.id and one.id.startswith("mine-")
    assert config_of(one).data.root == tmp_path / "here"


def test_a_run_that_fails_says_so_in_its_folder(tmp_path: Path) -> None:
    wild = {"model": {"name": "tests.support.fragile:make"}, "optimizer": {"name": "sgd", "lr": 100.0}}
    with pytest.raises(SparringError) as failure:
        train(small(tmp_path, engine="sync", guard={"non_finite": "stop"}, **wild))
    assert failure.value.run is not None
    run = Run(failure.value.run)
    state = run.read_json("state.json") or {}
    assert state["phase"] == "failed" and "Lower optimizer.lr" in state["message"]
    assert (run.read_json("summary.json") or {})["steps"] == state["step"]
    assert "Lower optimizer.lr" in run.log.read_text()


def test_paths_that_a_resume_changes_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparring.trainer.recorder.REPORT_EVERY_S", 0.0)
    monkeypatch.chdir(tmp_path)
    run = stopped_at(3, tmp_path, engine="sync")
    training.resume(run.path, {"data.root": "there"})
    assert config_of(run).data.root == tmp_path / "there"
