"""The trainer as a Ray actor: it runs the loop on the device that Ray has reserved for it.

Where several trainers share the steps, this is rank 0; the others are actors of their own (rank.py).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sparring.config import from_tree, trainer_threads
from sparring.engines.asynchronous.broadcaster import Broadcaster
from sparring.engines.asynchronous.inbox import Inbox
from sparring.engines.asynchronous.leader import Leader, leading
from sparring.engines.asynchronous.loop import Loop
from sparring.engines.asynchronous.rolling import rolling_of
from sparring.engines.ranks import RankLost, lost_ranks_named
from sparring.engines.ray.actor_inputs import ActorInputs
from sparring.engines.ray.meeting import Meeting, orders_of
from sparring.engines.ray.snapshots import open_route
from sparring.errors import RollBack, SparringError, file_failure
from sparring.machine.devices import device_for
from sparring.machine.logs import to_file
from sparring.machine.memory import keep_freed_memory
from sparring.machine.signals import stopping_on_signals
from sparring.machine.threads import cores
from sparring.machine.watchdog import Watchdog
from sparring.observe.state import RunState
from sparring.plugins import users_failure
from sparring.queue.opening import QueueAddress
from sparring.queue.transport import FencedOut
from sparring.runs import Run
from sparring.trainer.evaluating import evaluate_on_test
from sparring.trainer.experiment import build_experiment
from sparring.trainer.session import Session

log = logging.getLogger(__name__)


class CheckpointLost(SparringError):
    """The last checkpoint of a finished training is damaged or gone, and the process that had its weights too."""


class Trainer:
    """Holds one session; `train` runs it to its end, `evaluate` measures the weights that came out."""

    def __init__(
        self,
        tree: dict[str, Any],
        run_path: str,
        queue: QueueAddress,
        store: str,
        inputs: ActorInputs,
    ) -> None:
        self.live = inputs.unpack()
        self.config, self.run, self.store = from_tree(tree), Run(Path(run_path)), store
        self.log_file = self.run.path / "logs" / "trainer.log"
        to_file(self.log_file)
        torch.set_num_threads(trainer_threads(self.config))
        keep_freed_memory()
        self.queue = queue
        self.transport = queue.transport(self.config.queue, self.run.id, self.config.trainer.count)
        self.meeting: Meeting | None = None
        self.device = device_for(self.config.trainer.device, self.config.trainer.num_gpus)
        self.session: Session | None = None
        self.watchdog: Watchdog | None = None  # while it works

    def meet(self) -> str:
        """Open the place where the trainers of a group meet; returns its address."""
        self.meeting = Meeting(self.config.trainer.count)
        return self.meeting.address

    def train(self, group: str = "") -> dict[str, Any]:
        """Train from the newest checkpoint or from the beginning; returns the last phase and state, or the error."""
        loop, self.watchdog = None, Watchdog(self.config.trainer.hang_timeout_s, self.log_file)
        try:
            experiment = build_experiment(self.config, self.live)
            self.session = session = Session(experiment, self.run, self.device, self._report)
            route = open_route(self.config, experiment.snapshot_bytes, self.transport, self.store)
            judged_route = partial(
                open_route, self.config, experiment.snapshot_bytes, self.transport, self.store, "judged"
            )
            resumed = session.restore()
            with stopping_on_signals(session.ask_to_stop), self._trainers(session, group) as trainers:
                while True:
                    session.state.trainer_pid = os.getpid()
                    loop = Loop(
                        session,
                        experiment,
                        self.transport,
                        Broadcaster(session, route),
                        Inbox(
                            self.transport,
                            lambda: self.transport.fence,
                            None if trainers is None else trainers.reported,
                        ),
                        resumed=resumed,
                        trainers=trainers,
                        rolling=rolling_of(session, self.transport.pieces(), judged_route),
                    )
                    try:
                        phase = loop.run()
                        return {"phase": phase, "state": session.state.as_dict(), "step": session.learner.step}
                    except RollBack as error:
                        loop = None  # these weights must not be saved
                        resumed = session.roll_back(error)
        except RankLost as error:
            log.warning("%s", error)
            if loop is not None and loop.between_steps:
                self._save(loop)
            return {"phase": "lost", "error": str(error)}
        except Exception as error:
            log.exception("training failed")
            if loop is not None and loop.between_steps and not isinstance(error, FencedOut):  # the folder is another's
                self._save(loop)
            return {"phase": "failed", "error": self._explained(error)}
        finally:
            self.watchdog.stop()
            self.watchdog = None

    def _explained(self, error: Exception) -> str:
        if isinstance(error, OSError):
            error = file_failure(error, self.run.path)
        error = users_failure(error) or error
        return str(error) if isinstance(error, SparringError) else f"{error!r}. See {self.run.path / 'logs'}."

    @contextmanager
    def _trainers(self, session: Session, group: str) -> Iterator[Leader | None]:
        """The other trainers of the group, where there are any."""
        if self.meeting is None:
            yield None
            return
        with (
            orders_of(self.config, self.run.id, group, self.queue) as orders,
            lost_ranks_named(self.config.trainer),
            leading(session, orders, self.meeting.store) as leader,
        ):
            yield leader

    def _save(self, loop: Loop) -> None:
        """Keep what was trained, unless the disk is what failed."""
        try:
            loop.session.save(planned=False)
        except SparringError as error:
            log.error("%s", error)

    def evaluate(self, step: int) -> dict[str, Any]:
        """Clean and robust accuracy of the weights after `step`, on the test set, with all cores.

        After a restart of the process they are those of the last checkpoint.

        Raises:
            CheckpointLost: that is of another step.
        """
        torch.set_num_threads(cores())
        if self.session is None:
            self.session = Session(build_experiment(self.config, self.live), self.run, self.device, self._report)
            self.session.restore()
        found = self.session.learner.step
        if found != step:
            raise CheckpointLost(
                f"the weights of step {step} are lost: the newest checkpoint in {self.run.checkpoints} that can be "
                f"read is of step {found}. `sparring resume {self.run.path}` makes the steps after it again."
            )
        state = self.session.state

        def progress(message: str) -> None:
            state.phase, state.message, state.updated = "evaluating", message, time.time()
            self._report(state)

        state.trainer_pid = os.getpid()
        self.watchdog = Watchdog(self.config.trainer.hang_timeout_s, self.log_file)
        try:
            return evaluate_on_test(self.session.learner, self.run, progress)
        finally:
            self.watchdog.stop()
            self.watchdog = None

    def _report(self, state: RunState) -> None:
        if self.watchdog is not None:
            self.watchdog.tick()
        self.transport.set_state(state.as_dict())
