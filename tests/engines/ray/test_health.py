"""Where Ray itself dies the run ends soon, with a checkpoint and a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from sparring.commands.control import read_status, status_from_folder
from sparring.engines.ray import health
from sparring.engines.ray.cluster import ray_cluster
from sparring.engines.ray.health import Health
from sparring.runs import Run
from sparring.trainer import checkpoints
from tests.support import resting
from tests.support.processes import child_of, descendants, running
from tests.support.runs import Place, small
from tests.support.waiting import wait_for

pytestmark = pytest.mark.ray
ENDLESS: dict[str, Any] = {
    "train": {"epochs": 10_000, "max_steps": None},
    "checkpoint": {"every_steps": 100_000},
    "model": {"name": resting.NAME},
}
NOTICED_WITHIN_S = 45  # Ray itself ends the driver a minute after its control server, without a word


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("raylet", "Ray's process on this host (raylet) has died"),
        pytest.param("gcs_server", "Ray's control server (GCS) at", marks=pytest.mark.chaos),
    ],
)
def test_the_run_ends_with_a_checkpoint_and_a_sentence(tmp_path: Path, program: str, sentence: str) -> None:
    with running(small(tmp_path, **ENDLESS), tmp_path) as (run, process):
        wait_for("step 2", lambda: read_status(run)["step"] >= 2)
        os.kill(child_of(process.pid, program), signal.SIGKILL)
        assert process.wait(timeout=NOTICED_WITHIN_S) == 1
    output = (tmp_path / "output").read_text()
    assert sentence in output and "sparring resume" in output and "Traceback" not in output
    assert _saved(run) and read_status(run)["phase"] == "failed"


@pytest.mark.parametrize(
    ("dead", "code", "phase"),
    [
        pytest.param("everything is asked to end", 130, "interrupted"),
        pytest.param("the control server and the trainer are killed", 1, "failed", marks=pytest.mark.chaos),
    ],
)
def test_two_deaths_at_once_end_in_a_sentence_too(tmp_path: Path, dead: str, code: int, phase: str) -> None:
    """The first is what a host does that shuts down, or a scheduler."""
    with running(small(tmp_path, **ENDLESS), tmp_path) as (run, process):
        wait_for("step 2", lambda: read_status(run)["step"] >= 2)
        if code == 130:
            for pid in [process.pid, *descendants(process.pid)]:
                os.kill(pid, signal.SIGTERM)
        else:
            for pid in (child_of(process.pid, "gcs_server"), read_status(run)["trainer_pid"]):
                os.kill(pid, signal.SIGKILL)
        assert process.wait(timeout=NOTICED_WITHIN_S) == code, (tmp_path / "output").read_text()
    output = (tmp_path / "output").read_text()
    assert ("Ray's control server (GCS) at" in output or code == 130) and "Traceback" not in output
    assert f"run: {run.path}" in output or "sparring resume" in output
    status = status_from_folder(run)
    assert (status["phase"], status["alive"]) == (phase, False)


def test_sigterm_is_handled_as_before_once_ray_has_shut_down(tmp_path: Path) -> None:
    """Ray's core puts the default in its place, unseen by Python."""
    script = (
        "import os, signal\n"
        "from sparring.config import RaySettings\n"
        "from sparring.engines.ray.cluster import ray_cluster\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled'))\n"
        "with ray_cluster(RaySettings(), 1):\n"
        "    pass\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_a_control_server_that_takes_connections_and_gives_no_answer_is_gone_after_a_while(
    tmp_path: Path, shared_ray: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ray_cluster(shared_ray(small(tmp_path)).ray, 1):
        monkeypatch.setattr(health, "CHECK_EVERY_S", 0.0)
        asked = Health()
        assert asked.check() == ""
        monkeypatch.setattr(ray, "nodes", partial(int, "no answer"))  # raises
        assert asked.check() == "", "it may be restarting"
        monkeypatch.setattr(health, "GONE_AFTER_S", 0.0)
        assert "has not answered for 0 s (it takes connections)" in asked.check()


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("program", "sentence"), [("raylet", "(raylet) has died"), ("gcs_server", "it takes connections")]
)
def test_where_a_process_of_rays_is_stopped_the_command_ends_too(tmp_path: Path, program: str, sentence: str) -> None:
    with running(small(tmp_path, **ENDLESS), tmp_path) as (run, process):
        wait_for("step 2", lambda: read_status(run)["step"] >= 2)
        os.kill(child_of(process.pid, program), signal.SIGSTOP)
        assert process.wait(timeout=200) == 1, (tmp_path / "output").read_text()
    output = (tmp_path / "output").read_text()
    assert sentence in output and "sparring resume" in output and "Traceback" not in output
    assert read_status(run)["phase"] == "failed"


def _saved(run: Run) -> int:
    path = checkpoints.latest(run.checkpoints)
    return 0 if path is None else checkpoints.load_state(path).step
