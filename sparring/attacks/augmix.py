"""AugMix in an attack's place: two views of each image instead of a perturbation (Hendrycks et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.attack import Attack, AttackRecord
from sparring.config import AugmixSettings
from sparring.data import augmix


@dataclass(frozen=True)
class AugMix:
    """What AugMix makes of images; there is no ball, no gradient and one 'step': augmented or not."""

    augmix: AugmixSettings

    name: ClassVar[str] = "augmix"
    norm: ClassVar[str] = "linf"
    epsilon: ClassVar[float] = 0.0
    radius: ClassVar[float] = 0.0
    steps: ClassVar[int] = 1
    restarts: ClassVar[int] = 1
    alpha: ClassVar[float] = 0.0

    @property
    def record(self) -> AttackRecord:
        """What a shard carries of it."""
        return AttackRecord(self.name, self.norm, self.epsilon, self.radius, self.steps)

    def at(self, epsilon: float) -> AugMix:
        """The same: it has no ball."""
        return self

    def as_recorded(self, record: AttackRecord) -> AugMix:
        """What a shard was made with: this."""
        return self

    def views(self, images: Tensor, *, seed: int, epoch: int, indices: Tensor) -> Tensor:
        """uint8 [2, N, C, H, W]: two views of each image.

        images: uint8 [N, C, H, W]; indices: int64 [N], what the examples are called in the training set.
        """
        return augmix.views(images, self.augmix, seed=seed, epoch=epoch, indices=indices)


Threat = Attack | AugMix  # what examples are changed by


def as_views(images: Tensor) -> Tensor:
    """uint8 [2, N, C, H, W]: each image twice, for what is not augmented."""
    return images.repeat(augmix.VIEWS, *[1] * images.ndim)


def pixels(x: Tensor) -> Tensor:
    """uint8 of float images in [0, 1]."""
    return (x * 255).round_().to(torch.uint8)
