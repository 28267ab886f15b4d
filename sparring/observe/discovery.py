"""Prometheus discovery: while a run goes on, a file with its endpoint is in a watched folder (`file_sd_configs`)."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from sparring.errors import UsageError
from sparring.runs import Run, write_atomically

log = logging.getLogger(__name__)
ANY_ADDRESS = {"", str(IPv4Address(0)), str(IPv6Address(0))}  # the server listens on all addresses of the host
DOCUMENTATION_ADDRESS = ("192.0.2.1", 9)  # reserved for documentation: no host has it, and nothing is sent


def reachable(bind: str, port: int) -> str:
    """HOST:PORT under which other hosts reach an endpoint that listens on `bind`."""
    host = own_address() if bind in ANY_ADDRESS else bind
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def own_address() -> str:
    """The source address of this host's outgoing traffic; its host name if it has no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(DOCUMENTATION_ADDRESS)
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def require_folder(folder: Path | None) -> None:
    """Create the folder of `metrics.file_sd` if it does not exist.

    Raises:
        UsageError: it cannot be created or written to.
    """
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, error.strerror or type(error).__name__) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refused(folder, "no permission to write there")


def _refused(folder: Path, reason: str) -> UsageError:
    return UsageError(
        f"metrics.file_sd = {folder}: no file can be written there ({reason}). Give a folder that this run can write "
        f"to and Prometheus can read."
    )


@contextmanager
def announced(folder: Path, run: Run, address: str) -> Iterator[Path]:
    """Write a file with the run's endpoint to `folder`, and remove it at the end.

    A run that is killed leaves its file, and Prometheus reports its endpoint as down. A resume replaces the file.
    """
    path = folder / f"{run.id}.json"
    write_atomically(path, json.dumps([{"targets": [address], "labels": {"run": run.path.name}}]) + "\n")
    try:
        yield path
    finally:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("metrics.file_sd: %s cannot be removed (%s)", path, error)
