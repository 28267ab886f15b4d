"""A process among the ranks that share each training step: all ranks average their gradients, so all weights are equal.

Batch norm: each rank normalises with the statistics of its own examples, or with those of all (batch_norm.py). After
the step all ranks have the mean of their running statistics, weighted by their numbers of examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import Store  # type: ignore[attr-defined]

from sparring.config import TrainerSettings
from sparring.engines.batch_norm import Synchronised
from sparring.errors import SparringError
from sparring.objectives import Batch
from sparring.queue.messages import Key
from sparring.trainer.learner import Learner
from sparring.trainer.peers import Objective, Totals

T = TypeVar("T")


class Ranks(Generic[T]):
    """This process as the `Peers` of `learner`. All ranks must call the same methods in the same order.

    Gradients are sent as one row, always in the order of the parameters: the bits of a sum over more than two ranks
    depend on a gradient's place in what is sent, and a run that is restarted is to end as if it had not stopped.
    """

    def __init__(self, learner: Learner, rank: int) -> None:
        self.learner, self.device = learner, learner.device
        self.rank, self.count = rank, dist.get_world_size()
        self.share = 1.0

    def begin(self, further: T | None = None) -> T | None:
        """Give all ranks the weights and the training state of rank 0, and its `further` state."""
        learner = self.learner
        self._send_weights()
        sent: list[Any] = [None]
        if self.rank == 0:
            sent = [(learner.step, learner.state(), learner.rate_scale, learner.pgd_until, further)]
        dist.broadcast_object_list(sent, src=0)
        step, state, learner.rate_scale, learner.pgd_until, further = sent[0]
        if self.rank > 0:
            learner.restore(step, **state)
        return further

    def _send_weights(self) -> None:
        for network in filter(None, (self.learner.model, self.learner.helper)):
            for tensor in network.state_dict().values():
                sent = tensor.contiguous()  # a collective call takes no other memory format
                dist.broadcast(sent, src=0)
                tensor.copy_(sent)

    def taking(self, batch: Batch | None, total: int, of_step: Key) -> Batch:
        """This rank's examples of a step of `total`; a rank without any gets clean images that do not count.

        of_step: a ticket of the step.
        """
        self.share = 0.0 if batch is None else len(batch.labels) * self.count / total
        Synchronised.counts = batch is not None
        if batch is not None:
            return batch
        x, y = self.learner.examples(of_step)
        views = torch.stack([x, x]) if self.learner.experiment.attack.makes_views else None
        noise = torch.zeros_like(x) if self.learner.objective.takes_noise else None
        return Batch(x, x, y, views=views, noise=noise)

    def forward(self, objective: Objective) -> tuple[Tensor, Tensor]:
        return objective()

    def combine(self, parameters: Iterable[nn.Parameter]) -> None:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        used = torch.tensor([parameter.grad is not None for parameter in trained], device=self.device)
        own = [torch.zeros_like(one) if one.grad is None else one.grad for one in trained]
        row = torch.cat([used.to(own[0].dtype), *(gradient.reshape(-1) / self.count for gradient in own)])
        dist.all_reduce(row)
        by_any, *means = torch.split(row, [len(used), *(gradient.numel() for gradient in own)])
        for parameter, mean, is_used in zip(trained, means, by_any.tolist(), strict=True):
            if is_used:  # one that no rank has used keeps no gradient, so that the optimizer leaves it alone
                parameter.grad = mean.view_as(parameter)

    def totals(self, loss: Tensor, correct: Tensor) -> Totals:
        counts = 1 if self.share else 0
        examples = counts * len(correct)
        own = [float(loss.detach()) * examples, counts * int(correct.sum()), examples]
        of_losses, all_correct, of_all = self.summed(torch.tensor(own, dtype=torch.float64)).tolist()
        return Totals(of_losses / of_all, int(all_correct), int(of_all))

    def mean(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        averaged = [gradient / self.count for gradient in gradients]
        for gradient in averaged:
            dist.all_reduce(gradient)
        return averaged

    def even_out(self) -> None:
        buffers = [buffer for buffer in self.learner.trained.buffers() if buffer.is_floating_point()]
        if not buffers:
            return
        means = torch.cat([buffer.reshape(-1) for buffer in buffers]) * (self.share / self.count)
        dist.all_reduce(means)
        for buffer, mean in zip(buffers, torch.split(means, [buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))

    def summed(self, values: Tensor) -> Tensor:
        """The sum of all ranks' values, on the CPU."""
        values = values.to(self.device)
        dist.all_reduce(values)
        return values.cpu()


def wait_for_all(store: Store, rank: int, count: int, timeout_s: float) -> None:
    """Wait until all ranks have come so far.

    Raises:
        SparringError: not all came in time.
    """
    store.set(f"ready/{rank}", "")
    try:
        store.wait([f"ready/{each}" for each in range(count)], timedelta(seconds=timeout_s))
    except (dist.DistError, RuntimeError) as error:
        raise SparringError(
            f"not all of trainer.count = {count} trainers were ready within workers.start_timeout_s = {timeout_s:g} s. "
            f"Ray may have no room for trainer.num_gpus and trainer.num_cpus of each; see the logs in the run's folder."
        ) from error


class RankLost(SparringError):
    """Another rank has died, or took too long."""


@contextmanager
def lost_ranks_named(settings: TrainerSettings) -> Iterator[None]:
    """Name the failure of a collective call, of one of several trainers.

    Raises:
        RankLost: in the place of the connection's own error.
    """
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        if not is_lost(error):
            raise
        raise RankLost(
            f"one of trainer.count = {settings.count} trainers has died or took longer for a step than "
            f"trainer.wait_timeout_s = {settings.wait_timeout_s:g} s ({str(error).splitlines()[0]})."
        ) from error


def is_lost(error: Exception) -> bool:
    """Whether a collective call failed since another rank is gone or too slow."""
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))


@contextmanager
def joined(learner: Learner, rank: int, count: int, store: Store, timeout_s: float) -> Iterator[None]:
    """Connect to the other ranks through `store`: by NCCL between GPUs, by gloo between CPUs.

    timeout_s: how long a rank waits for the others wherever they do something together.
    """
    backend = "nccl" if learner.device.type == "cuda" else "gloo"
    waiting = timedelta(seconds=timeout_s)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=waiting)
    alone = learner.peers
    try:
        yield
    finally:
        learner.peers = alone
        Synchronised.counts = True  # this process is a rank no more
        dist.destroy_process_group()
