"""Log files: every process of a run writes to a file in the run's folder."""

from __future__ import annotations

import logging
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def to_file(path: Path, level: int = logging.INFO) -> None:
    """Append the package's log records to `path`. A second call for the same file does nothing."""
    logger = logging.getLogger("sparring")
    if any(getattr(handler, "baseFilename", None) == str(path) for handler in logger.handlers):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(FORMAT))
    logger.addHandler(handler)
    logger.setLevel(level)
