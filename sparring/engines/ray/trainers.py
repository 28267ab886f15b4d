"""The actors of a run's trainers: rank 0, which has the session, and the others. They live and die together.

A group that died is made anew, not restarted by Ray: Ray may also declare an actor dead for good.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayTaskError

from sparring.engines.ranks import RankLost
from sparring.engines.ray.actors import Actors
from sparring.engines.ray.hanging import Stopped, end_process
from sparring.errors import SparringError

log = logging.getLogger(__name__)
SAVE_S = 60.0  # that rank 0 has for its checkpoint where another failed
BLAME_S = 5.0  # that a dying process may take until Ray knows
POLL_S = 0.5


class Trainers:
    """Starts a group of trainers, tells how its training ended, and starts it again.

    go_on: called while processes are awaited; raises where that is in vain.
    """

    def __init__(self, actors: Actors, go_on: Callable[[], None] = lambda: None) -> None:
        self._actors, self._config, self._run, self._go_on = actors, actors.config, actors.run, go_on
        self.first = actors.trainer()
        self._others = {rank: actors.rank(rank) for rank in range(1, self._config.trainer.count)}
        self._calls: dict[int, Any] = {}  # by rank: its part in the training under way
        self._here: dict[int, int] = {}  # processes of the others, by rank, where they are on this host
        self._stopped = Stopped(self._config.trainer.hang_timeout_s)

    def start(self) -> None:
        """Let all train, as a group with a name of its own.

        Raises:
            RayActorError: one of them died.
            SparringError: they did not start in time.
        """
        self._calls, group = {}, secrets.token_hex(8)
        if self._others:
            self._until_started()
            [address] = self._awaited([self.first.meet.remote()])
            if self._config.ray.address == "local":
                pids = self._awaited([each.pid.remote() for each in self._others.values()])
                self._here = dict(zip(self._others, pids, strict=True))
            self._calls = {rank: each.follow.remote(group, address) for rank, each in self._others.items()}
        self._calls[0] = self.first.train.remote(group)

    def outcome(self, timeout_s: float) -> dict[str, Any] | None:
        """How training ended, see `Trainer.train`; None: it goes on after `timeout_s`.

        Raises:
            RayActorError, RankLost: a trainer died; the group is to be started again.
            RayTaskError: one failed.
        """
        ended = self._ended(1, timeout_s)
        if 0 not in ended:
            try:
                self._settle(ended)
            except RayTaskError as error:
                return self._outcome_beside(error)
            return None
        outcome: dict[str, Any] = self._result(0)
        if outcome["phase"] == "lost":
            self._settle(self._ended(len(self._calls), BLAME_S))
            raise RankLost(outcome["error"])
        return outcome

    def _outcome_beside(self, error: RayTaskError) -> dict[str, Any]:
        """How rank 0 ended where another trainer failed: it has time to save its checkpoint, and may know more.

        Raises:
            RayTaskError: it does not, or is still at it.
        """
        if 0 not in self._ended(len(self._calls), self._config.queue.timeout_s + SAVE_S):
            raise error
        outcome: dict[str, Any] = self._result(0)
        if outcome["phase"] == "lost":
            raise error
        return outcome

    def restart(self) -> None:
        """End the group, of which one has died, and make it anew; returns once all processes have started.

        Raises:
            RayActorError: one of them died at its start.
            SparringError: they did not start in time.
        """
        ranks = list(self._others)
        self.end()
        self.first = self._actors.trainer()
        self._others = {rank: self._actors.rank(rank) for rank in ranks}
        self._until_started()

    def end_first(self) -> None:
        """End rank 0's process; its call fails, and the group is to be started again."""
        ray.kill(self.first)

    def end_stopped(self) -> None:
        """End others on this host that have been stopped for trainer.hang_timeout_s: no watchdog runs in them. Their
        calls fail, and the group is to be started again."""
        for rank in self._stopped.of(self._here):
            limit_s = self._stopped.limit_s
            log.error("trainer %d has been stopped for trainer.hang_timeout_s = %g s; it is ended", rank, limit_s)
            end_process(self._here[rank], "Rank")

    def end_others(self) -> None:
        """End all but rank 0."""
        for actor in self._others.values():
            ray.kill(actor)
        for pid in self._here.values():
            end_process(pid, "Rank")  # one that is stopped hears no word of Ray's
        self._others, self._here = {}, {}

    def end(self) -> None:
        """End all."""
        self.end_others()
        ray.kill(self.first)

    def _until_started(self) -> None:
        self._awaited([actor.__ray_ready__.remote() for actor in (self.first, *self._others.values())])

    def _awaited(self, calls: list[Any]) -> list[Any]:
        """The results of the first calls of a group."""
        limit_s = self._config.workers.start_timeout_s
        limit = time.monotonic() + limit_s
        while len(ray.wait(calls, num_returns=len(calls), timeout=POLL_S)[0]) < len(calls):
            self._go_on()
            if time.monotonic() > limit:
                raise SparringError(
                    f"not all of trainer.count = {1 + len(self._others)} trainers started within "
                    f"workers.start_timeout_s = {limit_s:g} s: Ray may have no room for trainer.num_gpus and "
                    f"trainer.num_cpus of each; see {self._run.path / 'logs'}. `sparring resume {self._run.path}` "
                    f"continues."
                )
        found: list[Any] = ray.get(calls)
        return found

    def _ended(self, count: int, timeout_s: float) -> list[int]:
        """The ranks whose calls have ended; waits up to `timeout_s` for `count` of them."""
        if not self._calls:
            return []
        done, _ = ray.wait(list(self._calls.values()), num_returns=count, timeout=timeout_s)
        return [rank for rank, call in self._calls.items() if call in done]

    def _result(self, rank: int) -> Any:
        return ray.get(self._calls.pop(rank))

    def _settle(self, ranks: list[int]) -> None:
        """Take note of other ranks that have ended; raises what one died or failed of."""
        for rank in ranks:
            try:
                self._result(rank)
            except RayTaskError as error:
                if not isinstance(error.cause, RankLost):
                    raise
                log.warning("trainer %d: %s", rank, error.cause)  # rank 0 notices too
