"""An objective: the training loss, the loss that its attack maximises, and optionally a helper network.

An objective of your own is a subclass of `Objective` with a `loss`:

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

from sparring.errors import UsageError
from sparring.objectives.predictions import correct

if TYPE_CHECKING:
    from sparring.attacks import AttackLoss, Start

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Batch:
    """The examples of one step, on the model's device.

    x, x_adv: float32 [N, C, H, W] in [0, 1], clean and attacked images (x_adv = x for examples that were not attacked);
    labels: int64 [N]; weights: float32 [N] with mean 1, weight of each example (None: all the same); views: float32
    [2, N, C, H, W] in [0, 1], AugMix's views, which replace x_adv; noise: float32 [N, C, H, W], a perturbation drawn
    uniformly in the ball of the attack, for objectives that take it. x + noise is not clamped.
    """

    x: Tensor
    x_adv: Tensor
    labels: Tensor
    weights: Tensor | None = None
    views: Tensor | None = None
    noise: Tensor | None = None


@dataclass(frozen=True)
class Helper:
    """A helper network: frozen in eval mode, or `trained` in train mode by the same optimizer as the model.

    It takes the same images as the model, and is not attacked itself.
    """

    network: nn.Module
    trained: bool = False


class Objective:
    """Base class of objectives.

    attack_loss: the loss that the attack maximises; by default the cross-entropy. attack_start: start of PGD with this
    objective. takes_views: the loss needs `Batch.views`. takes_noise: it needs `Batch.noise`. on_attacked_alone: the
    loss is the cross-entropy on x_adv and nothing else, so that one pass can serve attack and training.
    """

    attack_loss: AttackLoss | None = None
    attack_start: Start = "uniform"
    takes_views: bool = False
    takes_noise: bool = False
    on_attacked_alone: bool = False

    def helper(self, shape: Shape, classes: int) -> Helper | None:
        """Make the helper network for images of `shape` (C, H, W); called once, when a run starts. None: no helper."""
        return None

    def loss(self, model: nn.Module, batch: Batch, helper: Any) -> tuple[Tensor, Tensor]:
        """The scalar loss of a batch with a model in train mode, and the logits [N, K] of the attacked images.

        helper: the network that `helper` has made, or None. Its type is `Any`, so that an objective with a helper may
        declare it as nn.Module.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def __call__(self, model: nn.Module, batch: Batch, helper: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """The scalar loss, and bool [N]: which attacked examples are classified correctly.

        Raises:
            UsageError: `loss` returns logits of other examples than the batch's.
        """
        loss, adv_logits = self.loss(model, batch, helper)
        if len(adv_logits) != len(batch.labels):
            raise UsageError(
                f"{type(self).__name__}.loss returns {len(adv_logits)} rows of logits for {len(batch.labels)} "
                f"examples: the logits [N, K] of all attacked images are needed."
            )
        return loss, correct(adv_logits.detach(), batch.labels)


def logits_of_attacked(model: nn.Module, clean_logits: Tensor, batch: Batch) -> Tensor:
    """[N, K]: logits of x_adv for attacked examples, the clean logits for the others; only the former are computed.

    A single attacked example is computed beside another one, since batch norm cannot train on one example.
    """
    attacked = (batch.x_adv != batch.x).flatten(1).any(1).nonzero()[:, 0]
    if len(attacked) == 0:
        return clean_logits
    passed = attacked if len(attacked) > 1 or len(batch.x) == 1 else torch.stack([attacked[0], attacked[0] - 1])
    return clean_logits.index_put((attacked,), model(batch.x_adv[passed])[: len(attacked)])
