"""A process that stands still ends itself; one that goes on does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, time
from pathlib import Path
from sparring.machine.watchdog import Watchdog

dog = Watchdog(0.5, Path(sys.argv[1]))
for _ in range(20):
    time.sleep(0.05)
    dog.tick()
print("went on", flush=True)

def hangs():
    time.sleep(60)

if sys.argv[2] == "hang":
    hangs()
dog.stop()
time.sleep(1)
print("ended", flush=True)
"""


def outcome(log: Path, how: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", PROGRAM, str(log), how]
    return subprocess.run(words, capture_output=True, text=True, timeout=30)


def test_where_the_work_stands_still_the_process_ends_and_the_log_says_where(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    ended = outcome(log, "hang")
    assert (ended.returncode, ended.stdout) == (1, "went on\n")
    assert log.read_text().startswith("before\nTimeout") and "in hangs" in log.read_text()


def test_a_process_that_goes_on_or_has_stopped_the_watch_lives(tmp_path: Path) -> None:
    ended = outcome(tmp_path / "log", "stop")
    assert (ended.returncode, ended.stdout) == (0, "went on\nended\n")
