"""A process whose work stands still, as on a GPU that hangs, ends itself, so that it can be restarted."""

from __future__ import annotations

import faulthandler
import time
from contextlib import suppress
from pathlib import Path

ARM_EVERY_S = 1.0


class Watchdog:
    """Ends this process `limit_s` seconds after the last `tick`, with the stacks of all threads in `log_file`.

    There is one in a process. Python's own one does it, in a thread that needs nothing that could hang.
    """

    def __init__(self, limit_s: float, log_file: Path) -> None:
        self.limit_s = limit_s
        self._file = log_file.open("a")
        self._armed_at = 0.0
        self.tick()

    def tick(self) -> None:
        """The work goes on."""
        now = time.monotonic()
        if now - self._armed_at > min(ARM_EVERY_S, self.limit_s / 10):
            with suppress(RuntimeError):  # no thread to be had (a limit of processes): the next tick tries again
                faulthandler.dump_traceback_later(self.limit_s, file=self._file, exit=True)
                self._armed_at = now

    def stop(self) -> None:
        """End nothing any more."""
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
