"""A server is reached or refused in one sentence, which names the setting and never the password."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import redis

from sparring.config import QueueSettings
from sparring.errors import SparringError, UsageError
from sparring.queue.access import COMMANDS, Login
from sparring.queue.connection import (
    QueueRefused,
    QueueUnavailable,
    check_access,
    check_server,
    connect,
    describe,
    login_of,
    password_of,
    raise_limit,
    with_retries,
)
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport
from tests.support.queues import opened
from tests.support.tls import behind_tls

MIB = 1 << 20


def test_a_server_that_is_down_is_named() -> None:
    with EmbeddedServer(16 * MIB) as server:
        client = server.client()
    down = Transport(client, "run", lease_s=1, timeout_s=0.3)
    with pytest.raises(QueueUnavailable, match=rf"127\.0\.0\.1:{server.port} .*queue\.redis_url") as caught:
        opened(down)
    assert server.password not in str(caught.value)


@pytest.mark.parametrize("password", [None, "wrong-secret"])
def test_a_wrong_password_is_not_tried_again(server: EmbeddedServer, password: str | None) -> None:
    side = Transport(connect(server.url, password, 5), "run", lease_s=1, timeout_s=30)
    began = time.monotonic()
    with pytest.raises(QueueUnavailable, match=r"queue\.password_env") as caught:
        opened(side)
    assert time.monotonic() - began < 5 and "wrong-secret" not in str(caught.value)


def test_a_password_in_the_url_is_never_shown() -> None:
    side = Transport(connect("redis://:hunter2@127.0.0.1:1/0", None, 1), "run", lease_s=1, timeout_s=0.1)
    with pytest.raises(QueueUnavailable) as caught:
        opened(side)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SparringError, match=r"queue\.redis_url") as refused:
        connect("http://:hunter2@host", None, 1)
    assert "hunter2" not in str(refused.value)


def test_a_server_that_could_lose_shards_is_refused(server: EmbeddedServer) -> None:
    with server.client() as client:
        check_server(client, 16 * MIB)
        with pytest.raises(SparringError, match=r"maxmemory = 33554432 bytes .*64 MiB"):
            check_server(client, 64 * MIB)
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(SparringError, match=r"maxmemory-policy = allkeys-lru.*noeviction"):
                check_server(client, 1)
        finally:
            client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize(("name", "value", "off"), [("save", "3600 1", ""), ("appendonly", "yes", "no")])
def test_a_server_that_would_come_back_with_an_older_state_is_refused(
    server: EmbeddedServer, name: str, value: str, off: str
) -> None:
    with server.client() as client:
        client.config_set(name, value)
        try:
            with pytest.raises(SparringError, match=rf"{name} = {value} .*CONFIG SET {name} {off}"):
                check_server(client, 1)
        finally:
            client.config_set(name, off)
        check_server(client, 1)


def test_a_server_in_cluster_mode_is_refused(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.client() as client:
        info: dict[str, Any] = dict(client.info())
        monkeypatch.setattr(client, "info", lambda: {**info, "redis_mode": "cluster"})
        with pytest.raises(SparringError, match=r"cluster mode.*queue\.redis_url"):
            check_server(client, 1)


def test_a_user_who_may_not_touch_the_runs_keys_is_refused_at_once(server: EmbeddedServer) -> None:
    with server.client() as client:
        client.acl_setuser("narrow", enabled=True, passwords=["+word"], keys=["sparring:{a}:*"], commands=["+@all"])
        narrow = connect(server.url, Login("narrow", "word"), 5)
        try:
            check_access(narrow, "sparring:{a}:", 5)
            began = time.monotonic()
            with pytest.raises(QueueUnavailable, match=r"its user narrow .*`sparring access`.*queue\.access"):
                check_access(narrow, "sparring:{b}:", 30)
            assert time.monotonic() - began < 5
        finally:
            narrow.close()
            client.acl_deluser("narrow")


def test_a_command_that_a_script_may_not_give_is_told_as_one_that_is_not_allowed(server: EmbeddedServer) -> None:
    with server.client() as client:
        client.acl_setuser("narrow", enabled=True, passwords=["+word"], keys=["mine"], commands=["+eval", "+get"])
        narrow = connect(server.url, Login("narrow", "word"), 5)
        try:
            with pytest.raises(QueueUnavailable, match=r"its user narrow .*ACL SETUSER"):
                with_retries(narrow, lambda: narrow.eval("return redis.call('GET', ARGV[1])", 0, "yours"), 30)
        finally:
            narrow.close()
            client.acl_deluser("narrow")


def test_a_command_that_the_server_does_not_know_is_told_at_once(server: EmbeddedServer) -> None:
    """As one that rename-command has taken away, asked for directly and by a script."""
    with server.client() as client:
        for operation in (
            lambda: client.execute_command("TAKEN"),
            lambda: client.eval("return redis.call('TAKEN')", 0),
        ):
            with pytest.raises(QueueRefused, match=r"does not know a command .*rename-command.*queue\.redis_url"):
                with_retries(client, operation, 30)


def test_a_server_that_lacks_commands_is_refused_by_their_names(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that it is asked for no server knows the last two."""
    with server.client() as client:
        check_server(client, 1)
        monkeypatch.setitem(COMMANDS, "trainer", f"{COMMANDS['trainer']} taken away")
        with pytest.raises(QueueRefused, match=r"does not know a command .*\(TAKEN, AWAY\).*rename-command"):
            check_server(client, 1)
        client.acl_setuser("mute", enabled=True, passwords=["+word"], keys=["*"], commands=["+@all", "-command"])
        mute = connect(server.url, Login("mute", "word"), 5)
        try:
            check_server(mute, 1)  # who may not ask is believed
        finally:
            mute.close()
            client.acl_deluser("mute")


def test_each_role_has_its_own_file_and_without_a_folder_all_have_one_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARRING_TEST_PASSWORD", "for all")
    (tmp_path / "reader").write_text("me word\n")
    shared = QueueSettings(password_env="SPARRING_TEST_PASSWORD")
    assert login_of(shared, "worker") == login_of(shared, "reader") == Login(None, "for all")
    own = shared.model_copy(update={"access": tmp_path})
    assert login_of(own, "reader") == Login("me", "word")
    with pytest.raises(UsageError, match=r"queue\.access = .*worker: No such file"):
        login_of(own, "worker")


def test_an_old_server_is_refused(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.client() as client:
        info: dict[str, Any] = dict(client.info())
        info.pop("valkey_version", None)
        monkeypatch.setattr(client, "info", lambda: {**info, "redis_version": "6.2.1"})
        with pytest.raises(SparringError, match=r"Redis 6\.2\.1 .*is too old"):
            check_server(client, 1)


def test_a_password_comes_from_the_environment_or_else_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("from the file\n")
    settings = QueueSettings(password_env="SPARRING_TEST_PASSWORD", password_file=tmp_path / "secret")
    assert password_of(settings) == "from the file"
    monkeypatch.setenv("SPARRING_TEST_PASSWORD", "from the environment")
    assert password_of(settings) == "from the environment"


def test_a_password_file_that_is_absent_or_empty_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"queue\.password_file = .*nowhere.*No such file"):
        password_of(QueueSettings(password_file=tmp_path / "nowhere"))
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match=r"queue\.password_file = .*empty is empty"):
        password_of(QueueSettings(password_file=tmp_path / "empty"))


def test_an_operation_is_tried_again_until_the_server_answers_and_its_own_errors_are_not() -> None:
    client, calls = connect("redis://127.0.0.1:1/0", None, 1), list[int]()

    def answers_at_the_third() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise redis.TimeoutError("no answer")
        return "answered"

    assert with_retries(client, answers_at_the_third, timeout_s=20) == "answered" and len(calls) == 3

    def answers_nonsense_first() -> str:
        calls.append(1)
        if len(calls) < 8:
            raise (ValueError("invalid literal for int()"), TypeError("of a list"), MemoryError())[len(calls) % 3]
        return "answered"

    assert with_retries(client, answers_nonsense_first, timeout_s=20) == "answered" and len(calls) == 8

    def refuses() -> None:
        calls.append(1)
        raise UsageError("a sentence")

    with pytest.raises(UsageError, match="a sentence"):
        with_retries(client, refuses, timeout_s=20)
    del calls[3:]

    def fails() -> None:
        calls.append(1)
        raise redis.ResponseError("no such command")

    with pytest.raises(redis.ResponseError, match="no such command"):
        with_retries(client, fails, timeout_s=20)
    assert len(calls) == 4


def test_a_limit_is_raised_where_it_is_too_low_and_never_lowered(server: EmbeddedServer) -> None:
    def limit(needed_bytes: int) -> int:
        raise_limit(client, needed_bytes, 5)
        return int(client.config_get("maxmemory")["maxmemory"])

    with server.client() as client:
        before = str(client.config_get("maxmemory")["maxmemory"])
        try:
            assert [limit(40 * MIB), limit(16 * MIB)] == [40 * MIB, 40 * MIB]
            client.config_set("maxmemory", 0)
            assert limit(40 * MIB) == 0, "there was no limit"
        finally:
            client.config_set("maxmemory", before)


@pytest.mark.parametrize(
    ("url", "place"),
    [("redis://:hunter2@10.0.0.1:6380/0", "10.0.0.1:6380"), ("unix://:hunter2@/run/redis.sock", "/run/redis.sock")],
)
def test_a_server_is_described_by_its_place_alone(url: str, place: str) -> None:
    assert describe(connect(url, None, 1)) == place


def test_a_user_who_may_not_do_what_is_needed_is_told_so_at_once(server: EmbeddedServer) -> None:
    with server.client() as client:
        client.acl_setuser("reader", enabled=True, passwords=["+word"], keys=["*"], commands=["+@read"])
        try:
            narrow = redis.Redis.from_url(server.url, username="reader", password="word")
            side = Transport(narrow, "run", lease_s=1, timeout_s=30)
            began = time.monotonic()
            with pytest.raises(QueueUnavailable, match=r"does not allow its user .*ACL SETUSER"):
                opened(side)
            assert time.monotonic() - began < 5
            side.close()
        finally:
            client.acl_deluser("reader")


def test_tls_is_spoken_and_a_certificate_that_is_not_trusted_is_told_at_once(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    with behind_tls(server.port, tmp_path) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        stranger = Transport(connect(url, server.password, 30), "run", lease_s=1, timeout_s=30)
        with pytest.raises(QueueUnavailable, match=r"TLS certificate .* not trusted .*ssl_ca_certs"):
            opened(stranger)
        trusting = connect(f"{url}?ssl_ca_certs={tmp_path / 'ca.pem'}", server.password, 30)
        side = Transport(trusting, "run", lease_s=1, timeout_s=30)
        assert opened(side) >= 1
        side.forget()
        side.close()
