"""A fresh finish through Ray: the weights are those of the loop in one process, whoever attacks and whatever dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sparring.commands.control import read_status
from sparring.commands.replay import replay
from sparring.commands.train import train
from sparring.trainer import checkpoints
from tests.support.processes import running
from tests.support.runs import Place, small, weights_of
from tests.support.waiting import TIMEOUT_S, wait_for

pytestmark = pytest.mark.ray
FRESH = {"finish": 2, "lead": 1}
BULLETTRAIN = {"allocator": {"name": "bullettrain"}}
SEVERAL = {"batch_size": 20, "shards_per_step": 3, "max_steps": None}


def weights(root: Path, place: Place, **groups: Any) -> bytes:
    groups = {"staleness": FRESH, **groups}
    return weights_of(train(place(small(root, **groups))))


@pytest.mark.parametrize(
    "methods",
    [
        {**BULLETTRAIN, "objective": {"name": "trades", "awp_gamma": 0.01}, "train": {"ema": 0.9}},
        {**BULLETTRAIN, "attack": {"name": "augmix"}, "objective": {"name": "augmix"}},
        {
            "objective": {"name": "mart"},
            "attack": {"start": "last"},
            "data": {"limit": 512},
            "pruning": {"name": "high", "epoch": 1},
            "train": {"epochs": 3, "max_steps": 16},
            "staleness": {"finish": 1, "lead": 2},
        },
        {"workers": {"count": 0}, "staleness": {**FRESH, "trainer_attacks": "always"}, "queue": {"wire": "sign"}},
    ],
)
def test_its_weights_are_those_of_the_synchronous_engine(
    tmp_path: Path, methods: dict[str, Any], shared_ray: Place
) -> None:
    if methods.get("attack", {}).get("name") == "augmix":
        methods = {**methods, "allocator": {"name": "bullettrain", "robust_steps": 0}}
    assert weights(tmp_path, shared_ray, **methods) == weights(tmp_path, shared_ray, **methods, engine="sync")


def test_workers_trainer_and_both_make_the_same_weights_after_kills(tmp_path: Path, shared_ray: Place) -> None:
    groups = {
        "train": SEVERAL,
        "attack": {"steps": 8},
        "checkpoint": {"every_steps": 4},
        "queue": {"lease_s": 5, "attempts": 20},
    }
    expected = weights(tmp_path, shared_ray, **groups, engine="sync")
    attacks = {**FRESH, "trainer_attacks": "always"}
    assert weights(tmp_path, shared_ray, **groups, workers={"count": 4}, staleness=attacks) == expected
    killed = small(tmp_path / "killed", **groups, workers={"count": 2}, staleness=FRESH)
    (tmp_path / "killed").mkdir()
    with running(shared_ray(killed), tmp_path / "killed") as (run, process):
        status = wait_for("step 3", lambda: (found := read_status(run))["step"] >= 3 and found["workers"] and found)
        os.kill(next(iter(status["workers"].values()))["pid"], signal.SIGKILL)
        trainer = wait_for("step 9", lambda: (found := read_status(run))["step"] >= 9 and found["trainer_pid"])
        os.kill(trainer, signal.SIGKILL)
        assert process.wait(timeout=TIMEOUT_S) == 0, (tmp_path / "killed" / "output").read_text()
    path = checkpoints.latest(run.checkpoints)
    assert path is not None and (path / "model.safetensors").read_bytes() == expected
    assert replay(run.path, 20).same, "and any part of it can be made again in one process"


def test_a_worker_that_hangs_costs_no_lease_where_others_copy_its_tickets(tmp_path: Path, shared_ray: Place) -> None:
    groups = {"train": SEVERAL, "attack": {"steps": 8}, "queue": {"lease_s": 600.0}}
    expected = weights(tmp_path, shared_ray, **groups, engine="sync")
    copied = {**FRESH, "copy_after": 3.0, "trainer_attacks": "always"}
    config = shared_ray(small(tmp_path / "copied", **groups, workers={"count": 2}, staleness=copied))
    (tmp_path / "copied").mkdir()
    with running(config, tmp_path / "copied") as (run, process):
        status = wait_for("step 3", lambda: (found := read_status(run))["step"] >= 3 and found["workers"] and found)
        hangs = next(iter(status["workers"].values()))["pid"]
        os.kill(hangs, signal.SIGSTOP)
        try:
            wait_for("the last step", lambda: read_status(run)["phase"] == "finished")
        finally:
            os.kill(hangs, signal.SIGCONT)
        assert process.wait(timeout=TIMEOUT_S) == 0, (tmp_path / "copied" / "output").read_text()
    path = checkpoints.latest(run.checkpoints)
    assert path is not None and (path / "model.safetensors").read_bytes() == expected
    assert "lease_expired" not in run.read_object("summary.json")["shards_dropped_by_reason"]
