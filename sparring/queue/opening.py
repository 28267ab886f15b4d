"""The queue's server that a run uses: one that the settings name, or an embedded one of the run's own."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import redis

from sparring.config import Config, QueueSettings
from sparring.errors import SparringError, UsageError
from sparring.queue.access import ROLES, Login, Role, line_of, user_of
from sparring.queue.connection import check_server, connect, describe, login_of, password_of, with_retries
from sparring.queue.server import EmbeddedServer, find_server
from sparring.queue.sizing import needed_memory, payload_memory
from sparring.queue.transport import Transport

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class QueueAddress:
    """What a process needs to take part in a run's queue.

    secret: signs what goes through it. payload_password: of the servers of queue.payload_urls.
    """

    url: str
    login: Login | str | None
    secret: bytes = field(default=b"", repr=False)
    payload_password: str | None = field(default=None, repr=False)

    def transport(self, settings: QueueSettings, run_id: str, parts: int = 1) -> Transport:
        """A side of the queue, with connections of its own. parts: number of trainers."""
        return Transport(
            connect(self.url, self.login, settings.timeout_s),
            run_id,
            lease_s=settings.lease_s,
            timeout_s=settings.timeout_s,
            wire=settings.wire,
            secret=self.secret,
            parts=parts,
            payload_servers=[
                connect(url, self.payload_password, settings.timeout_s, "queue.payload_urls")
                for url in settings.payload_urls
            ],
        )


@dataclass(frozen=True)
class Queue:
    """How the queue is reached; the passwords go into no file but the run's own, readable by its owner.

    logins: by role. admin: of an embedded server, for the driver alone.
    """

    url: str
    logins: Mapping[Role, Login]
    memory_for: Callable[[Config], int]  # bytes that what a run may have outstanding needs
    admin: Login | None = None
    payload_password: str | None = field(default=None, repr=False)

    def address(self, role: Role, secret: bytes = b"") -> QueueAddress:
        """What a process of this role needs."""
        return QueueAddress(self.url, self.logins[role], secret, self.payload_password)

    @property
    def embedded(self) -> bool:
        """Whether the server is the run's own."""
        return self.admin is not None


def require_queue(config: Config, shape: Shape, snapshot_bytes: int, views: bool = False) -> None:
    """Refuse a server that cannot serve the run; nothing is started.

    Args:
        shape: of an image, (C, H, W). snapshot_bytes: of the weights. views: shards carry views of the images.

    Raises:
        SparringError: it cannot be reached, would lose or refuse what the run puts into it, or there is none to start.
    """
    settings, needed = config.queue, needed_memory(config, shape, snapshot_bytes, views)
    require_payload_servers(settings, payload_memory(config, shape, views))
    if settings.redis_url is not None:
        with connect(settings.redis_url, login_of(settings, "trainer"), settings.timeout_s) as client:
            check_server(client, needed, settings.timeout_s)
        with connect(settings.redis_url, login_of(settings, "worker"), settings.timeout_s) as client:
            with_retries(client, client.ping, settings.timeout_s)
        return
    if settings.access is not None:
        raise UsageError(
            f"queue.access = {settings.access} with queue.redis_url unset: an embedded server makes users of its own. "
            f"Leave out queue.access, or set queue.redis_url."
        )
    if config.ray.address != "local":
        raise UsageError(
            f"ray.address = {config.ray.address!r} with queue.redis_url unset: other hosts cannot reach an embedded "
            f"server. Set queue.redis_url to a Redis that all hosts reach."
        )
    find_server()


def require_payload_servers(settings: QueueSettings, needed_bytes: int) -> None:
    """Refuse servers of queue.payload_urls as `check_server` does; each must have room for `needed_bytes`."""
    for url in settings.payload_urls:
        with connect(url, password_of(settings), settings.timeout_s, "queue.payload_urls") as client:
            try:
                check_server(client, needed_bytes, settings.timeout_s)
                with_retries(client, partial(require_kept, client), settings.timeout_s)
            except SparringError as error:
                raise type(error)(f"queue.payload_urls: {error}") from error


def require_kept(client: redis.Redis) -> None:
    """Refuse a payload server that does not give back what was given to it, or does not delete it.

    Raises:
        SparringError: it does not.
    """
    name, word = f"sparring:{{check}}:payload:{secrets.token_hex(8)}", secrets.token_bytes(16)
    client.set(name, word, ex=60)
    if client.get(name) != word or client.unlink(name) != 1:
        raise SparringError(f"{describe(client)} does not keep what is put there: it is no plain Redis of this run's.")


@contextmanager
def open_queue(config: Config, shape: Shape, snapshot_bytes: int, views: bool = False) -> Iterator[Queue]:
    """The server of the settings, or an embedded one that ends with the run; raises as `require_queue`."""
    require_queue(config, shape, snapshot_bytes, views)
    memory_for = partial(needed_memory, shape=shape, snapshot_bytes=snapshot_bytes, views=views)
    settings = config.queue
    payload_password = password_of(settings) if settings.payload_urls else None
    if settings.redis_url is not None:
        logins: dict[Role, Login] = {role: login_of(settings, role) for role in ("trainer", "worker")}
        yield Queue(settings.redis_url, logins, memory_for, payload_password=payload_password)
        return
    memory = memory_for(config) if settings.maxmemory_mb is None else settings.maxmemory_mb << 20
    passwords = {role: secrets.token_urlsafe(32) for role in ROLES}
    users = [line_of(role, None, password) for role, password in passwords.items()]
    with EmbeddedServer(maxmemory=memory, users=users) as server:
        logins = {role: Login(user_of(role, None), password) for role, password in passwords.items()}
        yield Queue(server.url, logins, memory_for, Login(None, server.password), payload_password)
