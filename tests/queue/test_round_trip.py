"""A payload's way to a server on this machine and back is timed in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sparring.machine import timing
from sparring.queue import round_trip
from sparring.queue.sizing import MEMORY_SLACK_BYTES


def test_a_payload_larger_than_the_slack_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "BUDGET_S", 0.0)
    assert round_trip.round_trip_s(MEMORY_SLACK_BYTES + 1) > 0


def test_the_module_prints_seconds_and_nothing_else() -> None:
    command = [sys.executable, "-m", "sparring.queue.round_trip", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and float(done.stdout) > 0


def test_where_no_server_can_be_started_it_says_so_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.argv", ["round_trip", "1000"])
    with pytest.raises(SystemExit) as ended:
        round_trip.main()
    output, complaint = capsys.readouterr()
    assert (ended.value.code, output) == (1, "") and "no server for the queue" in complaint
