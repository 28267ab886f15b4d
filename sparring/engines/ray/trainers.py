"""The actors of a run's trainers: rank 0, which has the session, and the others. They live and die together."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from sparring.engines.ranks import RankLost
from sparring.engines.ray.actors import Actors
from sparring.errors import SparringError

log = logging.getLogger(__name__)
SAVE_S = 60.0  # that rank 0 has for its checkpoint where another failed
BLAME_S = 5.0  # that a dying process may take until Ray knows
READY_S, RETRY_S = 0.5, 0.2


class Trainers:
    """Starts a group of trainers, tells how its training ended, and starts it again.

    go_on: called while processes are awaited; raises where that is in vain.
    """

    def __init__(self, actors: Actors, go_on: Callable[[], None] = lambda: None) -> None:
        self._config, self._run, self._go_on = actors.config, actors.run, go_on
        self.first = actors.trainer()
        self._others = {rank: actors.rank(rank) for rank in range(1, self._config.trainer.count)}
        self._calls: dict[int, Any] = {}  # by rank: its part in the training under way
        self._pids: dict[int, int] = {}
        self._died: set[int] = set()

    def start(self) -> None:
        """Let all train, as a group with a name of its own.

        Raises:
            RayActorError: one of them died.
            SparringError: rank 0 did not start in time.
        """
        self._calls, self._died, group = {}, set(), secrets.token_hex(8)
        if self._others:
            address = self._met()
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
        """Wait until the processes of a group of which one has died are started again; those that live are ended first.

        Raises:
            SparringError: Ray did not start them in time.
        """
        actors = {0: self.first, **self._others}
        for rank in actors.keys() - self._died:
            ray.kill(actors[rank], no_restart=False)
        for rank, actor in actors.items():
            self.until_restarted(actor, self._pids.get(rank))

    def until_restarted(self, actor: Any, before: int | None = None) -> None:
        """Wait until Ray has restarted the process of a dead trainer, which had the id `before`; until then calls fail.

        Raises:
            SparringError: it did not in time.
        """
        limit = time.monotonic() + self._config.workers.start_timeout_s
        while True:
            self._go_on()
            try:
                if ray.get(actor.pid.remote(), timeout=READY_S) != before:
                    return
            except (RayActorError, GetTimeoutError) as error:
                log.info("not restarted yet: %s", type(error).__name__)
            if time.monotonic() > limit:
                raise SparringError(
                    f"the trainer's process was not restarted within workers.start_timeout_s = "
                    f"{self._config.workers.start_timeout_s:g} s; `sparring resume {self._run.path}` continues."
                )
            time.sleep(RETRY_S)

    def end_first(self) -> None:
        """End rank 0's process, which Ray restarts."""
        ray.kill(self.first, no_restart=False)

    def end_others(self) -> None:
        """End all but rank 0."""
        for actor in self._others.values():
            ray.kill(actor, no_restart=True)
        self._others = {}

    def end(self) -> None:
        """End all."""
        self.end_others()
        ray.kill(self.first, no_restart=True)

    def _met(self) -> str:
        """The address at which rank 0 meets the others, once all have started."""
        limit_s, actors = self._config.workers.start_timeout_s, {0: self.first, **self._others}
        try:
            pids = ray.get([actor.pid.remote() for actor in actors.values()], timeout=limit_s)
            self._pids = dict(zip(actors, pids, strict=True))
            address: str = ray.get(self.first.meet.remote(), timeout=limit_s)
        except GetTimeoutError as error:
            raise SparringError(
                f"not all of trainer.count = {len(actors)} trainers started within workers.start_timeout_s = "
                f"{limit_s:g} s: Ray may have no room for trainer.num_gpus and trainer.num_cpus of each; see "
                f"{self._run.path / 'logs'}."
            ) from error
        return address

    def _ended(self, count: int, timeout_s: float) -> list[int]:
        """The ranks whose calls have ended; waits up to `timeout_s` for `count` of them."""
        if not self._calls:
            return []
        done, _ = ray.wait(list(self._calls.values()), num_returns=count, timeout=timeout_s)
        return [rank for rank, call in self._calls.items() if call in done]

    def _result(self, rank: int) -> Any:
        try:
            return ray.get(self._calls.pop(rank))
        except RayActorError:
            self._died.add(rank)
            raise

    def _settle(self, ranks: list[int]) -> None:
        """Take note of other ranks that have ended; raises what one died or failed of."""
        for rank in ranks:
            try:
                self._result(rank)
            except RayTaskError as error:
                if not isinstance(error.cause, RankLost):
                    raise
                log.warning("trainer %d: %s", rank, error.cause)  # rank 0 notices too
