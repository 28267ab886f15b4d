"""Log files: every process of a run writes to a file in the run's folder."""

from __future__ import annotations

import logging
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class _LogFile(logging.FileHandler):
    """A log that does not print a traceback for every line that a full disk does not take."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Lose the line: what failed is reported where it is noticed."""


def to_file(path: Path, level: int = logging.INFO) -> None:
    """Append the package's log records to `path`. A second call for the same file does nothing."""
    logger = logging.getLogger("sparring")
    if any(getattr(handler, "baseFilename", None) == str(path) for handler in logger.handlers):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter(FORMAT))
    logger.addHandler(handler)
    logger.setLevel(level)
