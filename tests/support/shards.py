"""Shards of an experiment, made as a worker would."""

from __future__ import annotations

from torch import nn

from sparring.queue.messages import Controls, Key, Shard
from sparring.trainer.experiment import Experiment
from sparring.workers.generator import produce
from sparring.workers.task import Task


def shard_of(
    experiment: Experiment,
    key: Key,
    controls: Controls,
    version: int,
    model: nn.Module | None = None,
    fence: int = 0,
) -> Shard:
    """The attack on ticket `key` under the experiment's model, or under another one."""
    indices = experiment.plan.indices(key.epoch, key.number)
    return produce(Task(key, indices, fence), experiment.context(model), controls, version)
