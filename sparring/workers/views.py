"""AugMix on a worker: which examples of a ticket are augmented, and their views.

Without an allocator all are. BulletTrain augments boundary examples alone (Hua et al.: N_B = 1, N_R = N_O = 0), told
from one clean forward pass; the others' views are the images themselves.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparring.allocators.bullettrain import boundary_steps, classify, signed_variance
from sparring.config import AllocatorSettings, Config
from sparring.data import TrainingSet, augmix
from sparring.queue.messages import Controls, Key, Shard

ON = 1


class Views(NamedTuple):
    """Of a ticket's examples.

    images: uint8 [2, n, C, H, W], on the CPU; classes: how many are outlier, boundary, robust (0 without allocator).
    """

    images: Tensor
    classes: tuple[int, int, int]


class Augmentation:
    """A shard of views: made at once, without attack steps or gradients, and done from the start.

    The views do not depend on weights; `version` is that of those which BulletTrain classified with.
    """

    done, steps = True, 0

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        dataset: TrainingSet,
        key: Key,
        indices: tuple[int, ...],
        controls: Controls,
        version: int,
        *,
        fence: int = 0,
        worker: str = "",
    ) -> None:
        began = time.perf_counter()
        x, labels = dataset.batch(torch.tensor(indices), key.epoch)
        views = make_views(config, model, x, labels, indices, key.epoch, controls.robust_share)
        seconds = time.perf_counter() - began
        self._shard = Shard(
            key=key,
            fence=fence,
            version=version,
            start_version=version,
            epsilon=0.0,
            delta=torch.empty(0),
            labels=labels,
            worker=worker,
            attack_seconds=seconds,
            cost_seconds=seconds,
            classes=views.classes,
            views=views.images,
        )

    @property
    def owner(self) -> tuple[int, Key]:
        return self._shard.fence, self._shard.key

    def advance(self, version: int) -> None:
        """There are no steps to make."""

    def shard(self) -> Shard:
        """The product."""
        return self._shard


def make_views(
    config: Config,
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    indices: tuple[int, ...],
    epoch: int,
    robust_share: float,
) -> Views:
    """Two views of each example that is augmented, of the others the image twice.

    x: float32 [n, C, H, W], what `TrainingSet.batch` gives for `indices` in `epoch`; labels: int64 [n]; robust_share:
    F_R. Tensors are on the CPU, whatever device the model is on.
    """
    images = (x * 255).round_().to(torch.uint8)
    augmented, classes = torch.ones(len(x), dtype=torch.bool), (0, 0, 0)
    if config.allocator.name != "none":
        augmented, classes = _allocated(config.allocator, model, x, labels, robust_share)
    made = images.repeat(augmix.VIEWS, 1, 1, 1, 1)
    made[:, augmented] = augmix.views(
        images[augmented],
        config.augmix,
        seed=config.train.seed,
        epoch=epoch,
        indices=torch.tensor(indices)[augmented],
    )
    return Views(made, classes)


def _allocated(
    settings: AllocatorSettings, model: nn.Module, x: Tensor, labels: Tensor, robust_share: float
) -> tuple[Tensor, tuple[int, int, int]]:
    """bool [n]: whose class gets a step; and how many there are of each."""
    with torch.no_grad():
        logits = model(x.to(next(model.parameters()).device)).cpu()
    classes = classify(signed_variance(logits, labels), robust_share)
    steps = torch.tensor([settings.outlier_steps, boundary_steps(settings, ON), settings.robust_steps])
    outlier, boundary, robust = torch.bincount(classes, minlength=3).tolist()
    return steps[classes] > 0, (outlier, boundary, robust)
