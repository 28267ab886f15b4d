"""The embedded server keeps shards, keeps its password, and ends with its parent."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis

from sparring.errors import SparringError
from sparring.queue.connection import connect
from sparring.queue.server import EmbeddedServer, find_server
from tests.support.waiting import wait_for

MIB = 1 << 20


def test_two_servers_run_side_by_side_and_keep_their_passwords(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    with EmbeddedServer(16 * MIB, log) as one, EmbeddedServer(16 * MIB) as other:
        assert one.port != other.port and one.password != other.password and log.exists()
        for server in (one, other):
            assert server.alive and server.password not in Path(f"/proc/{server.pid}/cmdline").read_text()
        with connect(other.url, one.password, 1) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    assert not one.alive and not other.alive
    one.stop()


def test_a_port_in_use_and_rays_are_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for bad in (port, 6379):
            with pytest.raises(SparringError, match=f"port {bad} .*Choose another"):
                EmbeddedServer(16 * MIB, port=bad)


def test_a_binary_that_is_no_server_is_named() -> None:
    with pytest.raises(SparringError, match="/bin/false did not start"):
        EmbeddedServer(16 * MIB, binary=Path("/bin/false"))


def test_no_server_at_all_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SparringError, match=r"queue\.redis_url"):
        find_server()


def test_the_server_dies_with_its_parent() -> None:
    program = (
        "from sparring.queue.server import EmbeddedServer\nprint(EmbeddedServer(1 << 24).pid, flush=True)\ninput()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert running(pid)
        parent.kill()
    wait_for("its end", lambda: not running(pid), 5, 0.005)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_it_evicts_nothing_writes_nothing_to_disk_and_listens_on_the_loopback_alone() -> None:
    wanted = {"maxmemory-policy": "noeviction", "maxmemory": str(16 * MIB), "save": "", "appendonly": "no"}
    with EmbeddedServer(16 * MIB) as server, server.client() as client:
        found = client.config_get(*wanted, "bind")
        assert found.pop("bind") == "127.0.0.1" and found == wanted


def test_a_lost_server_is_replaced_on_the_same_port_with_the_same_password() -> None:
    with EmbeddedServer(16 * MIB) as lost:
        client = lost.client()
    with EmbeddedServer(16 * MIB, port=lost.port, password=lost.password) as server:
        assert server.url == lost.url and client.ping()
    client.close()


def test_a_server_that_does_not_answer_is_named_with_the_time(tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    with pytest.raises(SparringError, match=r"silent did not answer within 0\.2 s"):
        EmbeddedServer(16 * MIB, binary=silent, timeout_s=0.2)


def test_no_file_that_lies_in_the_temporary_folder_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dump.rdb").write_text("garbage")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with EmbeddedServer(16 * MIB) as server, server.client() as client:
        assert client.dbsize() == 0
