"""The driver's workers: started up to the target number, restarted when they die, stopped when they are to leave."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError

from sparring.errors import last_line

log = logging.getLogger(__name__)
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
LEAVE_GRACE_S = 60.0  # longer than a worker takes to hand back what it cannot finish


@dataclass
class _Member:
    """One worker. ready: a pending call that answers once its process has started; serving: a pending call of `serve`;
    started: its process has answered; leaving_since: when it was asked to leave (seconds)."""

    actor: Any
    ready: Any
    serving: Any
    since: float
    started: bool = False
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
        return "serving" if self.started else "starting"


class Pool:
    """Starts, restarts and stops workers; a name is never used twice.

    Args:
        make: starts the actor of a name. died: called when a worker has died, to end its leases at once. leave: asks a
            worker to take no more tickets. left: called when a worker that was to leave has ended. start_s: a worker
            that Ray restarts and that has not started within so long is made anew.
    """

    def __init__(
        self,
        make: Callable[[str], Any],
        died: Callable[[str], None],
        leave: Callable[[str], None] = lambda name: None,
        left: Callable[[str], None] = lambda name: None,
        start_s: float = math.inf,
    ) -> None:
        self.make, self.died, self.leave, self.left, self.start_s = make, died, leave, left, start_s
        self.members: dict[str, _Member] = {}
        self.last_error = ""
        self._numbers = count()

    def states(self) -> dict[str, str]:
        """What each worker does: starting, serving, restarting or leaving."""
        return {name: member.state for name, member in self.members.items()}

    def follow(self, wanted: int, leaving: Iterable[str] = ()) -> list[str]:
        """Let the workers named in `leaving` leave; start others, or let others leave, until `wanted` remain.

        Those that do not serve yet leave first, then the newest. Returns the names of the others that are to leave.
        """
        for name in leaving:
            if name in self.members:
                self.members[name].leaving = True
        staying = [name for name, member in reversed(self.members.items()) if not member.leaving]
        for _ in range(len(staying), wanted):
            name = f"worker-{next(self._numbers)}"
            self.members[name] = _member(self.make(name))
        idle_first = sorted(staying, key=lambda name: self.members[name].state == "serving")
        chosen = idle_first[: max(0, len(staying) - wanted)]
        for name in chosen:
            self.members[name].leaving = True
        return chosen

    def restart_dead(self) -> None:
        """Call `serve` again where Ray has restarted a process; the pause grows while a worker keeps dying at once."""
        now, ended = time.monotonic(), self._ended_tasks()
        for name, member in list(self.members.items()):
            if member.ready in ended:
                self._answered(name, member, now)
            if member.serving in ended:
                self._ended(name, member, now)
            if member.leaving:
                self._let_go(name, member, now)
            elif member.serving is None and now - member.again_at > self.start_s:
                log.error("%s has not started again within %.0f s; it is made anew", name, self.start_s)
                self._make_anew(name, member, now)
            elif member.serving is None and member.ready is None and now >= member.again_at:
                member.ready = member.actor.__ray_ready__.remote()

    def replace(self, name: str) -> None:
        """End the process of a worker that no longer answers, whatever it is at, and start another in its place."""
        member, now = self.members[name], time.monotonic()
        self.died(name)
        self._make_anew(name, member, now)

    def stop(self, timeout_s: float) -> None:
        """Wait for the workers, which the queue has asked to stop; kill those that do not end in time."""
        serving = [member.serving for member in self.members.values() if member.serving is not None and member.started]
        if serving:
            ray.wait(serving, num_returns=len(serving), timeout=timeout_s)
        for member in self.members.values():
            ray.kill(member.actor, no_restart=True)

    def _ended_tasks(self) -> set[Any]:
        tasks = [task for member in self.members.values() for task in (member.ready, member.serving)]
        pending = [task for task in tasks if task is not None]
        return set(ray.wait(pending, num_returns=len(pending), timeout=0)[0]) if pending else set()

    def _answered(self, name: str, member: _Member, now: float) -> None:
        """The process has started, or has not yet, or its constructor has failed: then the actor is made again."""
        task, member.ready = member.ready, None
        try:
            ray.get(task)
        except ActorDiedError:
            if member.serving is None:
                self._make_anew(name, member, now)
            return
        except RayError:
            return  # `restart_dead` asks again
        member.started = True
        if member.serving is None:
            member.serving, member.since = member.actor.serve.remote(), now

    def _make_anew(self, name: str, member: _Member, now: float) -> None:
        ray.kill(member.actor, no_restart=True)
        fresh = _member(self.make(name))
        member.actor, member.ready, member.serving = fresh.actor, fresh.ready, fresh.serving
        member.since, member.started = now, False

    def _ended(self, name: str, member: _Member, now: float) -> None:
        try:
            ray.get(member.serving)
        except RayError as error:
            self.last_error = last_line(error)
            log.warning("%s died: %s", name, self.last_error)
            self.died(name)
            member.deaths = member.deaths + 1 if now - member.since < 60 else 1
        member.serving = member.ready = None
        member.again_at = now + BACKOFF_S[min(max(member.deaths, 1), len(BACKOFF_S)) - 1]

    def _let_go(self, name: str, member: _Member, now: float) -> None:
        """Ask a worker to leave, and end its process once it has stopped, has never started, or takes too long.

        It is asked every time: a trainer that restarts clears earlier requests.
        """
        self.leave(name)
        if member.leaving_since is None:
            member.leaving_since = now
        elif member.serving is None or not member.started or now - member.leaving_since > LEAVE_GRACE_S:
            ray.kill(member.actor, no_restart=True)
            if member.serving is not None:
                self.died(name)
            del self.members[name]
            self.left(name)
            log.info("%s has left", name)


def _member(actor: Any) -> _Member:
    ready = actor.__ray_ready__.remote()
    return _Member(actor, ready, actor.serve.remote(), since=time.monotonic())
