"""A Ray of a run's own is reached by nobody else: neither from another host nor without its token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

# In a process of its own: Ray keeps what it has read of its environment.
RUN = """
import json, os, sys, time
from pathlib import Path
import ray
from sparring.config import RaySettings
from sparring.engines.ray.driver import ray_cluster
from tests.support.listeners import listeners_of_children

with ray_cluster(RaySettings(object_store_mb=80), 1):
    @ray.remote
    class Actor:
        def pid(self):
            return os.getpid()
    actor = Actor.remote()
    ray.get(actor.pid.remote(), timeout=60)
    found = listeners_of_children()
    address = ray.get_runtime_context().gcs_address
    print(json.dumps({"listeners": found, "address": address, "token": os.environ["RAY_AUTH_TOKEN"]}), flush=True)
    sys.stdin.readline()
"""
JOIN = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10)"


def test_it_listens_on_the_loopback_alone_and_refuses_who_has_not_its_token(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdin is not None and running.stdout is not None
        try:
            found = json.loads(running.stdout.readline())
            assert len(found["listeners"]) >= 4
            assert [each for each in found["listeners"] if each[0] not in ("127.0.0.1", "::ffff:127.0.0.1")] == []
            assert not (tmp_path / ".ray" / "auth_token").exists()

            mode = {"RAY_AUTH_MODE": "token"}

            def refusal(**token: str) -> str:
                command = [sys.executable, "-c", JOIN, found["address"]]
                done = subprocess.run(command, env={**environment, **token}, capture_output=True, text=True)
                return "" if done.returncode == 0 else done.stderr

            assert refusal(RAY_AUTH_TOKEN=found["token"], **mode) == ""
            assert "InvalidAuthToken" in refusal(RAY_AUTH_TOKEN="0" * 64, **mode)
            assert "InvalidAuthToken" in refusal()
        finally:
            running.stdin.close()
            running.wait(60)
