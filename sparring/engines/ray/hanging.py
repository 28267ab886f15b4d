"""What the driver does about a trainer that stands still and does not end itself, as one whose process is stopped."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

GRACE_S = 10.0  # for the process's own watchdog; no longer than the limit itself


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


def end_process(pid: int, actor: str) -> None:
    """Kill an actor's process on this host, if `pid` is still one: a stopped process hears no word of Ray's."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_text()
        if title.startswith(f"ray::{actor}"):
            os.kill(pid, signal.SIGKILL)
    except OSError:
        return
