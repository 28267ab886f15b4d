"""Users of Redis are made on real servers, and whole runs go on as them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError

from sparring.commands.access import apply_access, make_access, remove_access
from sparring.commands.control import change_workers, read_status, read_workers, stop_run
from sparring.commands.train import resume, train
from sparring.config import Config, from_tree
from sparring.errors import SparringError, UsageError
from sparring.observe.state import RunState
from sparring.queue.access import ROLES, Login
from sparring.queue.connection import QueueUnavailable, connect
from sparring.queue.server import EmbeddedServer
from sparring.runs import Run
from tests.support.runs import Place, small
from tests.support.servers import SERVERS, binary

ADMIN = "ACCESS_TEST_PASSWORD"


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(512 << 20, binary=binary(request.param)) as started:
        monkeypatch.setenv(ADMIN, started.password)
        yield started


def on(server: EmbeddedServer, **queue: Any) -> Config:
    return from_tree({"queue": {"redis_url": server.url, "password_env": ADMIN, "timeout_s": 5.0, **queue}})


def test_passwords_are_for_their_owner_alone_and_the_same_the_second_time(tmp_path: Path) -> None:
    made = make_access("run", tmp_path / "access")
    assert stat.S_IMODE(os.stat(made.folder).st_mode) == 0o700
    for role in ROLES:
        assert stat.S_IMODE(os.stat(made.folder / role).st_mode) == 0o600
    assert len({login.password for login in made.logins.values()}) == 3
    assert make_access("run", tmp_path / "access") == made
    assert not any(str(login.password) in f"{made.lines} {made.as_dict()}" for login in made.logins.values())
    with pytest.raises(UsageError, match=r"--out .*trainer holds the password of sparring-run-trainer"):
        make_access("another", tmp_path / "access")


def test_users_are_made_have_their_rules_anew_and_are_removed(server: EmbeddedServer, tmp_path: Path) -> None:
    made = make_access(None, tmp_path)
    apply_access(made, on(server))
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "sparring-reader", "+flushall", "nopass")
    assert apply_access(made, on(server)) == f"127.0.0.1:{server.port}"
    with connect(server.url, made.logins["reader"], 5.0) as reader:
        assert reader.ping()
        with pytest.raises(NoPermissionError):
            reader.flushall()
    with (
        connect(server.url, Login("sparring-reader", "any"), 5.0) as stranger,
        pytest.raises(AuthenticationError),
    ):
        stranger.ping()
    remove_access(None, tmp_path, on(server))
    assert os.listdir(tmp_path) == []
    with connect(server.url, made.logins["worker"], 5.0) as worker, pytest.raises(AuthenticationError):
        worker.ping()


def test_who_may_not_make_users_is_told(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_access(None, tmp_path)
    apply_access(made, on(server))
    monkeypatch.setenv(ADMIN, str(made.logins["trainer"].password))
    with pytest.raises(SparringError, match=r"does not let this user make users.*queue\.redis_url"):
        apply_access(made, on(server, redis_url=f"redis://sparring-trainer@127.0.0.1:{server.port}/0"))
    monkeypatch.setenv(ADMIN, "wrong")
    with pytest.raises(QueueUnavailable, match=r"refuses the password.*queue\.password_env"):
        apply_access(made, on(server))
    with pytest.raises(UsageError, match=r"queue\.redis_url is not set"):
        apply_access(made, from_tree({}))


def test_a_server_that_no_run_could_use_is_refused(server: EmbeddedServer, tmp_path: Path) -> None:
    with server.client() as admin:
        admin.config_set("save", "3600 1")
        with pytest.raises(SparringError, match=r"save = 3600 1 .*writes the queue to disk"):
            apply_access(make_access(None, tmp_path), on(server))
        assert admin.acl_users() == ["default"]
        admin.config_set("save", "")


@pytest.mark.ray
@pytest.mark.parametrize("server", ["redis"], indirect=True)  # rules of Valkey: tests/queue/test_access.py
def test_a_whole_run_goes_on_as_these_users_and_nothing_is_denied_to_them(
    server: EmbeddedServer, tmp_path: Path, shared_ray: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, resumed, finished; watched by who has the reader's file alone; its workers changed."""
    access = make_access("named", tmp_path / "access")
    apply_access(access, on(server))
    monkeypatch.delenv(ADMIN)
    ray = {"address": shared_ray(small(tmp_path)).ray.address}
    groups = {"queue": {"redis_url": server.url, "access": str(access.folder)}, "ray": ray, "workers": {"count": 2}}
    slow = small(tmp_path, run={"root": str(tmp_path), "name": "named"}, attack={"steps": 80}, **groups)
    runs, seen = list[Run](), list[dict[str, Any]]()

    def watch(state: RunState, workers: dict[str, Any]) -> None:
        if state.step >= 3 and state.phase == "training" and not seen:
            seen.append(_as_others(runs[0], access.folder, tmp_path / "of a reader"))
            runs[0].request_stop()

    first = train(slow, watch, runs.append)
    run = first.run
    assert first.phase == "stopped" and 3 <= first.summary["steps"] < 12
    assert seen[0]["alive"] and seen[0]["workers"] and "does not answer" not in seen[0]["message"]
    result = resume(run.path)
    assert result.phase == "finished" and result.summary["examples"] == 12 * 64
    assert result.summary["worker_shards"] == 12
    with server.client() as admin:
        tried = {"client|setinfo", "config|get"}  # without need: by redis-py, and to see whether the server saves
        denied = [each for each in admin.acl_log() if each["object"] not in tried]
        assert denied == [] and list(admin.scan_iter("sparring:*")) == []
    for secret in access.logins.values():
        assert not any(str(secret.password) in path.read_text(errors="replace") for path in _files(run))
    with pytest.raises(QueueUnavailable, match=r"sparring-named-trainer .*`sparring access`"):
        train(small(tmp_path, run={"root": str(tmp_path), "name": "other"}, **groups))


def _as_others(run: Run, folder: Path, reader: Path) -> dict[str, Any]:
    """What somebody sees and may do whose queue.access has only the reader's file."""
    reader.mkdir()
    for role in ("trainer", "worker"):
        (folder / role).rename(reader / role)
    try:
        status = read_status(run)
        assert set(read_workers(run)["workers"]) == {"worker-0", "worker-1"}
        with pytest.raises(UsageError, match=r"queue\.access = .*trainer: No such file"):
            change_workers(run, "add", 1)
        with pytest.raises(UsageError, match=r"queue\.access = .*trainer: No such file"):
            stop_run(run, 1.0)
    finally:
        for role in ("trainer", "worker"):
            (reader / role).rename(folder / role)
    return status


def _files(run: Run) -> list[Path]:
    return [path for path in run.path.rglob("*") if path.is_file()]
