"""Trainers in parallel as Ray actors: one of them is killed, and the weights are as if nothing had happened."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError, RayTaskError

from sparring.commands.control import read_status
from sparring.commands.train import train
from sparring.config import new_run
from sparring.engines.ranks import RankLost
from sparring.engines.ray.trainers import Trainers
from sparring.errors import SparringError
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
    with running(shared_ray(alone), tmp_path / "killed") as (run, process):
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


class First:
    """In the place of rank 0: ends at once, as it is told to."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def meet(self) -> str:
        return "somewhere"

    def train(self, group: str) -> dict[str, Any]:
        return {"phase": self.phase, "error": "a trainer is gone"}


class Second:
    """In the place of another rank: fails for a reason of its own, or dies once and then fails with rank 0."""

    def __init__(self, fails: str, note: Path) -> None:
        self.fails, self.note = fails, note

    def pid(self) -> int:
        return os.getpid()

    def follow(self, group: str, address: str) -> None:
        if self.fails == "itself":
            raise SparringError("other labels")
        if not self.note.exists():
            self.note.touch()
            os._exit(1)
        raise RankLost("a trainer is gone")


class Stubs:
    """In the place of `Actors`."""

    def __init__(self, root: Path, phase: str, fails: str) -> None:
        self.config, self.phase, self.fails = small(root, trainer={"count": 2}), phase, fails
        self.run = new_run(self.config)

    def trainer(self) -> Any:
        return ray.remote(First).options(num_cpus=0).remote(self.phase)

    def rank(self, rank: int) -> Any:
        made = ray.remote(Second).options(num_cpus=0)
        return made.remote(self.fails, self.run.path / "died")


def ended(trainers: Trainers) -> dict[str, Any]:
    trainers.start()
    found: dict[str, Any] = wait_for("the end", lambda: trainers.outcome(0.1))
    return found


def test_who_failed_is_named_and_who_died_is_started_again(tmp_path: Path, shared_ray: Place) -> None:
    def group(phase: str, fails: str) -> Trainers:
        stubs: Any = Stubs(tmp_path / f"{phase}-{fails}", phase, fails)
        return Trainers(stubs)

    address = shared_ray(small(tmp_path)).ray.address
    runtime = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    with ray.init(address=address, log_to_driver=False, runtime_env=runtime):
        with pytest.raises(RayTaskError, match="other labels"):
            ended(group("lost", "itself"))
        dying = group("lost", "once")
        with pytest.raises(RayActorError):
            ended(dying)
        dying.restart()
        with pytest.raises(RankLost, match="a trainer is gone"):
            ended(dying)
        dying.end()
