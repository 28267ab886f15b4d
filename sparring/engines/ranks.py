"""A process among the ranks of a data-parallel run: what it attacks, and what all ranks sum up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparring.config import DdpSettings, slots_of
from sparring.objectives import Batch
from sparring.queue.messages import Key, Shard
from sparring.trainer.experiment import Experiment
from sparring.trainer.learner import Learner
from sparring.trainer.peers import Objective, Totals
from sparring.trainer.steps import Consumed
from sparring.workers.attackers import produce_all
from sparring.workers.task import Task


class _Pass(nn.Module):
    """Presents all forward passes that an objective makes through `model` to DistributedDataParallel as one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, objective: Objective) -> tuple[Tensor, Tensor]:
        return objective()


class Ranks:
    """This process as a learner's `Peers`. All ranks must call the same methods in the same order."""

    def __init__(self, model: nn.Module, rank: int, device: torch.device) -> None:
        self.rank, self.count, self.device = rank, dist.get_world_size(), device
        self.share = 1.0
        self._parallel = DistributedDataParallel(_Pass(model))

    def begin(self, learner: Learner, consumed: Consumed | None = None) -> Consumed:
        """Give all ranks the training state of rank 0; DistributedDataParallel has sent the weights."""
        sent: list[Any] = [None]
        if self.rank == 0:
            sent = [(learner.step, learner.state(), learner.rate_scale, learner.pgd_until, consumed or Consumed())]
        dist.broadcast_object_list(sent, src=0)
        step, state, rate_scale, pgd_until, begun = sent[0]
        if self.rank > 0:
            learner.restore(step, **state)
            learner.rate_scale, learner.pgd_until = rate_scale, pgd_until
        started: Consumed = begun
        return started

    def agree(self, going_on: bool) -> bool:
        """Whether there is another step, as rank 0 decides; the others' `going_on` does not count."""
        decided = torch.tensor([going_on], dtype=torch.int32, device=self.device)
        dist.broadcast(decided, src=0)
        return bool(decided.item())

    def attack(self, learner: Learner, experiment: Experiment, keys: Sequence[Key]) -> tuple[list[Shard], Batch]:
        """Attack this rank's tickets of a step; returns the records of all shards, and this rank's batch.

        A rank without a ticket, in the last step of an epoch, gets clean images that do not count.
        """
        config, plan = experiment.config, experiment.plan
        mine = range(self.rank, len(keys), self.count)
        tasks = [Task(keys[place], plan.indices(keys[place].epoch, keys[place].number)) for place in mine]
        made = produce_all(
            tasks, learner.context, learner.controls(), learner.step, slots_of(config, experiment.attack.makes_views)
        )
        sizes = [len(plan.indices(key.epoch, key.number)) for key in keys]
        self.share = sum(sizes[place] for place in mine) * self.count / sum(sizes)
        if made:
            batch = learner.batch(made)
        else:
            x, y = learner.examples(keys[0])
            batch = Batch(x, x, y)
        return self._records(keys, sizes, dict(zip(mine, made, strict=True)), learner), batch

    def _records(self, keys: Sequence[Key], sizes: list[int], mine: dict[int, Shard], learner: Learner) -> list[Shard]:
        """The step's shards: this rank's own, and of the others only what their attacks cost."""
        allocator = learner.experiment.allocator
        names = () if allocator is None else allocator.classes
        costs_of = torch.zeros(len(keys), 3 + len(names), dtype=torch.float64)
        for place, shard in mine.items():
            classes = [shard.classes.get(name, 0) for name in names]
            costs = (shard.gradients, shard.cost_seconds, shard.full_seconds, *classes)
            costs_of[place] = torch.tensor(costs, dtype=torch.float64)
        costs_of = self._summed(costs_of)
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

    def _summed(self, values: Tensor) -> Tensor:
        values = values.to(self.device)
        dist.all_reduce(values)
        return values.cpu()

    def forward(self, objective: Objective) -> tuple[Tensor, Tensor]:
        loss, correct = self._parallel(objective)
        return loss, correct

    def totals(self, loss: Tensor, correct: Tensor) -> Totals:
        counts = 1 if self.share else 0
        examples = counts * len(correct)
        own = [float(loss.detach()) * examples, counts * int(correct.sum()), examples]
        of_losses, all_correct, of_all = self._summed(torch.tensor(own, dtype=torch.float64)).tolist()
        return Totals(of_losses / of_all, int(all_correct), int(of_all))


@contextmanager
def joined(settings: DdpSettings, learner: Learner, rank: int, rendezvous: Path) -> Iterator[Ranks]:
    """Connect to the other ranks through the file `rendezvous`: by NCCL between GPUs, by gloo between CPUs."""
    backend = "nccl" if learner.device.type == "cuda" else "gloo"
    store = dist.FileStore(str(rendezvous), settings.ranks)  # type: ignore[attr-defined]
    waiting = timedelta(seconds=settings.timeout_s)
    dist.init_process_group(backend, store=store, rank=rank, world_size=settings.ranks, timeout=waiting)
    alone = learner.peers
    try:
        learner.peers = ranks = Ranks(learner.trained, rank, learner.device)
        yield ranks
    finally:
        learner.peers = alone
        dist.destroy_process_group()


def device_of(wanted: str, rank: int) -> torch.device:
    """A GPU for each rank, or the CPU; `wanted`: trainer.device."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", rank)
