"""Where log records go: a file of the run for every process of it."""

from __future__ import annotations

import logging
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def to_file(path: Path, level: int = logging.INFO) -> None:
    """Append the package's records to `path`, once."""
    logger = logging.getLogger("sparring")
    if any(getattr(handler, "baseFilename", None) == str(path) for handler in logger.handlers):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(FORMAT))
    logger.addHandler(handler)
    logger.setLevel(level)
