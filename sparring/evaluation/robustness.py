"""Accuracy on clean images and under PGD with restarts: an example is robust only if it survives all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, frozen, perturb, perturbed
from sparring.config import AttackSettings, EvaluationSettings
from sparring.data import Dataset, batch
from sparring.randomness import generator


@dataclass(frozen=True)
class Evaluation:
    """Shares in [0, 1] of `samples` test examples, and how they were attacked."""

    clean_accuracy: float
    robust_accuracy: float
    samples: int
    attack: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def attack_for(threat: AttackSettings, settings: EvaluationSettings) -> Attack:
    """The judging attack: the trained threat's ball, the evaluation's steps; step size 2.5·ε/steps by default."""
    size = settings.step_size if settings.step_size is not None else 2.5 * threat.epsilon / settings.steps
    return Attack(threat.norm, threat.epsilon, settings.steps, size, restarts=settings.restarts)


def describe(attack: Attack) -> str:
    """PGD-50, 3 restarts, step 0.01, linf 0.2."""
    return (
        f"PGD-{attack.steps}, {attack.restarts} restart{'s' if attack.restarts > 1 else ''}, "
        f"step {attack.step_size:.4g}, {attack.norm} {attack.epsilon:.4g}"
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
    """Judge the model in eval mode on the first `samples` examples.

    Args:
        progress: called with the examples done and to do.
    """
    began = time.perf_counter()
    total = len(dataset) if samples is None else min(samples, len(dataset))
    device = next(model.parameters()).device
    clean = robust = 0
    if progress is not None:
        progress(0, total)
    with frozen(model):
        for first in range(0, total, batch_size):
            indices = torch.arange(first, min(first + batch_size, total))
            x, y = batch(dataset, indices, augment="none", seed=seed, epoch=0)
            x, y = x.to(device), y.to(device)
            right = _right(model, x, y)
            clean += int(right.sum())
            robust += int(_survivors(model, x, y, right, attack, seed, first).sum())
            if progress is not None:
                progress(int(indices[-1]) + 1, total)
    return Evaluation(clean / total, robust / total, total, describe(attack), time.perf_counter() - began)


def _survivors(model: nn.Module, x: Tensor, y: Tensor, right: Tensor, attack: Attack, seed: int, first: int) -> Tensor:
    """bool [N]: right on the clean image and after every restart; what has fallen is not attacked again."""
    alive = right.clone()
    once = Attack(attack.norm, attack.epsilon, attack.steps, attack.step_size, attack.random_start)
    for restart in range(attack.restarts):
        where = alive.nonzero().flatten()
        if len(where) == 0:
            break
        delta = perturb(model, x[where], y[where], once, generator(seed, "evaluate", first, restart))
        alive[where] = _right(model, perturbed(x[where], delta), y[where])
    return alive


def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        prediction: Tensor = model(x).argmax(1)
    return prediction == y
