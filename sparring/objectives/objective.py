"""What training minimises, what its attack maximises, and a helper network where it wants one.

A method of your own is a subclass of `Objective` with a `loss`:

    class Smoothed(Objective):
        def __init__(self, share: float = 0.1) -> None:
            self.share = share

        def loss(self, model, batch, helper):
            logits = model(batch.x_adv)
            return pgd_at(logits, batch.labels, label_smoothing=self.share, weights=batch.weights), logits
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sparring.attacks import AttackLoss, Start

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Batch:
    """The examples of one step, on the model's device.

    x, x_adv: float32 [N, C, H, W] in [0, 1], clean and attacked (the image itself where nothing was attacked); labels:
    int64 [N]; weights: float32 [N] with mean 1, how much each example counts (None: all the same); views: float32
    [2, N, C, H, W] in [0, 1], AugMix's, with which there is no x_adv.
    """

    x: Tensor
    x_adv: Tensor
    labels: Tensor
    weights: Tensor | None = None
    views: Tensor | None = None


@dataclass(frozen=True)
class Helper:
    """A network beside the model: frozen and in eval mode, or `trained` by the same optimizer, in train mode.

    It takes the same images as the model and is never attacked itself.
    """

    network: nn.Module
    trained: bool = False


class Objective:
    """What is minimised over the weights.

    attack_loss: what its attack maximises, by default the cross-entropy. attack_start: where PGD begins under it.
    """

    attack_loss: AttackLoss | None = None
    attack_start: Start = "uniform"

    def helper(self, shape: Shape, classes: int) -> Helper | None:
        """The network that it wants beside a model of images of `shape` (C, H, W); made once, where a run starts."""
        return None

    def loss(self, model: nn.Module, batch: Batch, helper: Any) -> tuple[Tensor, Tensor]:
        """The scalar loss of a batch under a model in train mode, and the logits [N, K] of the attacked images.

        helper: the network that `helper` has made, None where there is none; `Any`, so that an objective that has one
        may say that it takes an nn.Module.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def __call__(self, model: nn.Module, batch: Batch, helper: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """The scalar loss, and bool [N]: which attacked examples are classified correctly."""
        loss, adv_logits = self.loss(model, batch, helper)
        return loss, adv_logits.detach().argmax(1) == batch.labels


def logits_of_attacked(model: nn.Module, clean_logits: Tensor, batch: Batch) -> Tensor:
    """[N, K]: logits of x_adv where it is not x, the clean ones elsewhere; where none are attacked, without a pass."""
    attacked = (batch.x_adv != batch.x).flatten(1).any(1)
    if not bool(attacked.any()):
        return clean_logits
    return clean_logits.index_put((attacked,), model(batch.x_adv[attacked]))


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of [N] values, each counted by its weight (float [N] with mean 1) where there are weights."""
    return torch.mean(values if weights is None else values * weights)
