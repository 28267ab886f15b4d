"""TLS with certificates on both sides, on a real redis-server: through a whole run, and refusals in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.commands.access import make_access
from sparring.commands.train import train
from sparring.errors import SparringError, UsageError
from sparring.queue.connection import connect, with_retries
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import Transport
from tests.support.queues import opened
from tests.support.runs import Place, small
from tests.support.tls import Authority, redis_with_tls

PASSWORD = "word-of-the-administrator"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def port(authority: Authority) -> Iterator[int]:
    with redis_with_tls(authority, PASSWORD) as started:
        yield started


def address(port: int, **files: Path) -> str:
    return f"rediss://127.0.0.1:{port}/0?" + "&".join(f"{name}={path}" for name, path in files.items())


def refusal(url: str) -> str:
    """What is said within queue.timeout_s."""
    with connect(url, PASSWORD, 1) as client, pytest.raises(SparringError) as caught:
        with_retries(client, client.ping, 1)
    return str(caught.value)


def test_who_has_a_certificate_of_the_authority_is_let_in(authority: Authority, port: int) -> None:
    certified, key = authority.issue("client")
    url = address(port, ssl_ca_certs=authority.ca, ssl_certfile=certified, ssl_keyfile=key)
    side = Transport(connect(url, PASSWORD, 5), "run", lease_s=1, timeout_s=5)
    assert opened(side) == 1
    side.close()


def test_without_one_or_with_another_authoritys_the_settings_are_named(
    authority: Authority, port: int, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")
    certified, key = stranger.issue("client")
    for files in ({}, {"ssl_certfile": certified, "ssl_keyfile": key}):
        said = refusal(address(port, ssl_ca_certs=authority.ca, **files))
        assert "its clients" in said and "queue.redis_url" in said and "ssl_certfile=" in said


def test_a_server_of_an_unknown_authority_is_not_trusted(authority: Authority, port: int, tmp_path: Path) -> None:
    certified, key = authority.issue("client")
    own = {"ssl_certfile": certified, "ssl_keyfile": key}
    for files in ({}, {"ssl_ca_certs": Authority(tmp_path / "stranger").ca}):
        said = refusal(address(port, **files, **own))
        assert "not trusted" in said and "queue.redis_url" in said and "ssl_ca_certs=" in said


def test_files_that_are_not_there_are_named(authority: Authority) -> None:
    for path in ("/nowhere/client.pem", "client.pem"):
        with pytest.raises(UsageError, match=rf"queue\.redis_url: ssl_certfile = {path} is not the absolute path"):
            connect(f"rediss://127.0.0.1:1/0?ssl_ca_certs={authority.ca}&ssl_certfile={path}", PASSWORD, 5)


def test_tls_on_one_side_alone_is_suspected(port: int) -> None:
    assert "rediss:// if it speaks TLS" in refusal(f"redis://127.0.0.1:{port}/0")
    with EmbeddedServer(16 << 20) as plain:
        assert "that it speaks TLS there (else redis://)" in refusal(f"rediss://127.0.0.1:{plain.port}/0")


@pytest.mark.ray
def test_a_whole_run_goes_over_tls_with_users_of_its_roles(
    authority: Authority, tmp_path: Path, shared_ray: Place
) -> None:
    access = make_access("over-tls", tmp_path / "access")
    certified, key = authority.issue("client")
    with redis_with_tls(authority, PASSWORD, access.lines) as port:
        url = address(port, ssl_ca_certs=authority.ca, ssl_certfile=certified, ssl_keyfile=key)
        config = small(
            tmp_path,
            run={"root": str(tmp_path), "name": "over-tls"},
            queue={"redis_url": url, "access": str(access.folder)},
            ray={"address": shared_ray(small(tmp_path)).ray.address},
        )
        result = train(config)
    assert result.phase == "finished" and result.summary["worker_shards"] == 12
