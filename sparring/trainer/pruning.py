"""Data pruning (Kaufmann et al.): which training examples are dropped for good, and by which losses that is decided."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, frozen, iterate, perturbed
from sparring.attacks.gradient import cross_entropy, targets_of
from sparring.config import Config, PruningSettings
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
    config: Config, model: nn.Module, dataset: TrainingSet, attack: Attack, epoch: int
) -> Generator[int, None, Tensor]:
    """Attack every example as `epoch` would train on it, under weights that do not change.

    Yields the number of examples done before each attack step, for its caller to look up; returns the cross-entropy of
    the attacked inputs, float32 [N] on CPU. Random numbers depend on (seed, epoch, chunk) alone.
    """
    device = next(model.parameters()).device
    losses = torch.empty(len(dataset))
    for chunk, indices in enumerate(torch.split(torch.arange(len(dataset)), config.train.batch_size)):
        x, labels = (part.to(device) for part in dataset.batch(indices, epoch))
        random = generator(config.train.seed, "prune", epoch, chunk)
        with frozen(model):
            with torch.no_grad():
                clean = model(x) if attack.loss == "kl" else None
            steps = iterate(model, x, targets_of(attack, labels, clean), attack, random)
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    delta = end.value
                    break
                yield int(indices[0])
            with torch.no_grad():
                losses[indices] = cross_entropy(model(perturbed(x, delta)), labels).cpu()
    return losses


def _dropped(share: float, size: int) -> int:
    return round(share * size)
