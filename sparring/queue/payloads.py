"""The payloads of shards on servers of their own (queue.payload_urls), which know nothing but SET, GET and UNLINK.

A ticket's payload belongs on one of them by its number. Where that one does not answer, or is full, the next takes its
place, and readers look there too. A server that dies costs the shards that are on it: the trainer receives them as
missing, and their tickets are issued again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

import redis
from redis import exceptions as failures

from sparring.errors import SparringError
from sparring.queue.connection import MALFORMED, TRANSIENT, describe
from sparring.queue.messages import Key

T = TypeVar("T")
log = logging.getLogger(__name__)

DOWN_S, MOST_DOWN_S = 10.0, 300.0  # a server that did not answer is left alone, for longer each time
USAGE_WAIT_S = 0.1  # what has not come by then is told the next time
EXPIRES_S = 3600  # a payload that nobody takes out; where it was wanted after all, its ticket is issued again
AHEAD = 2  # payloads for each server that are fetched before they are asked for


class NoPayloadServer(SparringError):
    """No payload server took a payload: they do not answer, or are full."""


class Payloads:
    """The payloads of one run. Names are FENCE:MEMBER. Thread-safe.

    A payload that cannot be found, wherever it was, is None: nothing here raises but `put`.
    """

    def __init__(self, clients: Sequence[redis.Redis], prefix: str) -> None:
        self._clients: list[Any] = list(clients)  # their methods are also typed for the asynchronous client
        self._prefix = f"{prefix}payload:"
        self._down_until, self._down_s = [0.0] * len(clients), [DOWN_S] * len(clients)
        self._fetched: dict[str, Future[bytes | None]] = {}
        self._threads = ThreadPoolExecutor(len(clients) + 2, thread_name_prefix="payloads")
        self._asking: Future[list[dict[str, Any]]] | None = None
        self._said = list[dict[str, Any]]()

    @property
    def ahead(self) -> int:
        """How many payloads a reader should name in advance, so that all servers send at once."""
        return AHEAD * len(self._clients)

    def put(self, name: str, key: Key, payload: bytes) -> None:
        """Keep a payload.

        Raises:
            NoPayloadServer: none takes it now.
        """
        reasons = []
        for index in self._order(key):
            try:
                self._clients[index].set(self._prefix + name, payload, ex=EXPIRES_S)
                self._down_s[index] = DOWN_S
                return
            except (failures.RedisError, *MALFORMED) as error:
                self._note(index, error)
                reasons.append(f"{describe(self._clients[index])}: {str(error)[:100]}")
        raise NoPayloadServer("; ".join(reasons))

    def get(self, name: str, key: Key) -> bytes | None:
        """A payload, or None where no server that answers has it."""
        for index in self._order(key):
            found = self._asked(index, lambda client: client.get(self._prefix + name))
            if isinstance(found, bytes):
                return found
        return None

    def fetch(self, names: Sequence[tuple[str, Key]]) -> None:
        """Begin to get payloads, which `take` hands over."""
        for name, key in names:
            if name not in self._fetched:
                self._fetched[name] = self._threads.submit(self.get, name, key)

    def take(self, name: str, key: Key) -> bytes | None:
        """A payload, as `get`; it stays on its server."""
        begun = self._fetched.pop(name, None)
        found = None if begun is None else begun.result()
        return self.get(name, key) if found is None else found

    def release(self, name: str, key: Key) -> None:
        """`drop`, without waiting for it; nothing once they are closed."""
        with suppress(RuntimeError):
            self._threads.submit(self.drop, name, key)

    def drop(self, name: str, key: Key) -> None:
        """Delete a payload wherever it may be; one that stays, since its server does not answer, expires."""
        for index in self._order(key):
            if self._asked(index, lambda client: client.unlink(self._prefix + name)):
                return

    def clear(self, but: int | None = None) -> None:
        """Delete all payloads of the run, but those of one fence."""
        self._fetched.clear()
        kept = f"{self._prefix}{but}:".encode()
        pattern = "".join(f"\\{sign}" if sign in "*?[]\\" else sign for sign in self._prefix) + "*"
        for index in range(len(self._clients)):

            def delete(client: Any) -> None:
                for name in client.scan_iter(pattern, count=1000):
                    if but is None or not name.startswith(kept):
                        client.unlink(name)

            self._asked(index, delete)

    def usage(self) -> list[dict[str, Any]]:
        """What each server that answers last said of its memory and its traffic; does not wait for one that is away."""
        if self._asking is None or self._asking.done():
            self._asking = self._threads.submit(self._ask_usage)
        wait([self._asking], USAGE_WAIT_S)
        if self._asking.done():
            self._said = self._asking.result()
        return self._said

    def _ask_usage(self) -> list[dict[str, Any]]:
        up = [index for index, until in enumerate(self._down_until) if until <= monotonic()]
        said = (self._asked(index, lambda client: client.info()) for index in up)
        return [each for each in said if each is not None]

    def down(self) -> int:
        """How many servers did not answer when they were asked last."""
        return sum(until > monotonic() for until in self._down_until)

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for client in self._clients:
            client.close()

    def _order(self, key: Key) -> list[int]:
        """The servers for a ticket, its own first, without those that are down, unless all are. Another attempt has
        another server."""
        count, now = len(self._clients), monotonic()
        order = [(key.number + key.attempt + step) % count for step in range(count)]
        return [index for index in order if self._down_until[index] <= now] or order

    def _asked(self, index: int, question: Callable[[Any], T]) -> T | None:
        """A server's answer, or None where it has none."""
        try:
            found = question(self._clients[index])
            self._down_s[index] = DOWN_S
            return found
        except (failures.RedisError, *MALFORMED) as error:
            self._note(index, error)
            return None

    def _note(self, index: int, error: Exception) -> None:
        if isinstance(error, (failures.InvalidResponse, *MALFORMED)):
            self._clients[index].connection_pool.disconnect()  # what follows there makes no sense
        if isinstance(error, (*TRANSIENT, *MALFORMED)) and self._down_until[index] <= monotonic():  # else it is known
            self._down_until[index] = monotonic() + self._down_s[index]
            self._down_s[index] = min(2 * self._down_s[index], MOST_DOWN_S)
        log.warning("payload server %s: %s", describe(self._clients[index]), str(error)[:200])
