"""A worker and a trainer that hang for good, as on a GPU that no longer answers, end themselves and are restarted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from sparring.commands.control import read_status
from sparring.runs import Run
from tests.support.processes import assert_every_example_was_used_once, running
from tests.support.runs import Place, small
from tests.support.waiting import TIMEOUT_S, wait_for

pytestmark = pytest.mark.ray

MODEL = """
import time
from pathlib import Path

from torch import nn


class Hanging(nn.Sequential):
    def __init__(self, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

    def forward(self, x):
        try:
            (Path(__file__).parent / ("trainer" if self.training else "worker")).unlink()
        except FileNotFoundError:
            return super().forward(x)
        time.sleep(10_000)
"""


def test_hanging_processes_are_restarted_and_nothing_is_lost(tmp_path: Path, shared_ray: Place) -> None:
    (tmp_path / "hanging.py").write_text(MODEL)
    config = small(
        tmp_path,
        model={"name": f"{tmp_path / 'hanging.py'}:Hanging"},
        data={"limit": 800},
        train={"epochs": 2, "max_steps": None, "batch_size": 100},
        attack={"steps": 100},
        checkpoint={"every_steps": 2},
        workers={"hang_timeout_s": 3.0},
        trainer={"hang_timeout_s": 12.0},  # longer than its start on a busy machine
    )
    with running(shared_ray(config), tmp_path) as (run, process):
        for step, name in ((2, "worker"), (6, "trainer")):
            wait_for(f"step {step}", partial(_has_made, run, step))
            (tmp_path / name).touch()
        assert process.wait(timeout=TIMEOUT_S) == 0, (tmp_path / "output").read_text()
    assert not list(tmp_path.glob("trainer")) and not list(tmp_path.glob("worker")), "both have hung"
    assert_every_example_was_used_once(run)
    assert json.loads((run.path / "summary.json").read_text())["trainer_restarts"] == 1
    for log in ("trainer.log", "worker-0.log"):
        assert "in forward" in (run.path / "logs" / log).read_text(), "the log says where"


def _has_made(run: Run, step: int) -> bool:
    return bool(read_status(run)["step"] >= step)


def _goes_on_and_stops(run: Run, process: subprocess.Popen[bytes], folder: Path) -> None:
    wait_for("further steps", partial(_has_made, run, read_status(run)["step"] + 2))
    run.request_stop()
    assert process.wait(timeout=TIMEOUT_S) == 0, (folder / "output").read_text()


@pytest.mark.chaos
def test_a_worker_that_hangs_while_it_is_made_ends_itself_and_is_made_again(tmp_path: Path) -> None:
    hanging = MODEL.replace(
        "        super().__init__(nn",
        "        once = Path(__file__).parent / 'once'\n"
        "        if once.exists() and Path('/proc/self/cmdline').read_text().startswith('ray::Worker'):\n"
        "            once.unlink()\n"
        "            time.sleep(10_000)\n"
        "        super().__init__(nn",
    )
    (tmp_path / "hanging.py").write_text(hanging)
    (tmp_path / "once").touch()
    model = {"name": f"{tmp_path / 'hanging.py'}:Hanging"}
    config = small(tmp_path, model=model, workers={"hang_timeout_s": 15.0})
    with running(config, tmp_path) as (run, process):
        assert process.wait(timeout=TIMEOUT_S) == 0, (tmp_path / "output").read_text()
    assert not (tmp_path / "once").exists() and "in __init__" in (run.path / "logs" / "worker-0.log").read_text()


@pytest.mark.chaos
def test_a_worker_whose_process_is_stopped_is_replaced(tmp_path: Path) -> None:
    endless = {"epochs": 10_000, "max_steps": None}
    config = small(tmp_path, train=endless, workers={"hang_timeout_s": 4.0}, queue={"lease_s": 600.0, "timeout_s": 3.0})
    with running(config, tmp_path) as (run, process):
        stopped = wait_for("a heartbeat", lambda: read_status(run)["workers"].get("worker-0", {}).get("pid"))
        os.kill(stopped, signal.SIGSTOP)
        wait_for("its end", lambda: not Path(f"/proc/{stopped}").exists())
        _goes_on_and_stops(run, process, tmp_path)
    assert "worker-0 has sent no heartbeat" in (run.path / "run.log").read_text()


@pytest.mark.chaos
def test_ctrl_c_while_a_trainer_is_made_anew_is_one(tmp_path: Path) -> None:
    endless = {"epochs": 10_000, "max_steps": None}
    with running(small(tmp_path, train=endless, checkpoint={"every_steps": 2}), tmp_path) as (run, process):
        wait_for("step 4", partial(_has_made, run, 4))
        os.kill(int(read_status(run)["trainer_pid"]), signal.SIGKILL)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=TIMEOUT_S) == 130, (tmp_path / "output").read_text()
    assert read_status(run)["phase"] == "interrupted"


@pytest.mark.chaos
def test_a_trainer_whose_process_is_stopped_is_ended_by_the_driver(tmp_path: Path) -> None:
    endless = {"epochs": 10_000, "max_steps": None}
    config = small(tmp_path, train=endless, checkpoint={"every_steps": 2}, trainer={"hang_timeout_s": 8.0})
    with running(config, tmp_path) as (run, process):
        wait_for("step 4", partial(_has_made, run, 4))
        stopped = int(read_status(run)["trainer_pid"])
        os.kill(stopped, signal.SIGSTOP)
        wait_for("another trainer", lambda: read_status(run)["trainer_pid"] not in (0, stopped))
        _goes_on_and_stops(run, process, tmp_path)
    assert "has stood still" in (run.path / "run.log").read_text()


@pytest.mark.chaos
def test_another_trainer_whose_process_is_stopped_is_ended_by_the_driver(tmp_path: Path) -> None:
    endless, two = {"epochs": 10_000, "max_steps": None, "shards_per_step": 2}, {"count": 2, "hang_timeout_s": 8.0}
    config = small(tmp_path, train=endless, checkpoint={"every_steps": 2}, trainer=two)
    with running(config, tmp_path) as (run, process):
        wait_for("step 4", partial(_has_made, run, 4))
        stopped = int((run.path / "logs" / "trainer-1.log").read_text().rpartition("process ")[2].split()[0])
        os.kill(stopped, signal.SIGSTOP)
        wait_for("its end", lambda: not Path(f"/proc/{stopped}").exists())
        _goes_on_and_stops(run, process, tmp_path)
    assert read_status(run)["trainer_restarts"] == 1, "of both: rank 0, which waits for the other, may end itself first"
