"""AugMix on a worker: choose the examples of a ticket that are augmented, and make their views.

Without an allocator all are augmented. BulletTrain augments only boundary examples (Hua et al.: N_B = 1, N_R = N_O =
0), found by one clean forward pass; the views of the others are the images themselves.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor

from sparring.allocators import Candidates
from sparring.attacks.augmix import AugMix, as_views, pixels
from sparring.errors import SparringError
from sparring.queue.messages import Controls, Shard
from sparring.randomness import generator
from sparring.workers.task import AttackContext, Task


class Views(NamedTuple):
    """The views of a ticket's examples.

    images: uint8 [2, n, C, H, W], on the CPU; classes: number of examples in each class of the allocator.
    """

    images: Tensor
    classes: dict[str, int]


class Augmentation:
    """A shard of views. It is made in the constructor, without attack steps or gradients.

    The views do not depend on weights; `version` is that of the weights with which the allocator classified.
    """

    done, steps, left = True, 0, 0

    def __init__(self, task: Task, context: AttackContext, controls: Controls, version: int) -> None:
        began = time.perf_counter()
        self.task = task
        x, labels = context.dataset.batch(torch.tensor(task.indices), task.key.epoch)
        views = make_views(task, context, x, labels, controls.robust_share)
        seconds = time.perf_counter() - began
        self._shard = Shard(
            key=task.key,
            fence=task.fence,
            version=version,
            start_version=version,
            attack=context.attack.record,
            delta=torch.empty(0),
            labels=labels,
            worker=task.worker,
            attack_seconds=seconds,
            cost_seconds=seconds,
            classes=views.classes,
            views=views.images,
        )

    def advance(self, version: int) -> None:
        """Do nothing: there are no steps."""

    def shard(self) -> Shard:
        """The finished shard."""
        return self._shard


def make_views(task: Task, context: AttackContext, x: Tensor, labels: Tensor, robust_share: float) -> Views:
    """Two views of each augmented example; for the others the image twice.

    x: float32 [n, C, H, W], the task's examples; labels: int64 [n]; robust_share: F_R. Tensors are on the CPU, also if
    the model is on another device.
    """
    if not isinstance(context.attack, AugMix):
        raise SparringError(f"attack {context.attack.name!r} makes no views.")
    images = pixels(x)
    augmented, classes = _allocated(task, context, x, labels, robust_share)
    views = as_views(images)
    chosen = torch.tensor(task.indices)[augmented]
    views[:, augmented] = context.attack.views(
        images[augmented], seed=context.seed, epoch=task.key.epoch, indices=chosen
    )
    return Views(views, classes)


def _allocated(
    task: Task, context: AttackContext, x: Tensor, labels: Tensor, robust_share: float
) -> tuple[Tensor, dict[str, int]]:
    """bool [n]: the examples whose class gets a step; and the number of examples in each class."""
    if context.allocator is None:
        return torch.ones(len(x), dtype=torch.bool), {}
    on_device = x.to(next(context.model.parameters()).device)
    with torch.no_grad():
        logits = context.model(on_device).cpu()
    random = generator(context.seed, "attack", task.key.epoch, task.key.number)
    candidates = Candidates(context.model, on_device, labels, logits, context.attack, robust_share, random)
    allocation = context.allocator.allocate(candidates)
    return allocation.step_counts.cpu() > 0, allocation.counts
