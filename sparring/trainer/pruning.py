"""Data pruning (Kaufmann et al.): which training examples are dropped for good, and by which losses that is decided."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, cross_entropy, frozen, iterate, perturbed, result_of, targets_of
from sparring.config import PruningSettings
from sparring.data import TrainingSet
from sparring.errors import UsageError
from sparring.randomness import generator
from sparring.trainer.plan import Pruning


def planned(settings: PruningSettings, epochs: int, size: int) -> Pruning | None:
    """What the settings leave of `size` training examples, and from which of `epochs` epochs on; None: everything.

    Raises:
        UsageError: no epoch would come after it, or it would drop nothing or everything.
    """
    if settings.name == "none":
        return None
    if settings.epoch >= epochs:
        raise UsageError(
            f"pruning.epoch = {settings.epoch} of {epochs} epochs (train.epochs over train.replays): pruning.epoch < "
            f"{epochs} fails, no epoch would be trained on what is kept. Prune earlier or train longer."
        )
    dropped = _dropped(settings.share, size)
    if not 0 < dropped < size:
        raise UsageError(
            f"pruning.share = {settings.share:g} of {size} training examples drops {dropped} of them: it must drop "
            f"some and keep some. Change pruning.share, or set pruning.name to 'none'."
        )
    return Pruning(settings.epoch, size - dropped)


def kept_indices(name: str, share: float, losses: Tensor | None, size: int, random: torch.Generator) -> Tensor:
    """The examples that stay: int64, rising.

    Algorithm 1 of Kaufmann et al., but for low_high, which keeps the middle as section 4.4 says (the listing would keep
    the tails); an odd example is dropped from the high tail. `random` chooses, and orders equal losses: by position,
    whole classes of a sorted training set would go.

    Args:
        losses: float [size], for every method but `random`; no NaN among them.
    """
    dropped = _dropped(share, size)
    lowest = {"random": 0, "low": dropped, "high": 0, "low_high": dropped // 2}[name]
    order = torch.randperm(size, generator=random)
    if losses is not None:
        order = order[losses[order].argsort(stable=True)]
    return order[lowest : lowest + size - dropped].sort().values


def attacked_losses(
    model: nn.Module,
    dataset: TrainingSet,
    attack: Attack,
    *,
    epoch: int,
    batch_size: int,
    helper: nn.Module | None = None,
    before_step: Callable[[int], object] = lambda done: None,
) -> Tensor:
    """float32 [N], on the CPU: the cross-entropy of every example, attacked as `epoch` would train on it.

    Random numbers depend on (the dataset's seed, epoch, chunk) alone. `before_step` is told the number of examples done
    before each attack step; an exception from it ends the work.
    """
    device = next(model.parameters()).device
    losses = torch.empty(len(dataset))
    for chunk, indices in enumerate(torch.split(torch.arange(len(dataset)), batch_size)):
        x, labels = (part.to(device) for part in dataset.batch(indices, epoch))
        random, done = generator(dataset.seed, "prune", epoch, chunk), chunk * batch_size
        with frozen(model):
            steps = iterate(model, x, targets_of(model, x, labels, attack, helper), attack, random)
            delta = result_of(steps, _before_each(before_step, done))
            with torch.no_grad():
                losses[indices] = cross_entropy(model(perturbed(x, delta)), labels).cpu()
    return losses


def _before_each(before_step: Callable[[int], object], done: int) -> Callable[[int], object]:
    return lambda step: before_step(done)


def _dropped(share: float, size: int) -> int:
    return round(share * size)
