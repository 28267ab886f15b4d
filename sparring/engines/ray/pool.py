"""The driver's view of its workers: start up to the target, start them again when they die, let them go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError

log = logging.getLogger(__name__)
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
LEAVE_GRACE_S = 60.0  # longer than a worker takes to hand back what it cannot finish


@dataclass
class _Member:
    """`ready`: its process is there (asked); `serving`: what it does until it stops; `leaving_since`: it was told."""

    actor: Any
    ready: Any
    serving: Any
    since: float
    came: bool = False
    deaths: int = 0
    again_at: float = 0.0
    leaving: bool = False
    leaving_since: float | None = None

    @property
    def state(self) -> str:
        if self.leaving:
            return "leaving"
        if self.serving is None:
            return "restarting"
        return "serving" if self.came else "starting"


class Pool:
    """`make(name)` starts one actor; `died(name)` is told at once, so that its leases need not run out; `leave(name)`
    tells one to take no more tickets, `left(name)` is told once it has gone. Names are never used twice."""

    def __init__(
        self,
        make: Callable[[str], Any],
        died: Callable[[str], None],
        leave: Callable[[str], None] = lambda name: None,
        left: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.make, self.died, self.leave, self.left = make, died, leave, left
        self.members: dict[str, _Member] = {}
        self.last_error = ""
        self._numbers = count()

    def states(self) -> dict[str, str]:
        """What each worker does: starting, serving, restarting or leaving."""
        return {name: member.state for name, member in self.members.items()}

    def follow(self, wanted: int, leaving: Iterable[str] = ()) -> list[str]:
        """Let go those of `leaving`, and start or let go others until `wanted` stay; returns the names of the latter.

        Those that do not serve yet go first, then the newest.
        """
        for name in leaving:
            if name in self.members:
                self.members[name].leaving = True
        staying = [name for name, member in reversed(self.members.items()) if not member.leaving]
        for _ in range(len(staying), wanted):
            name = f"worker-{next(self._numbers)}"
            self.members[name] = _begun(self.make(name))
        idle_first = sorted(staying, key=lambda name: self.members[name].state == "serving")
        chosen = idle_first[: max(0, len(staying) - wanted)]
        for name in chosen:
            self.members[name].leaving = True
        return chosen

    def heal(self) -> None:
        """Ray restarts a dead actor's process; we let it serve again, later each time that it dies at once."""
        now, ended = time.monotonic(), self._ended_tasks()
        for name, member in list(self.members.items()):
            if member.ready in ended:
                self._answered(name, member, now)
            if member.serving in ended:
                self._ended(name, member, now)
            if member.leaving:
                self._let_go(name, member, now)
            elif member.serving is None and member.ready is None and now >= member.again_at:
                member.ready = member.actor.__ray_ready__.remote()

    def stop(self, timeout_s: float) -> None:
        """Wait for the workers, which have been told in the queue; kill what does not end in time."""
        serving = [member.serving for member in self.members.values() if member.serving is not None and member.came]
        if serving:
            ray.wait(serving, num_returns=len(serving), timeout=timeout_s)
        for member in self.members.values():
            ray.kill(member.actor, no_restart=True)

    def _ended_tasks(self) -> set[Any]:
        tasks = [task for member in self.members.values() for task in (member.ready, member.serving)]
        pending = [task for task in tasks if task is not None]
        return set(ray.wait(pending, num_returns=len(pending), timeout=0)[0]) if pending else set()

    def _answered(self, name: str, member: _Member, now: float) -> None:
        """The process is there, or is not there yet, or will never come by itself: its constructor has failed."""
        task, member.ready = member.ready, None
        try:
            ray.get(task)
        except ActorDiedError:
            if member.serving is None:
                ray.kill(member.actor, no_restart=True)
                fresh = _begun(self.make(name))
                member.actor, member.ready, member.serving = fresh.actor, fresh.ready, fresh.serving
                member.since, member.came = now, False
            return
        except RayError:
            return  # asked again
        member.came = True
        if member.serving is None:
            member.serving, member.since = member.actor.serve.remote(), now

    def _ended(self, name: str, member: _Member, now: float) -> None:
        try:
            ray.get(member.serving)
        except RayError as error:
            self.last_error = str(error).strip().splitlines()[-1]
            log.warning("%s died: %s", name, self.last_error)
            self.died(name)
            member.deaths = member.deaths + 1 if now - member.since < 60 else 1
        member.serving = member.ready = None
        member.again_at = now + BACKOFF_S[min(max(member.deaths, 1), len(BACKOFF_S)) - 1]

    def _let_go(self, name: str, member: _Member, now: float) -> None:
        """Tell it, and a look later end its process if it has stopped, or has never come; or does not end in time.

        It is told again at every look: a trainer that starts again clears what was asked for.
        """
        self.leave(name)
        if member.leaving_since is None:
            member.leaving_since = now
        elif member.serving is None or not member.came or now - member.leaving_since > LEAVE_GRACE_S:
            ray.kill(member.actor, no_restart=True)
            if member.serving is not None:
                self.died(name)
            del self.members[name]
            self.left(name)
            log.info("%s has left", name)


def _begun(actor: Any) -> _Member:
    ready = actor.__ray_ready__.remote()
    return _Member(actor, ready, actor.serve.remote(), since=time.monotonic())
