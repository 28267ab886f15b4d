"""The command: what it answers, in this process or in one of its own, and what a run's folder says afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sparring.trainer import checkpoints

CHEAP = ["--evaluation.steps", "2", "--evaluation.restarts", "1", "--evaluation.samples", "50", "--attack.steps", "2"]


TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one sentence on standard error."""
        line = self.err.splitlines()[-1]
        assert line.startswith("sparring: "), self.err
        return line.removeprefix("sparring: ")


Say = Callable[..., Said]


def phase(run: Path) -> str | None:
    try:
        reported: str = json.loads((run / "state.json").read_text())["phase"]
    except FileNotFoundError:
        return None
    return reported


def newest(run: Path) -> Path:
    path = checkpoints.latest(run / "checkpoints")
    assert path is not None
    return path


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "sparring", *map(str, words)]


def run_command(*words: object) -> Said:
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=TIMEOUT_S)
    assert "Traceback" not in done.stdout + done.stderr
    return Said(done.returncode, done.stdout, done.stderr)
