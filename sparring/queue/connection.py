"""Connect to the queue's server: a client, a check of the server's settings, and retries."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import redis
from redis import exceptions as failures
from redis.backoff import NoBackoff
from redis.retry import Retry

from sparring.config import QueueSettings
from sparring.errors import SparringError, UsageError

TRANSIENT = (failures.ConnectionError, failures.TimeoutError, failures.BusyLoadingError, failures.InvalidResponse)
REFUSED = (failures.AuthenticationError, failures.AuthorizationError)
PASSING = (failures.ReadOnlyError, failures.MasterDownError, failures.ClusterDownError, failures.TryAgainError)
PASSING_WORDS = ("BUSY ", "MISCONF", "NOREPLICAS")  # of errors that have no class of their own


class QueueUnavailable(SparringError):
    """The server does not answer, or refuses the password."""


class QueueRefused(SparringError):
    """The server answered with an error that waiting does not cure."""


def connect(url: str, password: str | None, timeout_s: float) -> redis.Redis:
    """A client without its own retries (`Transport` has them). Nothing is sent yet."""
    wait_s = max(2.0, min(timeout_s, 10.0))
    try:
        return redis.Redis.from_url(
            url,
            password=password,
            socket_timeout=wait_s,
            socket_connect_timeout=wait_s,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise SparringError("queue.redis_url is not a Redis URL. Give it as redis://HOST:PORT/DB.") from error


def password_of(settings: QueueSettings) -> str | None:
    """The password for queue.redis_url, from the environment variable or the file that the settings name.

    Raises:
        UsageError: the file cannot be read, or is empty.
    """
    given = os.environ.get(settings.password_env)
    if given is not None or settings.password_file is None:
        return given
    return read_password(settings.password_file, "queue.password_file")


def read_password(path: Path, setting: str) -> str:
    """The password in a file, without surrounding white space.

    Raises:
        UsageError: the file cannot be read, or is empty; the message begins with `setting`.
    """
    try:
        password = path.expanduser().read_text().strip()
    except OSError as error:
        raise UsageError(f"{setting} = {path}: {error.strerror}. Give a file that contains the password.") from error
    if not password:
        raise UsageError(f"{setting} = {path} is empty. Give a file that contains the password.")
    return password


def check_server(client: redis.Redis, needed_bytes: int, timeout_s: float = 10.0) -> None:
    """Refuse a server that could evict shards, would come back with an older state after a restart, has too little
    memory, or does not allow the commands that are needed.

    Raises:
        SparringError: with the server's setting, its value and the remedy.
    """
    info: dict[str, Any] = with_retries(client, client.info, timeout_s)
    version = str(info["redis_version"])
    if "valkey_version" not in info and int(version.split(".")[0]) < 7:
        raise SparringError(f"Redis {version} at {describe(client)} is too old: use Redis 7 or newer, or Valkey.")
    policy, limit = info["maxmemory_policy"], int(info["maxmemory"])
    if policy != "noeviction":
        raise SparringError(
            f"maxmemory-policy = {policy} at {describe(client)} could evict shards; it must be noeviction. "
            f"Run CONFIG SET maxmemory-policy noeviction, or unset queue.redis_url for an embedded server."
        )
    _require_no_persistence(client, bool(info.get("aof_enabled")), timeout_s)
    if 0 < limit < needed_bytes:
        raise SparringError(
            f"maxmemory = {limit / 2**20:.0f} MiB at {describe(client)} is less than the {needed_bytes / 2**20:.0f} "
            f"MiB that outstanding shards may take. Run CONFIG SET maxmemory {needed_bytes}, or lower "
            f"staleness.depth, train.shards_per_step or train.batch_size."
        )
    command = "SORT_RO", "sparring:check", "BY", "nosort", "GET", "sparring:check:*"  # as in Transport.receive
    try:
        with_retries(client, partial(client.execute_command, *command), timeout_s)
    except failures.ResponseError as error:
        raise SparringError(
            f"Redis at {describe(client)} does not allow SORT_RO to read shards ({error}). Allow its user all keys "
            f"(ACL SETUSER NAME ~*), or use a server that is not in cluster mode."
        ) from error


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
        redis.ResponseError: another error of the server's.
    """
    deadline, pause_s = time.monotonic() + timeout_s, 0.02
    while True:
        try:
            return operation()
        except REFUSED as error:
            _refused(client, error)
        except failures.NoPermissionError as error:
            raise QueueUnavailable(
                f"Redis at {describe(client)} does not allow its user what Sparring needs ({error}). Change the "
                f"user's rules (ACL SETUSER), see docs/operations.md."
            ) from error
        except (*TRANSIENT, failures.ResponseError) as error:
            _require_passing(client, error)
            if time.monotonic() + pause_s > deadline:
                raise QueueUnavailable(
                    f"no answer from Redis at {describe(client)} for queue.timeout_s = {timeout_s:g} s "
                    f"({type(error).__name__}: {str(error)[:200]}). Check that the server runs and that "
                    f"queue.redis_url is its address."
                ) from error
            if isinstance(error, failures.InvalidResponse):  # what follows on that connection makes no sense
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
            f"Redis at {describe(client)} answered: {str(error)[:200]}. Keys of this run ({keys}*) are not what "
            f"Sparring wrote, or the server is not a Redis 7. `sparring resume` continues from the last checkpoint."
        ) from error


def _require_passing(client: redis.Redis, error: Exception) -> None:
    """Raise what waiting does not cure."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        raise QueueUnavailable(
            f"the TLS certificate of Redis at {describe(client)} is not trusted ({text[:200]}). Name its authority in "
            f"the URL: rediss://HOST:PORT/0?ssl_ca_certs=/path/to/ca.pem."
        ) from error
    passing = isinstance(error, (*TRANSIENT, *PASSING)) or text.startswith(PASSING_WORDS)
    if not passing:
        raise error


def _refused(client: redis.Redis, error: Exception) -> NoReturn:
    raise QueueUnavailable(
        f"Redis at {describe(client)} refuses the password ({str(error).split(' ')[0]}). Give it in the environment "
        f"variable that queue.password_env names, or in queue.password_file, not in the URL or the recipe."
    ) from None
