"""A cluster that asks for Ray's token: a run that has it trains there, one that has not is told in a sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.queue.server import EmbeddedServer
from tests.support.commands import CHEAP, command
from tests.support.ports import free_port
from tests.support.waiting import wait_for

pytestmark = pytest.mark.ray

HEAD = ["start", "--head", "--block", "--num-cpus=3", "--object-store-memory=100000000", "--disable-usage-stats"]
TOKEN = "f" * 64


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The address of a head with a token, whose processes end with the test."""
    port, ray = free_port(), str(Path(sys.executable).with_name("ray"))
    ports = ["--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={free_port()}"]
    with (tmp_path / "head.log").open("w") as log:
        head = subprocess.Popen(
            [ray, *HEAD, f"--port={port}", *ports, "--include-dashboard=false"],
            env=environment(tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN),
            stdout=log,
            stderr=log,
        )
        try:
            wait_for("Ray's head", lambda: _address(tmp_path / "head.log", port) or head.poll() is not None)
            assert head.poll() is None, (tmp_path / "head.log").read_text()
            yield _address(tmp_path / "head.log", port)
        finally:
            head.terminate()
            head.wait(60)


def _address(log: Path, port: int) -> str:
    """What Ray's head tells others to connect to; empty: it has not told yet."""
    found = re.search(rf"--address='([^']+:{port})'", log.read_text())
    return found[1] if found else ""


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return {**kept, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", **more}


def test_a_run_joins_with_the_token_and_is_refused_without(cluster: str, tmp_path: Path) -> None:
    with EmbeddedServer(maxmemory=512 << 20) as server:
        words = ["train", "--ray.address", cluster, "--queue.redis_url", server.url, "--train.max_steps", "6", *CHEAP]
        words += ["--workers", "1", "--workers.threads", "1", "--workers.num_cpus", "0.1", "--trainer.threads", "1"]
        words += ["--run.root", str(tmp_path), "--json"]

        def run(**more: str) -> subprocess.CompletedProcess[str]:
            given = environment(tmp_path, SPARRING_REDIS_PASSWORD=server.password, **more)
            return subprocess.run(command(*words), capture_output=True, text=True, env=given, timeout=200)

        stranger = run(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
        said = stranger.stderr.strip().splitlines()[-1]
        assert stranger.returncode == 1 and "Traceback" not in stranger.stderr
        assert f"ray.address = '{cluster}': that cluster asks for a token" in said and "RAY_AUTH_TOKEN_PATH" in said
        (tmp_path / "token").write_text(TOKEN + "\n")
        member = run(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
        assert member.returncode == 0, member.stderr
        assert json.loads(member.stdout)["steps"] == 6
