"""Ray's autoscaler brings nodes for workers that wait for a place, and lets idle ones go.

The head runs in a PID namespace of its own, which ends with the test and takes every process of that Ray along.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def _permitted() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: Ray's sockets lie in it, and their paths may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="scaled-", ignore_cleanup_errors=True) as path:
        yield Path(path)


def free_port_outside_the_ephemeral_range() -> int:
    """Another test's Ray takes ephemeral ports meanwhile."""
    for port in random.sample(range(20000, 30000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("no free port from 20000 to 29999")


@pytest.mark.ray
@pytest.mark.timeout(400)
@pytest.mark.skipif(not _permitted(), reason="unshare --pid is not permitted here")
def test_nodes_come_for_workers_that_wait_and_go_when_idle(folder: Path) -> None:
    port = str(free_port_outside_the_ephemeral_range())
    # A local Ray of another test leaves a token in ~/.ray and, in its own process, the order to ask for one.
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-m", "tests.support.autoscaled", str(folder), port],
        cwd=Path(__file__).parents[2],
        env={**environment, "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [0, 2, 0]
