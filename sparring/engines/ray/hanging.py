"""What the driver does about a trainer or worker that does not end itself, as one whose process is stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GRACE_S = 10.0  # for the process's own watchdog; no longer than the limit itself
LOOK_S = 5.0  # a longer pause between two looks says nothing of the workers: the queue, or the driver, stood still


class Stillness:
    """How long ago a trainer's report last changed; `reported`: whether it has since the last `restart`."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._last: float | None = None
        self.restart()

    def restart(self, *, reported: bool = False) -> None:
        """Count from now; reported: of a trainer that is known to work."""
        self._since, self.reported = time.monotonic(), reported

    def of(self, updated: float) -> float | None:
        """Seconds without a new report, once they are too many; updated: the stamp of the last one."""
        if self._last is not None and updated != self._last:
            self._since, self.reported = time.monotonic(), True
        self._last = updated
        still_s = time.monotonic() - self._since
        return still_s if still_s > self.limit_s + min(GRACE_S, self.limit_s) else None


class Silence:
    """Which workers have sent no heartbeat for longer than `limit_s` and a grace."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s + min(GRACE_S, limit_s)
        self._looked = -LOOK_S
        self._last: dict[str, tuple[Any, float]] = {}  # by worker: its last heartbeat's stamp, and when it was new

    def of(self, stamps: Mapping[str, Any]) -> list[str]:
        """Their names; stamps: the last heartbeat's of every worker that should send some."""
        now = time.monotonic()
        before = self._last if now - self._looked < LOOK_S else {}
        self._looked = now
        self._last = {
            name: before[name] if name in before and before[name][0] == stamp else (stamp, now)
            for name, stamp in stamps.items()
        }
        return [name for name, (_, since) in self._last.items() if now - since > self.limit_s]


class Stopped:
    """Which processes on this host have been stopped, as by SIGSTOP, for longer than `limit_s`."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._since: dict[int, float] = {}  # by number: when it was first seen to be

    def of(self, pids: Mapping[int, int]) -> list[int]:
        """Their numbers; pids: the process of each number."""
        now = time.monotonic()
        self._since = {number: self._since.get(number, now) for number, pid in pids.items() if is_stopped(pid)}
        return [number for number, since in self._since.items() if now - since > self.limit_s]


def is_stopped(pid: int) -> bool:
    """Whether a process on this host is stopped, as by SIGSTOP."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except OSError:
        return False


def end_process(pid: int, actor: str) -> None:
    """Kill an actor's process on this host, if `pid` is still one: a stopped process hears no word of Ray's."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_text()
        if title.startswith(f"ray::{actor}"):
            os.kill(pid, signal.SIGKILL)
    except OSError:
        return
