"""The actors of a run: how each is made, with what Ray reserves for it."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import ray

from sparring.config import MAX_WORKERS, Config, TrainerSettings, WorkersSettings
from sparring.engines.ray.actor_inputs import actor_inputs
from sparring.engines.ray.nodes import share_of
from sparring.engines.ray.rank import Rank
from sparring.engines.ray.snapshots import SnapshotStore
from sparring.engines.ray.trainer import Trainer
from sparring.engines.ray.worker import Worker
from sparring.queue.access import Role
from sparring.queue.opening import Queue, QueueAddress
from sparring.queue.sizing import kept_snapshots, through_object_store
from sparring.runs import Run
from sparring.trainer.experiment import Experiment

STORE_CPUS = 0.1


class Actors:
    """Makes the actors of one run by its present `config`.

    `store` holds the handle of the snapshot store, if there is one: without a handle Ray would end that actor. The
    others find it by name, since an actor whose arguments hold a handle cannot be restarted once the handle is gone.
    """

    def __init__(self, experiment: Experiment, run: Run, queue: Queue, sources: dict[str, str]) -> None:
        self.config, self.run, self.queue = experiment.config, run, queue
        self.secret = secrets.token_bytes(32)  # signs what goes through the queue
        self.for_trainer = actor_inputs(sources, replace(experiment.live, helper=experiment.helper))
        self.for_workers = actor_inputs(sources, experiment.for_workers())
        self.store_name = f"sparring-snapshots-{run.id}"
        self.store = self._store() if through_object_store(self.config.queue, experiment.snapshot_bytes) else None

    def trainer(self) -> Any:
        """The trainer's actor."""
        settings = self.config.trainer
        made = ray.remote(Trainer).options(num_cpus=settings.num_cpus, **reserved(settings))
        path = str(self.run.path)
        return made.remote(tree_of(self.config), path, self._queue("trainer"), self.store_name, self.for_trainer)

    def rank(self, rank: int) -> Any:
        """The actor of another trainer than rank 0."""
        settings = self.config.trainer
        made = ray.remote(Rank).options(num_cpus=settings.num_cpus, **reserved(settings))
        path = str(self.run.path)
        return made.remote(tree_of(self.config), rank, path, self.run.id, self._queue("trainer"), self.for_trainer)

    def worker(self, name: str) -> Any:
        """A worker's actor, which Ray restarts.

        On a local Ray it reserves no cores: their number is fixed at the start, and nothing else competes for them.
        """
        settings = self.config.workers
        num_cpus = 0 if self.config.ray.address == "local" else settings.num_cpus
        made = ray.remote(Worker).options(num_cpus=num_cpus, max_restarts=-1, **reserved(settings))
        tree, path, address = tree_of(self.config), str(self.run.path), self._queue("worker")
        return made.remote(tree, name, path, self.run.id, address, self.store_name, self.for_workers)

    def _store(self) -> Any:
        made = ray.remote(SnapshotStore).options(
            name=self.store_name,
            num_cpus=STORE_CPUS,
            resources=share_of(self.config.trainer.resource),
            max_restarts=-1,
            max_concurrency=1000 + MAX_WORKERS,
        )
        return made.remote(kept_snapshots(self.config.staleness))

    def _queue(self, role: Role) -> QueueAddress:
        return self.queue.address(role, self.secret)


def reserved(settings: TrainerSettings | WorkersSettings) -> dict[str, Any]:
    """What Ray reserves for an actor; its tasks are not retried, since leases recover lost work."""
    return {"num_gpus": settings.num_gpus, "resources": share_of(settings.resource), "max_task_retries": 0}


def tree_of(config: Config) -> dict[str, Any]:
    """The settings in plain types."""
    return config.model_dump(mode="json", exclude_none=True)
