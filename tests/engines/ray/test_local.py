"""A Ray of a run's own is reached by nobody else: neither from another host nor without its token."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.tls import Authority

pytestmark = pytest.mark.ray

# In a process of its own: Ray keeps what it has read of its environment.
RUN = """
import json, os, sys, time
from pathlib import Path
import ray
from sparring.config import RaySettings
from sparring.engines.ray.cluster import ray_cluster
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


@contextmanager
def running(home: Path, **more: str) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """What such a Ray says of itself, and the environment of who knows nothing of it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", **more}
    with subprocess.Popen(
        [sys.executable, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield json.loads(process.stdout.readline()), environment
        finally:
            process.stdin.close()
            process.wait(60)


def test_it_listens_on_the_loopback_alone_and_refuses_who_has_not_its_token(tmp_path: Path) -> None:
    with running(tmp_path) as (found, environment):
        assert len(found["listeners"]) >= 4
        assert [each for each in found["listeners"] if each[0] not in ("127.0.0.1", "::ffff:127.0.0.1")] == []
        assert not (tmp_path / ".ray" / "auth_token").exists()

        def refusal(**token: str) -> str:
            command = [sys.executable, "-c", JOIN, found["address"]]
            done = subprocess.run(command, env={**environment, **token}, capture_output=True, text=True)
            return "" if done.returncode == 0 else done.stderr

        mode = {"RAY_AUTH_MODE": "token"}
        assert refusal(RAY_AUTH_TOKEN=found["token"], **mode) == ""
        assert "InvalidAuthToken" in refusal(RAY_AUTH_TOKEN="0" * 64, **mode)
        assert "InvalidAuthToken" in refusal()


def test_where_ray_is_told_to_its_connections_are_encrypted(tmp_path: Path) -> None:
    """As docs/cluster.md says it of a cluster's nodes."""
    authority = Authority(tmp_path / "authority")
    certified, key = map(str, authority.issue("node"))
    files = {"RAY_TLS_SERVER_CERT": certified, "RAY_TLS_SERVER_KEY": key, "RAY_TLS_CA_CERT": str(authority.ca)}
    with running(tmp_path, RAY_USE_TLS="1", **files) as (found, _):
        host, _, port = found["address"].rpartition(":")
        context = ssl.create_default_context(cafile=str(authority.ca))
        context.load_cert_chain(certified, key)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, int(port)), 10) as plain,
            context.wrap_socket(plain, server_hostname=host) as encrypted,
        ):
            assert encrypted.version() in ("TLSv1.2", "TLSv1.3")
