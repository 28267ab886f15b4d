"""The driver's view of its workers: start them, start them again when they die, stop them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray

log = logging.getLogger(__name__)
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)


@dataclass
class _Member:
    actor: Any
    serving: Any = None
    deaths: int = 0
    again_at: float = 0.0
    since: float = field(default_factory=time.monotonic)


class Pool:
    """`make(name)` starts one actor; `died(name)` is told at once, so that its leases need not run out."""

    def __init__(self, make: Callable[[str], Any], died: Callable[[str], None]) -> None:
        self.make, self.died = make, died
        self.members: dict[str, _Member] = {}
        self.last_error = ""

    def grow_to(self, count: int) -> None:
        """Start workers until there are `count`."""
        for number in range(len(self.members), count):
            name = f"worker-{number}"
            member = _Member(self.make(name))
            member.serving = member.actor.serve.remote()
            self.members[name] = member

    def heal(self) -> None:
        """Ray restarts a dead actor's process; we let it serve again, later each time that it dies at once."""
        now = time.monotonic()
        for name, member in self.members.items():
            if member.serving is None:
                if now >= member.again_at:
                    member.serving, member.since = member.actor.serve.remote(), now
                continue
            done, _ = ray.wait([member.serving], timeout=0)
            if done:
                self._ended(name, member, now)

    def stop(self, timeout_s: float) -> None:
        """Wait for the workers, which have been told in the queue; kill what does not end in time."""
        serving = [member.serving for member in self.members.values() if member.serving is not None]
        if serving:
            ray.wait(serving, num_returns=len(serving), timeout=timeout_s)
        for member in self.members.values():
            ray.kill(member.actor, no_restart=True)

    def _ended(self, name: str, member: _Member, now: float) -> None:
        try:
            ray.get(member.serving)
        except ray.exceptions.RayError as error:
            self.last_error = str(error).strip().splitlines()[-1]
            log.warning("%s died: %s", name, self.last_error)
            self.died(name)
            member.deaths = member.deaths + 1 if now - member.since < 60 else 1
        member.serving = None
        member.again_at = now + BACKOFF_S[min(max(member.deaths, 1), len(BACKOFF_S)) - 1]
