"""AugMix instead of an attack: two views of each image instead of a perturbation (Hendrycks et al. 2020)."""

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
    """AugMix in the interface of an attack: no ball, no gradient, and one 'step' (augmented) or none."""

    augmix: AugmixSettings

    name: ClassVar[str] = "augmix"
    norm: ClassVar[str] = "linf"
    epsilon: ClassVar[float] = 0.0
    radius: ClassVar[float] = 0.0
    steps: ClassVar[int] = 1
    restarts: ClassVar[int] = 1
    alpha: ClassVar[float] = 0.0
    makes_views: ClassVar[bool] = True

    @property
    def record(self) -> AttackRecord:
        """The description that a shard carries."""
        return AttackRecord(self.name, self.norm, self.epsilon, self.radius, self.steps)

    def at(self, epsilon: float) -> AugMix:
        """The same, because AugMix has no ε."""
        return self

    def as_recorded(self, record: AttackRecord) -> AugMix:
        """What a shard was made with: this."""
        return self

    def views(self, images: Tensor, *, seed: int, epoch: int, indices: Tensor) -> Tensor:
        """uint8 [2, N, C, H, W]: two views of each image.

        images: uint8 [N, C, H, W]; indices: int64 [N], of the examples in the training set.
        """
        return augmix.views(images, self.augmix, seed=seed, epoch=epoch, indices=indices)


Threat = Attack | AugMix  # how a run changes its examples


def as_views(images: Tensor) -> Tensor:
    """uint8 [2, N, C, H, W]: each image twice, for images that are not augmented."""
    return images.repeat(augmix.VIEWS, *[1] * images.ndim)


def pixels(x: Tensor) -> Tensor:
    """Float images in [0, 1] as uint8."""
    return (x * 255).round_().to(torch.uint8)
