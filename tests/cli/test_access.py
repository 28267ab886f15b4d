"""`sparring access`: rules are printed or applied, passwords are in files alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sparring.queue.access import ROLES, read_login
from sparring.queue.connection import connect
from sparring.queue.server import EmbeddedServer
from tests.support.commands import Say


def test_rules_are_printed_as_a_server_reads_them_and_passwords_are_not(say: Say, elsewhere: Path) -> None:
    said = say("access", "--out", "access")
    assert said.code == 0 and len(said.out.splitlines()) == 3 and "--queue.access" in said.err
    logins = [read_login(Path("access"), role) for role in ROLES]
    assert not any(str(login.password) in said.out + said.err for login in logins)
    with EmbeddedServer(16 << 20, users=said.out.splitlines()) as server:
        for login in logins:
            with connect(server.url, login, 5.0) as client:
                assert client.ping()


def test_on_a_server_they_are_made_and_removed(say: Say, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedServer(16 << 20) as server:
        (elsewhere / "admin").write_text(server.password)
        place = ["--queue.redis_url", server.url, "--queue.password_file", "admin"]
        said = say("access", "named", "--out", "access", *place, "--json")
        told = json.loads(said.out)
        assert said.code == 0 and told["server"] == f"127.0.0.1:{server.port}"
        assert told["users"]["worker"]["user"] == "sparring-named-worker"
        with server.client() as admin:
            assert set(admin.acl_users()) == {"default", *(f"sparring-named-{role}" for role in ROLES)}
        assert say("access", "named", "--out", "access", *place, "--remove").code == 0
        with server.client() as admin:
            assert admin.acl_users() == ["default"]
        assert os.listdir("access") == []
        (elsewhere / "admin").write_text("wrong")
        said = say("access", "named", "--out", "access", *place)
        assert said.code == 1 and "refuses the password" in said.complaint


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["my run"], "cannot contain a space"),
        (["a/b"], "run.name"),
        (["--remove"], "queue.redis_url is not set"),
        (["--queue.redis_url", "redis://:word@host"], "it holds a password"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence_and_leaves_nothing(
    say: Say, elsewhere: Path, words: list[str], reason: str
) -> None:
    said = say("access", "--out", "access", *words)
    assert said.code == 2 and reason in said.complaint and said.out == "" and os.listdir(elsewhere) == []
