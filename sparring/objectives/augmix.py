"""AugMix's objective (Hendrycks et al. 2020): clean cross-entropy plus the divergence between image and views."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.config import AugmixSettings
from sparring.objectives.losses import jsd
from sparring.objectives.methods import Passes
from sparring.objectives.objective import Batch, Objective
from sparring.objectives.predictions import correct


class AugMixConsistency(Objective):
    """Jensen-Shannon consistency of the predictions on an image and its two views.

    With `passes` "single_pass", views that equal the image are not computed; "reference" computes all, as the authors
    do.
    """

    takes_views = True

    def __init__(self, augmix: AugmixSettings, passes: Passes = "reference") -> None:
        self.weight, self.passes = augmix.weight, passes

    def __call__(self, model: nn.Module, batch: Batch, helper: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        if batch.views is None:
            raise ValueError("a batch without views; AugMix's objective goes with its attack")
        changed = (batch.views != batch.x).any(0).flatten(1).any(1)
        if self.passes == "reference":
            changed[:] = True
        return augmix_loss(model, batch.x, batch.views, batch.labels, weight=self.weight, augmented=changed)


def augmix_loss(
    model: nn.Module, x: Tensor, views: Tensor, labels: Tensor, *, weight: float, augmented: Tensor
) -> tuple[Tensor, Tensor]:
    """AugMix's loss of a batch with a model in train mode, by one forward pass.

    As in the authors' code the clean images and both views are concatenated, so that batch norm sees them as one batch.
    Views of examples that were not augmented are left out: for equal inputs the divergence is 0. With weight 0 the loss
    is the cross-entropy of the first view alone, as with the authors' --no-jsd.

    Args:
        x: float32 [N, C, H, W] in [0, 1]. views: float32 [2, N, C, H, W] in [0, 1]. labels: int64 [N].
        weight: weight of the divergence, whose mean is over all N examples. augmented: bool [N].

    Returns:
        The scalar loss, and bool [N]: the views that it needs classified correctly (without views, the clean image).
    """
    if weight == 0:
        of_view: Tensor = model(views[0])
        return F.cross_entropy(of_view.float(), labels), correct(of_view, labels)
    some = int(augmented.sum())
    logits: Tensor = model(torch.cat([x, views[0, augmented], views[1, augmented]]))
    clean, *of_views = torch.split(logits, [len(x), some, some])
    first, second = (clean.index_put((augmented,), each) for each in of_views)
    both = correct(first, labels) & correct(second, labels)
    return jsd(clean, first, second, labels, weight), both
