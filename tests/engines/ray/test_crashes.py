"""kill -9 of a worker, of a payload server, of the trainer and of the whole run: nothing is lost, nothing is trained on
twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sparring.commands.control import read_status
from sparring.commands.replay import replay
from sparring.config import Config
from sparring.queue.server import EmbeddedServer
from sparring.runs import Run
from sparring.trainer import checkpoints
from tests.support.processes import assert_every_example_was_used_once, epochs_of, has_ended, resuming, running
from tests.support.runs import Place, small
from tests.support.waiting import TIMEOUT_S, wait_for

pytestmark = pytest.mark.ray
EXAMPLES, SHARDS = 800, 8
SERVER_BYTES = 128 << 20


def slow(root: Path, **groups: Any) -> Config:
    """Two epochs of 8 tickets, each half a second or so of attack."""
    train = {"epochs": 2, "max_steps": None, "batch_size": 100}
    attack = {"steps": 20, "warmup_epochs": 0.5}
    return small(root, data={"limit": EXAMPLES}, train=train, attack=attack, workers={"count": 2}, **groups)


def test_a_worker_a_payload_server_and_the_trainer_twice_are_killed_in_one_run(
    tmp_path: Path, shared_ray: Place
) -> None:
    """Worker and server in mid-attack, the trainer between two checkpoints, and again while it evaluates."""
    evaluation = {"steps": 40, "restarts": 1, "samples": None, "batch_size": 20}
    password = os.environ[str(shared_ray(slow(tmp_path)).queue.password_env)]
    with (
        EmbeddedServer(SERVER_BYTES, password=password) as dying,
        EmbeddedServer(SERVER_BYTES, password=password) as staying,
        running(
            shared_ray(
                slow(
                    tmp_path,
                    checkpoint={"every_steps": 4},
                    evaluation=evaluation,
                    queue={"payload_urls": [dying.url, staying.url]},
                )
            ),
            tmp_path,
        ) as (run, process),
    ):
        os.kill(wait_for("a working worker", lambda: _busy_worker(run)), signal.SIGKILL)
        os.kill(dying.pid, signal.SIGKILL)
        os.kill(wait_for("step 6", lambda: _trainer_at(run, 6)), signal.SIGKILL)
        pid = wait_for("the evaluation", lambda: read_status(run)["phase"] == "evaluating" and _trainer_at(run, 16))
        os.kill(pid, signal.SIGKILL)
        assert process.wait(timeout=TIMEOUT_S) == 0, (tmp_path / "output").read_text()
        with staying.client() as client:
            assert client.dbsize() == 0, "the end of the run takes its payloads away"
    assert_every_example_was_used_once(run)
    fences = {json.loads(line)["fence"] for line in run.history.read_text().splitlines()}
    assert len(fences) == 2, "the second life of the trainer has a fence of its own"
    summary = json.loads((run.path / "summary.json").read_text())
    assert set(summary["shards_dropped_by_reason"]) <= {"lease_expired", "superseded", "payload_missing"}
    assert summary["staleness_max"] <= summary["max_staleness"]
    assert (summary["steps"], summary["trainer_restarts"], summary["samples"]) == (16, 2, 360)
    assert replay(run.path).same, "which weights made each attack step is recorded"


@pytest.mark.chaos
def test_killing_the_trainer_where_it_prunes_neither_repeats_nor_loses_the_decision(tmp_path: Path) -> None:
    pruning = {"name": "low_high", "share": 0.6, "epoch": 1}
    with running(slow(tmp_path, pruning=pruning), tmp_path) as (run, process):
        pid = wait_for("step 2", lambda: _trainer_at(run, 2))
        wait_for("the decision", lambda: run.kept.exists() or has_ended(process, tmp_path))
        written = run.kept.read_text()
        os.kill(pid, signal.SIGKILL)
        assert process.wait(timeout=TIMEOUT_S) == 0, (tmp_path / "output").read_text()
    assert run.kept.read_text() == written
    assert epochs_of(run) == {0: Counter(range(SHARDS)), 1: Counter(range(4))}
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["trainer_restarts"] == 1 and summary["staleness_max"] <= summary["max_staleness"]
    assert (summary["steps"], summary["kept"], summary["examples"]) == (12, 320, 800 + 320)
    assert summary["gradients"] == 20 * (800 + 320 + 800), "the attacks that decided are counted, and once"


@pytest.mark.chaos
def test_the_whole_run_is_killed_while_it_trains_and_while_it_is_evaluated(tmp_path: Path) -> None:
    evaluation = {"steps": 400, "restarts": 3, "samples": None, "batch_size": 20}
    with running(slow(tmp_path, checkpoint={"every_steps": 4}, evaluation=evaluation), tmp_path) as (run, process):
        trainer = wait_for("step 6", lambda: _trainer_at(run, 6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for("the end of the trainer", lambda: not _alive(trainer))
        assert checkpoints.latest(run.checkpoints) is not None
        assert read_status(run)["phase"] == "died"
    with resuming(run, tmp_path) as process:
        wait_for("its start", lambda: run.is_alive() and not run.connection.exists())  # that of the first life is gone
        wait_for("the evaluation", lambda: read_status(run)["phase"] == "evaluating")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert_every_example_was_used_once(run)
    assert not (run.path / "summary.json").exists()
    resumed = subprocess.run(
        [sys.executable, "-m", "sparring", "resume", str(run.path), "--evaluation.steps", "2", "--json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert resumed.returncode == 0, resumed.stderr
    reported = json.loads(resumed.stdout)
    assert (reported["phase"], reported["steps"]) == ("finished", 16)
    assert reported["robust_accuracy"] is not None


def test_ctrl_c_before_the_first_step_and_after_some_stops_everything_and_is_resumed(tmp_path: Path) -> None:
    with running(slow(tmp_path), tmp_path) as (run, process):
        wait_for("the queue", lambda: run.connection.exists() or has_ended(process, tmp_path))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=TIMEOUT_S) == 130, (tmp_path / "output").read_text()
    reached = read_status(run)["step"]
    assert reached < SHARDS and read_status(run)["phase"] == "interrupted"
    with resuming(run, tmp_path) as process:
        trainer = wait_for("more steps", lambda: _is_training(run) and _trainer_at(run, reached + 2))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=TIMEOUT_S) == 130, (tmp_path / "output").read_text()
        wait_for("the end of the trainer", lambda: not _alive(trainer))
    assert checkpoints.latest(run.checkpoints) is not None
    assert not run.connection.exists(), "the embedded server is gone and so is the way to it"
    assert "Traceback" not in (tmp_path / "output").read_text()
    resumed = subprocess.run(
        [sys.executable, "-m", "sparring", "resume", str(run.path)], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert resumed.returncode == 0, resumed.stderr
    assert_every_example_was_used_once(run)


def _busy_worker(run: Run) -> int | None:
    reported = read_status(run)
    if reported["step"] < 2:
        return None
    pids = [fields["pid"] for fields in reported["workers"].values() if fields["shards"] >= 1]
    return pids[0] if pids else None


def _is_training(run: Run) -> bool:
    return bool(read_status(run)["phase"] == "training")


def _trainer_at(run: Run, step: int) -> int | None:
    reported = read_status(run)
    return int(reported["trainer_pid"]) if reported["step"] >= step else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
