"""What becomes of each example under an attack with restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, GradientCheck, frozen, perturb, perturbed
from sparring.attacks.calling import require_within
from sparring.attacks.losses import towards
from sparring.data import Dataset, batch
from sparring.machine.devices import device_of
from sparring.models.forward import plain
from sparring.objectives.predictions import are_finite, are_probabilities, correct
from sparring.randomness import generator

RANDOM = 1e-2  # difference of two passes, relative to the spread of the logits
ROUNDING = 1e-6  # difference of two passes, relative to the logit, that the order of a GPU's sums explains
LOOKS = 8  # further passes: a model that tosses a coin in each of them is overlooked once in 256 times
Attacked = Callable[[Tensor, Tensor, Tensor], None]  # clean images [n, C, H, W], labels [n], attacked images


@dataclass(frozen=True)
class Outcomes:
    """Results per example, bool [N] on one device.

    labels: int64 [N]. clean: correct on the clean image. robust: correct on it and after every restart. zero_gradient:
    a step of the attack had a gradient of zero, or the attack has not moved the image. non_finite_gradient: a step's
    gradient had entries that are not finite. non_finite_logits: on the clean image or an attacked one. probabilities:
    the clean logits are probabilities. confidence: float32 [N], of the clean prediction; 1 where the attack does not
    depend on it. varies: a further pass had other logits (looked at in the first batch).
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

    def plain(self) -> dict[str, list[Any]]:
        """In plain types, for a file."""
        return {each.name: getattr(self, each.name).tolist() for each in fields(self)}

    @classmethod
    def of_plain(cls, values: Mapping[str, Any]) -> Outcomes:
        """The inverse of `plain`.

        Raises:
            KeyError, TypeError, ValueError: they are damaged.
        """
        kinds = {"labels": torch.int64, "confidence": torch.float32}
        names = [each.name for each in fields(cls)]
        found = {name: torch.tensor(values[name], dtype=kinds.get(name, torch.bool)) for name in names}
        if len({tensor.shape for tensor in found.values()}) != 1:
            raise ValueError("not one value for each example")
        return cls(**found)

    def at(self, rows: Tensor) -> Outcomes:
        """Those of the examples in `rows`, int64 [n], in that order."""
        return Outcomes(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


class Attempt(NamedTuple):
    """One attempt of an attack with restarts, or with several targets. key: seeds its start, with the batch's place."""

    key: tuple[int, ...]
    attack: Attack


class Attempted(NamedTuple):
    """What it made: images, float32 [n, C, H, W], their logits [n, K], and the check of its gradients."""

    images: Tensor
    logits: Tensor
    check: GradientCheck


def attempts_of(attack: Attack, targets: int = 0) -> list[Attempt]:
    """The attempts in order. targets: in each restart towards so many other classes, the likeliest first."""
    once = replace(attack, restarts=1)
    if not targets:
        return [Attempt((restart,), once) for restart in range(attack.restarts)]
    aimed = [replace(once, loss=towards(rank + 1)) for rank in range(targets)]
    return [Attempt((restart, rank), each) for restart in range(attack.restarts) for rank, each in enumerate(aimed)]


def attempted(model: nn.Module, x: Tensor, y: Tensor, attempt: Attempt, seed: int, first: int) -> Attempted:
    """Make an attempt on a batch. first: place of the batch's first example."""
    check, random = GradientCheck(len(y), y.device), generator(seed, "evaluate", first, *attempt.key)
    delta = perturb(model, x.clone(), y, attempt.attack, random, check=check)  # an attack may change what it gets
    require_within(attempt.attack, x, delta)
    images = perturbed(x, delta)
    return Attempted(images, logits_of(model, images), check)


def outcomes(
    model: nn.Module,
    dataset: Dataset,
    attack: Attack,
    *,
    batch_size: int = 500,
    seed: int = 0,
    targets: int = 0,
    progress: Callable[[int, int], None] | None = None,
    attacked: Attacked | None = None,
) -> Outcomes:
    """The outcomes of all examples on the CPU, with the model in eval mode and float32.

    Args:
        targets: see `attempts_of`. progress: called with (examples done, all examples).
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
            found, images = attacked_outcomes(model, x, y, attack, seed, first, targets)
            parts.append(found.cpu())
            if attacked is not None:
                attacked(x, y, images)
            if progress is not None:
                progress(first + len(y), total)
    return joined(parts)


def clean_outcomes(model: nn.Module, x: Tensor, y: Tensor) -> Outcomes:
    """The outcomes without an attack."""
    logits = logits_of(model, x)
    is_correct, none = correct(logits, y), torch.zeros_like(y, dtype=torch.bool)
    of_logits = ~are_finite(logits), are_probabilities(logits), _confidence(logits)
    return Outcomes(y, is_correct, is_correct, none, none, *of_logits, varies=none)


def variation(model: nn.Module, x: Tensor) -> Tensor:
    """bool [N]: passes of the same images, or of each half of them, give other logits, by more than a GPU's order of
    summation explains.

    A constant in all logits, or a class that is masked by a huge one, hides nothing: the spread is the median distance
    from the median.
    """
    first = logits_of(model, x).float()
    spread = (first - first.quantile(0.5, dim=1, keepdim=True)).abs().quantile(0.5, dim=1, keepdim=True)
    varies = torch.zeros(len(x), dtype=torch.bool, device=first.device)
    halves = torch.split(x, max(1, len(x) // 2))
    for parts in (*[[x]] * LOOKS, halves):
        difference = (torch.cat([logits_of(model, part) for part in parts]) - first).abs()
        varies |= (difference > RANDOM * spread + ROUNDING * first.abs()).any(1)
    return varies


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
    """[N, K], without a graph. The model gets a copy, which it may change."""
    with torch.no_grad():
        logits: Tensor = model(x.clone())
    return logits


def attacked_outcomes(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, seed: int, first: int, targets: int = 0
) -> tuple[Outcomes, Tensor]:
    """The outcomes of a batch, and its attacked images. A misclassified example is not attacked again.

    first: place of its first example in the data. targets: see `attempts_of`.
    """
    clean = clean_outcomes(model, x, y)
    check, images = GradientCheck(len(y), y.device), x.clone()
    alive, non_finite = clean.clean.clone(), clean.non_finite_logits.clone()
    for attempt in attempts_of(attack, targets):
        where = alive.nonzero().flatten()
        if len(where) == 0:
            break
        made = attempted(model, x[where], y[where], attempt, seed, first)
        images[where] = made.images
        alive[where], non_finite[where] = correct(made.logits, y[where]), ~are_finite(made.logits)
        check.add(made.check, where)
    unmoved = alive & (images == x).flatten(1).all(1) if attack.epsilon > 0 else torch.zeros_like(alive)
    found: dict[str, Any] = {"zero_gradient": check.zero | unmoved, "non_finite_gradient": check.non_finite}
    if first == 0:
        found["varies"] = variation(model, x)
    return replace(clean, robust=alive, non_finite_logits=non_finite, **found), images
