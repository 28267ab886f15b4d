"""`sparring top`: the live view of a run that another process works on."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sparring.commands.control import change_workers, read_status
from sparring.commands.train import train
from sparring.config import new_run
from sparring.errors import SparringError, UsageError
from sparring.runs import Run
from tests.support import resting
from tests.support.runs import small
from tests.support.waiting import wait_for

TIMEOUT_S = 120.0
TOP = [sys.executable, "-m", "sparring", "top"]


@pytest.fixture
def going_on(tmp_path: Path) -> Iterator[Run]:
    """A run that trains in a process of its own until it is stopped."""
    run = Run(tmp_path / "far")
    settings = {
        "engine": "sync",
        "run.root": tmp_path,
        "run.name": "far",
        "epochs": 100_000,
        "model.name": resting.NAME,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "sparring", "train", *words], stdout=log, stderr=log)
    try:
        wait_for("a step", lambda: (run.read_json("state.json") or {}).get("step"), TIMEOUT_S)
        yield run
    finally:
        process.kill()
        process.wait()


class Terminal:
    """Runs `top` on a terminal of its own and reads what it draws."""

    def __init__(self, run: Run) -> None:
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        self.process = subprocess.Popen([*TOP, str(run.path)], stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        self._seen = bytearray()

    def shows(self, text: str) -> bool:
        with suppress(OSError):  # nothing new, or its end of the terminal is closed
            self._seen.extend(os.read(self._ours, 65536))
        return text in self._seen.decode(errors="replace")


def test_a_terminal_shows_the_view_and_a_pipe_lines_until_the_run_ends(going_on: Run) -> None:
    terminal = Terminal(going_on)
    piped = subprocess.Popen([*TOP, str(going_on.path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert piped.stdout is not None
    first = next(line for line in piped.stdout if "| step" in line)  # the line about the data comes before
    wait_for("the view", lambda: terminal.shows("far · sync · digits · training"), TIMEOUT_S)
    going_on.request_stop()
    wait_for("its end", lambda: terminal.shows("far · sync · digits · stopped"), TIMEOUT_S)
    rest, complaints = piped.communicate(timeout=TIMEOUT_S)
    assert (terminal.process.wait(TIMEOUT_S), piped.returncode, complaints) == (0, 0, "")
    assert first.startswith("far: training | step ") and "examples/s" in first
    assert rest.splitlines()[-1].startswith("far: stopped | step ")


def test_a_run_that_does_not_go_on_is_refused_in_one_sentence(tmp_path: Path) -> None:
    run = train(small(tmp_path, engine="sync", train={"max_steps": 2})).run
    reported = subprocess.run([*TOP, str(run.path)], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (reported.returncode, reported.stdout) == (2, "")
    assert reported.stderr == (
        f"sparring: {run.path} is not running (finished); `sparring status {run.path}` shows its state.\n"
    )


@pytest.mark.parametrize("content", ["[1]", '{"staleness": 5}', '{"workers": 3}', '{"step": 1'])
def test_a_damaged_state_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    run = new_run(small(tmp_path))
    (run.path / "state.json").write_text(content)
    with pytest.raises(SparringError, match=r"state\.json is (cut short or )?damaged .*Delete it"):
        read_status(run)


def test_where_the_queue_does_not_answer_the_status_is_that_of_the_folder_within_five_seconds(tmp_path: Path) -> None:
    run = new_run(small(tmp_path))
    run.write_json("state.json", {"phase": "training", "step": 7})
    with socket.create_server(("127.0.0.1", 0)) as silent, run.owned():
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        run.write_json(run.connection.name, {"url": url, "logins": {}})
        began = time.monotonic()
        status = read_status(run)
    assert time.monotonic() - began < 5 and status["step"] == 7
    assert "the queue does not answer" in status["message"]


@pytest.mark.parametrize("phase", ["training", "evaluating"])
def test_a_queue_that_has_ended_with_the_training_is_not_blamed(tmp_path: Path, phase: str) -> None:
    run = new_run(small(tmp_path, engine="ray"))
    run.write_json("state.json", {"phase": phase})
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    run.write_json(run.connection.name, {"url": f"redis://127.0.0.1:{port}/0", "logins": {}})
    with run.owned(), pytest.raises(SparringError) as refused:
        change_workers(run, "add", 1)
    assert ("has ended its training (evaluating)" in str(refused.value)) is (phase == "evaluating")
    assert isinstance(refused.value, UsageError) is (phase == "evaluating")
