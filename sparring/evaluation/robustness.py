"""Clean and robust accuracy. An example is robust only if it is correct after every attack attempt."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, frozen, perturb, perturbed
from sparring.config import EvaluationSettings
from sparring.data import Dataset, batch
from sparring.evaluation.autoattack import autoattack
from sparring.evaluation.autoattack import describe as describe_autoattack
from sparring.machine.devices import device_of
from sparring.models.forward import plain
from sparring.randomness import generator

Progress = Callable[[str], None]


class Verdicts(NamedTuple):
    """Result per example, bool [samples] on the CPU: correct on the clean image; correct after every attempt too."""

    clean: Tensor
    robust: Tensor


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in [0, 1] on `samples` test examples with 95 % intervals, and the attack."""

    clean_accuracy: float
    robust_accuracy: float
    samples: int
    attack: str
    seconds: float
    clean_interval: tuple[float, float]
    robust_interval: tuple[float, float]
    verdicts: Verdicts | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON; without the verdicts."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "verdicts"}

    def without_verdicts(self) -> Evaluation:
        """The same without the results per example."""
        return replace(self, verdicts=None)


def attack_for(threat: Attack, settings: EvaluationSettings) -> Attack:
    """The attack of the evaluation: the ball of `threat`, the evaluation's steps; step size 2.5·ε/steps by default."""
    return threat.evaluator(settings.steps, step_size=settings.step_size, restarts=settings.restarts)


def describe(attack: Attack) -> str:
    """Such as `PGD-50, 3 restarts, step 0.01, linf 0.2`."""
    return (
        f"{attack.name.upper()}-{attack.steps}, {attack.restarts} restart{'s' if attack.restarts > 1 else ''}, "
        f"step {attack.alpha:.4g}, {attack.norm} {attack.epsilon:.4g}"
    )


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    attack: Attack,
    *,
    samples: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate the model in eval mode and float32 on the first `samples` examples, by an attack with restarts.

    Args:
        progress: called with (examples done, all examples).
    """
    began = time.perf_counter()
    clean, robust = outcomes(
        model, dataset, attack, samples=samples, batch_size=batch_size, seed=seed, progress=progress
    )
    return evaluation_of(Verdicts(clean, robust), describe(attack), time.perf_counter() - began)


def evaluate_by_autoattack(
    model: nn.Module,
    dataset: Dataset,
    threat: Attack,
    *,
    samples: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate the model by AutoAttack within the ball of `threat`; see `autoattack`."""
    began, model = time.perf_counter(), plain(model)
    total = len(dataset) if samples is None else min(samples, len(dataset))
    x, y = batch(dataset, torch.arange(total), augment="none", seed=seed, epoch=0)
    if progress is not None:
        progress(f"AutoAttack on {total} test examples")
    alive = autoattack(
        model,
        x,
        y,
        norm=threat.norm,
        epsilon=threat.epsilon,
        classes=dataset.classes,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    verdicts = Verdicts(_clean_verdicts(model, x, y, batch_size), alive.cpu())
    attack = describe_autoattack(threat.norm, threat.epsilon, dataset.classes)
    return evaluation_of(verdicts, attack, time.perf_counter() - began)


def outcomes(
    model: nn.Module,
    dataset: Dataset,
    attack: Attack,
    *,
    samples: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The result of each of the first `samples` examples; see `evaluate`.

    Returns:
        two bool [samples] on the CPU: correct on the clean image; correct there and after every restart.
    """
    model = plain(model)
    total = len(dataset) if samples is None else min(samples, len(dataset))
    clean, robust = [], []
    if progress is not None:
        progress(0, total)
    with frozen(model):
        for first, x, y in batches(model, dataset, total, batch_size):
            correct = correct_on(model, x, y)
            clean.append(correct.cpu())
            robust.append(_survivors(model, x, y, correct, attack, seed, first).cpu())
            if progress is not None:
                progress(first + len(y), total)
    return torch.cat(clean), torch.cat(robust)


def batches(model: nn.Module, dataset: Dataset, total: int, size: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Batches of the first `total` examples on the model's device: first index, images in [0, 1], labels."""
    device = device_of(model)
    for first in range(0, total, size):
        x, y = batch(dataset, torch.arange(first, min(first + size, total)), augment="none", seed=0, epoch=0)
        yield first, x.to(device), y.to(device)


def evaluate_by(
    model: nn.Module,
    dataset: Dataset,
    threat: Attack,
    settings: EvaluationSettings,
    seed: int,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate as the settings say: by PGD with restarts or by AutoAttack, within the ball of the trained threat."""
    how: dict[str, Any] = {"samples": settings.samples, "batch_size": settings.batch_size, "seed": seed}
    if settings.attack == "autoattack":
        return evaluate_by_autoattack(model, dataset, threat, progress=progress, **how)
    return evaluate(model, dataset, attack_for(threat, settings), progress=counted(progress), **how)


def counted(progress: Callable[[str], None] | None, what: str = "") -> Callable[[int, int], None] | None:
    """A progress callback in examples that calls `progress` with a sentence; `what` begins it."""
    if progress is None:
        return None
    return lambda done, total: progress(f"{what}{done} of {total} test examples attacked")


def interval(successes: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927), as two shares in [0, 1]."""
    share, z = successes / total, 1.959964
    centre = share + z * z / (2 * total)
    half_width = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - half_width) / scale), min(1.0, (centre + half_width) / scale)


def evaluation_of(verdicts: Verdicts, attack: str, seconds: float) -> Evaluation:
    """The accuracies and intervals of the verdicts; `attack` describes the attack."""
    total = len(verdicts.clean)
    clean, robust = (int(each.sum()) for each in verdicts)
    intervals = interval(clean, total), interval(robust, total)
    return Evaluation(clean / total, robust / total, total, attack, seconds, *intervals, verdicts)


def _clean_verdicts(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """bool [N] on the CPU: correct on the clean image."""
    device = device_of(model)
    parts = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
    with frozen(model):
        return torch.cat([correct_on(model, some.to(device), labels.to(device)).cpu() for some, labels in parts])


def _survivors(
    model: nn.Module, x: Tensor, y: Tensor, correct: Tensor, attack: Attack, seed: int, first: int
) -> Tensor:
    """bool [N]: correct on the clean image and after every restart. A misclassified example is not attacked again."""
    alive = correct.clone()
    once = replace(attack, restarts=1)
    for restart in range(attack.restarts):
        where = alive.nonzero().flatten()
        if len(where) == 0:
            break
        delta = perturb(model, x[where], y[where], once, generator(seed, "evaluate", first, restart))
        alive[where] = correct_on(model, perturbed(x[where], delta), y[where])
    return alive


def correct_on(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """bool [N]: the prediction is the label."""
    with torch.no_grad():
        prediction: Tensor = model(x).argmax(1)
    return prediction == y
