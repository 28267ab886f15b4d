"""Robust accuracy against ε and against steps, and whether gradients are masked.

Athalye, Carlini, Wagner 2018 (arXiv:1802.00420, section 3.1): where gradients lead, more steps and a larger ball
never help the model, a ball without limits leaves nothing standing, and a black-box attack does not beat PGD.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import Attack
from sparring.config import EvaluationSettings
from sparring.data import Dataset
from sparring.evaluation.autoattack import square
from sparring.evaluation.robustness import attack_for, batches, counted, describe, interval, outcomes

EPSILONS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # of the trained ε
STEPS = (1, 2, 5, 10, 20, 50, 100)
LEVEL = 0.01  # of each family of tests, shared among its pairs (Bonferroni)
UNLIMITED_LEAVES = 0.01  # share of examples that an attack without limits may leave
RULE = (
    "A stronger attack must not leave more standing: exact sign test on the same examples, one-sided, at 0.01 over the "
    "number of pairs compared; without limits the lower end of the 95 % interval must not exceed 1 %."
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
    """Two curves over the same `samples` test examples, the black-box attack's point, and what looks masked."""

    norm: str
    trained_epsilon: float
    samples: int
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
    """Attack the first `settings.samples` examples by a grid of ε (at `settings.steps`) and one of steps (at ε).

    Step sizes are 2.5·ε/steps whatever `settings.step_size` says: one fixed size would favour one end of a grid.
    """
    base = attack_for(threat, settings.model_copy(update={"step_size": None}))
    whole = math.sqrt(math.prod(dataset.shape)) if threat.norm == "l2" else 1.0  # reaches every image of the box
    balls = [share * base.epsilon for share in EPSILONS if share * base.epsilon < whole] + [whole]

    def alive(attack: Attack) -> Tensor:
        told = counted(progress, f"{describe(attack)}: ")
        size, samples = settings.batch_size, settings.samples
        return outcomes(model, dataset, attack, samples=samples, batch_size=size, seed=seed, progress=told)[1]

    by_epsilon = [_with(base, epsilon, base.steps) for epsilon in balls]
    by_steps = [_with(base, base.epsilon, steps) for steps in STEPS]
    standing = {attack: alive(attack) for attack in dict.fromkeys([*by_epsilon, *by_steps])}
    points = {attack: _point(attack.epsilon, attack.steps, describe(attack), left) for attack, left in standing.items()}
    warnings = [
        *masked([(f"ε = {attack.epsilon:.4g}", standing[attack]) for attack in by_epsilon]),
        *masked([(f"PGD-{attack.steps}", standing[attack]) for attack in by_steps]),
        *unlimited(standing[by_epsilon[-1]], whole),
    ]
    box = None
    if settings.square_queries:
        name, strongest = f"Square, {settings.square_queries} queries", by_steps[-1]
        left = _square(model, dataset, base, settings, seed, progress)
        warnings += masked([(name, left), (describe(strongest), standing[strongest])])
        box = _point(base.epsilon, 0, name, left)
    return Curves(
        norm=threat.norm,
        trained_epsilon=base.epsilon,
        samples=len(standing[by_steps[0]]),
        by_epsilon=[points[attack] for attack in by_epsilon],
        by_steps=[points[attack] for attack in by_steps],
        black_box=box,
        rule=RULE,
        warnings=warnings,
    )


def masked(standing: Sequence[tuple[str, Tensor]]) -> list[str]:
    """A sentence where a stronger attack leaves more standing than a weaker one beyond what chance explains.

    Args:
        standing: name and survivors (bool [N], the same examples) of each attack, the weakest first.
    """
    pairs = list(combinations(standing, 2))
    found = []
    for (weak, after_weak), (strong, after_strong) in pairs:
        only_strong, only_weak = int((after_strong & ~after_weak).sum()), int((after_weak & ~after_strong).sum())
        chance = sign_test(only_strong, only_weak)
        if chance < LEVEL / len(pairs):
            share_weak, share_strong = (100 * float(each.float().mean()) for each in (after_weak, after_strong))
            said = (
                f"{strong} leaves {share_strong:.1f} % standing, {weak} only {share_weak:.1f} %: {only_strong} "
                f"examples survive the first alone, {only_weak} the second alone (sign test, p = {chance:.2g})"
            )
            found.append((chance, said))
    if not found:
        return []
    more = f" So do {len(found) - 1} more of {len(pairs)} pairs." if len(found) > 1 else ""
    return [f"{min(found)[1]}. The gradients look masked: judge by AutoAttack and by transferred examples.{more}"]


def unlimited(alive: Tensor, epsilon: float) -> list[str]:
    """A sentence where an attack that may reach every image leaves examples standing."""
    low, _ = interval(int(alive.sum()), len(alive))
    if low <= UNLIMITED_LEAVES:
        return []
    return [
        f"ε = {epsilon:.4g} reaches every image, and {100 * float(alive.float().mean()):.1f} % of {len(alive)} "
        f"examples still stand (lower end of the 95 % interval {100 * low:.1f} %): the attack does not find what "
        f"is there. The gradients look masked, or the steps are too few: raise evaluation.steps."
    ]


def sign_test(more: int, less: int) -> float:
    """The chance that a fair coin falls `more` times or oftener on one side in `more + less` throws (exact McNemar)."""
    throws = more + less
    at_least: int = sum(math.comb(throws, heads) for heads in range(more, throws + 1))
    return float(at_least / 2**throws)


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
    total = len(dataset) if settings.samples is None else min(settings.samples, len(dataset))
    parts = list(batches(model, dataset, total, settings.batch_size))
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
    ).cpu()
