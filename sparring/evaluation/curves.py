"""Robust accuracy by ε and by number of steps, and a verdict on masked gradients."""

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
from sparring.evaluation.comparisons import Survivors, masked, unbounded_warning
from sparring.evaluation.findings import findings_of, warnings_of, worst
from sparring.evaluation.masking import Grid, Masking, masking
from sparring.evaluation.outcomes import Outcomes, batches, outcomes
from sparring.evaluation.robustness import attack_for, counted, describe, interval
from sparring.evaluation.surfaces import surface

EPSILONS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # relative to the trained ε
STEPS = (1, 2, 5, 10, 20, 50, 100)
RULE = (
    "Rule: a stronger attack must not leave a higher accuracy (exact one-sided sign test on the same examples, at 0.01 "
    "divided by the number of pairs), and under an unbounded attack the lower end of the 95 % interval must not exceed "
    "1 %. A gradient that is zero or random must not be met by more than 5 % (lower end of the 95 % interval), and the "
    "gradient must not lose against random directions on most examples (sign test, at 0.01)."
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
    """Two curves on the same `samples` test examples, the point of the black-box attack, warnings, and the verdict.

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
    masking: Masking

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
    points = {attack: _point(attack, outcome.robust) for attack, outcome in found.items()}
    grid = Grid(
        by_epsilon=[(f"ε = {attack.epsilon:.4g}", found[attack].robust) for attack in by_epsilon],
        by_steps=[(f"PGD-{attack.steps}", found[attack].robust) for attack in by_steps],
        black_box=_black_box(model, sample, base, settings, seed, progress),
        strongest=found[by_steps[-1]],
        steps=base.steps,
    )
    report = counted(progress, "loss surface: ", "looked at")
    around = surface(model, sample, base, batch_size=settings.batch_size, seed=seed, progress=report)
    return Curves(
        norm=threat.norm,
        trained_epsilon=base.epsilon,
        samples=len(sample),
        drawn=sample.rule,
        by_epsilon=[points[attack] for attack in by_epsilon],
        by_steps=[points[attack] for attack in by_steps],
        black_box=None if grid.black_box is None else _point_of(base.epsilon, 0, *grid.black_box),
        rule=RULE,
        warnings=[
            *sample.warnings,
            *warnings_of(worst(findings_of(outcome) for outcome in found.values())),
            *_warnings(grid, unbounded),
        ],
        masking=masking(around, grid),
    )


def _warnings(grid: Grid, unbounded: float) -> list[str]:
    return [
        *masked(grid.by_epsilon),
        *masked(grid.by_steps),
        *unbounded_warning(grid.by_epsilon[-1][1], unbounded),
        *([] if grid.black_box is None else masked([grid.black_box, grid.by_steps[-1]])),
    ]


def _with(attack: Attack, epsilon: float, steps: int) -> Attack:
    return replace(attack, epsilon=epsilon, steps=steps, step_size=None)


def _point(attack: Attack, alive: Tensor) -> Point:
    return _point_of(attack.epsilon, attack.steps, describe(attack), alive)


def _point_of(epsilon: float, steps: int, name: str, alive: Tensor) -> Point:
    count, total = int(alive.sum()), len(alive)
    return Point(epsilon, steps, name, count / total, interval(count, total))


def _black_box(
    model: nn.Module,
    dataset: Dataset,
    attack: Attack,
    settings: EvaluationSettings,
    seed: int,
    progress: Progress | None,
) -> Survivors | None:
    """Those of Square; None where the settings leave it out."""
    if not settings.square_queries:
        return None
    parts = list(batches(model, dataset, settings.batch_size))
    x, y = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
    found = square(
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
    )
    return f"Square, {settings.square_queries} queries", found.alive.cpu()
