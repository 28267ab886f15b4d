"""A run has the server that its settings name, or one of its own that ends with it; what cannot serve it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError

from sparring.config import Config, from_tree
from sparring.errors import SparringError, UsageError
from sparring.queue import opening
from sparring.queue.access import ROLES, Login, line_of, to_line, user_of
from sparring.queue.connection import connect
from sparring.queue.opening import open_queue, require_queue
from sparring.queue.server import EmbeddedServer
from sparring.queue.sizing import needed_memory, payload_memory

SHAPE, SNAPSHOT_BYTES, MIB = (1, 8, 8), 1000, 1 << 20


def on(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, **train: Any) -> Config:
    """A recipe whose queue is that server."""
    monkeypatch.setenv("OPENING_TEST_PASSWORD", server.password)
    queue = {"redis_url": server.url, "password_env": "OPENING_TEST_PASSWORD", "timeout_s": 1.0}
    return from_tree({"queue": queue, "train": train, "ray": {"address": "auto"}})


@pytest.mark.parametrize(("settings", "mebibytes"), [({}, None), ({"maxmemory_mb": 80}, 80)])
def test_an_embedded_server_has_the_memory_that_the_run_needs_and_ends_with_it(
    settings: dict[str, Any], mebibytes: int | None
) -> None:
    config = from_tree({"queue": settings})
    with open_queue(config, SHAPE, SNAPSHOT_BYTES) as queue:
        assert queue.embedded and queue.memory_for(config) == needed_memory(config, SHAPE, SNAPSHOT_BYTES)
        with connect(queue.url, queue.admin, 5.0) as client:
            limit = int(client.config_get("maxmemory")["maxmemory"])
        for role, login in queue.logins.items():
            with connect(queue.url, login, 5.0) as client:
                assert login.user == f"sparring-{role}" and client.ping()
                with pytest.raises(NoPermissionError, match="flushall"):
                    client.flushall()
    assert limit == (queue.memory_for(config) if mebibytes is None else mebibytes * MIB)
    with connect(queue.url, queue.admin, 1.0) as client, pytest.raises(redis.ConnectionError):
        client.ping()


def test_a_server_that_the_settings_name_is_used_and_goes_on(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = on(server, monkeypatch, batch_size=1)
    needed = needed_memory(config, SHAPE, SNAPSHOT_BYTES)
    with server.client() as client:
        before = str(client.config_get("maxmemory")["maxmemory"])
        client.config_set("maxmemory", needed)
        try:
            with open_queue(config, SHAPE, SNAPSHOT_BYTES) as queue:
                one = Login(None, server.password)
                assert (queue.url, queue.embedded) == (server.url, False)
                assert queue.logins == {"trainer": one, "worker": one}
            assert client.ping() and client.config_get("maxmemory")["maxmemory"] == str(needed)
            client.config_set("maxmemory", needed - MIB)
            with pytest.raises(SparringError, match=r"is less than the .* MiB. that outstanding shards may take"):
                require_queue(config, SHAPE, SNAPSHOT_BYTES)
        finally:
            client.config_set("maxmemory", before)


def test_each_role_has_the_user_of_its_file_and_a_wrong_one_is_refused_beforehand(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    for role in ROLES:
        (tmp_path / role).write_text(to_line(Login(user_of(role, None), f"word of {role}")))
    users = [line_of(role, None, f"word of {role}") for role in ROLES]
    with EmbeddedServer(128 * MIB, users=users, binary=server._binary) as own:
        queue = {"redis_url": own.url, "access": str(tmp_path), "timeout_s": 1.0}
        config = from_tree({"queue": queue, "train": {"batch_size": 1}})
        with open_queue(config, SHAPE, 0) as opened:
            assert opened.logins["worker"] == Login("sparring-worker", "word of worker")
            assert opened.logins["trainer"] == Login("sparring-trainer", "word of trainer")
        (tmp_path / "worker").write_text("sparring-worker another")
        with pytest.raises(SparringError, match=r"the password of the user sparring-worker .*queue\.access"):
            require_queue(config, SHAPE, 0)
    with pytest.raises(UsageError, match=r"queue\.access = .* with queue\.redis_url unset"):
        require_queue(from_tree({"queue": {"access": str(tmp_path)}}), SHAPE, 0)


def test_payload_servers_are_checked_and_make_room_on_the_first(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENING_TEST_PASSWORD", server.password)

    def config(*urls: str) -> Config:
        queue = {"payload_urls": urls, "password_env": "OPENING_TEST_PASSWORD", "timeout_s": 0.5}
        return from_tree({"queue": queue, "train": {"batch_size": 1000}})

    large = (3, 64, 64)
    assert needed_memory(config(), large, 0) > 2 * needed_memory(config(server.url), large, 0)
    one, two = (payload_memory(config(*urls), large) for urls in ([server.url], [server.url, "redis://other"]))
    assert payload_memory(config(), large) == 0 and one - (64 << 20) == pytest.approx(2 * (two - (64 << 20)), abs=2)
    with pytest.raises(SparringError, match=r"queue\.payload_urls: maxmemory = .* is less than the"):
        require_queue(config(server.url), large, 0)
    with pytest.raises(SparringError, match=r"queue\.payload_urls: no answer from Redis at 127\.0\.0\.1:1"):
        require_queue(config("redis://127.0.0.1:1"), SHAPE, 0)
    with pytest.raises(ValueError, match="is named twice"):
        config(server.url, server.url)
    with pytest.raises(ValueError, match="it holds a password"):
        config("redis://:word@127.0.0.1:1")


def test_what_cannot_serve_the_run_is_refused_and_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(opening, "EmbeddedServer", never)
    cluster, nowhere = {"ray": {"address": "auto"}}, {"queue": {"redis_url": "redis://127.0.0.1:1", "timeout_s": 0.1}}
    with (
        pytest.raises(UsageError, match=r"ray\.address = 'auto' with queue\.redis_url unset"),
        open_queue(from_tree(cluster), SHAPE, SNAPSHOT_BYTES),
    ):
        pass
    with (
        pytest.raises(SparringError, match=r"no answer from Redis at 127\.0\.0\.1:1"),
        open_queue(from_tree(nowhere), SHAPE, SNAPSHOT_BYTES),
    ):
        pass
    require_queue(from_tree({}), SHAPE, SNAPSHOT_BYTES)
