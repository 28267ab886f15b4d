"""Data parallelism with static slices: each rank attacks its tickets of every step and trains on them."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparring.config import slots_of
from sparring.engines.ranks import Ranks
from sparring.objectives import Batch
from sparring.queue.messages import Key, Shard
from sparring.trainer.learner import Learner
from sparring.trainer.peers import Objective
from sparring.trainer.steps import Consumed
from sparring.workers.attackers import produce_all
from sparring.workers.task import Task

DRAIN_S = 0.1


class _Pass(nn.Module):
    """Presents all forward passes that an objective makes through `model` to DistributedDataParallel as one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, objective: Objective) -> tuple[Tensor, Tensor]:
        return objective()


class Slices(Ranks[Consumed]):
    """A rank that attacks the tickets rank, rank + R, … of each step.

    torch averages gradients during the backward pass, and takes the buffers of rank 0 before each forward pass.
    """

    def __init__(self, learner: Learner, rank: int) -> None:
        super().__init__(learner, rank)
        self._parallel = DistributedDataParallel(_Pass(learner.trained))

    def end(self) -> None:
        """Drop torch's reducer before the connection ends.

        As the last to hold the connection it would wait for gloo's thread with Python's lock, for which that thread may
        be waiting to drop a tensor: neither goes on (pytorch issue 56297). An exception may hold the reducer still,
        therefore the thread gets a moment.
        """
        del self._parallel
        gc.collect()
        time.sleep(DRAIN_S)

    def forward(self, objective: Objective) -> tuple[Tensor, Tensor]:
        loss, correct = self._parallel(objective)
        return loss, correct

    def combine(self, parameters: Iterable[nn.Parameter]) -> None:
        """The gradients are those of all ranks already."""

    def even_out(self) -> None:
        """The buffers of rank 0 count."""

    def agree(self, going_on: bool) -> bool:
        """Whether there is another step, as rank 0 decides; the others' `going_on` does not count."""
        decided = torch.tensor([going_on], dtype=torch.int32, device=self.device)
        dist.broadcast(decided, src=0)
        return bool(decided.item())

    def attack(self, keys: Sequence[Key]) -> tuple[list[Shard], Batch]:
        """Attack this rank's tickets of a step; returns the records of all shards, and this rank's batch."""
        learner, experiment = self.learner, self.learner.experiment
        config, plan = experiment.config, experiment.plan
        mine = range(self.rank, len(keys), self.count)
        tasks = [Task(keys[place], plan.indices(keys[place].epoch, keys[place].number)) for place in mine]
        made = produce_all(
            tasks, learner.context, learner.controls(), learner.step, slots_of(config, experiment.attack.makes_views)
        )
        sizes = [len(plan.indices(key.epoch, key.number)) for key in keys]
        batch = self.taking(learner.batch(made) if made else None, sum(sizes), keys[0])
        return self._records(keys, sizes, dict(zip(mine, made, strict=True))), batch

    def _records(self, keys: Sequence[Key], sizes: list[int], mine: dict[int, Shard]) -> list[Shard]:
        """The step's shards: this rank's own, and of the others only what their attacks cost."""
        learner = self.learner
        allocator = learner.experiment.allocator
        names = () if allocator is None else allocator.classes
        costs_of = torch.zeros(len(keys), 3 + len(names), dtype=torch.float64)
        for place, shard in mine.items():
            classes = [shard.classes.get(name, 0) for name in names]
            costs = (shard.gradients, shard.cost_seconds, shard.full_seconds, *classes)
            costs_of[place] = torch.tensor(costs, dtype=torch.float64)
        costs_of = self.summed(costs_of)
        attack = learner.context.attack_now(learner.controls()).record

        def record(place: int) -> Shard:
            gradients, cost_s, full_s, *classes = costs_of[place].tolist()
            return Shard(
                key=keys[place],
                fence=0,
                version=learner.step,
                start_version=learner.step,
                attack=attack,
                delta=torch.empty(0),
                labels=torch.zeros(sizes[place], dtype=torch.int64),
                worker=f"rank-{place % self.count}",
                gradients=int(gradients),
                classes=dict(zip(names, map(int, classes), strict=True)),
                cost_seconds=cost_s,
                full_seconds=full_s,
            )

        return [mine[place] if place in mine else record(place) for place in range(len(keys))]
