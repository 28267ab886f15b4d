"""Shards are encoded and sent beside the next attack, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from sparring.queue.messages import Lease, Shard


class Push(NamedTuple):
    """A shard on its way; `accepted` is False where its lease was lost meanwhile."""

    lease: Lease
    shard: Shard
    accepted: Future[bool]


class Pusher:
    """Commits in a thread; `commit` has time-outs of its own."""

    def __init__(self, commit: Callable[[Lease, Shard], bool]) -> None:
        self._commit = commit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pusher")
        self.under_way: Push | None = None

    def start(self, lease: Lease, shard: Shard) -> None:
        """Send a shard, once the one before has been settled."""
        assert self.under_way is None, "the one before is not settled"
        self.under_way = Push(lease, shard, self._thread.submit(self._commit, lease, shard))

    def settled(self, wait: bool) -> Push | None:
        """The push that has ended; None: there is none, or it goes on and is not waited for."""
        push = self.under_way
        if push is None or not (wait or push.accepted.done()):
            return None
        push.accepted.exception()  # waits
        self.under_way = None
        return push
