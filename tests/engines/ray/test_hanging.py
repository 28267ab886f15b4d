"""What stands still is noticed once its limit and a grace are over, and only a process of that actor is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparring.engines.ray.hanging import LOOK_S, Silence, Stillness, Stopped, end_process, is_stopped
from tests.support.waiting import wait_for


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_report_that_changes_is_progress(clock: list[float]) -> None:
    still = Stillness(20.0)
    for updated in range(10):
        clock[0] += 19
        assert still.of(float(updated)) is None
    assert still.reported
    clock[0] += 29
    assert still.of(9.0) is None, "the process has a grace to end itself"
    clock[0] += 2
    assert still.of(9.0) == 31


def test_a_trainer_that_has_never_reported_is_told_apart(clock: list[float]) -> None:
    still = Stillness(20.0)
    assert still.of(0.0) is None
    clock[0] += 40
    assert still.of(0.0) is not None and not still.reported
    still.restart()
    assert still.of(0.0) is None
    still.restart(reported=True)
    clock[0] += 41
    assert still.of(0.0) == 41 and still.reported, "an evaluation that hangs in its first batch is not taken for that"


def test_a_worker_whose_heartbeat_stays_the_same_is_silent_unless_nobody_looked(clock: list[float]) -> None:
    silence = Silence(6.0)

    def looked(seconds: float, **stamps: float) -> list[str]:
        clock[0] += seconds
        return silence.of(stamps)

    assert looked(1, one=1.0, other=1.0) == []
    for beat in range(2, 6):
        assert looked(4, one=1.0, other=float(beat)) == (["one"] if beat == 5 else [])
    assert looked(1, other=5.0) == [], "it does not serve while it starts again"
    assert looked(1, one=1.0, other=6.0) == [], "the heartbeat of the process before does not count"
    assert looked(LOOK_S + 20, one=1.0, other=6.0) == [], "the queue was away: nobody could be heard"
    assert looked(4, one=1.0, other=7.0) == []
    for _ in range(5):
        lost = silence.of({"one": None, "other": clock[0]})  # the queue came back empty, and one sends nothing
        clock[0] += 4
    assert lost == ["one"]


def test_no_process_of_another_kind_is_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        end_process(process.pid, "Trainer")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    end_process(2**22 + 1, "Trainer")  # there is none


def test_a_stopped_process_of_the_actor_is_ended() -> None:
    process = subprocess.Popen(["bash", "-c", "exec -a ray::Trainer.train sleep 60"])
    cmdline = Path(f"/proc/{process.pid}/cmdline")
    wait_for("its title", lambda: cmdline.read_text().startswith("ray::"))
    assert not is_stopped(process.pid)
    os.kill(process.pid, signal.SIGSTOP)
    wait_for("its stop", lambda: is_stopped(process.pid))
    seen, later = Stopped(0.2), {7: process.pid, 8: os.getpid()}
    assert seen.of(later) == []
    wait_for("its time", lambda: seen.of(later) == [7])
    assert seen.of({8: os.getpid()}) == [] == seen.of(later), "seen again, its time begins anew"
    try:
        end_process(process.pid, "Trainer")
        assert process.wait(timeout=10) == -9
    finally:
        process.kill()
