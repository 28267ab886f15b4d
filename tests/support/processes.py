"""Runs in processes of their own, and what they have trained on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparring.config import Config, to_toml
from sparring.runs import Run, open_run
from tests.support.waiting import wait_for


@contextmanager
def running(config: Config, root: Path) -> Iterator[tuple[Run, subprocess.Popen[bytes]]]:
    """A run in a process of its own; it is ended whatever happens."""
    recipe = root / "recipe.toml"
    recipe.write_text(to_toml(config))
    with (root / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sparring", "train", str(recipe), "--run.name", "run"], stdout=output, stderr=output
        )
    try:
        wait_for("run folder", lambda: (root / "run" / "config.toml").exists() or has_ended(process, root), 60)
        yield open_run(root / "run"), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()


@contextmanager
def resuming(run: Run, root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that goes on in a process of its own; it is ended whatever happens."""
    with (root / "output").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sparring", "resume", str(run.path)], stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()


def child_of(driver: int, program: str) -> int:
    """The process of Ray's `program` that the driver has started."""
    children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    return next(int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == program)


def descendants(pid: int) -> list[int]:
    """All processes that it has started, and that these have."""
    children = [int(each) for path in Path(f"/proc/{pid}/task").glob("*/children") for each in path.read_text().split()]
    return [one for child in children for one in (child, *descendants(child))]


def has_ended(process: subprocess.Popen[bytes], root: Path) -> bool:
    assert process.poll() is None, (root / "output").read_text()
    return False


def epochs_of(run: Run) -> dict[int, Counter[int]]:
    """How often each ticket of each epoch was trained on in the history of the weights that survive."""
    steps = {line["step"]: line for line in map(json.loads, run.history.read_text().splitlines())}
    assert sorted(steps) == list(range(1, len(steps) + 1)), "no step is missing"
    epochs: dict[int, Counter[int]] = {}
    for line in steps.values():
        epochs.setdefault(line["epoch"], Counter()).update(line["tickets"])
    return epochs


def assert_every_example_was_used_once(run: Run, shards: int = 8) -> None:
    assert epochs_of(run) == {epoch: Counter(range(shards)) for epoch in range(2)}
