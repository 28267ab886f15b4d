"""Data parallelism is the synchronous loop on several processes: the same weights, and no going on without a rank."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import sparring
from sparring.commands.control import read_status
from sparring.commands.train import Result
from sparring.config import Config
from sparring.engines.ddp import device_of
from sparring.errors import SparringError, UsageError
from sparring.trainer import checkpoints
from tests.support import resting
from tests.support.processes import assert_every_example_was_used_once, running
from tests.support.runs import small
from tests.support.waiting import TIMEOUT_S, wait_for

SHARDS = {"epochs": 2, "max_steps": None, "batch_size": 160, "shards_per_step": 4}


def trained(root: Path, engine: str, **groups: Any) -> Result:
    (root / engine).mkdir()
    return sparring.train(small(root / engine, engine=engine, **{"train": SHARDS, **groups}))


def weights(result: Result) -> torch.Tensor:
    path = checkpoints.latest(result.run.checkpoints)
    assert path is not None
    return torch.cat([tensor.flatten() for tensor in load_file(path / "model.safetensors").values()])


def difference(first: Result, second: Result) -> float:
    """Of the weights, over their norm."""
    return float((weights(first) - weights(second)).norm() / weights(first).norm())


def final_state(result: Result) -> dict[str, Any]:
    reported: dict[str, Any] = json.loads((result.run.path / "state.json").read_text())
    return reported


@pytest.mark.parametrize(
    ("ranks", "groups"),
    [
        pytest.param(
            3,  # Adam makes a step of the sign of a gradient that is rounding alone, as TRADES' are while ε is small
            {"objective": {"name": "trades"}, "train": {**SHARDS, "epochs": 1}, "optimizer": {"name": "sgd"}},
            id="trades, ranks without a ticket at the end",
        ),
        pytest.param(
            3,
            {
                "objective": {"name": "grad-align"},
                "attack": {"name": "fgsm", "warmup": 0.0},
                "train": {**SHARDS, "epochs": 1},
                "optimizer": {"name": "sgd"},
            },
            id="grad-align, ranks without a ticket at the end",
        ),
        pytest.param(
            2,
            {
                "objective": {"name": "trades"},
                "optimizer": {"name": "sgd"},
                "allocator": {"name": "bullettrain"},
                "pruning": {"name": "low_high", "share": 0.5, "epoch": 1},
            },
            id="trades, bullettrain, pruned",
        ),
    ],
)
def test_its_weights_and_records_are_those_of_the_synchronous_engine(
    tmp_path: Path, ranks: int, groups: dict[str, Any]
) -> None:
    alone = trained(tmp_path, "sync", **groups)
    together = trained(tmp_path, "ddp", ddp={"ranks": ranks}, **groups)
    assert difference(alone, together) < 1e-5
    for name in ("steps", "examples", "gradients", "allocated", "kept"):
        assert alone.summary[name] == together.summary[name], name
    assert final_state(together)["loss"] == pytest.approx(final_state(alone)["loss"], abs=1e-4)


def test_the_death_of_a_rank_ends_the_run_with_its_name_and_resume_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    groups: dict[str, Any] = {
        "train": {"epochs": 2, "max_steps": None, "batch_size": 100, "shards_per_step": 2},
        "attack": {"steps": 10, "warmup_epochs": 0.5},
        "checkpoint": {"every_steps": 2},
        "model": {"name": resting.NAME},  # 16 steps take 5 s, so that the run has not ended when its step 3 is read
    }
    whole = trained(tmp_path, "ddp", **groups)
    with running(small(tmp_path, engine="ddp", **groups), tmp_path) as (run, process):
        wait_for("step 3", lambda: read_status(run)["step"] >= 3)
        os.kill(_rank_1(process.pid), signal.SIGKILL)
        assert process.wait(timeout=TIMEOUT_S) == 1
    said = (tmp_path / "output").read_text()
    assert "rank 1 of ddp.ranks = 2 died" in said and "sparring resume" in said and "Traceback" not in said
    resumed = sparring.commands.train.resume(run.path)
    assert resumed.phase == "finished" and torch.equal(weights(resumed), weights(whole))
    assert_every_example_was_used_once(run, shards=15)


def test_the_other_ranks_do_not_outlive_the_first(tmp_path: Path) -> None:
    config = small(tmp_path, engine="ddp", train={**SHARDS, "epochs": 50}, model={"name": resting.NAME})
    with running(config, tmp_path) as (run, process):
        wait_for("step 1", lambda: read_status(run)["step"] >= 1)
        other = _rank_1(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for("the end of rank 1", lambda: not Path(f"/proc/{other}").exists())


@pytest.mark.parametrize("everybody", [False, True], ids=["Ctrl-C", "SIGTERM to all, as of a host that shuts down"])
def test_a_signal_stops_all_ranks_with_a_checkpoint(tmp_path: Path, everybody: bool) -> None:
    config = small(tmp_path, engine="ddp", train={**SHARDS, "epochs": 50}, model={"name": resting.NAME})
    with running(config, tmp_path) as (run, process):
        wait_for("step 1", lambda: read_status(run)["step"] >= 1)
        other = _rank_1(process.pid)
        if everybody:
            os.kill(other, signal.SIGTERM)
        process.send_signal(signal.SIGTERM if everybody else signal.SIGINT)
        assert process.wait(timeout=TIMEOUT_S) == 130, (tmp_path / "output").read_text()
        wait_for("the end of rank 1", lambda: not Path(f"/proc/{other}").exists())
    assert checkpoints.latest(run.checkpoints) is not None


def _rank_1(parent: int) -> int:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return next(pid for pid, command in commands.items() if b"sparring.engines.ddp" in command)


def test_a_rank_that_cannot_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SparringError, match=r"rank 1 of ddp\.ranks = 2 died \(exit status 1\)"):
        trained(tmp_path, "ddp")


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (
            {"train": {"shards_per_step": 1}},
            r"ddp\.ranks = 2 with train\.shards_per_step = 1.*Set train.shards_per_step to 2",
        ),
        ({"train": SHARDS, "objective": {"awp_gamma": 0.01}}, r"objective\.awp_gamma = 0\.01 with engine = 'ddp'"),
        ({"train": SHARDS, "attack": {"start": "last"}}, r"attack\.start = 'last' with engine = 'ddp'"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(tmp_path: Path, groups: dict[str, Any], said: str) -> None:
    config: Config = small(tmp_path, engine="ddp", **groups)
    with pytest.raises(UsageError, match=said):
        sparring.train(config)
    assert not any(tmp_path.iterdir())


def test_ranks_get_a_gpu_each_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_of("auto", 1) == torch.device("cuda", 1) and device_of("cpu", 1) == torch.device("cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_of("auto", 1) == torch.device("cpu")
