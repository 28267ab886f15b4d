"""A trainer other than rank 0 as a Ray actor."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from sparring.config import from_tree, trainer_threads
from sparring.engines.asynchronous.follower import following
from sparring.engines.ranks import lost_ranks_named
from sparring.engines.ray.actor_inputs import ActorInputs
from sparring.engines.ray.meeting import meeting_at, orders_of
from sparring.machine.devices import device_for
from sparring.machine.logs import to_file
from sparring.machine.memory import keep_freed_memory
from sparring.machine.watchdog import Watchdog
from sparring.queue.opening import QueueAddress
from sparring.runs import Run
from sparring.trainer.experiment import build_experiment
from sparring.trainer.learner import Learner
from sparring.trainer.same_data import require_same_training_data

log = logging.getLogger(__name__)


class Rank:
    """Takes part in the steps of one life of the group; its process ends with that life."""

    def __init__(
        self,
        tree: dict[str, Any],
        rank: int,
        run_path: str,
        run_id: str,
        queue: QueueAddress,
        inputs: ActorInputs,
    ) -> None:
        self.live = inputs.unpack()
        self.config, self.rank, self.run_id, self.queue = from_tree(tree), rank, run_id, queue
        self.run = Run(Path(run_path))
        self.log_file = self.run.path / "logs" / f"trainer-{rank}.log"
        to_file(self.log_file)
        torch.set_num_threads(trainer_threads(self.config))
        keep_freed_memory()
        self.transport = queue.transport(self.config.queue, run_id, self.config.trainer.count)
        self.device = device_for(self.config.trainer.device, self.config.trainer.num_gpus)

    def pid(self) -> int:
        """The number of this process."""
        return os.getpid()

    def follow(self, group: str, address: str) -> None:
        """Follow rank 0, which is met at `address`, until it orders the end.

        Raises:
            RankLost: another rank has died, or took too long.
        """
        log.info("trainer %d of group %s, process %d", self.rank, group, os.getpid())
        watchdog = Watchdog(self.config.trainer.hang_timeout_s, self.log_file)
        try:
            self._follow(group, address, watchdog)
        finally:
            watchdog.stop()

    def _follow(self, group: str, address: str, watchdog: Watchdog) -> None:
        experiment = build_experiment(self.config, self.live)
        require_same_training_data(self.run, experiment)
        learner = Learner(experiment, self.device)
        store = meeting_at(address, self.config.trainer.count)
        with (
            orders_of(self.config, self.run_id, group, self.queue) as orders,
            lost_ranks_named(self.config.trainer),
            following(learner, self.rank, self.transport, orders, store) as follower,
        ):
            follower.run(watchdog.tick)
