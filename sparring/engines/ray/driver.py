"""The driver of the asynchronous engine: starts a trainer and workers as Ray actors around a Redis queue.

Run it: sparring train RECIPE --workers 4
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray

from sparring.config import to_toml, with_workers
from sparring.engines import Outcome
from sparring.engines.ranks import RankLost
from sparring.engines.ray.actors import Actors
from sparring.engines.ray.cluster import ray_cluster
from sparring.engines.ray.hanging import Silence, Stillness, end_process
from sparring.engines.ray.health import Health
from sparring.engines.ray.nodes import ask_for_nodes, let_nodes_go
from sparring.engines.ray.pool import Pool
from sparring.engines.ray.trainer import CheckpointLost
from sparring.engines.ray.trainers import Trainers
from sparring.errors import SparringError, last_line
from sparring.machine.signals import stopping_on_signals
from sparring.observe.state import Report, RunState
from sparring.queue.access import Role
from sparring.queue.connection import check_access, check_server, connect, raise_limit
from sparring.queue.messages import WorkerTarget
from sparring.queue.opening import Queue
from sparring.queue.transport import prefix_of
from sparring.runs import Run, write_atomically
from sparring.trainer.experiment import Experiment

log = logging.getLogger(__name__)
ACTORS: tuple[Role, ...] = ("trainer", "worker")
READERS: tuple[Role, ...] = ("trainer", "reader")  # the roles of other commands: `sparring stop`, `sparring top`
STOP_GRACE_S = 60.0
CHECKPOINT_S = 30.0  # Ray ends this process a minute after its control server
HURRY_S = 3.0  # for the queue's answer, once the run ends: its server may have died with the rest
POLL_S = 0.5
STARTS_S = 60.0  # that a worker's process takes until its own watchdog is there


def _cause(error: Exception) -> str:
    """Why a trainer died, in a sentence; Ray's words say nothing of a token where that is the cause."""
    if "all references to the actor were removed" in str(error) and os.environ.get("RAY_AUTH_MODE") == "token":
        return "Ray gave its actor up, as a cluster without tokens does while RAY_AUTH_MODE = token: unset that."
    return last_line(error)


class RayGone(SparringError):
    """Ray no longer works, and ends this process within a minute."""


class Interrupted(Exception):
    """Ctrl-C, while a trainer is made anew."""


def restarts_before(run: Run) -> int:
    """How often a trainer was restarted before this run was resumed, as state.json tells; 0 where it is damaged."""
    with suppress(SparringError):
        found = run.read_object("state.json").get("trainer_restarts")
        return found if isinstance(found, int) else 0
    return 0


class Driver:
    """Starts the actors, restarts those that die, reports their state and stops them."""

    def __init__(self, experiment: Experiment, run: Run, queue: Queue, report: Report, sources: dict[str, str]) -> None:
        config = experiment.config
        self.config, self.run, self.queue, self.report = config, run, queue, report
        self.transport = queue.address("trainer").transport(config.queue, run.id)
        self.actors, transport = Actors(experiment, run, queue, sources), self.transport
        hang_s = config.workers.hang_timeout_s
        self.pool = Pool(
            self.actors.worker,
            transport.drop_worker,
            transport.request_stop,
            transport.forget_worker,
            start_s=hang_s + STARTS_S,
        )
        self.health, self.stillness = Health(), Stillness(experiment.config.trainer.hang_timeout_s)
        self.silence = Silence(hang_s)
        self.interrupted = False
        self.state = RunState(engine="ray", dataset=config.data.name, trainer_restarts=restarts_before(run))

    def train(self) -> Outcome:
        """Train to the end of the run; a trainer that dies is made anew, and goes on from its last checkpoint.

        Raises:
            SparringError: the trainer failed, or died too often without progress.
        """
        self._require_access()
        self.transport.load_scripts()
        self.transport.change_worker_target("start", self.config.workers.count)
        self._write_connection()
        with stopping_on_signals(self._interrupt):
            ask_for_nodes(self.config)
            trainers = Trainers(self.actors, self._require_going_on)
            self._reconcile()
            try:
                outcome, evaluation = self._with_restarts(trainers), None
                if self._has_ray():
                    trainers.end_others()
                    self._ask_workers_to_stop()
                    self.pool.stop(STOP_GRACE_S if self.interrupted else 15.0)
                    let_nodes_go(self.config.ray)
                if outcome["phase"] in ("finished", "incomplete"):
                    evaluation = self._evaluate(trainers, outcome["step"])
                    outcome["phase"] = outcome["phase"] if evaluation is not None else "stopped"
            finally:
                self._close(trainers)
        phase = "interrupted" if self.interrupted else outcome["phase"]
        state = RunState.from_dict(outcome["state"])
        state.trainer_restarts = self.state.trainer_restarts
        return Outcome(phase, state, evaluation)

    def _ask_workers_to_stop(self) -> None:
        """Through the queue. Where an interrupted run has lost that, they are killed in a while."""
        try:
            self._refresh_status()
            self.transport.request_stop()
        except SparringError:
            if not self.interrupted:
                raise

    def _require_access(self) -> None:
        """Refuse users of Redis who may not touch this run's keys, before actors are started.

        Raises:
            QueueUnavailable: they may not.
        """
        timeout_s = self.config.queue.timeout_s
        for role in ACTORS:
            with connect(self.queue.url, self.queue.logins[role], timeout_s) as client:
                check_access(client, prefix_of(self.run.id), timeout_s)

    def _with_restarts(self, trainers: Trainers) -> dict[str, Any]:
        deaths, last_step = 0, -1
        while True:
            try:
                if deaths:
                    trainers.restart()
                self.stillness.restart()
                trainers.start()
                outcome = self._until_done(trainers)
            except (ray.exceptions.RayActorError, RankLost) as error:
                if self.interrupted:
                    return self._stopped()
                self._require_ray(trainer=False)
                deaths = deaths + 1 if self.state.step <= last_step else 1
                last_step = self.state.step
                log.warning("the trainer died at step %d (%d in a row): %s", last_step, deaths, error)
                if deaths > self.config.trainer.max_restarts:
                    raise SparringError(
                        f"the trainer died {deaths} times in a row without progress (trainer.max_restarts = "
                        f"{self.config.trainer.max_restarts}): {_cause(error)} See {self.run.path / 'logs'}. "
                        f"`sparring resume {self.run.path}` continues from the last checkpoint."
                    ) from error
                self.state.trainer_restarts += 1
                time.sleep(min(2.0 ** (deaths - 1) - 1, 30.0))
                continue
            except Interrupted:
                return self._stopped()
            except RayGone as error:
                if not self.interrupted:
                    raise
                log.warning("%s", error)
                return self._stopped()
            except ray.exceptions.RayTaskError as error:
                raise SparringError(f"the trainer failed: {error.cause!r} See {self.run.path / 'logs'}.") from error
            if outcome["phase"] == "failed":
                died = f" A worker died: {self.pool.last_error}" if self.pool.last_error else ""
                raise SparringError(outcome["error"] + died)
            return outcome

    def _stopped(self) -> dict[str, Any]:
        """How a training ends that is interrupted while it has no trainer: with its last checkpoint."""
        return {"phase": "stopped", "state": self.state.as_dict()}

    def _until_done(self, trainers: Trainers) -> dict[str, Any]:
        asked_at = None
        while True:
            outcome = trainers.outcome(POLL_S)
            if outcome is not None:
                return outcome
            self._require_ray()
            try:
                self._reconcile()
                self._refresh_status()
            except Exception as error:  # nothing that happens here may cost the trainer its checkpoint
                return self._last_word(trainers, error)
            self._end_what_stands_still(trainers)
            if (self.interrupted or self.run.stop_requested()) and asked_at is None:
                asked_at = time.monotonic()
                self.run.request_stop()  # also in the folder: a trainer that opens the queue only now clears it there
                with suppress(SparringError):  # its server may be away; the trainer reads the folder
                    self.transport.request_stop()
            if asked_at is not None and time.monotonic() - asked_at > STOP_GRACE_S:
                raise SparringError(
                    f"the trainer did not stop within {STOP_GRACE_S:.0f} s and was killed. `sparring resume "
                    f"{self.run.path}` continues from its last checkpoint, or from the beginning if there is none."
                )

    def _end_what_stands_still(self, trainers: Trainers) -> None:
        """End a trainer that has not reported for long, so that it is restarted: it may be unable to do so itself.

        Raises:
            SparringError: it has never reported.
        """
        trainers.end_stopped()
        still_s = self.stillness.of(self.state.updated)
        if still_s is None:
            return
        if not self.stillness.reported:
            raise SparringError(
                f"the trainer has not reported within trainer.hang_timeout_s = {self.stillness.limit_s:g} s of its "
                f"start: Ray may have no room for trainer.num_gpus, trainer.num_cpus or trainer.resource; see "
                f"{self.run.path / 'logs'}."
            )
        log.error("the trainer has stood still for %.0f s (trainer.hang_timeout_s); it is ended", still_s)
        self.stillness.restart()
        if self.config.ray.address == "local":
            end_process(self.state.trainer_pid, "Trainer")
        else:
            trainers.end_first()

    def _require_going_on(self) -> None:
        """While a trainer restarts: raise where Ray no longer works, or the run is to stop."""
        self._require_ray()
        if self.interrupted:
            raise Interrupted

    def _has_ray(self) -> bool:
        """Whether Ray can be asked for the end of a training. An interrupted one ends without, too.

        Raises:
            RayGone: it cannot, and there is more to do.
        """
        if self.interrupted:
            return not self.health.settled()
        self._require_ray(trainer=False)
        return True

    def _require_ray(self, trainer: bool = True) -> None:
        """Where Ray no longer works, let the trainer write its checkpoint, which it is told through the queue.

        trainer: there is one. Without, what follows asks Ray for another, and would wait for it for ever.

        Raises:
            RayGone: it does not.
        """
        problem = self.health.check() if trainer else self.health.settled()
        if not problem:
            return
        log.error("%s.%s", problem, " Waiting for the trainer's checkpoint." if trainer else "")
        self.run.request_stop()
        self._hurry()
        with suppress(SparringError):  # its server may be gone, too
            self.transport.request_stop()
            limit = time.monotonic() + CHECKPOINT_S
            while trainer and time.monotonic() < limit and (self.transport.state() or {}).get("phase") == "training":
                time.sleep(POLL_S)
        raise RayGone(
            f"{problem}. The last checkpoint is in {self.run.checkpoints}; `sparring resume {self.run.path}` continues."
        )

    def _last_word(self, trainers: Trainers, error: Exception) -> dict[str, Any]:
        """The driver cannot go on: let the trainer save its checkpoint. Its own failure, if it has one, says more.

        Raises:
            Exception: `error`, once the trainer has ended or its time is up, unless the run was interrupted.
        """
        log.error("%s Waiting for the trainer's checkpoint.", error)
        self.run.request_stop()
        limit, outcome = time.monotonic() + self.config.queue.timeout_s + STOP_GRACE_S, None
        while time.monotonic() < limit:
            outcome = trainers.outcome(POLL_S)
            if outcome is not None and outcome["phase"] == "failed":
                return outcome
            if outcome is not None or self.health.check():
                break
        if self.interrupted:
            return outcome or self._stopped()
        raise error

    def _reconcile(self) -> None:
        """Start or stop workers until their number is the target, and restart dead ones."""
        target = self.transport.worker_target()
        if target is None:  # the server was restarted empty
            self.transport.change_worker_target("start", self.config.workers.count)
            target = WorkerTarget(self.config.workers.count, frozenset())
        if target.workers != self.config.workers.count:
            self._apply_target(target.workers)
        for name in self.pool.follow(target.workers, target.leaving):
            self.transport.change_worker_target("leave", name)
        self.pool.restart_dead()
        self.transport.set_pool(self.pool.states())

    def _apply_target(self, count: int) -> None:
        """Give the run `count` workers from now on; a resume starts with the same number."""
        log.info("workers.count: %d -> %d", self.config.workers.count, count)
        self.config = self.actors.config = with_workers(self.config, count)
        self.run.write_config(to_toml(self.config))
        ask_for_nodes(self.config)
        needed = self.queue.memory_for(self.config)
        if self.queue.admin is not None and self.config.queue.maxmemory_mb is None:
            with connect(self.queue.url, self.queue.admin, self.config.queue.timeout_s) as client:
                raise_limit(client, needed, self.config.queue.timeout_s)
        elif not self.queue.embedded:
            self._warn_of_memory(needed)

    def _warn_of_memory(self, needed: int) -> None:
        """Only a warning: workers wait while the server's memory is full."""
        timeout_s = self.config.queue.timeout_s
        try:
            with connect(self.queue.url, self.queue.logins["trainer"], timeout_s) as client:
                check_server(client, needed, timeout_s)
        except SparringError as error:
            log.warning("%d workers: %s", self.config.workers.count, error)

    def _refresh_status(self) -> None:
        """Read the run's status from the queue and report it."""
        status = self.transport.state()
        if status is not None:
            self._take_over(status)
        self.state.workers_wanted = self.config.workers.count
        if self.pool.last_error and not self.state.message:
            self.state.message = f"a worker died: {self.pool.last_error}"
        heartbeats = self.transport.heartbeats()
        self.report(self.state, heartbeats)
        self._replace_silent_workers(heartbeats)

    def _replace_silent_workers(self, heartbeats: Mapping[str, dict[str, Any]]) -> None:
        """End workers that have fallen silent without dying, as one whose process is stopped, and start others."""
        limit_s = self.config.workers.hang_timeout_s
        serving = [name for name, state in self.pool.states().items() if state == "serving"]
        for name in self.silence.of({name: heartbeats.get(name, {}).get("time") for name in serving}):
            log.error(
                "%s has sent no heartbeat for workers.hang_timeout_s = %g s; another takes its place", name, limit_s
            )
            self.pool.replace(name)

    def _take_over(self, status: dict[str, Any]) -> None:
        """Replace the state by the trainer's; one that is damaged is passed over."""
        try:
            found = RunState.from_dict(status)
        except ValueError as error:
            log.warning("refused from the queue: state: %s", error)
            return
        found.trainer_restarts = self.state.trainer_restarts
        self.state = found

    def _evaluate(self, trainers: Trainers, step: int) -> dict[str, Any] | None:
        """The evaluation of the weights after `step`, or None if the run is stopped before it ends.

        A trainer that dies starts it again.
        """
        self.pool.members.clear()
        self.transport.set_pool({})
        for deaths in range(self.config.trainer.max_restarts + 1):
            try:
                if deaths:
                    trainers.restart()
                task = trainers.first.evaluate.remote(step)
                self.stillness.restart(reported=True)
                while not ray.wait([task], timeout=POLL_S)[0]:
                    if self.interrupted or self.run.stop_requested():
                        return None
                    self._require_ray()
                    self._refresh_status()
                    self._end_what_stands_still(trainers)
                evaluation: dict[str, Any] = ray.get(task)
                return evaluation
            except Interrupted:
                return None
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, CheckpointLost):
                    raise SparringError(str(error.cause)) from error
                raise self._evaluation_failed(error) from error
            except ray.exceptions.RayActorError as error:
                self._require_ray(trainer=False)
                log.warning("the trainer died during the evaluation (%d times): %s", deaths + 1, error)
                last = error
            self.state.trainer_restarts += 1
        raise self._evaluation_failed(last)

    def _evaluation_failed(self, error: Exception) -> SparringError:
        cause = getattr(error, "cause", error)
        return SparringError(
            f"the evaluation failed: {cause}. The weights are saved: `sparring evaluate {self.run.path}`."
        )

    def _interrupt(self, reason: str) -> None:
        self.interrupted = True
        self._hurry()

    def _hurry(self) -> None:
        """Wait for the queue no longer than HURRY_S from now on; the trainer waits for it itself."""
        self.transport.timeout_s = min(self.transport.timeout_s, HURRY_S)

    def _close(self, trainers: Trainers) -> None:
        if not self.health.settled():
            self.pool.stop(0)
            trainers.end()
            let_nodes_go(self.config.ray)
        else:
            self._hurry()
        with suppress(OSError):  # a folder that has become read-only: why the run ends is told by who found it
            self.run.connection.unlink(missing_ok=True)
        try:
            self.transport.forget()
        except SparringError as error:
            log.warning("the run's keys remain in Redis: %s", error)
        self.transport.close()

    def _write_connection(self) -> None:
        own = self.queue.logins if self.queue.embedded else {}  # others are where the settings say
        logins = {role: [own[role].user, own[role].password] for role in READERS if role in own}
        content = {"url": self.queue.url, "logins": logins, "pid": os.getpid()}
        write_atomically(self.run.connection, json.dumps(content), mode=0o600)


def run(experiment: Experiment, run: Run, queue: Queue, report: Report, sources: dict[str, str]) -> Outcome:
    """Train with workers, queue and trainer; see `Driver.train`. `sources`: texts of the user's files by path."""
    settings = experiment.config.trainer
    with ray_cluster(experiment.config.ray, settings.count * settings.num_cpus):
        return Driver(experiment, run, queue, report, sources).train()
