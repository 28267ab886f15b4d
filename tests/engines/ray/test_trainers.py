"""Trainers in parallel as Ray actors: one of them is killed, and the weights are as if nothing had happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sparring.commands.control import read_status
from sparring.commands.train import train
from sparring.runs import Run
from sparring.trainer import checkpoints
from tests.support.processes import assert_every_example_was_used_once, running
from tests.support.runs import Place, small, weights_of
from tests.support.waiting import TIMEOUT_S, wait_for

pytestmark = pytest.mark.ray


def test_with_a_trainer_killed_the_weights_are_those_of_an_undisturbed_run(tmp_path: Path, shared_ray: Place) -> None:
    groups = {
        "train": {"epochs": 2, "max_steps": None, "batch_size": 50, "shards_per_step": 2},
        "attack": {"steps": 10, "warmup_epochs": 0.5},
        "staleness": {"finish": 2, "trainer_attacks": "always"},
        "trainer": {"count": 2, "num_cpus": 0.5},
        "checkpoint": {"every_steps": 4},
        "data": {"limit": 800},
    }
    whole = train(shared_ray(small(tmp_path, **groups)))
    (tmp_path / "killed").mkdir()
    alone = small(tmp_path / "killed", **groups, workers={"count": 0})
    with running(alone, tmp_path / "killed") as (run, process):
        os.kill(wait_for("step 6 and the second trainer", lambda: _second_at(run, 6)), signal.SIGKILL)
        assert process.wait(timeout=TIMEOUT_S) == 0, (tmp_path / "killed" / "output").read_text()
    path = checkpoints.latest(run.checkpoints)
    assert path is not None and (path / "model.safetensors").read_bytes() == weights_of(whole)
    for each in (run, whole.run):
        assert_every_example_was_used_once(each, shards=16)
    summary = run.read_json("summary.json") or {}
    assert (summary["steps"], summary["examples"], summary["trainer_restarts"]) == (16, 1600, 1)


def _second_at(run: Run, step: int) -> int | None:
    """The process of trainer 1, as its log names it."""
    log = run.path / "logs" / "trainer-1.log"
    if read_status(run)["step"] < step or not log.exists():
        return None
    return int(log.read_text().rsplit("process ", 1)[1].split()[0])
