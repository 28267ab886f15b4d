"""Users of Redis for the roles of a run: `sparring access` makes their passwords and rules, and may apply them."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError

from sparring.config import Config
from sparring.errors import SparringError, UsageError
from sparring.queue.access import ROLES, Login, Role, line_of, pattern_of, read_login, rules_of, to_line, user_of
from sparring.queue.connection import check_server, connect, describe, password_of, with_retries


@dataclass(frozen=True)
class Access:
    """The users for runs of one name (None: for all runs), whose passwords are in `folder`."""

    run_name: str | None
    folder: Path
    logins: dict[Role, Login]

    def rules(self, role: Role) -> list[str]:
        """For ACL SETUSER."""
        return rules_of(role, self.run_name, str(self.logins[role].password))

    @property
    def lines(self) -> list[str]:
        """For a server's configuration or its ACL file."""
        return [line_of(role, self.run_name, str(login.password)) for role, login in self.logins.items()]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; without a password."""
        users = {
            role: {"user": login.user, "file": str(self.folder / role), "rules": " ".join(self.rules(role))}
            for role, login in self.logins.items()
        }
        return {"folder": str(self.folder), "users": users}


def make_access(run_name: str | None, folder: Path) -> Access:
    """Write a file for each role, with a random password; those that are there are kept.

    Raises:
        UsageError: rules cannot contain the name, or a file is that of another user.
    """
    pattern_of(run_name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Access(run_name, folder.resolve(), {role: _login(folder, role, run_name) for role in ROLES})


def apply_access(access: Access, config: Config) -> str:
    """Make the users on the server of queue.redis_url, or give them their rules anew; returns where it is.

    Only here somebody asks who may see all of the server's settings: a trainer's user may not.

    Raises:
        SparringError: the server cannot be reached, no run could use it, or its administrator may not do that.
    """
    with _administered(config) as client:
        check_server(client, 0, config.queue.timeout_s)
        for role, login in access.logins.items():
            _administer(client, "SETUSER", login.user, *access.rules(role), timeout_s=config.queue.timeout_s)
        return describe(client)


def remove_access(run_name: str | None, folder: Path, config: Config) -> str:
    """Delete the users on the server, whose connections end with them, and their files; raises as `apply_access`."""
    with _administered(config) as client:
        users = [user_of(role, run_name) for role in ROLES]
        _administer(client, "DELUSER", *users, timeout_s=config.queue.timeout_s)
        for role in ROLES:
            (folder / role).unlink(missing_ok=True)
        return describe(client)


def _login(folder: Path, role: Role, run_name: str | None) -> Login:
    """The login in the role's file, which is made, readable by its owner only, where there is none."""
    new = Login(user_of(role, run_name), secrets.token_urlsafe(32))
    with contextlib.suppress(FileExistsError):
        handle = os.open(folder / role, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(to_line(new))
    found = read_login(folder, role)
    if found.user != new.user:
        raise UsageError(
            f"--out {folder}: {folder / role} holds the password of {found.user}, not of {new.user}. Choose another "
            f"folder, or delete that file."
        )
    return found


def _administered(config: Config) -> Redis:
    settings = config.queue
    if settings.redis_url is None:
        raise UsageError(
            "queue.redis_url is not set: a server that a run starts itself has such users anyway. Give the server by "
            "--queue.redis_url, and its administrator's password by queue.password_env or queue.password_file."
        )
    return connect(settings.redis_url, password_of(settings), settings.timeout_s)


def _administer(client: Any, *words: str | None, timeout_s: float) -> None:
    def tried() -> NoPermissionError | None:
        try:
            client.execute_command("ACL", *words)
        except NoPermissionError as error:
            return error
        return None

    if refused := with_retries(client, tried, timeout_s):
        raise SparringError(
            f"Redis at {describe(client)} does not let this user make users ({refused}). Name its administrator in "
            f"queue.redis_url (redis://USER@HOST:PORT/0), and give the password by queue.password_env or "
            f"queue.password_file."
        )
