"""How Prometheus finds a run: a file in a folder that it watches (`file_sd_configs`), there while the run goes on."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparring.errors import UsageError
from sparring.runs import Run, write_atomically

log = logging.getLogger(__name__)
ANYWHERE = {"", "0.0.0.0", "::"}  # listens at every address of the host
ELSEWHERE = ("192.0.2.1", 9)  # reserved for documentation: nobody is there, and nothing is sent


def reachable(bind: str, port: int) -> str:
    """HOST:PORT of an endpoint that listens at `bind`, for who asks from another host."""
    host = own_address() if bind in ANYWHERE else bind
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def own_address() -> str:
    """The address that this host would send from; its name where it has no way out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def require_folder(folder: Path | None) -> None:
    """Make the folder of `metrics.file_sd` where it is missing.

    Raises:
        UsageError: it cannot be made or written to.
    """
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, error.strerror or type(error).__name__) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refused(folder, "no right to write there")


def _refused(folder: Path, reason: str) -> UsageError:
    return UsageError(
        f"metrics.file_sd = {folder}: no file can be put there ({reason}). Give a folder that this run may "
        f"write to and Prometheus may read."
    )


@contextmanager
def announced(folder: Path, run: Run, address: str) -> Iterator[Path]:
    """Name the run's endpoint to whoever watches `folder`, and take it back at the end.

    A run that is killed leaves its file: Prometheus then tells that it does not answer. A resume takes the file over.
    """
    path = folder / f"{run.id}.json"
    write_atomically(path, json.dumps([{"targets": [address], "labels": {"run": run.path.name}}]) + "\n")
    try:
        yield path
    finally:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("metrics.file_sd: %s stays (%s)", path, error)
