"""Which forward passes an objective makes, and in which order.

In train mode every pass moves the running statistics of batch norm, so number and order of the passes are part of a
method: `reference` makes those of the authors' code, `single_pass` spares those that the loss itself does not need.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sparring.errors import UsageError
from sparring.objectives.losses import jsd, mart, pgd_at, trades


def training_loss(
    name: Literal["pgd-at", "trades", "mart"],
    model: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    labels: Tensor,
    *,
    beta: float,
    passes: Literal["reference", "single_pass"],
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of a batch under a model that is in train mode already.

    | objective | reference                       | single_pass                   |
    |-----------|---------------------------------|-------------------------------|
    | pgd-at    | x_adv                           | x_adv                         |
    | trades    | x, x_adv, x again (KL's target) | x, then x_adv of the attacked |
    | mart      | x, x_adv                        | x, then x_adv of the attacked |

    The attacked are those whose x_adv is not x. `single_pass` takes the clean logits of the others for their
    adversarial ones; where none are attacked, the second pass is left out. That pass has batch norm statistics of its
    own, of as few examples as were attacked.

    Args:
        x, x_adv: float32 [N, C, H, W] in [0, 1], clean and perturbed. labels: int64 [N].
        beta: weight of the KL; pgd-at has none.
        label_smoothing: of the cross-entropy of pgd-at, or of that on clean images of trades.
        weights: float32 [N] with mean 1, how much each example counts; by default all count the same.

    Returns:
        The scalar loss and, detached, the adversarial logits [N, K] it was computed from.

    Raises:
        UsageError: label_smoothing is not 0 for mart, which has none.
    """
    if name == "pgd-at":
        adv_logits: Tensor = model(x_adv)
        return pgd_at(adv_logits, labels, label_smoothing=label_smoothing, weights=weights), adv_logits.detach()
    if name == "mart" and label_smoothing != 0:
        raise UsageError(f"label_smoothing = {label_smoothing} is for pgd-at and trades: set it to 0 with mart.")
    clean_logits: Tensor = model(x)
    adv_logits = model(x_adv) if passes == "reference" else _of_the_attacked(model, clean_logits, x, x_adv)
    if name == "mart":
        return mart(clean_logits, adv_logits, labels, beta, weights=weights), adv_logits.detach()
    target_logits = model(x) if passes == "reference" else clean_logits
    loss = trades(
        clean_logits,
        adv_logits,
        labels,
        beta,
        target_logits=target_logits,
        label_smoothing=label_smoothing,
        weights=weights,
    )
    return loss, adv_logits.detach()


def augmix_loss(
    model: nn.Module, x: Tensor, views: Tensor, labels: Tensor, *, weight: float, augmented: Tensor
) -> tuple[Tensor, Tensor]:
    """AugMix's loss of a batch under a model that is in train mode already, from one pass over all that it needs.

    As in the authors' code the clean images and both views are put together, so that batch norm sees them as one
    batch. Views of examples that were not augmented are left out: of equal inputs the divergence is 0.

    Args:
        x: float32 [N, C, H, W] in [0, 1]. views: float32 [2, N, C, H, W] in [0, 1]. labels: int64 [N].
        weight: of the divergence, whose mean is over all N examples. augmented: bool [N].

    Returns:
        The scalar loss, and bool [N]: both views classified right (the clean image where there are none).
    """
    some = int(augmented.sum())
    logits: Tensor = model(torch.cat([x, views[0, augmented], views[1, augmented]]))
    clean, *of_views = torch.split(logits, [len(x), some, some])
    first, second = (clean.index_put((augmented,), each) for each in of_views)
    right = (first.argmax(1) == labels) & (second.argmax(1) == labels)
    return jsd(clean, first, second, labels, weight), right


def _of_the_attacked(model: nn.Module, clean_logits: Tensor, x: Tensor, x_adv: Tensor) -> Tensor:
    """[N, K]: logits of x_adv where it is not x, the clean ones elsewhere."""
    attacked = (x_adv != x).flatten(1).any(1)
    if not bool(attacked.any()):
        return clean_logits
    return clean_logits.index_put((attacked,), model(x_adv[attacked]))
