"""Connect to the queue's server: a client, a check of the server's settings, and retries."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, NoReturn, cast
from urllib.parse import parse_qs, urlsplit

import redis
from redis import exceptions as failures
from redis.backoff import NoBackoff
from redis.retry import Retry

from sparring.config import QueueSettings
from sparring.errors import SparringError, UsageError
from sparring.queue.access import COMMANDS, Login, Role, read_login

TRANSIENT = (failures.ConnectionError, failures.TimeoutError, failures.BusyLoadingError, failures.InvalidResponse)
MALFORMED = (  # what redis-py raises of answers that no Redis gives: its parser trusts digits and lengths
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError, RecursionError),
)
REFUSED = (failures.AuthenticationError, failures.AuthorizationError)
PASSING = (
    *(failures.ReadOnlyError, failures.MasterDownError, failures.ClusterDownError, failures.TryAgainError),
    failures.NoScriptError,  # to a worker, who may load none: the trainer does
)
PASSING_WORDS = ("BUSY ", "MISCONF", "NOREPLICAS", "UNBLOCKED")  # of errors that have no class of their own
DENIED_WORDS = ("ACL failure in script", "The user executing the script can't")
UNKNOWN_WORDS = ("unknown command", "unknown redis command")  # directly, and in a script
UNTRUSTED_WORDS = ("CERTIFICATE_VERIFY_FAILED", "self signed certificate", "self-signed certificate")
CERTIFICATES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
CERTIFICATE_WORDS = (  # alerts of a server that does not like the client's
    *("CERTIFICATE_REQUIRED", "UNKNOWN_CA", "DECRYPT_ERROR", "BAD_CERTIFICATE", "CERTIFICATE_EXPIRED"),
    "CERTIFICATE_REVOKED",
)


class QueueUnavailable(SparringError):
    """The server does not answer, or refuses the password."""


class QueueRefused(SparringError):
    """The server answered with an error that waiting does not cure."""


def connect(url: str, login: Login | str | None, timeout_s: float, setting: str = "queue.redis_url") -> redis.Redis:
    """A client without its own retries (`Transport` has them). Nothing is sent yet. Messages name `setting`.

    login: a password alone is that of the user whom the URL names, or else of the server's default user.
    """
    _require_files(url, setting)
    user, password = (login.user, login.password) if isinstance(login, Login) else (None, login)
    wait_s = max(2.0, min(timeout_s / 2, 10.0))  # so that a request whose reply does not come is made again
    try:
        client = redis.Redis.from_url(
            url,
            username=user,
            password=password,
            socket_timeout=wait_s,
            **({} if url.startswith("unix:") else {"socket_connect_timeout": wait_s, "socket_keepalive": True}),
            retry=Retry(NoBackoff(), 0),
        )
        client.connection_pool.make_connection()  # connects to nothing, but looks at the URL's options
        return client
    except (ValueError, TypeError) as error:
        raise UsageError(f"{setting} is not a Redis URL. Give it as redis://HOST:PORT/DB.") from error


def _require_files(url: str, setting: str) -> None:
    """Refuse files of certificates and keys that are not there.

    Raises:
        UsageError: one is not.
    """
    options = parse_qs(urlsplit(url).query)
    for name in CERTIFICATES:
        for path in map(Path, options.get(name, ())):
            if not path.is_absolute() or not path.is_file():
                raise UsageError(
                    f"{setting}: {name} = {path} is not the absolute path of a file on this host. Put the file "
                    f"there, on every host, or name another one."
                )


def password_of(settings: QueueSettings) -> str | None:
    """The password for queue.redis_url, from the environment variable or the file that the settings name.

    Raises:
        UsageError: the file cannot be read, or is empty.
    """
    given = os.environ.get(settings.password_env)
    if given is not None or settings.password_file is None:
        return given
    return read_password(settings.password_file, "queue.password_file")


def login_of(settings: QueueSettings, role: Role) -> Login:
    """The user of a role and its password: of queue.access, else one password for all roles.

    Raises:
        UsageError: a file cannot be read, or does not hold what it should.
    """
    if settings.access is not None:
        return read_login(settings.access, role)
    return Login(None, password_of(settings))


def read_password(path: Path, setting: str) -> str:
    """The password in a file, without surrounding white space.

    Raises:
        UsageError: the file cannot be read, or is empty; the message begins with `setting`.
    """
    try:
        password = path.expanduser().read_text().strip()
    except OSError as error:
        raise UsageError(f"{setting} = {path}: {error.strerror}. Give a file that contains the password.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{setting} = {path} is not text. Give a file that contains the password.") from error
    if not password:
        raise UsageError(f"{setting} = {path} is empty. Give a file that contains the password.")
    return password


def check_server(client: redis.Redis, needed_bytes: int, timeout_s: float = 10.0) -> None:
    """Refuse a server that could evict shards, would come back with an older state after a restart, or has too little
    memory.

    Raises:
        SparringError: with the server's setting, its value and the remedy.
    """
    info: dict[str, Any] = with_retries(client, client.info, timeout_s)
    version = str(info["redis_version"])
    if "valkey_version" not in info and int(version.split(".")[0]) < 7:
        raise SparringError(f"Redis {version} at {describe(client)} is too old: use Redis 7 or newer, or Valkey.")
    _require_commands(client, timeout_s)
    policy, limit = info["maxmemory_policy"], int(info["maxmemory"])
    if policy != "noeviction":
        raise SparringError(
            f"maxmemory-policy = {policy} at {describe(client)} could evict shards; it must be noeviction. "
            f"Run CONFIG SET maxmemory-policy noeviction, or unset queue.redis_url for an embedded server."
        )
    _require_no_persistence(client, bool(info.get("aof_enabled")), timeout_s)
    if 0 < limit < needed_bytes:
        raise SparringError(
            f"maxmemory = {limit} bytes at {describe(client)} is less than the {needed_bytes} "
            f"({ceil(needed_bytes / 2**20)} MiB) that outstanding shards may take. Run CONFIG SET maxmemory "
            f"{needed_bytes}, or lower staleness.depth, train.shards_per_step or train.batch_size."
        )
    if info.get("redis_mode") == "cluster":
        raise SparringError(
            f"Redis at {describe(client)} is in cluster mode, and a run's queue is on one server. Name in "
            f"queue.redis_url one that is not in cluster mode, or unset it for an embedded server."
        )


def check_access(client: redis.Redis, prefix: str, timeout_s: float) -> None:
    """Refuse a user who is unknown, or who may not read the keys that begin with `prefix`.

    Raises:
        QueueUnavailable: see `with_retries`.
    """
    with_retries(client, partial(client.get, f"{prefix}fence"), timeout_s)


def _require_commands(client: redis.Redis, timeout_s: float) -> None:
    """Refuse a server on which a command is renamed or disabled; scripts would fail at it in the middle of a run."""
    names, untyped = COMMANDS["trainer"].split(), cast(Any, client)  # redis-py does not say what a command returns

    def known() -> list[Any]:
        try:
            return list(untyped.execute_command("COMMAND INFO", *names))
        except failures.ResponseError:  # a user that may not ask, a service without it
            return names

    unknown = [name for name, found in zip(names, with_retries(client, known, timeout_s), strict=True) if not found]
    if unknown:
        raise _lacks_commands(client, ", ".join(name.upper() for name in unknown))


def _lacks_commands(client: redis.Redis, which: str) -> QueueRefused:
    return QueueRefused(
        f"Redis at {describe(client)} does not know a command that Sparring needs ({which}): it is renamed or disabled "
        f"there, or the server is older than Redis 7. Take rename-command out of its configuration, or unset "
        f"queue.redis_url for an embedded server."
    )


def _require_no_persistence(client: redis.Redis, appends: bool, timeout_s: float) -> None:
    def when_saved() -> str:
        try:
            return str(client.config_get("save").get("save", ""))
        except failures.ResponseError:  # a user that may not ask, a service without CONFIG
            return ""

    saves = with_retries(client, when_saved, timeout_s)
    for name, value, off in (("save", saves, "''"), ("appendonly", "yes" if appends else "", "no")):
        if value:
            raise SparringError(
                f"{name} = {value} at {describe(client)} writes the queue to disk: a restart would bring an old state "
                f"back. Run CONFIG SET {name} {off}, or unset queue.redis_url for an embedded server."
            )


def raise_limit(client: redis.Redis, needed_bytes: int, timeout_s: float) -> None:
    """Raise the memory limit of an embedded server to `needed_bytes` if it is lower."""
    info: dict[str, Any] = with_retries(client, lambda: client.info("memory"), timeout_s)
    if 0 < int(info["maxmemory"]) < needed_bytes:
        with_retries(client, lambda: client.config_set("maxmemory", needed_bytes), timeout_s)


def describe(client: redis.Redis) -> str:
    """The address that the client connects to, without the password."""
    where = client.connection_pool.connection_kwargs
    return str(where["path"]) if "path" in where else f"{where.get('host')}:{where.get('port')}"


def with_retries(client: redis.Redis, operation: Callable[[], Any], timeout_s: float) -> Any:
    """Run `operation`; while the server cannot be reached or is not ready, retry with back-off for at most `timeout_s`.

    Raises:
        QueueUnavailable: the server stayed so, or it refuses the password, the user or the certificate (which is not
            retried).
        QueueRefused: it does not know a command.
        redis.ResponseError: another error of the server's.
    """
    deadline, pause_s = time.monotonic() + timeout_s, 0.02
    while True:
        try:
            return operation()
        except REFUSED as error:
            _refused(client, error)
        except failures.NoPermissionError as error:
            _denied(client, error)
        except SparringError:
            raise
        except (*TRANSIENT, failures.ResponseError, *MALFORMED) as error:
            malformed = isinstance(error, (failures.InvalidResponse, *MALFORMED))
            if not malformed:
                _require_passing(client, error)
            if time.monotonic() + pause_s > deadline:
                raise QueueUnavailable(
                    f"no answer from Redis at {describe(client)} for {timeout_s:g} s (a run waits for "
                    f"queue.timeout_s; {type(error).__name__}: {_said(error)}). Check that the server runs and "
                    f"that queue.redis_url is its address{_about_tls(client)}."
                ) from error
            if malformed:  # what follows on that connection makes no sense
                client.connection_pool.disconnect()
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 1.0)


def answered(client: redis.Redis, operation: Callable[[], Any], timeout_s: float, keys: str) -> Any:
    """As `with_retries`, for operations on a run's own keys, which begin with `keys`.

    Raises:
        QueueRefused: the server answered with an error that waiting does not cure.
        redis.OutOfMemoryError: its memory is full.
    """
    try:
        return with_retries(client, operation, timeout_s)
    except failures.OutOfMemoryError:
        raise
    except failures.ResponseError as error:
        raise QueueRefused(
            f"Redis at {describe(client)} answered: {_said(error)}. Keys of this run ({keys}*) are not what "
            f"Sparring wrote, or the server is not a Redis 7. `sparring resume` continues from the last checkpoint."
        ) from error


def _said(error: Exception) -> str:
    """What the server said, without the hash and the line of the script in which it met the error."""
    return re.sub(r"\s*script:\s*([0-9a-f]{40}|on @).*", "", str(error), flags=re.DOTALL)[:200]


def _require_passing(client: redis.Redis, error: Exception) -> None:
    """Raise what waiting does not cure."""
    text, said = str(error), _said(error)
    if any(words in text for words in DENIED_WORDS):
        _denied(client, error)
    if any(words in text for words in CERTIFICATE_WORDS):
        raise QueueUnavailable(
            f"Redis at {describe(client)} asks for a certificate of its clients, or does not trust this one "
            f"({said}). Name one of its authority and its key in queue.redis_url: "
            f"rediss://HOST:PORT/0?ssl_certfile=/path/to/client.pem&ssl_keyfile=/path/to/client.key."
        ) from error
    if any(words in text for words in UNTRUSTED_WORDS):
        raise QueueUnavailable(
            f"the TLS certificate of Redis at {describe(client)} is not trusted ({said}). Name its authority in "
            f"queue.redis_url: rediss://HOST:PORT/0?ssl_ca_certs=/path/to/ca.pem."
        ) from error
    if any(words in text.lower() for words in UNKNOWN_WORDS):
        raise _lacks_commands(client, said) from error
    passing = isinstance(error, (*TRANSIENT, *PASSING)) or text.startswith(PASSING_WORDS)
    if not passing:
        raise error


def _about_tls(client: redis.Redis) -> str:
    """What else may be wrong: a server that speaks TLS, or wants a certificate, often just closes the connection."""
    if not issubclass(client.connection_pool.connection_class, redis.SSLConnection):
        return " (with rediss:// if it speaks TLS)"
    return (
        ", that it speaks TLS there (else redis://), and whether it asks its clients for certificates: name one by "
        "?ssl_certfile=/path/to/client.pem&ssl_keyfile=/path/to/client.key"
    )


def _refused(client: redis.Redis, error: Exception) -> NoReturn:
    user = client.connection_pool.connection_kwargs.get("username")
    whose = f" of the user {user}" if user else ""
    raise QueueUnavailable(
        f"Redis at {describe(client)} refuses the password{whose} ({str(error).split(' ')[0]}). Give it in the "
        f"environment variable that queue.password_env names, or in queue.password_file, not in the URL or the recipe; "
        f"that of a user of `sparring access` is in the folder queue.access."
    ) from None


def _denied(client: redis.Redis, error: Exception) -> NoReturn:
    user = client.connection_pool.connection_kwargs.get("username") or "default"
    raise QueueUnavailable(
        f"Redis at {describe(client)} does not allow its user {user} what Sparring needs ({_said(error)}). Make "
        f"users by `sparring access` for this run.name, or for all runs, and name their folder in queue.access; or "
        f"change the user's rules (ACL SETUSER)."
    ) from error
