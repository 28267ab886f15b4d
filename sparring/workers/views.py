"""AugMix on a worker: which examples of a ticket are augmented, and their views.

Without an allocator all are. BulletTrain augments boundary examples alone (Hua et al.: N_B = 1, N_R = N_O = 0), found
by one clean forward pass; the others' views are the images themselves.
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
    """Of a ticket's examples.

    images: uint8 [2, n, C, H, W], on the CPU; classes: how many examples are in each of the allocator's classes.
    """

    images: Tensor
    classes: dict[str, int]


class Augmentation:
    """A shard of views: made at once, without attack steps or gradients, and done from the start.

    The views do not depend on weights; `version` is that of those which an allocator classified with.
    """

    done, steps = True, 0

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
        """There are no steps to make."""

    def shard(self) -> Shard:
        """The product."""
        return self._shard


def make_views(task: Task, context: AttackContext, x: Tensor, labels: Tensor, robust_share: float) -> Views:
    """Two views of each example that is augmented, of the others the image twice.

    x: float32 [n, C, H, W], the task's examples; labels: int64 [n]; robust_share: F_R. Tensors are on the CPU, whatever
    device the model is on.
    """
    if not isinstance(context.attack, AugMix):
        raise SparringError(f"attack {context.attack.name!r} makes no views.")
    images = pixels(x)
    augmented, classes = _allocated(task, context, x, labels, robust_share)
    made = as_views(images)
    chosen = torch.tensor(task.indices)[augmented]
    made[:, augmented] = context.attack.views(
        images[augmented], seed=context.seed, epoch=task.key.epoch, indices=chosen
    )
    return Views(made, classes)


def _allocated(
    task: Task, context: AttackContext, x: Tensor, labels: Tensor, robust_share: float
) -> tuple[Tensor, dict[str, int]]:
    """bool [n]: whose class gets a step; and how many there are of each."""
    if context.allocator is None:
        return torch.ones(len(x), dtype=torch.bool), {}
    on_device = x.to(next(context.model.parameters()).device)
    with torch.no_grad():
        logits = context.model(on_device).cpu()
    random = generator(context.seed, "attack", task.key.epoch, task.key.number)
    candidates = Candidates(context.model, on_device, labels, logits, context.attack, robust_share, random)
    allocation = context.allocator.allocate(candidates)
    return allocation.step_counts.cpu() > 0, allocation.counts
