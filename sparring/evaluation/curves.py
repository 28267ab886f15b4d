"""Robust accuracy by ε and by number of steps, and tests for masked gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import Attack
from sparring.config import EvaluationSettings
from sparring.data import Dataset, Sample
from sparring.evaluation.autoattack import square
from sparring.evaluation.comparisons import masked, unbounded_warning
from sparring.evaluation.findings import findings_of, warnings_of, worst
from sparring.evaluation.outcomes import Outcomes, batches, outcomes
from sparring.evaluation.robustness import attack_for, counted, describe, interval

EPSILONS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # relative to the trained ε
STEPS = (1, 2, 5, 10, 20, 50, 100)
RULE = (
    "Rule: a stronger attack must not leave a higher accuracy (exact one-sided sign test on the same examples, at 0.01 "
    "divided by the number of pairs), and under an unbounded attack the lower end of the 95 % interval must not exceed "
    "1 %."
)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Point:
    """Robust accuracy under one attack, a share in [0, 1] with Wilson's 95 % interval; `steps` 0: without gradients."""

    epsilon: float
    steps: int
    attack: str
    robust_accuracy: float
    robust_interval: tuple[float, float]


@dataclass(frozen=True)
class Curves:
    """Two curves on the same `samples` test examples, the point of the black-box attack, and warnings.

    drawn: which examples these are.
    """

    norm: str
    trained_epsilon: float
    samples: int
    drawn: str
    by_epsilon: list[Point]
    by_steps: list[Point]
    black_box: Point | None
    rule: str
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def curves(
    model: nn.Module,
    dataset: Dataset,
    threat: Attack,
    settings: EvaluationSettings,
    seed: int,
    progress: Progress | None = None,
) -> Curves:
    """Attack `settings.samples` examples with a grid of ε (at `settings.steps`) and a grid of steps (at ε).

    The step size is always 2.5·ε/steps; `settings.step_size` is not used, because one size does not fit a whole grid.
    """
    sample = Sample(dataset, settings.samples, settings.draw)
    base = attack_for(threat, settings.model_copy(update={"step_size": None}))
    unbounded = math.sqrt(math.prod(dataset.shape)) if threat.norm == "l2" else 1.0  # the ball holds all of [0, 1]
    radii = [share * base.epsilon for share in EPSILONS if share * base.epsilon < unbounded] + [unbounded]

    def attacked(attack: Attack) -> Outcomes:
        report = counted(progress, f"{describe(attack)}: ")
        return outcomes(model, sample, attack, batch_size=settings.batch_size, seed=seed, progress=report)

    by_epsilon = [_with(base, epsilon, base.steps) for epsilon in radii]
    by_steps = [_with(base, base.epsilon, steps) for steps in STEPS]
    found = {attack: attacked(attack) for attack in dict.fromkeys([*by_epsilon, *by_steps])}
    survivors = {attack: outcome.robust for attack, outcome in found.items()}
    points = {
        attack: _point(attack.epsilon, attack.steps, describe(attack), robust) for attack, robust in survivors.items()
    }
    warnings = [
        *sample.warnings,
        *warnings_of(worst(findings_of(outcome) for outcome in found.values())),
        *masked([(f"ε = {attack.epsilon:.4g}", survivors[attack]) for attack in by_epsilon]),
        *masked([(f"PGD-{attack.steps}", survivors[attack]) for attack in by_steps]),
        *unbounded_warning(survivors[by_epsilon[-1]], unbounded),
    ]
    black_box = None
    if settings.square_queries:
        name, strongest = f"Square, {settings.square_queries} queries", by_steps[-1]
        robust = _square(model, sample, base, settings, seed, progress)
        warnings += masked([(name, robust), (describe(strongest), survivors[strongest])])
        black_box = _point(base.epsilon, 0, name, robust)
    return Curves(
        norm=threat.norm,
        trained_epsilon=base.epsilon,
        samples=len(sample),
        drawn=sample.rule,
        by_epsilon=[points[attack] for attack in by_epsilon],
        by_steps=[points[attack] for attack in by_steps],
        black_box=black_box,
        rule=RULE,
        warnings=warnings,
    )


def _with(attack: Attack, epsilon: float, steps: int) -> Attack:
    return replace(attack, epsilon=epsilon, steps=steps, step_size=None)


def _point(epsilon: float, steps: int, name: str, alive: Tensor) -> Point:
    count, total = int(alive.sum()), len(alive)
    return Point(epsilon, steps, name, count / total, interval(count, total))


def _square(
    model: nn.Module,
    dataset: Dataset,
    attack: Attack,
    settings: EvaluationSettings,
    seed: int,
    progress: Progress | None,
) -> Tensor:
    parts = list(batches(model, dataset, settings.batch_size))
    x, y = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
    return square(
        model,
        x,
        y,
        norm=attack.norm,
        epsilon=attack.epsilon,
        classes=dataset.classes,
        seed=seed,
        queries=settings.square_queries,
        batch_size=settings.batch_size,
        progress=progress,
    ).alive.cpu()
