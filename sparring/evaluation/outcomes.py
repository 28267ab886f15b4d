"""What becomes of each example under an attack with restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, GradientCheck, frozen, perturb, perturbed
from sparring.data import Dataset, batch
from sparring.machine.devices import device_of
from sparring.models.forward import plain
from sparring.objectives.predictions import are_finite, are_probabilities, correct
from sparring.randomness import generator

RANDOM = 1e-2  # difference of two passes, relative to the largest logit
Attacked = Callable[[Tensor, Tensor, Tensor], None]  # clean images [n, C, H, W], labels [n], attacked images


@dataclass(frozen=True)
class Outcomes:
    """Results per example, bool [N] on one device.

    labels: int64 [N]. clean: correct on the clean image. robust: correct on it and after every restart. zero_gradient:
    a step of the attack had a gradient of zero. non_finite_gradient: a step's gradient had entries that are not finite.
    non_finite_logits: on the clean image or an attacked one. probabilities: the clean logits are probabilities.
    confidence: float32 [N], of the clean prediction; 1 where the attack does not depend on it. varies: a second pass
    had other logits (looked at in the first batch).
    """

    labels: Tensor
    clean: Tensor
    robust: Tensor
    zero_gradient: Tensor
    non_finite_gradient: Tensor
    non_finite_logits: Tensor
    probabilities: Tensor
    confidence: Tensor
    varies: Tensor

    def cpu(self) -> Outcomes:
        """The same on the CPU."""
        return Outcomes(**{each.name: getattr(self, each.name).cpu() for each in fields(self)})

    def at(self, rows: Tensor) -> Outcomes:
        """Those of the examples in `rows`, int64 [n], in that order."""
        return Outcomes(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


def outcomes(
    model: nn.Module,
    dataset: Dataset,
    attack: Attack,
    *,
    batch_size: int = 500,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    attacked: Attacked | None = None,
) -> Outcomes:
    """The outcomes of all examples on the CPU, with the model in eval mode and float32.

    Args:
        progress: called with (examples done, all examples).
        attacked: called with each batch. The attacked image of an example is the first one that is misclassified, else
            the last one; of a misclassified example it is the clean one.
    """
    model = plain(model)
    total = len(dataset)
    parts = []
    if progress is not None:
        progress(0, total)
    with frozen(model):
        for first, x, y in batches(model, dataset, batch_size):
            found, images = attacked_outcomes(model, x, y, attack, seed, first)
            parts.append(found.cpu())
            if attacked is not None:
                attacked(x, y, images)
            if progress is not None:
                progress(first + len(y), total)
    return joined(parts)


def clean_outcomes(model: nn.Module, x: Tensor, y: Tensor) -> Outcomes:
    """The outcomes without an attack."""
    logits = logits_of(model, x)
    right, none = correct(logits, y), torch.zeros_like(y, dtype=torch.bool)
    of_logits = ~are_finite(logits), are_probabilities(logits), _confidence(logits)
    return Outcomes(y, right, right, none, none, *of_logits, varies=none)


def variation(model: nn.Module, x: Tensor) -> Tensor:
    """bool [N]: two passes of the same images give other logits, by more than a GPU's order of summation explains."""
    one, other = logits_of(model, x), logits_of(model, x)
    return (one - other).abs().amax(1) > RANDOM * one.abs().amax(1)


def _confidence(logits: Tensor) -> Tensor:
    """float32 [N]: the highest probability; 1 with two classes, where the direction of an attack has no scale."""
    if logits.shape[1] < 3:
        return torch.ones(len(logits), device=logits.device)
    return logits.float().softmax(1).amax(1).nan_to_num(1.0)


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """The outcomes of several batches as those of one."""
    names = [each.name for each in fields(Outcomes)]
    return Outcomes(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def batches(model: nn.Module, dataset: Dataset, size: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Batches of all examples on the model's device: first index, images in [0, 1], labels."""
    device = device_of(model)
    for first in range(0, len(dataset), size):
        x, y = batch(dataset, torch.arange(first, min(first + size, len(dataset))), augment="none", seed=0, epoch=0)
        yield first, x.to(device), y.to(device)


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """[N, K], without a graph."""
    with torch.no_grad():
        logits: Tensor = model(x)
    return logits


def attacked_outcomes(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, seed: int, first: int
) -> tuple[Outcomes, Tensor]:
    """The outcomes of a batch, and its attacked images. A misclassified example is not attacked again.

    first: place of its first example in the data.
    """
    clean = clean_outcomes(model, x, y)
    check, images, once = GradientCheck(len(y), y.device), x.clone(), replace(attack, restarts=1)
    alive, non_finite = clean.clean.clone(), clean.non_finite_logits.clone()
    for restart in range(attack.restarts):
        where = alive.nonzero().flatten()
        if len(where) == 0:
            break
        of_restart = GradientCheck(len(where), y.device)
        random = generator(seed, "evaluate", first, restart)
        delta = perturb(model, x[where], y[where], once, random, check=of_restart)
        images[where] = perturbed(x[where], delta)
        logits = logits_of(model, images[where])
        alive[where], non_finite[where] = correct(logits, y[where]), ~are_finite(logits)
        check.add(of_restart, where)
    found: dict[str, Any] = {"zero_gradient": check.zero, "non_finite_gradient": check.non_finite}
    if first == 0:
        found["varies"] = variation(model, x)
    return replace(clean, robust=alive, non_finite_logits=non_finite, **found), images
